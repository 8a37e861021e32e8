"""``load("name")``: any model by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cliplet.encoders.base import BaseEncoder, Encoder, adapt
from cliplet.encoders.card import ModelCard
from cliplet.encoders.devices import read_device, read_precision
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import ClipletError, InputError, ModelError

ENTRY_POINTS = "cliplet.models"
"""Where installed packages name their models."""
FORMER = {
    "lclip-flickr8k": "the former packaged model; pip install models/lclip-flickr8k in cliplet's repository"
}
"""Models that were packaged once, and where they are now."""
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
"""Where the packaged models lie: each a model folder."""


def packaged_models() -> list[Path]:
    """The model folders inside the package; the first is the default."""
    return sorted(card.parent for card in WEIGHTS.glob("*/card.json"))


def installed_model(name: str) -> Path | None:
    """The folder of a model that another installed package ships, or None.

    Such a package names a module of its own under the entry points ``cliplet.models``; the model folder lies in the
    module's folder and is called like the entry point.
    """
    from importlib.metadata import entry_points  # not at the packaged model's cold start
    from importlib.util import find_spec

    for point in entry_points(group=ENTRY_POINTS, name=name):
        spec = find_spec(point.module)
        if spec is not None and spec.origin:
            return Path(spec.origin).parent / name
    return None


def load(
    name: str | Path | None = None, device: str | None = None, precision: str | None = None
) -> BaseEncoder:
    """Load a model.

    Args:
        name: nothing for the packaged model; the name of a packaged model or of one that an installed package ships
            (:func:`installed_model`); a model folder (``image.onnx`` for ONNX Runtime, or ``model.safetensors`` alone
            for PyTorch); ``open_clip:ViT-B-32/openai`` (any architecture and tag, or weights file, of open_clip);
            ``hf:owner/name`` (CLIP or SigLIP of Transformers); a local folder in the hub's layout, of either;
            ``timm:NAME`` or ``timm:NAME/FILE`` (an image encoder alone) and ``st:FOLDER`` (a sentence encoder alone),
            halves for :func:`cliplet.align`; ``torch:FOLDER`` (the PyTorch weights of a model folder that has both
            forms); or ``module:attribute``, your own
            :class:`~cliplet.encoders.base.Encoder`, its class, or a function without arguments that makes it.
        device: where it computes: ``cpu`` (the default), ``auto`` for the best that is there, ``cuda``, ``cuda:1``,
            ``mps``; a model folder also ``coreml``, ``directml`` or ``openvino``.
        precision: ``fp32`` (the default of PyTorch models), ``bf16``, or ``fp16`` on GPUs. A model folder has the
            precision that it was exported in.

    Raises:
        InputError: this machine has no such device, or the model cannot compute in this precision.
        ModelError: no such model, or it cannot be read.
        MissingExtraError: the library it needs is not installed.

    Example:
        >>> encoder = load()
        >>> encoder.encode_texts(["a dog on the beach"]).shape[0]
        1
    """
    if device is not None:
        read_device(device)
    if precision is not None:
        read_precision(precision)
    return _found(name)(device, precision)


Opener = Callable[[str | None, str | None], BaseEncoder]
"""Opens a model that was found, on a device and in a precision."""


def placed(encoder: Encoder, device: str | None = None, precision: str | None = None) -> BaseEncoder:
    """An encoder that is there, moved to the device and set to the precision where one is given.

    Raises:
        InputError: this machine has no such device, or the encoder cannot compute there or so.
    """
    able = adapt(encoder)
    if device is not None:
        read_device(device)
        able.to(device)
    if precision is not None:
        able.set_precision(precision)
    return able


def _found(name: str | Path | None) -> Opener:
    """What opens the model of this name; raises ModelError where there is none."""
    if name is None:
        packaged = packaged_models()
        if not packaged:
            raise ModelError("no model is packaged with this build of cliplet; name one")
        return partial(_onnx, packaged[0])
    text = str(name)
    for prefix, opener in _OPENERS.items():
        if text.startswith(prefix):
            return partial(opener, text[len(prefix) :])
    if text and Path(text).is_dir():
        return _from_folder(Path(text))
    for folder in packaged_models():
        if folder.name == text:
            return partial(_onnx, folder)
    installed = installed_model(text)
    if installed is not None:
        return _from_folder(installed)
    from cliplet.data.plugins import is_own  # not at the packaged model's cold start

    if is_own(text):
        return partial(placed, _users_own(text))
    raise ModelError(f"no model {text!r}: {FORMER.get(text, _choices())}")


def _choices() -> str:
    known = ", ".join(folder.name for folder in packaged_models())
    return (
        f"name a packaged model ({known}), a model folder, open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME, torch:FOLDER or "
        "your own encoder as module:attribute"
    )


def _users_own(name: str) -> BaseEncoder:
    """The Encoder that ``module:attribute`` names, or makes."""
    from cliplet.data.plugins import resolve

    try:
        found = resolve(name, "model")
    except InputError as error:
        raise ModelError(f"{error}; or {_choices()}") from error
    if isinstance(found, type) or not isinstance(found, Encoder):
        if not callable(found):
            raise ModelError(
                f"model {name!r} is of type {type(found).__name__}, which is no encoder and makes none"
            )
        try:
            found = found()
        except ClipletError:
            raise
        except Exception as error:
            raise ModelError(f"model {name!r} cannot be made without arguments: {error!r}") from error
    if not isinstance(found, Encoder) or not isinstance(found.card, ModelCard):
        raise ModelError(
            f"model {name!r} is of type {type(found).__name__}, which is no encoder: it needs a card (a ModelCard), "
            "encode_images and encode_texts"
        )
    return adapt(found)


def _from_folder(folder: Path) -> Opener:
    if (folder / "card.json").is_file():
        if (folder / "image.onnx").is_file():
            return partial(_onnx, folder)
        return partial(_own_torch, str(folder))
    if (folder / "open_clip_config.json").is_file():
        return partial(_open_clip, str(folder))
    if (folder / "config.json").is_file():
        return partial(_transformers, str(folder))
    raise ModelError(
        f"{folder} is not a model folder: it has neither card.json (cliplet), config.json (Transformers) "
        "nor open_clip_config.json"
    )


def _onnx(folder: Path, device: str | None, precision: str | None) -> BaseEncoder:
    encoder = OnnxEncoder(folder, device=device)
    if precision is not None:
        encoder.set_precision(precision)
    return encoder


def _own_torch(name: str, device: str | None, precision: str | None) -> BaseEncoder:
    from cliplet.encoders.torch import TorchEncoder

    return TorchEncoder.from_folder(name, device or "cpu", precision=precision or "fp32")


def _open_clip(name: str, device: str | None, precision: str | None) -> BaseEncoder:
    from cliplet.encoders.open_clip import OpenClipEncoder

    return OpenClipEncoder.from_name(name, device or "cpu", precision=precision or "fp32")


def _transformers(name: str, device: str | None, precision: str | None) -> BaseEncoder:
    from cliplet.encoders.transformers import TransformersEncoder

    return TransformersEncoder.from_name(name, device or "cpu", precision=precision or "fp32")


def _timm(name: str, device: str | None, precision: str | None) -> BaseEncoder:
    from cliplet.encoders.timm import TimmEncoder

    return placed(TimmEncoder.from_name(name), device, precision)


def _sentence(name: str, device: str | None, precision: str | None) -> BaseEncoder:
    from cliplet.encoders.sentence import SentenceEncoder

    return placed(SentenceEncoder.from_name(name), device, precision)


_OPENERS: dict[str, Callable[[str, str | None, str | None], BaseEncoder]] = {
    "timm:": _timm,
    "st:": _sentence,
    "open_clip:": _open_clip,
    "hf:": _transformers,
    "torch:": _own_torch,
}
