"""L-CLIP's Similarity Regulator."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.training.losses.gather import gather


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """All cosines of a batch: ``[B, d], [C, d] -> [B, C]``, in fp32 at least."""
    dtype = torch.promote_types(image.dtype, torch.float32)
    return F.normalize(image.to(dtype), dim=-1) @ F.normalize(text.to(dtype), dim=-1).T


def similarity_regulator(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor
) -> Tensor:
    """One-sided regulation of the student's similarities by the teacher's (SR).

    Formula, with raw cosines S of the student and T of the teacher::

        L = 1/B sum_i relu(T_ii - S_ii) + 1/(B(B-1)) sum_{i != j} relu(S_ij - T_ij)

    ============= ============ ======================================
    input         shape        what
    ============= ============ ======================================
    student_image ``[B, d_s]`` row i belongs with text i
    student_text  ``[B, d_s]``
    teacher_image ``[B, d_t]`` in the teacher's own space, any width
    teacher_text  ``[B, d_t]``
    ============= ============ ======================================

    Relation: :func:`~cliplet.training.losses.contrastive` pulls every matched pair up and every other down without
    end, which spreads the cosines beyond the teacher's (to about 0.6 where the teacher's are 0.3); SR stops where
    the teacher stands: a matched pair is punished only for being below it, another only for being above.
    :func:`~cliplet.training.losses.affinity_mimicking` matches both sides, after a softmax. No temperature.

    Source: L-CLIP (arXiv 2507.08710), stage 2, weight 0.1, 1 or 10.

    Example:
        >>> same = torch.eye(2)
        >>> similarity_regulator(same, same.flip(0), same, same).item()  # both kinds of pair are off by 1
        2.0

    Raises:
        InputError: fewer than two pairs.
    """
    s = cosines(gather(student_image), gather(student_text))  # [B, B]
    t = cosines(gather(teacher_image), gather(teacher_text))
    batch = s.shape[0]
    if batch < 2:
        raise InputError("the similarity regulator needs at least 2 pairs in a batch")
    matched = F.relu(t.diagonal() - s.diagonal()).mean()
    above = F.relu(s - t)
    others = (above.sum() - above.diagonal().sum()) / (batch * (batch - 1))
    return matched + others
