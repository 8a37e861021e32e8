"""Losses that bring each student embedding to its teacher's: L1, cosine, MSE of normalised features."""

from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import InputError


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    """Both must be ``[B, d]`` with the same d."""
    if student.shape != teacher.shape:
        raise InputError(
            f"student embeddings {list(student.shape)} and teacher embeddings {list(teacher.shape)} differ; "
            "map one to the other with FeatureMSE or a linear layer"
        )


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of unnormalised embeddings.

    Formula: ``L1 = mean_bk |s_bk - t_bk|``.

    ======= ========== =====================================
    input   shape      what
    ======= ========== =====================================
    student ``[B, d]`` the student's outputs, unnormalised
    teacher ``[B, d]`` the teacher's outputs, unnormalised
    ======= ========== =====================================

    Relation: fixes length and direction; :func:`cosine` fixes the direction alone, which is all that a score sees.
    L-CLIP uses half of each. Linear in the error, so outliers pull less than with :class:`FeatureMSE`.

    Source: L-CLIP (arXiv 2507.08710), stage 1.

    Example:
        >>> l1(torch.zeros(2, 4), torch.ones(2, 4)).item()
        1.0
    """
    _same_shape(student, teacher)
    return (student - teacher).abs().mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between each embedding and its teacher's.

    Formula: ``L = mean_b (1 - cos(s_b, t_b))``, in 0..2.

    ======= ========== ====================
    input   shape      what
    ======= ========== ====================
    student ``[B, d]`` any length
    teacher ``[B, d]`` any length
    ======= ========== ====================

    Relation: half the squared distance of the unit vectors, so equal to :class:`FeatureMSE` without a map up to the
    factor ``2 / d``. Compare :func:`l1`.

    Source: L-CLIP (arXiv 2507.08710), stages 1 and 2.

    Example:
        >>> cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        1.0
    """
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


class FeatureMSE(nn.Module):
    """Mean squared difference of unit-norm features, through a linear map where the widths differ.

    Formula: ``L = mean_bk (norm(M s_b)_k - norm(t_b)_k)^2``; M is the identity when both widths are the same.

    ======= ============ =============
    input   shape        what
    ======= ============ =============
    student ``[B, d_s]`` any length
    teacher ``[B, d_t]`` any length
    ======= ============ =============

    Relation: ``2 / d`` times :func:`cosine` when there is no map; CLIP-KD weighs it by 2000 and finds it the
    strongest single term.

    Source: CLIP-KD (arXiv 2307.12732), feature distillation.

    Example:
        >>> FeatureMSE(2, 2)(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        1.0
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.map = nn.Identity() if student_dim == teacher_dim else nn.Linear(student_dim, teacher_dim)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a scalar."""
        return feature_mse(self.map(student), teacher)


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """:class:`FeatureMSE` of embeddings ``[B, d]`` of the same width, without a map."""
    _same_shape(student, teacher)
    return F.mse_loss(F.normalize(student, dim=-1), F.normalize(teacher, dim=-1))
