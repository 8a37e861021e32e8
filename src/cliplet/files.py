"""Output files: written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` for a file or folder, which takes its name when the block ends well: none sees half of it.

    What was there before is replaced; what an interrupted block has left is removed first.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    _remove(part)
    yield part
    if part.is_dir():
        _remove(path)  # a folder does not take another's place by itself
    os.replace(part, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
