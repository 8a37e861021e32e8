"""What training asks of a CLIP of whatever library: its parameters, its inputs, its token states, its file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.encoders._torch_common import TorchModelEncoder
from cliplet.encoders.batching import BatchedEncoder
from cliplet.errors import InputError
from cliplet.models.roi import roi_means
from cliplet.training.pairs import PairSet, fingerprint

Floats = NDArray[np.float32]


class TrainableClip:
    """What training asks of a model; :func:`~cliplet.training.dclip.trainable.open_trainable` makes one.

    What only some models can do is declared here with a default: kept caption states (``head``), an image tower cut in
    two (:meth:`early`), class prototypes, export.
    """

    encoder: TorchModelEncoder
    """The model as an encoder; it shares the weights that are trained."""
    model: Any
    """The model, a module with ``encode_image`` and ``encode_text``."""
    released: tuple[str, ...]
    """Patterns of the parameters that DCLIP's authors train."""
    image_prefix: str | tuple[str, ...]
    """How the names of the image tower's parameters begin."""
    mean_std: tuple[Sequence[float], Sequence[float]]
    """Mean and deviation of the image tower's input, of colours in 0..1."""
    head: tuple[str, ...] = ()
    """Names of the text tower's last projection, where it can learn on kept states."""
    prototypes: NDArray[np.float16] | None = None
    """Pooled image features of a typical photo of each ImageNet class ``[1000, D]``, where they are known."""
    can_export: bool = False
    """Whether what :meth:`save` writes can become a folder of ONNX files."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.encoder.device)

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Photos as the image tower's input ``[n, 3, h, w]``."""
        raise NotImplementedError

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, ``[n, t]``."""
        raise NotImplementedError

    def token(self, number: int) -> str:
        """A token as text."""
        raise NotImplementedError

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[n, d]``, unnormalised."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``, unnormalised."""
        raise NotImplementedError

    def projected_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The state of every token through the text projection ``[n, t, d]``; ModelError where there is none."""
        raise NotImplementedError

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """Write the model so that ``cliplet.load`` opens it.

        Args:
            folder: for its files; ``.part`` at the end of its name will be taken off when all are written.
            name: of the model.
            license: of the weights; empty keeps what is known.
            training: how it came about, for the card.
            results: what was measured, for the card.
        """
        raise NotImplementedError

    def pooled_text(self, texts: Sequence[str]) -> Floats:
        """States before the text tower's last projection ``[n, w]``, for models that have a ``head``."""
        raise NotImplementedError

    def project_text(self, states: Tensor) -> Tensor:
        """The text tower's last projection of what :meth:`pooled_text` gives."""
        raise NotImplementedError

    def early(self, learning: Sequence[str]) -> tuple[nn.Module | None, int]:
        """What of the image tower comes before the first parameter that learns, and where the rest begins.

        None: nothing that can be computed beforehand.
        """
        return None, 0

    def encode_late(self, maps: Tensor, first: int, dropout: float = 0.0, quick: bool = False) -> Tensor:
        """The rest of the image tower on kept maps: ``[n, d]``, unnormalised.

        Args:
            maps: ``[n, C, h, w]``, or pooled features ``[n, D]``.
            first: what :meth:`early` said.
            dropout: share of pooled features that are left out.
            quick: products may be rounded as bf16 does.
        """
        raise NotImplementedError

    def image_maps(self, columns: Mapping[str, Tensor], first: int, quick: bool = False) -> Tensor:
        """What the image tower sees in each place, before what is linear in it ``[n, C, h, w]``.

        Args:
            columns: ``maps`` or ``pixels``, as :meth:`~cliplet.training.dclip.inputs.Photos.batch` gives them.
            first: what :meth:`early` said.
            quick: products may be rounded as bf16 does.

        Raises:
            InputError: this image tower has no such maps.
        """
        raise InputError(
            f"{self.encoder.card.name}: regions are read from the maps of an EfficientNet, or from the patches of our "
            "own or open_clip's vision transformers, not from this image tower; leave objectives.regions out"
        )

    def project_places(self, features: Tensor) -> Tensor:
        """What :meth:`image_maps` gives of some places ``[N, C]`` in the shared space ``[N, d]``, unnormalised."""
        return features

    def region_features(
        self, columns: Mapping[str, Tensor], owner: Tensor, boxes: Tensor, first: int = 0, quick: bool = False
    ) -> Tensor:
        """Embeddings of boxes on photos ``[N, d]``, unnormalised.

        RoIAlign to one place on the last map of an EfficientNet, or on a vision transformer's patches, whose last block
        does not mix tokens. The box of the whole photo has the photo's own embedding where the image tower takes the
        mean of its maps (an EfficientNet), another one where it has a class token.

        Args:
            columns: the photos, ``maps`` or ``pixels``.
            owner: which of them each box is on ``[N]``.
            boxes: ``[N, 4]``: left, top, right, bottom as shares of the sides of the tower's input.
            first: what :meth:`early` said.
            quick: products may be rounded as bf16 does.

        Raises:
            InputError: this image tower has no maps.
        """
        maps = self.image_maps(columns, first, quick)
        return self.project_places(roi_means(maps, owner, boxes)).float()

    def lengthen(self, length: int) -> None:
        """Let the text tower read texts of this many tokens: learnt positions are stretched, in place.

        Nothing changes where it reads as many.

        Raises:
            InputError: its positions cannot be stretched.
        """
        card = self.encoder.card
        if length == card.text.context_length:
            return
        known = card.fingerprint
        self._stretch(length)
        self.encoder.card = dataclasses.replace(
            card,
            text=dataclasses.replace(card.text, context_length=length),
            fingerprint_of=lambda: fingerprint([known, f"{length} tokens"]),
        )

    def _stretch(self, length: int) -> None:
        raise InputError(
            f"student.context_length={length}: the positions of {self.encoder.card.name} cannot be stretched; leave it "
            "out"
        )

    def frozen_encoder(self, folder: Path, pairs: PairSet) -> BatchedEncoder:
        """The model as it is now, to embed many crops with; kept in ``folder`` where that makes it faster."""
        return self.encoder

    @torch.no_grad()
    def token_states(
        self, texts: Sequence[str], padding: bool = False
    ) -> tuple[list[list[str]], list[Tensor]]:
        """Each text's tokens and their states through the text projection ``[m, d]``, without the first and last.

        With ``padding`` the positions after the text count as well, as in the released code.
        """
        batch = self.tokens(texts)
        states = self.projected_states(**{k: v.to(self.device) for k, v in batch.items()}).float().cpu()
        ends = [max(2, int(n) - 1) for n in batch["attention_mask"].sum(dim=1)]
        last = max(2, states.shape[1] - 1)
        found = [states[i, 1 : last if padding else end] for i, end in enumerate(ends)]
        ids = batch["input_ids"].tolist()
        return [[self.token(t) for t in row[1:end]] for row, end in zip(ids, ends, strict=True)], found

    def named(self, patterns: Sequence[str]) -> list[str]:
        """Names of the parameters that patterns choose.

        Raises:
            InputError: a pattern that matches nothing.
        """
        names = [n for n, _ in self.model.named_parameters()]
        wanted: set[str] = set()
        for pattern in [q for p in patterns for q in (self.released if p == "released" else (p,))]:
            found = [n for n in names if fnmatchcase(n, pattern)]
            if not found:
                some = ", ".join([n for n in names if n.endswith("weight")][:: max(1, len(names) // 8)][:5])
                raise InputError(f"student.train: no parameter is called {pattern}; the model has {some} ...")
            wanted.update(found)
        return [n for n in names if n in wanted]


def write_about(folder: Path, load: str, **facts: Any) -> None:
    """``dclip.json`` beside the weights of another library's model: ``load``, what to give ``cliplet.load``, and facts.

    Args:
        folder: of the weights.
        load: with ``{}`` for the folder.
        facts: name, licence, training, results.
    """
    final = folder.with_name(folder.name.removesuffix(".part"))
    about = {**facts, "load": load.replace("{}", str(final))}
    (folder / "dclip.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
