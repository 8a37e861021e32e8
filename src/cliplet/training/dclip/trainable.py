"""A CLIP in training, from whatever library: its parameters by name, its inputs, its token states, its file."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.encoders._torch_common import TorchModelEncoder
from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.open_clip import OpenClipEncoder, stretched_config
from cliplet.encoders.registry import load
from cliplet.encoders.torch import TorchEncoder, pad_tokens
from cliplet.errors import InputError, ModelError
from cliplet.export.frozen import frozen_encoder
from cliplet.models.dense import open_clip_maps, tower_maps
from cliplet.models.dual import save_weights
from cliplet.models.late import LateStages, can_be_cut, early_stages, first_late_stage
from cliplet.models.positions import lengthen_open_clip, lengthen_text
from cliplet.models.roi import roi_means
from cliplet.models.vision import TwinImageTower, VisionTower
from cliplet.training.pairs import PairSet, fingerprint

Floats = NDArray[np.float32]


class TrainableClip:
    """What training asks of a model; :func:`open_trainable` makes one.

    What only some models can do is declared here with a default: kept caption states (``head``), an image tower cut in
    two (:meth:`early`), class prototypes, export.
    """

    encoder: TorchModelEncoder
    """The model as an encoder; it shares the weights that are trained."""
    model: Any
    """The model, a module with ``encode_image`` and ``encode_text``."""
    released: tuple[str, ...]
    """Patterns of the parameters that DCLIP's authors train."""
    image_prefix: str
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
        """Write the model so that ``cliplet.load`` opens it."""
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


class TrainableOpenClip(TrainableClip):
    """A model of open_clip."""

    released = ("visual.transformer.resblocks.*.attn.*", "visual.proj")
    image_prefix = "visual."

    def __init__(self, encoder: OpenClipEncoder, architecture: str) -> None:
        self.encoder: OpenClipEncoder = encoder
        self.model = encoder.model
        self.architecture = architecture
        self._config: dict[str, Any] | None = None
        settings = self.model.visual.preprocess_cfg
        self.mean_std = settings["mean"], settings["std"]

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        return torch.stack([self.encoder.prepare_image(i) for i in images])

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` at the full context length; the mask counts up to the end token."""
        ids = torch.stack(list(self.encoder.tokenize(texts)[0]))
        length = ids.argmax(dim=1) + 1  # CLIP's end token has the largest id
        mask = (torch.arange(ids.shape[1])[None] < length[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}

    def token(self, number: int) -> str:
        """A token as text; its number where the library's tokeniser cannot tell."""
        decode = getattr(self.encoder.tokenizer, "decode", str)
        return str(decode([number])).strip()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``; open_clip's text tower needs no mask."""
        return self.model.encode_text(input_ids)  # type: ignore[no-any-return]

    def projected_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """After the last LayerNorm and through ``text_projection``, ``[n, t, d]``."""
        text = getattr(self.model, "text", self.model)  # open_clip's CustomTextCLIP, and its CLIP
        norm, projection = (getattr(text, name, None) for name in ("ln_final", "text_projection"))
        if norm is None or projection is None:
            raise ModelError(f"{self.encoder.card.name} gives no token states; use spans = 'phrases'")
        kept: list[Tensor] = []
        hook = norm.register_forward_hook(lambda *call: kept.append(call[2]))
        try:
            self.encode_text(input_ids, attention_mask)
        finally:
            hook.remove()
        return projection(kept[0]) if isinstance(projection, nn.Module) else kept[0] @ projection

    def _stretch(self, length: int) -> None:
        self._config = stretched_config(self.model, self.architecture, length)
        lengthen_open_clip(self.model, length)
        self.encoder.lengthen(length)

    def image_maps(self, columns: Mapping[str, Tensor], first: int, quick: bool = False) -> Tensor:
        """See :meth:`TrainableClip.image_maps`: a vision transformer's patches, projected already."""
        maps = open_clip_maps(self.model.visual, columns["pixels"])
        return super().image_maps(columns, first, quick) if maps is None else maps

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """Weights as safetensors, to be loaded as ``open_clip:ARCHITECTURE/FOLDER``; ``dclip.json`` says so.

        With other positions than the architecture's it comes with its configuration, as ``open_clip:FOLDER``.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        about = {
            "name": name, "license": license, "training": training, "results": results,
            "load": f"open_clip:{self.architecture}/{folder}" if self._config is None else f"open_clip:{folder}",
        }  # fmt: skip
        if self._config is not None:  # no longer the architecture of that name
            text = json.dumps(self._config, indent=2) + "\n"
            (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
        (folder / "dclip.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


PROTOTYPES = "prototypes.npy"
"""Beside a model folder's files: its :attr:`TrainableClip.prototypes`, where they are known."""


def open_trainable(name: str) -> TrainableClip:
    """A model to train by name: ``open_clip:ARCHITECTURE/TAG`` or a model folder with PyTorch weights.

    Raises:
        ModelError: no such model, or one that cannot be trained (an ONNX folder).
    """
    folder = Path(name)
    if (folder / "model.safetensors").is_file():
        file = folder / PROTOTYPES
        known = np.load(file, allow_pickle=False) if file.is_file() else None
        return TrainableDual(TorchEncoder.from_folder(folder), known)
    encoder = load(name)
    if encoder.library == "cliplet":
        return TrainableDual(cast(TorchEncoder, encoder))
    if encoder.library == "open_clip":
        return TrainableOpenClip(
            cast(OpenClipEncoder, encoder), name.removeprefix("open_clip:").split("/")[0]
        )
    raise ModelError(
        f"{name} cannot be tuned: give open_clip:ARCHITECTURE/TAG, or a model folder with model.safetensors "
        "(cliplet distill writes one beside its ONNX folder)"
    )


def crop_embedder(
    clip: TrainableClip, encoder: BatchedEncoder, raw: bool
) -> Callable[[Sequence[Image.Image]], Floats]:
    """What embeds crops of photos: ``[n, d]``, unit norm.

    Args:
        clip: the frozen base model.
        encoder: what it does by itself, or :meth:`TrainableClip.frozen_encoder` of it.
        raw: without the tower's mean and deviation, as released; then ``encoder`` is not used.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in clip.mean_std)

    @torch.no_grad()
    def embed(crops: Sequence[Image.Image]) -> Floats:
        blocks = []
        for start in range(0, len(crops), 32):
            pixels = clip.pixels(crops[start : start + 32]) * std + mean  # in 0..1 again
            blocks.append(F.normalize(clip.encode_image(pixels.to(clip.device)).float(), dim=1).cpu().numpy())
        return np.concatenate(blocks)

    return embed if raw else encoder.encode_images
