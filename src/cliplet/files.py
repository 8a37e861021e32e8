"""Output files: written whole or not at all."""

import os
import tempfile
from pathlib import Path

from cliplet.errors import InputError


def writable_folder(path: str | Path) -> Path:
    """Make the folder if need be and prove that a file can be written there, before long work starts.

    Raises:
        InputError: it is a file, or cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is a file, not a folder: name another output folder") from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; name another output folder"
        ) from error
    return folder


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside it, then rename: a reader never sees half a file.

    Raises:
        InputError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
