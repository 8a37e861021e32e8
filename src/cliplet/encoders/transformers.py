"""CLIP and SigLIP models of Transformers as Encoders: the library's own weights and processor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliplet.data.images import ImageInput, open_image, refuse_too_narrow, to_rgb
from cliplet.data.text import scrub
from cliplet.encoders._torch_common import (
    TOKENIZER_PROBE,
    TorchModelEncoder,
    check_torch_precision,
    torch_device,
)
from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.errors import InputError, MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision

if TYPE_CHECKING:
    import torch


class TransformersEncoder(TorchModelEncoder):
    """A two-tower model of Transformers (CLIP, SigLIP, SigLIP 2 and their like) behind the Encoder protocol.

    Images go through :func:`~cliplet.data.images.open_image` (upright, first frame, 8 bits) and then through the
    library's own image processor; texts through its tokeniser, padded as the model was trained: CLIP to the longest
    text of a batch, SigLIP to its whole context. A text that is too long is cut before the end token.

    Transformers 5 has two image processors for most models, one on torchvision and one on Pillow, whose resized
    pixels differ slightly; the library takes torchvision's where it is installed, and so does this encoder. The
    card's description and the fingerprint say which one ran.

    Reference implementation: ``AutoModel.get_image_features`` and ``get_text_features`` on the outputs of
    ``AutoProcessor``, in fp32.
    """

    library = "transformers"

    def __init__(
        self,
        model: "torch.nn.Module",
        processor: Any,
        *,
        name: str = "hf",
        device: str = "cpu",
        batch_size: int | None = None,
        precision: str = "fp32",
    ) -> None:
        """Wrap what ``AutoModel.from_pretrained`` and ``AutoProcessor.from_pretrained`` return.

        Args:
            model: the model; it is put in evaluation mode, with its weights in fp32, on ``device``.
            processor: its processor, with ``image_processor`` and ``tokenizer``.
            name: shown in every output.
            device: ``cpu``, ``cuda:1``, ``mps`` or ``auto``.
            batch_size: images in one call of the model; default 32 on the CPU, else by the memory.
            precision: ``fp32``, ``bf16`` or, on accelerators, ``fp16``.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
            ModelError: the model has not both towers, or the processor not both halves.
        """
        from cliplet.models.fingerprint import state_fingerprint

        for owner, needed in ((model, "get_image_features get_text_features"), (processor, "tokenizer")):
            for attribute in needed.split():
                if getattr(owner, attribute, None) is None:
                    raise ModelError(
                        f"{name} is a {type(model).__name__} with a {type(processor).__name__}, which has no "
                        f"{attribute}: only models that embed both images and texts (CLIP, SigLIP) can be used"
                    )
        if getattr(processor, "image_processor", None) is None:
            raise ModelError(f"{name} has no image processor: is preprocessor_config.json missing?")
        self.settle(model.float().eval(), device, precision, batch_size, 32)
        self.processor = processor
        self.image_processor = processor.image_processor
        self._takes_any_mode = _takes_any_mode(self.image_processor)
        self.tokenizer = processor.tokenizer
        config: Any = self.model.config
        self._pad_to_context = "siglip" in config.model_type
        self._context_length = _context_length(config, self.tokenizer)
        self.card = ModelCard(
            name=name,
            embedding_dim=self.embed_tokens(self.tokenize([""])[0]).shape[1],
            image=_image_spec(self.image_processor, config),
            text=TextSpec(context_length=self._context_length),
            description=f"{name} run by Transformers: {type(self.model).__name__}, "
            f"{type(self.image_processor).__name__}, {type(self.tokenizer).__name__}.",
            precision=precision,
            fingerprint_of=lambda: state_fingerprint(
                self.model,
                type(self.image_processor).__name__,
                sorted((key, str(value)) for key, value in self.image_processor.to_dict().items()),
                self.tokenize([TOKENIZER_PROBE])[0],
            ),
        )

    @classmethod
    def from_name(
        cls, name: str, device: str = "cpu", batch_size: int | None = None, precision: str = "fp32"
    ) -> "TransformersEncoder":
        """Load a model as Transformers does.

        Args:
            name: ``owner/name`` on the hub, or a local folder in the hub's layout (``config.json``,
                ``model.safetensors``, ``preprocessor_config.json``, the tokeniser's files).
            device: ``cpu``, ``cuda:1``, ``mps`` or ``auto``.
            batch_size: images in one call of the model; default 32 on the CPU, else by the memory.
            precision: ``fp32``, ``bf16`` or, on accelerators, ``fp16``.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
            MissingExtraError: Transformers or PyTorch is not installed.
            ModelError: no such model, a file of it is missing or broken, or its weights do not fill the model.
        """
        auto_model, auto_processor = _import_auto_classes()
        place = torch_device(device)
        check_torch_precision(precision, place, f"hf:{name}")
        if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise ModelError(f"{name}: there is no such folder")
        folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        try:
            model, report = auto_model.from_pretrained(folder, output_loading_info=True)
            processor = auto_processor.from_pretrained(folder)
        except Exception as error:  # the hub, safetensors and the configuration classes raise many kinds
            raise ModelError(f"Transformers cannot load {name!r}: {error}") from error
        missing = [key for key in report["missing_keys"] if not key.endswith("position_ids")]
        if missing:
            raise ModelError(
                f"the weights of {name} lack {len(missing)} tensors of a {type(model).__name__}, which would stay "
                f"random: {', '.join(sorted(missing)[:3])}..."
            )
        return cls(
            model, processor, name=f"hf:{name}", device=place, batch_size=batch_size, precision=precision
        )

    def prepare_image(self, source: ImageInput) -> dict[str, "torch.Tensor"]:
        """The library's image processor on the upright image: tensors ``[1, ...]`` by name."""
        image = open_image(source)
        if not self._takes_any_mode:
            image = to_rgb(image)
        if self.card.image.resize != "squash":
            refuse_too_narrow(image)
        try:
            return dict(self.image_processor(images=image, return_tensors="pt"))
        except ValueError as error:  # Transformers 4 takes an image 1 or 3 pixels high for channels
            raise InputError(
                f"{type(self.image_processor).__name__} cannot take an image of {image.width} x {image.height} "
                f"pixels in mode {image.mode}: {error}"
            ) from error

    def embed_images(self, prepared: Sequence[Mapping[str, "torch.Tensor"]]) -> NDArray[Any]:
        """Run the image tower: ``[n, d]``."""
        import torch

        batch = {key: torch.cat([one[key] for one in prepared]) for key in prepared[0]}
        with self.computing():
            batch = {key: tensor.to(self.device) for key, tensor in batch.items()}
            return _features(self.towers.get_image_features(**batch))

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token ids of each text, end token kept, and which lost words to the context length."""
        clean = [scrub(text) for text in texts]
        n = self._context_length
        ids = self.tokenizer(clean, truncation=True, max_length=n)["input_ids"]
        full = [i for i, tokens in enumerate(ids) if len(tokens) >= n]  # only these can have been cut
        truncated = np.zeros(len(ids), dtype=bool)
        if full:
            whole = self.tokenizer([clean[i] for i in full], truncation=False, verbose=False)["input_ids"]
            truncated[full] = [len(tokens) > n for tokens in whole]
        return ids, truncated

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> NDArray[Any]:
        """Pad token ids as :meth:`pad` does, and run the text tower: ``[n, d]``."""
        batch = self.pad(tokens)
        with self.computing():
            return _features(self.towers.get_text_features(**batch.to(self.device)))

    def pad(self, tokens: Sequence[Sequence[int]]) -> Any:
        """What the library's tokeniser makes of token ids, padded to ``[n, t]`` as the model was trained."""
        return self.tokenizer.pad(
            {"input_ids": list(tokens)},
            padding="max_length" if self._pad_to_context else True,
            max_length=self._context_length,
            return_tensors="pt",
            verbose=False,
        )


