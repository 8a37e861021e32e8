"""Losses over the softmax of a batch's similarities."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import cosines


def contrastive(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of matching images and texts within the batch (InfoNCE, as CLIP).

    Formula: ``L = 1/2 [CE(scale * S, i) + CE(scale * S^T, i)]`` with S the cosines of the batch.

    ===== ================ ==========================================
    input shape            what
    ===== ================ ==========================================
    image ``[B, d]``       row i belongs with text i, any length
    text  ``[B, d]``
    scale scalar           logit scale, 1 / temperature (CLIP: <= 100)
    ===== ================ ==========================================

    Relation: knows only which pairs match (hard labels); :func:`affinity_mimicking` replaces the labels by the
    teacher's distribution, :func:`interactive_contrastive` one side by the teacher's embeddings. The SR
    (:func:`~cliplet.training.losses.similarity_regulator`) limits how far pairs are pushed.

    Source: CLIP (arXiv 2103.00020), figure 3.

    Example:
        >>> round(contrastive(torch.eye(2), torch.eye(2), 1.0).item(), 4)  # log(1 + exp(-1))
        0.3133
    """
    logits = scale * cosines(gather(image), gather(text))  # [B, B]
    labels = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def affinity_mimicking(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: Tensor | float,
    teacher_scale: float | None = None,
) -> Tensor:
    """Cross-entropy from the teacher's batch similarities to the student's, both ways.

    Formula: ``L = 1/2 [H(softmax(t T), softmax(s S)) + H(softmax(t T^T), softmax(s S^T))]`` with S, T the cosines
    of the batch, s, t the scales and ``H(p, q) = -sum p log q``, mean over rows.

    ============= ============ =============================================
    input         shape        what
    ============= ============ =============================================
    student_image ``[B, d_s]`` row i belongs with text i
    student_text  ``[B, d_s]``
    teacher_image ``[B, d_t]`` in the teacher's own space
    teacher_text  ``[B, d_t]``
    scale         scalar       the student's logit scale
    teacher_scale scalar       the teacher's; the student's when not given
    ============= ============ =============================================

    Relation: :func:`contrastive` with soft labels; CLIP-KD's KL between the same softmaxes differs by the teacher's
    entropy only, so the gradients are equal.

    Source: TinyCLIP (arXiv 2309.12314), section 3.1.

    Example:
        >>> x = torch.eye(2)
        >>> round(affinity_mimicking(x, x, x, x, 1.0).item(), 4)  # entropy of softmax(1, 0)
        0.5822
    """
    s = scale * cosines(gather(student_image), gather(student_text))  # [B, B]
    t = cosines(gather(teacher_image), gather(teacher_text))
    t = t * (scale if teacher_scale is None else teacher_scale)
    t = t.detach()
    forth = F.cross_entropy(s, t.softmax(dim=-1))
    back = F.cross_entropy(s.T, t.T.softmax(dim=-1))
    return (forth + back) / 2


def interactive_contrastive(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """Contrast the student's images with the teacher's texts, and the student's texts with the teacher's images.

    Formula: ``L = 1/2 [CE(scale * cos(s_img, t_txt), i) + CE(scale * cos(s_txt, t_img), i)]``.

    ============= ========== ====================================================
    input         shape      what
    ============= ========== ====================================================
    student_image ``[B, d]`` row i belongs with text i
    student_text  ``[B, d]``
    teacher_image ``[B, d]`` of the same width: both are compared directly
    teacher_text  ``[B, d]``
    scale         scalar     logit scale
    ============= ========== ====================================================

    Relation: :func:`contrastive` with the teacher on the other side, which ties the student to the teacher's space
    without asking for equal embeddings as :func:`~cliplet.training.losses.cosine` does.

    Source: CLIP-KD (arXiv 2307.12732), interactive contrastive learning.

    Example:
        >>> x = torch.eye(2)
        >>> round(interactive_contrastive(x, x, x, x, 1.0).item(), 4)
        0.3133
    """
    images = scale * cosines(gather(student_image), gather(teacher_text))  # [B, B]
    texts = scale * cosines(gather(student_text), gather(teacher_image))
    labels = torch.arange(images.shape[0], device=images.device)
    return (F.cross_entropy(images, labels) + F.cross_entropy(texts, labels)) / 2
