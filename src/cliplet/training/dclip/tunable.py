"""A model to tune, whichever library it comes from: its parameters by name, its inputs, its token states, its file."""

import dataclasses
import json
from collections.abc import Sequence
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

from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.encoders.registry import load
from cliplet.encoders.torch import TorchEncoder, pad_tokens
from cliplet.errors import InputError, ModelError
from cliplet.models.dual import save_weights
from cliplet.models.late import LateStages, can_be_cut, early_stages, first_late_stage
from cliplet.models.text import TextTower, TransformersTextTower
from cliplet.models.vision import TimmImageTower


class Tunable:
    """What training asks of a model; :func:`open_tunable` makes one."""

    encoder: BatchedEncoder
    """The model as an encoder; it shares the weights that are trained."""
    model: nn.Module
    """The model."""
    released: tuple[str, ...]
    """Patterns of the parameters that DCLIP's authors train."""
    head: tuple[str, ...] = ()
    """Names of the text tower's last projection, which can learn on kept states."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device) -> None:
        """Move the model, which the encoder shares."""
        self.model.to(device)

    def is_image(self, name: str) -> bool:
        """Whether a parameter belongs to the image tower."""
        raise NotImplementedError

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Photos as the image tower's input ``[n, 3, h, w]``."""
        raise NotImplementedError

    def raw_pixels(self, images: Sequence[Any]) -> Tensor:
        """The same in 0..1, without mean and deviation."""
        raise NotImplementedError

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, ``[n, t]``."""
        raise NotImplementedError

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[n, d]``, unnormalised."""
        raise NotImplementedError

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``, unnormalised."""
        raise NotImplementedError

    def token_states(
        self, texts: Sequence[str], padding: bool = False
    ) -> tuple[list[list[str]], list[Tensor]]:
        """Each text's pieces and their states through the text projection ``[m, d]``, without the first and last.

        With ``padding`` the places after the text count as well, as in the released code.
        """
        raise NotImplementedError

    def pooled_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """States before the text tower's last projection ``[n, w]``, for a projection that learns alone."""
        raise ModelError(f"{self.encoder.card.name} keeps no states before its text projection")

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

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """Write the model so that ``cliplet.load`` opens it."""
        raise NotImplementedError

    def learning(self, patterns: Sequence[str]) -> list[str]:
        """Names of the parameters that patterns choose.

        Raises:
            InputError: a pattern that matches nothing, or the image tower left without a learning parameter.
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


class TunableDual(Tunable):
    """One of our own dual models."""

    def __init__(self, encoder: TorchEncoder) -> None:
        self.encoder: TorchEncoder = encoder
        self.model: Any = encoder.model
        self._late: LateStages | None = None
        text = self.model.text
        self.head = ("text.head.weight", "text.head.bias") if hasattr(text, "head") else ()
        if isinstance(self.model.image, TimmImageTower):
            self.released = ("image.head.*",)  # a network of convolutions has no attention
        else:
            self.released = ("image.transformer.*attention*", "image.head.*")

    def is_image(self, name: str) -> bool:
        """Whether a parameter belongs to the image tower."""
        return name.startswith("image.")

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        return torch.from_numpy(
            self.encoder.normalise(np.stack([self.encoder.prepare_image(i) for i in images]))
        )

    def raw_pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]`` in 0..1."""
        prepared = np.stack([self.encoder.prepare_image(i) for i in images])
        return torch.from_numpy(prepared).permute(0, 3, 1, 2).float() / 255

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``."""
        ids, mask = pad_tokens(self.encoder.tokenize(texts)[0])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[n, d]``."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``."""
        return self.model.encode_text(input_ids, attention_mask)  # type: ignore[no-any-return]

    def _states(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        text = self.model.text
        if isinstance(text, TextTower):
            return text.states(ids, mask)
        assert isinstance(text, TransformersTextTower)
        return text.body(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    @torch.no_grad()
    def token_states(
        self, texts: Sequence[str], padding: bool = False
    ) -> tuple[list[list[str]], list[Tensor]]:
        """See :meth:`Tunable.token_states`."""
        batch = self.tokens(texts)
        states, mask = self._states(*(batch[k].to(self.device) for k in ("input_ids", "attention_mask")))
        states = self.model.text.head(states).cpu()  # [n, t, d]
        lengths = mask.sum(dim=1).tolist()
        ends = [states.shape[1] if padding else n for n in lengths]
        found = [states[i, 1 : max(2, end - 1)] for i, end in enumerate(ends)]
        pieces = [
            [str(self.encoder.tokenizer.id_to_token(int(t))) for t in row[1 : max(2, int(n) - 1)]]
            for row, n in zip(batch["input_ids"], lengths, strict=True)
        ]
        return pieces, found

    @torch.no_grad()
    def pooled_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
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
        """``[n, w]`` -> ``[n, d]``."""
        return self.model.text.head(states)  # type: ignore[no-any-return]

    def early(self, learning: Sequence[str]) -> tuple[nn.Module | None, int]:
        """See :meth:`Tunable.early`: timm's EfficientNets are cut between their stages."""
        tower = self.model.image
        if not isinstance(tower, TimmImageTower) or not can_be_cut(tower.body):
            return None, 0
        own = [n.removeprefix("image.body.") for n in learning if n.startswith("image.body.")]
        first = first_late_stage(tower.body, own)
        return (None, 0) if first is None else (early_stages(tower.body, first), first)

    def encode_late(self, maps: Tensor, first: int, dropout: float = 0.0, quick: bool = False) -> Tensor:
        """See :meth:`Tunable.encode_late`; ``quick`` is for an EfficientNet-Lite on a CPU."""
        image = self.model.image
        if self._late is None or self._late.first != first:
            self._late = LateStages(image.body, first, "_lite" in image.config.name)
        return image.head(F.dropout(self._late(maps, quick), dropout))  # type: ignore[no-any-return]

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """A model folder of PyTorch weights."""
        save_weights(self.model, folder)
        tokenizer = Tokenizer.from_str(self.encoder.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.save(str(folder / "tokenizer.json"))
        card = dataclasses.replace(
            self.encoder.card, name=name, license=license or self.encoder.card.license, training=training,
            results=results, description=f"{self.encoder.card.name}, tuned for retrieval with DCLIP.",
        )  # fmt: skip
        card.save(folder)


class TunableOpenClip(Tunable):
    """A model of open_clip."""

    released = ("visual.transformer.resblocks.*.attn.*", "visual.proj")

    def __init__(self, encoder: OpenClipEncoder, architecture: str) -> None:
        self.encoder: OpenClipEncoder = encoder
        self.model: Any = encoder.model
        self.architecture = architecture

    def is_image(self, name: str) -> bool:
        """Whether a parameter belongs to the image tower."""
        return name.startswith("visual.")

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        return torch.stack([self.encoder.prepare_image(i) for i in images])

    def raw_pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]`` in 0..1."""
        settings = self.model.visual.preprocess_cfg
        mean, std = (torch.tensor(settings[k])[:, None, None] for k in ("mean", "std"))
        return self.pixels(images) * std + mean

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` at the full context length; the mask counts up to the end token."""
        ids = torch.stack(list(self.encoder.tokenize(texts)[0]))
        length = ids.argmax(dim=1) + 1  # CLIP's end token has the largest id
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None] < length[:, None]).long(),
        }

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[n, d]``."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``; open_clip's text tower needs no mask."""
        return self.model.encode_text(input_ids)  # type: ignore[no-any-return]

    @torch.no_grad()
    def token_states(
        self, texts: Sequence[str], padding: bool = False
    ) -> tuple[list[list[str]], list[Tensor]]:
        """See :meth:`Tunable.token_states`: after the last LayerNorm and through ``text_projection``."""
        text = getattr(self.model, "text", self.model)
        if not hasattr(text, "ln_final") or getattr(text, "text_projection", None) is None:
            raise ModelError(f"{self.encoder.card.name} gives no token states; use spans = 'phrases'")
        kept: list[Tensor] = []
        hook = text.ln_final.register_forward_hook(lambda *call: kept.append(call[2]))
        batch = self.tokens(texts)
        try:
            self.encode_text(**{k: v.to(self.device) for k, v in batch.items()})
        finally:
            hook.remove()
        projection = text.text_projection
        states = projection(kept[0]) if isinstance(projection, nn.Module) else kept[0] @ projection
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        ends = [states.shape[1] if padding else int(n) for n in lengths]
        found = [states[i, 1 : max(2, end - 1)].float().cpu() for i, end in enumerate(ends)]
        decode = self.encoder.tokenizer.decode if hasattr(self.encoder.tokenizer, "decode") else str
        pieces = [
            [decode([int(t)]).strip() for t in row[1 : max(2, int(n) - 1)]]
            for row, n in zip(batch["input_ids"], lengths, strict=True)
        ]
        return pieces, found

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """Weights as safetensors, to be loaded as ``open_clip:ARCHITECTURE/FOLDER``; ``dclip.json`` says so."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        about = {
            "name": name, "license": license, "training": training, "results": results,
            "load": f"open_clip:{self.architecture}/{folder}",
        }  # fmt: skip
        (folder / "dclip.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def open_tunable(name: str) -> Tunable:
    """A model to tune by name: ``open_clip:ARCHITECTURE/TAG`` or a model folder with PyTorch weights.

    Raises:
        ModelError: no such model, or one that cannot be trained (an ONNX folder).
    """
    if (Path(name) / "model.safetensors").is_file():
        return TunableDual(TorchEncoder.from_folder(name))
    encoder = load(name)
    if encoder.library == "open_clip":
        return TunableOpenClip(cast(OpenClipEncoder, encoder), name.removeprefix("open_clip:").split("/")[0])
    raise ModelError(
        f"{name} cannot be tuned: give open_clip:ARCHITECTURE/TAG, or a model folder with model.safetensors "
        "(cliplet distill writes one beside its ONNX folder)"
    )


def crop_embedder(model: Tunable, fast: BatchedEncoder | None, raw: bool, batch: int = 32) -> Any:
    """What embeds crops of photos: ``[n, d]``, unit norm.

    Args:
        model: the frozen base model.
        fast: the same model on ONNX Runtime, several times faster on a CPU; None uses the model itself.
        raw: without mean and deviation, as released; then ``fast`` is not used.
    """

    @torch.no_grad()
    def embed(crops: Sequence[Image.Image]) -> NDArray[np.float32]:
        if not raw:
            return (fast or model.encoder).encode_images(crops)
        blocks = []
        for start in range(0, len(crops), batch):
            out = model.encode_image(model.raw_pixels(crops[start : start + batch]).to(model.device))
            blocks.append(F.normalize(out.float(), dim=1).cpu().numpy())
        return np.concatenate(blocks)

    return embed
