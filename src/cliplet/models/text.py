"""Text towers: token ids and mask ``[B, T]`` in, unnormalised embeddings ``[B, d]`` out."""

import torch
from torch import Tensor, nn

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import TextConfig, TextTowerConfig, TransformersTextConfig
from cliplet.models.embedding import FactorisedEmbedding
from cliplet.models.multiplexed import MultiplexedTransformer, init_weights


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a text: the last token (``eot``), the first (``cls``) or the mean of all.

    Args:
        states: ``[B, T, D]``.
        attention_mask: ``[B, T]``, 1 for text and 0 for padding at the end; a text has at least one token.

    Returns:
        ``[B, D]``.
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "eot":
        last = attention_mask.sum(dim=1).clamp_min(1) - 1
        index = last[:, None, None].expand(-1, 1, states.shape[2])  # [B, 1, D]
        return states.gather(1, index)[:, 0]
    weights = attention_mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


class TextTower(nn.Module):
    """Multiplexed text transformer with a factorised word embedding and learnt positions.

    The published L-CLIP text student is ``TextTower(TextConfig())``: 27,478,656 parameters. It has no mask, so its
    result depends on the padding; the tower therefore fills every batch up to the context length itself. With
    ``mask="padding"`` or ``"causal"`` a batch may be as short as its longest text, with the same result.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = FactorisedEmbedding(config.vocab_size, config.width, config.embedding_rank)
        self.positions = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.transformer = MultiplexedTransformer(config)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.embedding_dim)
        past = torch.ones(config.context_length, config.context_length, dtype=torch.bool).tril()
        self.register_buffer("past", past, persistent=False)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.positions, std=0.01)

    def _fill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both inputs at the full context length, padding set to the padding token."""
        full = self.config.context_length
        input_ids = torch.where(attention_mask > 0, input_ids, self.config.pad_token_id)
        pad_ids = input_ids.new_full((1, full), self.config.pad_token_id).expand(input_ids.shape[0], -1)
        pad_mask = attention_mask.new_zeros((1, full)).expand(input_ids.shape[0], -1)
        input_ids = torch.cat([input_ids, pad_ids], dim=1)[:, :full]
        return input_ids, torch.cat([attention_mask, pad_mask], dim=1)[:, :full]

    def _visible(self, attention_mask: Tensor) -> Tensor | None:
        """Which keys a query may see: ``[B, 1, 1, T]`` or ``[1, 1, T, T]`` bool, or None for all."""
        if self.config.mask == "padding":
            return attention_mask[:, None, None, :] > 0
        if self.config.mask == "causal":
            tokens = attention_mask.shape[1]
            past: Tensor = self.past  # type: ignore[assignment]
            return past[None, None, :tokens, :tokens]
        return None

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """All token states after the last block and LayerNorm ``[B, T, D]``, and the mask they go with."""
        if self.config.mask == "none":
            input_ids, attention_mask = self._fill(input_ids, attention_mask)
        x = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]
        if self.config.norm == "post":  # the tower's own LayerNorm is that of the word embeddings
            return self.transformer(self.norm(x), self._visible(attention_mask)), attention_mask
        return self.norm(self.transformer(x, self._visible(attention_mask))), attention_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[B, T]`` int64 ids and mask -> ``[B, d]``."""
        states, mask = self.states(input_ids, attention_mask)
        return self.head(pool(states, mask, self.config.pooling))  # type: ignore[no-any-return]


class TransformersTextTower(nn.Module):
    """Any text encoder of Transformers, pooled, and a linear projection."""

    def __init__(self, config: TransformersTextConfig) -> None:
        super().__init__()
        prepare_torchvision()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise MissingExtraError("a text tower from Transformers", "hub") from error
        settings = dict(config.config)
        if "model_type" not in settings:
            raise InputError("text.config has no model_type; give one, such as 'bert'")
        library = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.config = config
        self.body = AutoModel.from_config(library, attn_implementation="eager")
        self.head = nn.Linear(int(library.hidden_size), config.embedding_dim)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """All token states after the last layer ``[B, T, D]``, and the mask they go with."""
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state, attention_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[B, T]`` int64 ids and mask -> ``[B, d]``."""
        states, mask = self.states(input_ids, attention_mask)
        return self.head(pool(states, mask, self.config.pooling))  # type: ignore[no-any-return]


def build_text_tower(config: TextTowerConfig) -> TextTower | TransformersTextTower:
    """The text tower that the configuration describes, with random weights."""
    return TextTower(config) if isinstance(config, TextConfig) else TransformersTextTower(config)
