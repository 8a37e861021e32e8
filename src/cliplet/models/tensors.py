"""Tensors out: one safetensors file, and one line where the disk is full."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cliplet.errors import InputError


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors, wherever they are, as a safetensors file.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        own = storage.nbytes() == plain.nbytes and storage.data_ptr() not in seen  # as safetensors asks for
        seen.add(storage.data_ptr())
        kept[name] = plain if own else plain.clone()
    try:
        save_file(kept, path, metadata)
    except (SafetensorError, OSError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> InputError:
    """One line about a file of a run that cannot be written."""
    text = " ".join(str(error).split())
    return InputError(
        f"{path} cannot be written ({text}); make room and give the command again: a run goes on where it stood"
    )
