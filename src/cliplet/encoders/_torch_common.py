"""What the encoders on PyTorch libraries share."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOKENIZER_PROBE = "A photo depicts Two dogs, it's 12 o'clock: naïve 狗"
"""Its token ids stand for the tokeniser in the fingerprint."""


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
