"""Photos with their captions, from a captions file and a folder or tar."""

from dataclasses import dataclass, field
from pathlib import Path

from cliplet.data.beside import photos_of
from cliplet.data.captions import Columns, ImageKey, read_captions
from cliplet.data.images import ImageInput
from cliplet.errors import InputError


@dataclass
class PhotoCaptions:
    """Photos, each with its captions, in the order of the file."""

    names: list[str] = field(default_factory=list)
    """Each photo's name."""
    photos: list[ImageInput] = field(default_factory=list)
    """Where to read it."""
    captions: list[list[str]] = field(default_factory=list)
    """Its captions, at least one."""
    failures: dict[str, str] = field(default_factory=dict)
    """What was left out, by the image's name or the caption's place, and why."""


def read_photo_captions(
    captions: str | Path,
    images: str | Path | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
) -> PhotoCaptions:
    """Read pairs.

    Args:
        captions: a file that :func:`cliplet.data.captions.read_captions` reads.
        images: a folder or tar of photos, or a pattern; None: what came with the captions or lies beside them.
        columns: names of the file's fields.
        limit: the first so many photos.

    Raises:
        InputError: a file is missing or broken, or no caption has a photo.
    """
    path = Path(captions)
    entries, index = photos_of(read_captions(path, columns), [path], images)
    found = index.find_all(dict.fromkeys(e.image for e in entries if e.photo is None and e.image != ""))
    result = PhotoCaptions()
    place: dict[str, int] = {}
    for entry in entries:
        if entry.problem is not None or (entry.image == "" and entry.photo is None):
            result.failures[f"{path.name}, {entry.where}"] = entry.problem or "it names no image"
            continue
        key: ImageKey = entry.image
        photo = (str(key), entry.photo) if entry.photo is not None else found[key]
        if isinstance(photo, InputError):
            result.failures[str(key)] = str(photo)
        elif photo[0] in place:
            result.captions[place[photo[0]]].append(entry.caption)
        elif limit is None or len(result.photos) < limit:
            place[photo[0]] = len(result.photos)
            result.names.append(photo[0])
            result.photos.append(photo[1])  # type: ignore[arg-type]
            result.captions.append([entry.caption])
    if not result.photos:
        name, reason = next(iter(result.failures.items()))
        raise InputError(f"no caption of {captions} has a photo; {name}: {reason}")
    return result
