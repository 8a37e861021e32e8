"""The non-contrastive loss of nCLIP: a photo and its caption fall into the same cluster, all clusters in use."""

import torch
from torch import Tensor

from cliplet.training.losses.gather import gather


def _logs(logits: Tensor) -> Tensor:
    """Log-probabilities, in fp32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def _entropy(p: Tensor) -> Tensor:
    """``-sum p log p`` over the last dimension; its gradient is finite where p is 0."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(dim=-1)


def cluster_agreement(image: Tensor, text: Tensor) -> Tensor:
    """Cross-entropy between the clusters of a photo and those of its caption, both ways.

    Formula: ``L = -1/2 mean_i [sum_k p_ik log q_ik + sum_k q_ik log p_ik]``, p and q the softmax of the rows.

    ===== =========== ===========================================
    input shape       what
    ===== =========== ===========================================
    image ``[B, K]``  logits of photo i over K clusters
    text  ``[B, K]``  logits of its caption
    ===== =========== ===========================================

    Relation: compares within pairs alone, so there are no false negatives and nothing that keeps all pairs from one
    cluster: that is what :func:`cluster_spread` is for. Both sides have gradients, without a teacher.

    Source: nCLIP (arXiv 2210.09304).

    Example:
        >>> cluster_agreement(torch.zeros(4, 8), torch.zeros(4, 8)).exp().round().item()  # ln 8
        8.0
    """
    p, q = _logs(image), _logs(text)
    return -(p.exp() * q + q.exp() * p).sum(dim=-1).mean() / 2


def cluster_confidence(image: Tensor, text: Tensor) -> Tensor:
    """Entropy of each photo's and each caption's clusters: low where they are sure.

    Formula: ``L = 1/2 mean_i [H(p_i) + H(q_i)]``.

    ===== =========== ===========================================
    input shape       what
    ===== =========== ===========================================
    image ``[B, K]``  logits of photo i over K clusters
    text  ``[B, K]``  logits of its caption
    ===== =========== ===========================================

    Relation: :func:`cluster_agreement` is this plus half the divergences of p and q, so its weight adds to something
    that is already there.

    Source: nCLIP (arXiv 2210.09304).

    Example:
        >>> cluster_confidence(torch.zeros(4, 8), torch.zeros(4, 8)).exp().round().item()
        8.0
    """
    p, q = _logs(image), _logs(text)
    return (_entropy(p.exp()).mean() + _entropy(q.exp()).mean()) / 2


def mean_clusters(image: Tensor, text: Tensor) -> Tensor:
    """Share of each cluster in the batch of all processes, by photos and by captions: ``[2, K]``."""
    return torch.stack([gather(_logs(logits).exp()).mean(dim=0) for logits in (image, text)])


def cluster_spread(image: Tensor, text: Tensor, earlier: Tensor | None = None, keep: float = 0.0) -> Tensor:
    """Entropy of the clusters' shares in the whole batch: high where all clusters are in use. It is to be raised.

    Formula: ``L = 1/2 [H(mean_i p_i) + H(mean_i q_i)]``, subtracted from a loss.

    ======= =========== ==================================================================
    input   shape       what
    ======= =========== ==================================================================
    image   ``[B, K]``  logits of photo i over K clusters
    text    ``[B, K]``  logits of its caption
    earlier ``[2, K]``  :func:`~cliplet.training.losses.clusters.mean_clusters` of earlier batches
    keep    0..1        share of ``earlier`` in the means
    ======= =========== ==================================================================

    Relation: of a batch it is at most ``ln min(B, K)``. With fewer photos a batch than clusters give the running mean
    as ``earlier``: the value and the direction are then those of the running mean, and the batch has the whole
    gradient.

    Source: nCLIP (arXiv 2210.09304); the running mean is ours.

    Example:
        >>> cluster_spread(1e3 * torch.eye(8), 1e3 * torch.eye(8)).exp().round().item()  # each its own cluster
        8.0
        >>> cluster_spread(1e3 * torch.eye(8)[:1], 1e3 * torch.eye(8)[:1]).item()
        0.0
    """
    mean = mean_clusters(image, text)
    if earlier is not None:
        mean = mean + keep * (earlier - mean).detach()
    return _entropy(mean).mean()
