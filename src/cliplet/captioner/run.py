"""Captions for a pile of photos, as a file that ``cliplet score`` and ``cliplet compare`` read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliplet.captioner.decoding import DecodeConfig
from cliplet.captioner.model import Captioner
from cliplet.captioner.recap import Recap
from cliplet.data.images import ImageInput
from cliplet.data.photos import open_photos
from cliplet.errors import InputError
from cliplet.files import writable_folder, write_atomically


@dataclass
class CaptionedPhotos:
    """Captions of photos by name, and what went wrong."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    """Captions of each photo, best first."""
    failures: dict[str, str] = field(default_factory=dict)
    """Photos without a caption, each with its reason."""

    def save(self, path: str | Path, several: bool = False) -> None:
        """Write ``{image: caption}`` (with ``several`` a list of captions each) as JSON, whole or not at all.

        Failures, if any, go beside it: ``captions.json`` -> ``captions.failed.json``, ``{image: reason}``; an older
        such file is removed.
        """
        path = Path(path)
        content: dict[str, Any] = {k: v if several else v[0] for k, v in self.captions.items()}
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        failed = failures_path(path)
        if self.failures:
            write_atomically(failed, json.dumps(self.failures, ensure_ascii=False, indent=1) + "\n")
        else:
            failed.unlink(missing_ok=True)


def failures_path(path: Path) -> Path:
    """Where the failures of a captions file are listed."""
    return path.with_name(path.stem + ".failed.json")


def list_photos(sources: Sequence[str | Path]) -> dict[str, ImageInput]:
    """Photos by name: those of a folder or tar by their name in it, files by their path as given.

    Raises:
        InputError: a source that does not exist or holds no photo, or two photos of one name.
    """
    found: dict[str, ImageInput] = {}
    for source in map(Path, sources):
        if source.is_dir() or source.suffix.lower() == ".tar":
            index = open_photos(source)
            here: dict[str, ImageInput] = {name: index.get(name) for name in index.names()}
            if not here:
                raise InputError(f"{source} holds no photos")
        elif source.exists():
            here = {str(source): source}
        else:
            raise InputError(f"{source}: there is no such file or folder of photos")
        twice = sorted(found.keys() & here.keys())
        if twice:
            raise InputError(f"two photos are called {twice[0]!r}; caption their folders one by one")
        found |= here
    if not found:
        raise InputError("there are no photos to caption: name a folder, a tar or files")
    return found


def caption_photos(
    captioner: Captioner | Recap,
    sources: Sequence[str | Path],
    config: DecodeConfig | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CaptionedPhotos:
    """Captions of all photos of folders, tars and files; a photo that cannot be read is listed with its reason.

    Args:
        captioner: the model, or a captioner by retrieval.
        sources: folders, tars, photo files.
        config: how to decode; the model's own way when not given.
        progress: called with the number of photos done and of all.

    Raises:
        InputError: a source that does not exist, or no photo at all.
    """
    photos = list_photos(sources)
    result = CaptionedPhotos()
    found = captioner.caption(list(photos.values()), config, progress)
    for name, photo in zip(photos, found, strict=True):
        if photo.captions:
            result.captions[name] = photo.captions
        else:
            result.failures[name] = photo.reason or "no caption came out"
    return result


def check_output(path: str | Path) -> None:
    """Raise InputError now if a file cannot be written there later."""
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: the captions are written as .json; name such a file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    writable_folder(path.parent)
