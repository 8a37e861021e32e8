"""SigLIP's loss: every pair of a batch is one decision of its own."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import cosines


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float, texts: Tensor | None = None
) -> Tensor:
    """Logistic loss of every photo with every text of the batch: do they belong together?

    Formula: ``L = -1/B sum_ij log sigmoid(z_ij (scale * S_ij + bias))`` with S the cosines of the batch, ``z_ij = 1``
    where ``i = j`` or text i equals text j, else -1.

    ===== ================ =====================================================================
    input shape            what
    ===== ================ =====================================================================
    image ``[B, d]``       row i belongs with text i, any length
    text  ``[B, d]``
    scale scalar           logit scale (SigLIP: learnt, starts at 10)
    bias  scalar           added to all logits (SigLIP: learnt, starts at -10, for most pairs do not match)
    texts ``[B]`` integers a number for each text, equal for equal texts; None: all texts differ
    ===== ================ =====================================================================

    Relation: :func:`~cliplet.training.losses.contrastive` lets the texts of a batch compete for a photo, so two equal
    texts push each other away; here each pair stands alone, and a text that two photos share is right for both. The
    sum is over B pairs that match and B (B - 1) that do not, divided by B: it grows with the batch.

    Source: SigLIP (arXiv 2303.15343), algorithm 1; open_clip's ``SigLipLoss`` and Transformers'
    ``SiglipModel(return_loss=True)`` give the same where all texts differ.

    Example:
        >>> round(sigmoid(torch.eye(2), torch.eye(2), 1.0, 0.0).item(), 4)  # log(1 + 1/e) + log(2)
        1.0064
        >>> same = torch.eye(2)[[0, 0]]  # two photos with one text
        >>> round(sigmoid(torch.eye(2), same, 1.0, 0.0, torch.tensor([7, 7])).item(), 4)  # else 1.5064
        1.0064
    """
    logits = scale * cosines(gather(image), gather(text)) + bias  # [B, B]
    count = logits.shape[0]
    if texts is None:
        match = torch.eye(count, dtype=torch.bool, device=logits.device)
    else:
        numbers = gather(texts)
        match = numbers[:, None] == numbers[None, :]
    return -F.logsigmoid(torch.where(match, logits, -logits)).sum() / count
