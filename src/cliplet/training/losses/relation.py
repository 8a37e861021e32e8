"""MiniViT's distillation of the relations between tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cliplet.errors import InputError


def _relation_entropy(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over queries of ``H(softmax(relations of the teacher), softmax(relations of the student))``."""

    def relations(a: Tensor, b: Tensor) -> Tensor:
        return a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5  # [B, A, N, N]

    targets = relations(*teacher).detach().softmax(dim=-1)
    return -(targets * relations(*student).log_softmax(dim=-1)).sum(dim=-1).mean()


def _split(x: Tensor, heads: int) -> Tensor:
    """``[B, N, D] -> [B, heads, N, D / heads]``."""
    if x.shape[-1] % heads:
        raise InputError(f"{heads} relation heads do not divide a width of {x.shape[-1]}")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int = 1) -> Tensor:
    """Match the nine relations among queries, keys and values of two attention layers.

    Formula, with ``M_1, M_2, M_3 = Q, K, V`` and ``R_ij = softmax(M_i M_j^T / sqrt(d))``::

        L = 1/9 sum_ij mean_n H(R_ij^teacher[n], R_ij^student[n])      H(p, q) = -sum p log q

    ======= ======================= =============================================================
    input   shape                   what
    ======= ======================= =============================================================
    student three of ``[B, N, D]``  queries, keys, values (``qkv(x).chunk(3, -1)``)
    teacher three of ``[B, N, D']`` the teacher's; widths and numbers of heads may differ
    heads   int                     relation heads into which both widths are cut; 1 as in MiniViT
    ======= ======================= =============================================================

    Relation: transfers how tokens attend where :func:`~cliplet.training.losses.cosine` transfers one embedding;
    useful when repeats of shared blocks should act as different layers. :func:`hidden_distillation` does the same
    for the states between layers.

    Source: MiniViT (arXiv 2204.07154), section 3.3.

    Example:
        >>> q = torch.zeros(1, 4, 8)
        >>> round(attention_distillation([q, q, q], [q, q, q]).item(), 4)  # log(4)
        1.3863
    """
    if len(student) != 3 or len(teacher) != 3:
        raise InputError("attention distillation needs queries, keys and values of both")
    s, t = [_split(x, heads) for x in student], [_split(x, heads) for x in teacher]
    terms = [_relation_entropy((s[i], s[j]), (t[i], t[j])) for i in range(3) for j in range(3)]
    return torch.stack(terms).mean()


def hidden_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Match the relations between token states.

    Formula: ``L = mean_n H(R^teacher[n], R^student[n])``, ``R = softmax(H H^T / sqrt(d))``.

    ======= ============== ===================================
    input   shape          what
    ======= ============== ===================================
    student ``[B, N, D]``  token states after a layer
    teacher ``[B, N, D']`` the teacher's, any width
    ======= ============== ===================================

    Relation: as :func:`attention_distillation`, on the states between layers.

    Source: MiniViT (arXiv 2204.07154), section 3.3.

    Example:
        >>> round(hidden_distillation(torch.zeros(1, 4, 8), torch.zeros(1, 4, 6)).item(), 4)
        1.3863
    """
    s, t = _split(student, 1), _split(teacher, 1)
    return _relation_entropy((s, s), (t, t))
