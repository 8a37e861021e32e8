"""Captions beside their photos: WebDataset shards and folders of ``photo.jpg`` with ``photo.txt``.

Files that share a key are one sample. The key is the path up to the first dot of the base name, as in WebDataset;
where that gives samples two photos or two captions, the last dot is tried for the whole shard. What stays unclear is
a failed row that names the files, never a guess.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliplet.data.images import ImageInput
from cliplet.data.names import PHOTO_SUFFIXES, is_photo_path
from cliplet.data.photos import PhotoFolder, PhotoTar
from cliplet.data.records import REFERENCE_FIELDS, CaptionEntry, Records, entry, texts_of
from cliplet.data.tables import Row, find_column, parse_json
from cliplet.data.text import decode

TEXTS = (".txt", ".caption", ".cap")
"""Suffixes of files that are a caption."""


@dataclass
class Sample:
    """The files of one key."""

    files: list[str] = field(default_factory=list)
    """Their names."""
    places: list[int] = field(default_factory=list)
    """Which of all files they are."""

    def photos(self) -> list[str]:
        """Its photos."""
        return [name for name in self.files if is_photo_path(name)]

    def captions(self) -> list[str]:
        """Its captions: plain texts, else JSON."""
        return self.of(*TEXTS) or self.of(".json")

    def of(self, *suffixes: str) -> list[str]:
        """Its files with these suffixes."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    def unclear(self) -> bool:
        """Whether it cannot be said which caption belongs to which photo."""
        return bool(self.captions()) and max(len(self.captions()), len(self.photos())) > 1

    def whole(self) -> bool:
        """Whether it is one photo with one caption."""
        return len(self.captions()) == len(self.photos()) == 1


def samples_of(names: Sequence[str]) -> list[Sample]:
    """Files as samples, in the order of their first files."""
    found = _grouped(names, str.partition)
    if any(sample.unclear() for sample in found):
        other = _grouped(names, str.rpartition)
        if sum(sample.whole() for sample in other) > sum(sample.whole() for sample in found):
            return other
    return found


def _grouped(names: Sequence[str], parted: Callable[[str, str], tuple[str, str, str]]) -> list[Sample]:
    samples: dict[str, Sample] = {}
    for place, name in enumerate(names):
        folder, _, base = name.rpartition("/")
        if not base.startswith("._"):  # what macOS leaves beside files
            sample = samples.setdefault(f"{folder}/{parted(base, '.')[0]}", Sample())
            sample.files.append(name)
            sample.places.append(place)
    return list(samples.values())


def read_tar_captions(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    """The captions of a WebDataset shard, with their photos; what is cut off or lies apart is said."""
    tar = PhotoTar(path)
    samples = samples_of([member.name for member in tar.members])
    apart = sum(s.places[-1] - s.places[0] >= len(s.places) for s in samples)
    if apart:
        notes.append(
            f"{path}: the files of {apart} samples do not lie side by side; WebDataset would part them"
        )
    files = {member.name: member for member in tar.members}
    end = tar.size
    cut = {member.name for member in tar.members if member.offset + member.size > end}
    for sample in samples:
        lost = cut.intersection(sample.files)
        for found in _entries(
            sample, files.__getitem__, lambda name: files[name].read_bytes(), records, "member"
        ):
            yield found._replace(caption=None, reason=f"{min(lost)} is cut off") if lost else found
    if tar.damage is not None:
        yield CaptionEntry("", None, f"byte {end}", tar.damage)


def read_folder_captions(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    """The captions of a folder whose photos lie beside text files of their names."""
    for sample in samples_of(PhotoFolder(path).files()):
        yield from _entries(sample, path.joinpath, lambda name: _content(path / name), records, "file")


def _content(file: Path) -> bytes:
    if not file.is_file():  # a pipe would be waited for
        raise OSError(0, "not a file")
    return file.read_bytes()


def _entries(
    sample: Sample,
    photo_at: Callable[[str], ImageInput],
    read: Callable[[str], bytes],
    records: Records,
    kind: str,
) -> Iterator[CaptionEntry]:
    captions, photos = sample.captions(), sample.photos()
    for name in captions:
        where, others = f"{kind} {name}", ", ".join(sample.files)
        if sample.unclear():
            reason = f"it cannot be said which caption goes with which photo of {others}; give each pair its own name"
            yield CaptionEntry(photos[0] if len(photos) == 1 else name, None, where, reason)
            continue
        image = photos[0] if photos else name
        for found in _captions_in(name, image, read, sample.of(".json"), records, where):
            if photos:
                yield found._replace(photo=photo_at(image))
            else:
                reason = f"no photo goes with it: there is {others}; photos have {', '.join(PHOTO_SUFFIXES)}"
                yield found._replace(reason=found.reason or reason)


def _references(
    read: Callable[[str], bytes], metadata: list[str], records: Records
) -> tuple[Any, ...] | None:
    """The reference captions in the JSON beside a caption; None where that has none, or is not to be read."""
    if len(metadata) != 1 or records.as_references:
        return None
    try:
        value = parse_json(decode(read(metadata[0])))
        field = find_column(value, REFERENCE_FIELDS) if isinstance(value, Mapping) else None
        return None if field is None else tuple(texts_of(value[field], split=True))
    except (OSError, ValueError):
        return None  # the caption is good without it


def _captions_in(
    name: str, image: str, read: Callable[[str], bytes], metadata: list[str], records: Records, where: str
) -> Iterator[CaptionEntry]:
    """The captions in one file of a sample; an empty text gives way to the caption in the sample's JSON."""
    try:
        text = decode(read(name))
        if not name.lower().endswith(".json"):
            if text.strip() or len(metadata) != 1:
                text = text.replace("\r\n", "\n").rstrip("\r\n")
                yield entry(image, text, where, None, _references(read, metadata, records))
                return
            text = decode(read(metadata[0]))
        value = parse_json(text)
    except OSError as error:
        yield CaptionEntry(image, None, where, f"it cannot be read: {error.strerror or error}")
        return
    except ValueError as error:
        yield CaptionEntry(image, None, where, f"not valid JSON: {error}")
        return
    fields = value if isinstance(value, Mapping) else {"caption": value}
    yield from records(Row(fields, where), image)