def _import_auto_classes() -> tuple[Any, Any]:
    try:
        import torch  # noqa: F401

        prepare_torchvision()
        import transformers
    except ImportError as error:
        raise MissingExtraError(f"a model of Transformers ({error})", "hub") from error
    try:
        return transformers.AutoModel, transformers.AutoProcessor
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"Transformers cannot be imported: {error.__cause__ or error}; if it names torchvision, install one "
            "built for this torch or remove it: it is not needed"
        ) from error


def _features(output: Any) -> NDArray[Any]:
    """The embeddings as an array; Transformers 5 wraps them in an output object."""
    tensor = output if hasattr(output, "shape") else output.pooler_output
    return tensor.float().cpu().numpy()


def _takes_any_mode(image_processor: Any) -> bool:
    """Whether the library itself makes RGB of other modes: some models' processors, and older ones, stop there."""
    try:
        image_processor(images=Image.new("LA", (8, 8)), return_tensors="pt")
    except Exception:  # ValueError, TypeError, RuntimeError: as the processor happens to fail
        return False
    return True


def _context_length(config: Any, tokenizer: Any) -> int:
    """The positions of the text tower; where its configuration does not say, the tokeniser's own limit."""
    text = getattr(config, "text_config", None)
    positions = getattr(text, "max_position_embeddings", None)
    return int(positions) if positions else min(int(tokenizer.model_max_length), 512)


def _image_spec(processor: Any, config: Any) -> ImageSpec:
    settings = processor.to_dict()
    size = settings.get("size") or {}
    shortest = size.get("shortest_edge")
    resample = settings.get("resample")
    sides = [int(side) for side in (shortest, size.get("height"), size.get("width")) if side]
    fallback = getattr(getattr(config, "vision_config", None), "image_size", None) or 224
    return ImageSpec(
        size=max(sides, default=int(fallback)),
        resize="shortest_floor" if shortest else "squash",
        interpolation="bilinear" if resample == 2 else "bicubic",
    )
