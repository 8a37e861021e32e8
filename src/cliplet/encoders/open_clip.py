"""Any model of open_clip as an Encoder: the library's own weights, transform and tokeniser."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, open_image, refuse_too_narrow
from cliplet.data.text import scrub
from cliplet.encoders._torch_common import (
    TOKENIZER_PROBE,
    TorchModelEncoder,
    check_torch_precision,
    torch_device,
)
from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.errors import MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision

if TYPE_CHECKING:
    import torch

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class OpenClipEncoder(TorchModelEncoder):
    """A model of open_clip behind the Encoder protocol.

    Images go through :func:`~cliplet.data.images.open_image` (upright, first frame, 8 bits) and then through the
    library's own evaluation transform; texts through the library's own tokeniser, which keeps the end token of a
    text it cuts. Embeddings equal a direct call of the library on the same image and text.

    Reference implementation: open_clip_torch, ``model.encode_image`` and ``model.encode_text`` in fp32.
    """

    library = "open_clip"

    def __init__(
        self,
        model: "torch.nn.Module",
        preprocess: Callable[[Any], "torch.Tensor"],
        tokenizer: Any,
        *,
        name: str = "open_clip",
        device: str = "cpu",
        batch_size: int | None = None,
        precision: str = "fp32",
    ) -> None:
        """Wrap what ``open_clip.create_model_from_pretrained`` and ``open_clip.get_tokenizer`` return.

        Args:
            model: the model; it is put in evaluation mode, with its weights in fp32, on ``device``.
            preprocess: the evaluation transform, PIL image to ``[3, h, w]``.
            tokenizer: an open_clip tokeniser: texts to token ids ``[n, context_length]``.
            name: shown in every output.
            device: ``cpu``, ``cuda:1``, ``mps`` or ``auto``.
            batch_size: images in one call of the model; default 32 on the CPU, else by the memory.
            precision: ``fp32``, ``bf16`` or, on accelerators, ``fp16``.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
        """
        from cliplet.models.fingerprint import state_fingerprint

        self.settle(model.float().eval(), device, precision, batch_size, 32)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self._context_length = int(tokenizer.context_length)
        spec = _preprocess_settings(self.model)
        self.card = ModelCard(
            name=name,
            embedding_dim=self.embed_tokens(self.tokenize([""])[0]).shape[1],
            image=spec,
            text=TextSpec(context_length=self._context_length),
            description=f"{name} run by open_clip: the library's own transform and tokeniser.",
            precision=precision,
            fingerprint_of=lambda: state_fingerprint(
                self.model, spec, _plain_repr(preprocess), self._token_rows([TOKENIZER_PROBE]).tolist()
            ),
        )

    @classmethod
    def from_name(
        cls, name: str, device: str = "cpu", batch_size: int | None = None, precision: str = "fp32"
    ) -> "OpenClipEncoder":
        """Load a model as open_clip does.

        Args:
            name: one of

                - ``ViT-B-32/openai``: architecture and pretrained tag; the library fetches the weights. The
                  activation is the one the tag was trained with: weights that need QuickGELU get it even where
                  the architecture's name does not say so.
                - ``ViT-B-32/PATH``: architecture and a weights file, or a folder with one in it;
                  ``ViT-B-32//abs/olute.pt`` for an absolute path.
                - ``hf-hub:owner/name``: configuration and weights from the hub.
                - ``local-dir:PATH``, or a folder with an ``open_clip_config.json``: the same from a folder.
            device: ``cpu``, ``cuda:1``, ``mps`` or ``auto``.
            batch_size: images in one call of the model; default 32 on the CPU, else by the memory.
            precision: ``fp32``, ``bf16`` or, on accelerators, ``fp16``.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
            MissingExtraError: open_clip is not installed.
            ModelError: no such architecture, tag or file; or the weights do not fit.
        """
        open_clip = _import_open_clip()
        place = torch_device(device)
        check_torch_precision(precision, place, f"open_clip:{name}")
        arch, pretrained = _parse(open_clip, name)
        tag_config = open_clip.get_pretrained_cfg(arch, pretrained) if pretrained else {}
        try:
            model, preprocess = open_clip.create_model_from_pretrained(
                arch,
                pretrained=pretrained,
                precision="fp32",  # of the weights
                device=place,
                force_quick_gelu=bool(tag_config.get("quick_gelu", False)),
            )
            tokenizer = open_clip.get_tokenizer(arch)
        except Exception as error:  # the hub, torch.load and load_state_dict raise many kinds
            raise ModelError(f"open_clip cannot load {name!r}: {error}") from error
        return cls(
            model, preprocess, tokenizer,
            name=f"open_clip:{name}", device=place, batch_size=batch_size, precision=precision,
        )  # fmt: skip

    def prepare_image(self, source: ImageInput) -> "torch.Tensor":
        """The library's transform of the upright image: float32 ``[3, h, w]``."""
        image = open_image(source)
        if self.card.image.resize != "squash":
            refuse_too_narrow(image)
        return self.preprocess(image)

    def embed_images(self, prepared: Sequence["torch.Tensor"]) -> NDArray[Any]:
        """Run the image tower: ``[n, d]``."""
        import torch

        with self.computing():
            features = self.towers.encode_image(torch.stack(list(prepared)).to(self.device))
            return features.float().cpu().numpy()  # type: ignore[no-any-return]

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token ids ``[context_length]`` of each text, and which lost words to the context length.

        The library does not say what it cut. A text was cut if one more place would have held one more token,
        or another one at the place of the forced end token.
        """
        clean = [scrub(text) for text in texts]
        rows = self._token_rows(clean)
        n = self._context_length
        wider = self._token_rows([*clean, ""], n + 1)  # [texts + 1, n + 1]
        padding = wider[-1, -1]
        truncated = (wider[:-1, :n] != rows).any(dim=1) | (wider[:-1, n] != padding)
        return list(rows), truncated.numpy()

    def embed_tokens(self, tokens: Sequence["torch.Tensor"]) -> NDArray[Any]:
        """Run the text tower on token ids: ``[n, d]``."""
        import torch

        from cliplet.models.open_clip_text import encode_short

        with self.computing():
            features = encode_short(self.towers, torch.stack(list(tokens)).to(self.device))
            return features.float().cpu().numpy()  # type: ignore[no-any-return]

    def lengthen(self, context_length: int) -> None:
        """Read texts of more tokens; the model must have positions for them."""
        self._context_length = self.tokenizer.context_length = context_length

    def _token_rows(self, texts: list[str], length: int | None = None) -> "torch.Tensor":
        return self.tokenizer(texts, context_length=length or self._context_length)


def _import_open_clip() -> Any:
    try:
        prepare_torchvision()
        import open_clip
    except ImportError as error:
        raise MissingExtraError(f"a model of open_clip ({error})", "open-clip") from error
    except RuntimeError as error:  # a torchvision built for another torch
        raise ModelError(
            f"open_clip cannot be imported: {error}; torch and torchvision must be builds that fit each other"
        ) from error
    return open_clip


def stretched_config(model: Any, architecture: str, context_length: int) -> dict[str, Any]:
    """The content of an ``open_clip_config.json`` for a model whose texts have more tokens than its architecture's.

    Args:
        model: of that architecture.
        architecture: a name that open_clip knows, or a folder with such a file.
        context_length: tokens of a text.

    Raises:
        ModelError: its configuration is not known.
    """
    open_clip = _import_open_clip()
    folder = Path(architecture.removeprefix("local-dir:"))
    if (folder / "open_clip_config.json").is_file():
        known = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    else:
        known = open_clip.get_model_config(architecture)
    if not known:
        raise ModelError(
            f"open_clip has no configuration of {architecture}, so its positions cannot be stretched"
        )
    known = copy.deepcopy(known)
    known["text_cfg"]["context_length"] = context_length
    if any(type(m).__name__ == "QuickGELU" for m in model.modules()):
        known["quick_gelu"] = True
    return {"model_cfg": known, "preprocess_cfg": dict(model.visual.preprocess_cfg)}


def _parse(open_clip: Any, name: str) -> tuple[str, str | None]:
    """(architecture or schema name, tag or weights file) of a name; see :meth:`OpenClipEncoder.from_name`."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if (Path(name) / "open_clip_config.json").is_file():
        return f"local-dir:{name}", None
    known = set(open_clip.list_models())
    parts = name.split("/")
    for count in range(1, len(parts) + 1):  # "ViT-B-32/openai", and "ViT-B/32/openai" as OpenAI writes it
        arch, rest = "-".join(parts[:count]), "/".join(parts[count:])
        if arch in known:
            return arch, _weights(open_clip, arch, rest)
    near = ", ".join(sorted(known, key=lambda other: (_common(other, name), other))[-5:])
    raise ModelError(f"open_clip has no architecture {parts[0]!r}; some it has: {near}")


