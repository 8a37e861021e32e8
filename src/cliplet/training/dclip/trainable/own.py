"""Our own dual models in training."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.torch import TorchEncoder, pad_tokens
from cliplet.errors import InputError
from cliplet.export.frozen import frozen_encoder
from cliplet.models.dense import tower_maps
from cliplet.models.dual import save_weights
from cliplet.models.late import LateStages, can_be_cut, early_stages, first_late_stage
from cliplet.models.positions import lengthen_text
from cliplet.models.vision import TwinImageTower, VisionTower
from cliplet.training.dclip.trainable.base import Floats, TrainableClip
from cliplet.training.pairs import PairSet


class TrainableDual(TrainableClip):
    """One of our own dual models."""

    head = ("text.head.weight", "text.head.bias")
    image_prefix = "image."
    can_export = True

    def __init__(self, encoder: TorchEncoder, prototypes: NDArray[np.float16] | None = None) -> None:
        self.encoder: TorchEncoder = encoder
        self.model = encoder.model
        self.prototypes = prototypes
        image = self.model.image
        self.body = (
            None if isinstance(image, TwinImageTower) else image.body
        )  # a twin's stages are not cut again
        self.mean_std = self.model.config.image.mean, self.model.config.image.std
        self._late: LateStages | None = None
        if isinstance(image, VisionTower):
            self.released = ("image.transformer.*attention*", "image.head.*")
        else:
            self.released = ("image.head.*",)  # a network of convolutions has no attention

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        prepared = np.stack([self.encoder.prepare_image(i) for i in images])
        return torch.from_numpy(self.encoder.normalise(prepared))

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, as long as the longest text."""
        ids, mask = pad_tokens(self.encoder.tokenize(texts)[0])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def token(self, number: int) -> str:
        """A token as text."""
        return str(self.encoder.tokenizer.id_to_token(number))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``."""
        return self.model.encode_text(input_ids, attention_mask)  # type: ignore[no-any-return]

    def projected_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, t, d]``; a tower without a mask fills texts up to its context length."""
        return self.project_text(self.model.text.states(input_ids, attention_mask)[0])

    @torch.no_grad()
    def pooled_text(self, texts: Sequence[str]) -> Floats:
        """``[n, w]``."""
        head, self.model.text.head = self.model.text.head, nn.Identity()
        try:
            order = np.argsort([len(t) for t in texts], kind="stable")
            blocks = []
            for rows in np.array_split(order, max(1, len(order) // 128)):
                batch = {k: v.to(self.device) for k, v in self.tokens([texts[i] for i in rows]).items()}
                blocks.append(self.encode_text(**batch).float().cpu().numpy())
        finally:
            self.model.text.head = head
        return np.concatenate(blocks)[np.argsort(order, kind="stable")]  # type: ignore[no-any-return]

    def project_text(self, states: Tensor) -> Tensor:
        """``[..., w]`` -> ``[..., d]``."""
        return self.model.text.head(states)  # type: ignore[no-any-return]

    def early(self, learning: Sequence[str]) -> tuple[nn.Module | None, int]:
        """See :meth:`TrainableClip.early`: timm's EfficientNets are cut between their stages."""
        if self.body is None or not can_be_cut(self.body):
            return None, 0
        own = [n.removeprefix("image.body.") for n in learning if n.startswith("image.body.")]
        first = first_late_stage(self.body, own)
        return (None, 0) if first is None else (early_stages(self.body, first), first)

    def encode_late(self, maps: Tensor, first: int, dropout: float = 0.0, quick: bool = False) -> Tensor:
        """See :meth:`TrainableClip.encode_late`; ``quick`` is for an EfficientNet-Lite on a CPU."""
        return self.model.image.head(F.dropout(self._stages(first)(maps, quick), dropout))  # type: ignore[no-any-return]

    def _stages(self, first: int) -> LateStages:
        if self._late is None or self._late.first != first:
            self._late = LateStages(self.body, first, "_lite" in self.model.image.config.name)
        return self._late

    def image_maps(self, columns: Mapping[str, Tensor], first: int, quick: bool = False) -> Tensor:
        """See :meth:`TrainableClip.image_maps`: an EfficientNet's last map, or a vision transformer's patches."""
        image = self.model.image
        if "maps" in columns:
            maps = columns["maps"].float()
            if maps.ndim == 2:
                raise InputError(
                    "only the pooled features of photos are kept, as no more of the image tower than its last "
                    "projection learns; regions need its last map: let its last stage learn too (student.train)"
                )
            return self._stages(first).last_map(maps, quick)
        if isinstance(image, VisionTower):
            return tower_maps(image, columns["pixels"])
        if self.body is not None and can_be_cut(self.body):
            return self.body.forward_features(columns["pixels"])  # type: ignore[no-any-return]
        return super().image_maps(columns, first, quick)

    def project_places(self, features: Tensor) -> Tensor:
        """``[N, C]`` -> ``[N, d]``."""
        return self.model.image.head(features)  # type: ignore[no-any-return]

    def _stretch(self, length: int) -> None:
        lengthen_text(self.model, length)
        self.encoder.tokenizer.enable_truncation(length)

    def frozen_encoder(self, folder: Path, pairs: PairSet) -> BatchedEncoder:
        """The model on ONNX Runtime, four times faster on a CPU, where it can be exported."""
        photos = pairs.photos[:8]
        return frozen_encoder(self.encoder, folder, photos, pairs.captions[:16]) or self.encoder

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """A model folder of PyTorch weights."""
        save_weights(self.model, folder)
        tokenizer = Tokenizer.from_str(self.encoder.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.save(str(folder / "tokenizer.json"))
        card = self.encoder.card
        dataclasses.replace(
            card, name=name, license=license or card.license, training=training, results=results,
            description=f"{card.name}, tuned for retrieval with DCLIP.",
        ).save(folder)  # fmt: skip
