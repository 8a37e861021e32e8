"""Losses that let photos without captions learn from the captioned photos of their batch (S-CLIP)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import cosines

Method = Literal["transport", "nearest", "soft", "shuffled"]
"""How a bare photo is likened to the captioned photos of its batch."""
Weights = Literal["softmax", "uniform", "released"]
"""How the keywords of the most alike captioned photo share a bare photo."""
ITERATIONS = 10


@torch.no_grad()
def sinkhorn(cost: Tensor, reg: float, iterations: int = ITERATIONS) -> Tensor:
    """The plan of entropic optimal transport between two sets of equal weights, as rows of shares; no gradient.

    In the log domain, so that a small ``reg`` neither overflows nor divides by zero. Columns sum to about n / m.

    Args:
        cost: of moving from row to column ``[n, m]``.
        reg: weight of the plan's entropy; towards 0 the plan becomes an assignment.
        iterations: of rows and columns in turn.

    Returns:
        ``[n, m]``; each row sums to 1.

    Source: Cuturi 2013 (arXiv 1306.0895).

    Example:
        >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0.01).round(decimals=2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    log_kernel = -cost.to(torch.promote_types(cost.dtype, torch.float32)) / reg
    columns = torch.zeros_like(log_kernel[0])
    for _ in range(iterations):
        rows = -(log_kernel + columns).logsumexp(dim=1)
        columns = -(log_kernel + rows[:, None]).logsumexp(dim=0)
    return (log_kernel + columns).softmax(dim=1)


@torch.no_grad()
def shares(bare: Tensor, image: Tensor, scale: float, method: Method, iterations: int = ITERATIONS) -> Tensor:
    """How much each captioned photo says about each bare photo: ``[U, d], [B, d] -> [U, B]``, no gradient.

    ``transport`` is :func:`sinkhorn` of ``1 - cosine`` with ``reg = 1 / scale``; ``nearest`` the most alike photo
    alone; ``soft`` the softmax of ``scale * cosine``; ``shuffled`` the plan with its rows moved on by one, a control:
    each bare photo is told of what belongs to another (the order of bare photos must be random).
    """
    cosine = cosines(bare, image)
    if method == "soft":
        return (scale * cosine).softmax(dim=1)
    if method == "nearest":
        return F.one_hot(cosine.argmax(dim=1), cosine.shape[1]).to(cosine)
    plan = sinkhorn(1 - cosine, 1 / scale, iterations)
    return plan.roll(1, dims=0) if method == "shuffled" else plan


def _equals(group: Tensor | None, logits: Tensor) -> Tensor:
    """Which of the texts that stand behind the columns of ``logits`` are equal: ``[B, B]``, 1 on the diagonal."""
    group = torch.arange(logits.shape[1], device=logits.device) if group is None else gather(group)
    return (group[:, None] == group[None]).to(logits)


def _log_shares(logits: Tensor, equal: Tensor) -> Tensor:
    """Log of the softmax over distinct texts, at the place of each text: ``[n, B]``, equal texts count once."""
    once = logits - equal.sum(dim=1).log()
    return logits - once.logsumexp(dim=1, keepdim=True)


def bare_contrastive(
    image: Tensor, text: Tensor, bare: Tensor, scale: Tensor | float, group: Tensor | None = None
) -> Tensor:
    """Contrastive loss of a batch's pairs in which bare photos are further negatives of the texts.

    Formula: ``L = 1/2 [CE(scale X Y^T, i) + CE(scale Y [X | U]^T, i)]``. Of equal texts only one counts among a
    photo's candidates, and a text's right photos are all whose text is equal, with equal shares.

    ===== =========== =====================================================
    input shape       what
    ===== =========== =====================================================
    image ``[B, d]``  X, row i belongs with text i, any length
    text  ``[B, d]``  Y
    bare  ``[U, d]``  U, photos without captions
    scale scalar      logit scale, 1 / temperature
    group ``[B]``     whole numbers, the same for equal texts; none: all differ
    ===== =========== =====================================================

    Relation: :func:`contrastive` where no text comes twice and there is no bare photo. A bare photo that a text would
    describe well is pushed away all the same: :func:`caption_labels` makes up for it.

    Source: S-CLIP (arXiv 2305.14095), the released code.

    Example:
        >>> x = torch.eye(2)
        >>> round(bare_contrastive(x, x, x[:0], 1.0).item(), 4)
        0.3133
    """
    image, text = gather(image), gather(text)
    photos = torch.cat([image, gather(bare)])
    logits = scale * cosines(text, photos)  # [B, B + U]
    equal = _equals(group, logits[:, : len(image)])
    right = F.pad(equal / equal.sum(dim=1, keepdim=True), (0, len(photos) - len(image)))
    backward = F.cross_entropy(logits, right)
    forward = -_log_shares(logits[:, : len(image)].T, equal).diagonal().mean()
    return (forward + backward) / 2


def caption_labels(
    bare: Tensor,
    image: Tensor,
    text: Tensor,
    scale: float,
    method: Method = "transport",
    group: Tensor | None = None,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Bare photos learn the captions of the captioned photos that look like them (S-CLIP's caption-level loss).

    Formula: ``L = 1/2 mean_u H(P_u, softmax(scale u Y^T))``, with P of :func:`~cliplet.training.losses.semi.shares`
    and ``H(p, q) = -sum p log q``. P has no gradient; equal texts count once in the softmax and share their P.

    ========== =========== ================================================
    input      shape       what
    ========== =========== ================================================
    bare       ``[U, d]``  photos without captions, any length
    image      ``[B, d]``  captioned photos; only P is made of them
    text       ``[B, d]``  Y, their captions
    scale      scalar      logit scale; 1 / scale is the plan's ``reg``
    method     a name      ``transport``, ``nearest``, ``soft``, ``shuffled``
    group      ``[B]``     whole numbers, the same for equal texts
    iterations number      of :func:`~cliplet.training.losses.semi.sinkhorn`
    ========== =========== ================================================

    Relation: the transport lets no captioned photo speak for most of the bare ones, which ``nearest`` and ``soft`` do.
    The released code sends gradients through the plan, so that the labels may move towards what the model says; here
    they are fixed. :func:`keyword_labels` says less about a photo, and that more surely.

    Source: S-CLIP (arXiv 2305.14095), corrected as said.

    Example:
        >>> x = torch.eye(2)
        >>> round(caption_labels(x, x, x, 1.0, "nearest").item(), 4)  # half of log(1 + exp(-1))
        0.1566
    """
    bare, image, text = gather(bare), gather(image), gather(text)
    plan = shares(bare, image, float(scale), method, iterations)
    logits = scale * cosines(bare, text)
    return -(plan * _log_shares(logits, _equals(group, logits))).sum(dim=1).mean() / 2


@torch.no_grad()
def keyword_shares(cosine: Tensor, candidates: Tensor, scale: float, weights: Weights) -> Tensor:
    """How the candidates among the keywords share a photo: ``[U, m]``, no gradient; rows without candidates are 0.

    Args:
        cosine: of photos and keywords ``[U, m]``.
        candidates: which keywords may be right ``[U, m]``, 0 or 1.
        scale: logit scale.
        weights: ``softmax`` of ``scale * cosine``; ``uniform``; or ``released``, ``cosine / sum cosine``, which is
            negative or above 1 where a cosine is negative, and is here to show that.
    """
    mask = candidates > 0
    if weights == "softmax":
        found = (scale * cosine).masked_fill(~mask, -torch.inf).softmax(dim=1)
    else:
        value = mask.to(cosine) * (cosine if weights == "released" else 1.0)
        found = value / value.sum(dim=1, keepdim=True)
    return torch.where(mask, found, 0.0)


def keyword_labels(
    bare: Tensor,
    image: Tensor,
    keywords: Tensor,
    candidates: Tensor,
    scale: float,
    weights: Weights = "softmax",
    method: Method = "transport",
    iterations: int = ITERATIONS,
) -> Tensor:
    """Bare photos learn a keyword of the captioned photo most like them, whichever fits (S-CLIP's keyword-level loss).

    Formula: ``L = 1/2 mean_u H(q_u, softmax(scale u K^T))``; q shares u among the keywords in the caption of the photo
    with the largest ``P_u``, see :func:`~cliplet.training.losses.semi.keyword_shares`. A photo without candidates adds
    0 and counts in the mean. P and q have no gradient.

    ========== =========== ==================================================
    input      shape       what
    ========== =========== ==================================================
    bare       ``[U, d]``  photos without captions, any length
    image      ``[B, d]``  captioned photos; only P is made of them
    keywords   ``[m, d]``  K, distinct keywords as texts, the same in each process
    candidates ``[B, m]``  1 where the photo's caption names the keyword
    scale      scalar      logit scale
    weights    a name      ``softmax``, ``uniform``, ``released``
    method     a name      as in :func:`caption_labels`
    iterations number      of :func:`~cliplet.training.losses.semi.sinkhorn`
    ========== =========== ==================================================

    Relation: with ``softmax`` its gradient is that of ``-log`` of the candidates' joint probability, the usual loss
    of partial labels. The released code divides cosines instead and may reward a photo for not looking like a keyword.

    Source: S-CLIP (arXiv 2305.14095), corrected as said.

    Example:
        >>> x, one = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> round(keyword_labels(x, x, x, one, 1.0).item(), 4)  # a quarter of log(1 + exp(-1))
        0.0783
    """
    bare, image, candidates = gather(bare), gather(image), gather(candidates.to(image))
    most_alike = shares(bare, image, float(scale), method, iterations).argmax(dim=1)
    cosine = cosines(bare, keywords)
    wanted = keyword_shares(cosine, candidates[most_alike], float(scale), weights)
    return -(wanted * (scale * cosine).log_softmax(dim=1)).sum(dim=1).mean() / 2
