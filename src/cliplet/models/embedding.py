"""Word embedding as the product of two smaller matrices."""

import torch
from torch import Tensor, nn

from cliplet.errors import InputError


class FactorisedEmbedding(nn.Module):
    """``E[v] = table[v] @ W^T + b`` with a table of ``rank`` columns instead of ``width``.

    L-CLIP (arXiv 2507.08710) uses ``Embedding(49408, 256)`` and ``Linear(256, 768)``: 12.8 M parameters instead
    of 37.9 M.

    Args:
        vocab_size: rows of the table.
        width: channels of a token in the transformer.
        rank: columns of the table; 0 keeps one full matrix and no linear map.
    """

    def __init__(self, vocab_size: int, width: int, rank: int) -> None:
        super().__init__()
        if rank > width:
            raise InputError(f"embedding_rank={rank} exceeds width={width}; use at most the width, or 0")
        self.table = nn.Embedding(vocab_size, rank or width)
        self.expand = nn.Linear(rank, width) if rank else None

    def forward(self, ids: Tensor) -> Tensor:
        """``[B, T]`` int64 -> ``[B, T, width]``."""
        x = self.table(ids)
        return x if self.expand is None else self.expand(x)

    @torch.no_grad()
    def init_from(self, matrix: Tensor) -> float:
        """Take over a full embedding matrix ``[V, width]``, by its truncated SVD when factorised.

        The mean row goes to the bias; the rest is the best approximation of this rank in the least-squares sense,
        its singular values split evenly between both factors.

        Returns:
            The share of the matrix's variance that is kept, 0..1.
        """
        vocab, width = self.table.num_embeddings, self.matrix_width
        if tuple(matrix.shape) != (vocab, width):
            raise InputError(
                f"the teacher's embedding is {tuple(matrix.shape)}, the student's {(vocab, width)}; "
                "the tokeniser and the width must be the same"
            )
        matrix = matrix.detach().float()
        if self.expand is None:
            self.table.weight.copy_(matrix)
            return 1.0
        mean = matrix.mean(dim=0)
        u, s, vt = torch.linalg.svd(matrix - mean, full_matrices=False)
        rank = self.table.embedding_dim
        root = s[:rank].sqrt()
        self.table.weight.copy_(u[:, :rank] * root)
        self.expand.weight.copy_(vt[:rank].T * root)
        self.expand.bias.copy_(mean)
        return float((s[:rank] ** 2).sum() / (s**2).sum().clamp_min(1e-12))

    @property
    def matrix_width(self) -> int:
        """Channels that come out."""
        return self.table.embedding_dim if self.expand is None else self.expand.out_features