def _weights(open_clip: Any, arch: str, weights: str) -> str:
    """The tag, or the path of a weights file, that ``weights`` names."""
    tags = open_clip.list_pretrained_tags_by_model(arch)
    advice = f"name a tag ({', '.join(tags) or 'this architecture has none'}) or a weights file: {arch}/..."
    if not weights:
        raise ModelError(f"open_clip:{arch} names no weights; {advice}")
    path = Path(weights)
    if open_clip.is_pretrained_cfg(arch, weights) or path.is_file():
        return weights
    if path.is_dir():
        found = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
        if len(found) == 1:
            return str(found[0])
        raise ModelError(f"{path} holds {len(found)} weights files, not one: name the file itself")
    raise ModelError(f"open_clip has no weights {weights!r} for {arch}, nor is it a file; {advice}")


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a.lower(), b.lower(), strict=False)) if x != y), len(b))


def _preprocess_settings(model: Any) -> ImageSpec:
    settings = getattr(model.visual, "preprocess_cfg", {})
    size = settings.get("size", getattr(model.visual, "image_size", 224))
    return ImageSpec(
        size=max(size) if isinstance(size, (tuple, list)) else int(size),
        resize="squash" if settings.get("resize_mode") == "squash" else "shortest",
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
    )


def _plain_repr(transform: Any) -> str:
    """The repr of a transform without memory addresses, so that it is the same in every process."""
    import re

    return re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
