"""What the encoders on PyTorch libraries share: fingerprints, and a guard against absurdly narrow photos."""

import hashlib
from typing import TYPE_CHECKING

from PIL import Image

from cliplet.data.images import MAX_PIXELS
from cliplet.errors import InputError

if TYPE_CHECKING:
    import torch


def state_fingerprint(model: "torch.nn.Module", *preprocessing: object) -> str:
    """16 hexadecimal digits of every tensor of the model and of the ``repr`` of its preprocessing.

    Reads the weights once, without copying those on the CPU: about a second for a gigabyte.
    """
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
    for part in preprocessing:
        digest.update(repr(part).encode())
    return digest.hexdigest()


def refuse_too_narrow(image: Image.Image, size: int) -> None:
    """Raise InputError for a photo whose short side, scaled to ``size``, makes the long side a memory bomb."""
    short, long = sorted(image.size)
    if size * size * long > short * MAX_PIXELS:
        raise InputError(
            f"an image of {image.width} x {image.height} pixels is too narrow: with its short side scaled to "
            f"{size} it would have more than {MAX_PIXELS:,} pixels; crop it first"
        )
