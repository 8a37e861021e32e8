"""Losses between parts of photos and the phrases that name them (FG-CLIP)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather_ragged
from cliplet.training.losses.regulator import cosines


def region_phrases(regions: Tensor, phrases: Tensor, same: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of regions and their phrases, where equal phrases are no negatives of each other.

    Formula: ``L = 1/2 [H(Y, softmax(scale * S)) + H(Y, softmax(scale * S^T))]`` with S the cosines, ``Y_ij`` equal for
    all j whose phrase equals i's and 0 elsewhere, ``H(p, q) = -sum p log q``, mean over rows.

    ======= ========== =====================================================================
    input   shape      what
    ======= ========== =====================================================================
    regions ``[N, d]`` row i shows phrase i, any length; N may differ between processes
    phrases ``[N, d]``
    same    ``[N]``    whole numbers, equal where phrases are equal
    scale   scalar     logit scale, 1 / temperature
    ======= ========== =====================================================================

    Relation: :func:`~cliplet.training.losses.contrastive` where all numbers differ. The released code takes equal
    phrases ("a man" twice) for negatives, does not gather regions over processes, and fails on a single one; here one
    region gives 0, and so does none.

    Source: FG-CLIP (arXiv 2505.05071), regional contrastive learning, with soft labels for equal phrases.

    Example:
        >>> x = torch.eye(2)
        >>> round(region_phrases(x, x, torch.tensor([0, 1]), 1.0).item(), 4)
        0.3133
        >>> round(region_phrases(x, x, torch.tensor([0, 0]), 1.0).item(), 4)  # equal phrases: half of each label
        0.8133
    """
    regions, phrases, same = gather_ragged(regions), gather_ragged(phrases), gather_ragged(same)
    if not len(regions):
        return regions.sum() + phrases.sum()  # 0, on every parameter's way
    logits = scale * cosines(regions, phrases)  # [N, N]
    labels = (same[:, None] == same[None]).to(logits.dtype)
    labels = labels / labels.sum(dim=1, keepdim=True)
    forth = -(labels * logits.log_softmax(dim=1)).sum(dim=1).mean()
    back = -(labels * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (forth + back) / 2


def hard_phrases(region: Tensor, candidates: Tensor, mask: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy of each region's true phrase among edited ones.

    Formula: ``L = mean_n CE(scale * [r_n . p_n0, ..., r_n . p_nK], 0)``, r and p of unit length, over the regions that
    have an edited phrase.

    ========== ============= ==================================================================
    input      shape         what
    ========== ============= ==================================================================
    region     ``[N, d]``    any length; N may differ between processes
    candidates ``[N, K, d]`` the true phrase first, then edited ones, any length
    mask       ``[N, K]``    which candidates are there; a region without its first is left out
    scale      scalar        logit scale, 1 / temperature
    ========== ============= ==================================================================

    Relation: :func:`region_phrases` tells a region's phrase from those of other regions, which mostly name another
    thing; this one tells it from phrases that differ in one word. Without any edited phrase it is 0; the released code
    fails there.

    Source: FG-CLIP (arXiv 2505.05071), hard fine-grained negatives.

    Example:
        >>> r, p = torch.eye(2)[:1], torch.eye(2)[None]
        >>> round(hard_phrases(r, p, torch.tensor([[True, True]]), 1.0).item(), 4)
        0.3133
        >>> hard_phrases(r, p, torch.tensor([[True, False]]), 1.0).item()
        0.0
    """
    used = mask[:, 0] & mask[:, 1:].any(dim=1)
    region, candidates, mask = region[used], candidates[used], mask[used]
    dtype = torch.promote_types(region.dtype, torch.float32)
    region, candidates = F.normalize(region.to(dtype), dim=1), F.normalize(candidates.to(dtype), dim=2)
    logits = scale * torch.einsum("nd,nkd->nk", region, candidates)
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    losses = gather_ragged(logits.logsumexp(dim=1) - logits[:, 0])
    return losses.mean() if len(losses) else losses.sum()
