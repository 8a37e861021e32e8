"""Our own PyTorch towers behind the Encoder protocol (a model folder with ``model.safetensors``)."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, load_rgb, resize_rgb
from cliplet.data.text import scrub
from cliplet.encoders._torch_common import TorchModelEncoder, check_torch_precision, torch_device
from cliplet.encoders.card import ModelCard
from cliplet.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from cliplet.models.dual import DualModel


class TorchEncoder(TorchModelEncoder):
    """A :class:`~cliplet.models.dual.DualModel` with its tokeniser and card.

    Args:
        model: the towers; used in evaluation mode and returned to their former mode after each batch.
        tokenizer: a ``tokenizers.Tokenizer``; its truncation is set to the card's context length.
        card: how images are resized and captions cut.
        device: where to compute: ``cpu``, ``cuda:1``, ``mps`` or ``auto``.
        batch_size: images computed together; default 64 on the CPU, else by the memory.
        precision: ``fp32``, ``bf16`` or, on accelerators, ``fp16``.

    Raises:
        InputError: this machine has no such device, or it cannot compute in this precision.
    """

    library = "cliplet"

    def __init__(
        self,
        model: "DualModel",
        tokenizer: Any,
        card: ModelCard,
        device: str = "cpu",
        batch_size: int | None = None,
        precision: str = "fp32",
    ) -> None:
        from tokenizers import Tokenizer

        self.card = card if precision == "fp32" else replace(card, precision=precision)
        self.settle(model, device, precision, batch_size, 64)
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy: its settings are ours to change
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(card.text.context_length)
        spec = model.config.image
        self._mean = np.asarray(spec.mean, dtype=np.float32) * 255
        self._std = np.asarray(spec.std, dtype=np.float32) * 255

    @classmethod
    def from_folder(
        cls, folder: str | Path, device: str = "cpu", batch_size: int | None = None, precision: str = "fp32"
    ) -> "TorchEncoder":
        """Open a model folder with ``model.safetensors``, ``model.json``, ``tokenizer.json`` and ``card.json``.

        Raises:
            InputError: this machine has no such device, or it cannot compute in this precision.
            ModelError: a file is missing or damaged.
            MissingExtraError: PyTorch is not installed.
        """
        try:
            from cliplet.models.dual import load_weights
        except ImportError as error:
            raise MissingExtraError("a model of PyTorch towers", "train") from error
        from tokenizers import Tokenizer

        folder = Path(folder)
        check_torch_precision(precision, torch_device(device), str(folder))
        model = load_weights(folder)

        def fingerprint() -> str:
            digest = hashlib.blake2b(digest_size=8)
            for name in ("model.safetensors", "model.json", "tokenizer.json", "card.json"):
                digest.update((folder / name).read_bytes())
            return digest.hexdigest()

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        return cls(model, tokenizer, ModelCard.load(folder, fingerprint), device, batch_size, precision)

    def prepare_image(self, source: ImageInput) -> NDArray[np.uint8]:
        """Decode and resize to uint8 ``[size, size, 3]``."""
        spec = self.card.image
        return resize_rgb(
            load_rgb(source, at_least=2 * spec.size), spec.size, spec.resize, spec.interpolation
        )

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 ``[n, h, w, 3]`` -> the tower's float32 ``[n, 3, h, w]``."""
        scaled = (pixels.astype(np.float32) - self._mean) / self._std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def embed_images(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        """Run the image tower on prepared images: ``[n, d]``, unnormalised."""
        import torch

        pixels = torch.from_numpy(self.normalise(np.stack(prepared)))
        return self._run(self.towers.encode_image, pixels)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token ids with the end token kept, and which texts were cut."""
        encodings = self.tokenizer.encode_batch([scrub(t) for t in texts])
        return [e.ids for e in encodings], np.array([bool(e.overflowing) for e in encodings], dtype=bool)

    def embed_tokens(self, tokens: Sequence[Any]) -> NDArray[Any]:
        """Run the text tower on a batch padded to its longest sequence: ``[n, d]``, unnormalised."""
        import torch

        ids, mask = pad_tokens(tokens)
        return self._run(self.towers.encode_text, torch.from_numpy(ids), torch.from_numpy(mask))

    def _run(self, function: Any, *inputs: Any) -> NDArray[Any]:
        """Call a tower without gradients, in evaluation mode, on its own device."""
        training = self.model.training
        self.model.eval()
        try:
            with self.computing():
                return function(*(x.to(self.device) for x in inputs)).float().cpu().numpy()  # type: ignore[no-any-return]
        finally:
            self.model.train(training)


def pad_tokens(
    tokens: Sequence[Sequence[int]], pad_id: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token sequences as ids and mask, both int64 ``[n, longest]``."""
    longest = max(1, *(len(t) for t in tokens)) if tokens else 1
    ids = np.full((len(tokens), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(tokens), longest), dtype=np.int64)
    for row, sequence in enumerate(tokens):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
