"""Contrastive losses of photos with several texts each."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import cosines


def multi_text(image: Tensor, texts: Tensor, scale: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Mean over m of the InfoNCE between the photos and the m-th text of each.

    Formula: ``L = 1/M sum_m 1/2 [CE(scale * X Y_m^T, i) + CE(scale * Y_m X^T, i)]`` with X the photos and Y_m the m-th
    texts, unit norm. A text of another photo that equals one of a photo's own counts as no negative of that photo: it
    is left out of both softmaxes.

    ===== ================ ===================================================================
    input shape            what
    ===== ================ ===================================================================
    image ``[B, d]``       any length
    texts ``[B, M, d]``    row i: the texts of photo i
    scale scalar           logit scale, 1 / temperature
    ids   ``[B, M]`` int64 equal numbers for equal texts; all differ when not given
    ===== ================ ===================================================================

    Relation: :func:`~cliplet.training.losses.contrastive` with M = 1, and its mean over the texts that could be drawn,
    at M text passes a photo pass. :func:`multi_positive` lets a photo's texts compete with each other.

    Source: LaCLIP (arXiv 2305.20088), the multi-text form LaCLIP-MT.

    Example:
        >>> x = torch.eye(2)
        >>> round(multi_text(x, torch.stack([x, x], 1), 1.0).item(), 4)
        0.3133
    """
    logits, same = _logits(image, texts, scale, ids)  # [B, M, B']: photo, text, photo of the text
    rows, count = torch.arange(len(logits), device=logits.device), logits.shape[1]
    losses = []
    for m in range(count):
        own = logits[:, m].masked_fill(same[:, m], -torch.inf)  # photo x m-th text
        losses.append((F.cross_entropy(own, rows) + F.cross_entropy(own.T, rows)) / 2)
    return torch.stack(losses).mean()


def multi_positive(image: Tensor, texts: Tensor, scale: Tensor | float, ids: Tensor | None = None) -> Tensor:
    """Cross-entropy of each photo to all its texts among all texts of the batch, and of each text to its photo.

    Formula: ``L = 1/2 [-1/B sum_i 1/M sum_m log p(y_im | x_i) + 1/(B M) sum_im CE(scale * X y_im, i)]`` with
    ``p(. | x_i)`` the softmax over all B M texts. A text of another photo that equals one of a photo's own counts as no
    negative of that photo: it is left out of both softmaxes.

    ===== ================ ===================================================================
    input shape            what
    ===== ================ ===================================================================
    image ``[B, d]``       any length
    texts ``[B, M, d]``    row i: the texts of photo i
    scale scalar           logit scale, 1 / temperature
    ids   ``[B, M]`` int64 equal numbers for equal texts; all differ when not given
    ===== ================ ===================================================================

    Relation: :func:`~cliplet.training.losses.contrastive` with M = 1. Its photo side is at least log M, reached where a
    photo is as near to all its texts; :func:`multi_text` can reach 0.

    Source: the multi-positive InfoNCE of supervised contrastive learning (Khosla et al. 2020, arXiv 2004.11362, its
    form with the mean outside the logarithm), over texts.

    Example:
        >>> x = torch.eye(2)
        >>> round(multi_positive(x, torch.stack([x, x], 1), 1.0).item(), 4)  # (log(2 + 2 / e) + log(1 + 1 / e)) / 2
        0.6598
    """
    logits, same = _logits(image, texts, scale, ids)
    masked = logits.masked_fill(same, -torch.inf)
    rows, (photos, count, _) = torch.arange(len(logits), device=logits.device), logits.shape
    forth = masked.reshape(photos, -1).log_softmax(dim=1).reshape(masked.shape)
    own = forth[rows, :, rows].mean()
    back = masked.permute(2, 1, 0).reshape(-1, photos)  # a text a row, all photos
    return (F.cross_entropy(back, rows.repeat_interleave(count)) - own) / 2


def _logits(image: Tensor, texts: Tensor, scale: Tensor | float, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scaled cosines of photo i and the m-th text of photo j ``[B, M, B]``, and which of them are no negatives."""
    own = None if ids is None else gather(ids)
    image, texts = gather(image), gather(texts)
    photos, count, dim = texts.shape
    logits = scale * cosines(image, texts.reshape(-1, dim)).reshape(photos, photos, count)
    if own is None:
        own = torch.arange(photos * count, device=texts.device).view(photos, count)
    # text m of photo j is one of photo i's own
    same = (own[:, None, None, :] == own[None, :, :, None]).any(dim=3)
    same = same & ~torch.eye(photos, dtype=torch.bool, device=same.device)[:, :, None]
    return logits.transpose(1, 2), same.transpose(1, 2)
