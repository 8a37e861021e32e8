"""WebDataset shards without the samples that were removed: every other member byte for byte as it was."""

import gzip
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cliplet.data.samples import samples_of
from cliplet.errors import InputError
from cliplet.files import whole

COPIED = 1 << 20
"""Bytes copied at once."""


@dataclass
class Rewritten:
    """What became of a shard."""

    samples: int = 0
    """Samples that were in it."""
    removed: int = 0
    """Those that are not any more."""
    alone: int = 0
    """Samples without a caption, which stay."""
    unknown: int = 0
    """Samples of parts that were given up, which go."""
    damage: str | None = None
    """Where it is cut off; None when all is there."""
    keys: set[str] = field(default_factory=set)
    """Keys of the samples removed: base names up to the first dot."""


def rewrite_shard(source: Path, target: Path, kept: Mapping[str, bool], all_known: bool = True) -> Rewritten:
    """Write a tar without the samples of which no pair is kept.

    A sample is what :func:`cliplet.data.samples.samples_of` takes for one. The bytes of every other member, its header
    included, are copied as they are; samples without a pair stay.

    Args:
        source: the tar, alone or in gzip; what is written is packed likewise.
        target: where to.
        kept: for each member that holds captions, whether any of its pairs is kept.
        all_known: whether a sample that has captions, but none in ``kept``, stays; else it was not measured, and goes.

    Raises:
        InputError: the tar cannot be read.
    """
    try:
        with ExitStack() as stack:
            stream, packed = _unpacked(source, stack)
            members, damage = _members(stream)
            found = _removed(members, kept, all_known)
            found.damage = damage
            gone = found.members
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as part, open(part, "wb") as file:
                out: Any = file
                if packed:
                    out = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
                _copy(stream, members, gone, out)
                if packed:
                    out.close()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{source} cannot be rewritten: {error}") from error
    return found


@dataclass(frozen=True)
class _Member:
    """Where a member's bytes are, from its first header to behind its padding."""

    name: str
    start: int
    stop: int
    isfile: bool
    link: str | None


@dataclass
class _Found(Rewritten):
    members: set[int] = field(default_factory=set)
    """The members that go, by number."""


def _unpacked(source: Path, stack: ExitStack) -> tuple[IO[bytes], bool]:
    file = stack.enter_context(open(source, "rb"))  # noqa: SIM115
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file, False
    unpacked = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with gzip.open(file) as stream:
        try:
            while block := stream.read1(COPIED):
                unpacked.write(block)
        except (EOFError, OSError):
            pass  # it is cut off: what there is stays
    unpacked.seek(0)
    return unpacked, True


def _members(stream: IO[bytes]) -> tuple[list[_Member], str | None]:
    """All whole members in order, and what is wrong with the tar."""
    found: list[_Member] = []
    size = stream.seek(0, 2)
    stream.seek(0)
    tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (the stream is the caller's)
    try:
        while (member := tar.next()) is not None:
            if tar.offset > size:
                return found, f"it is cut off inside {member.name}"
            link = member.linkname if member.islnk() else None
            found.append(_Member(member.name, member.offset, tar.offset, member.isfile(), link))
            tar.members = []  # type: ignore[attr-defined]  # memory does not grow
    except (tarfile.TarError, EOFError):
        return found, f"it is cut off at byte {size}"
    stream.seek(tar.offset)
    rest = stream.read(tarfile.BLOCKSIZE)  # tarfile takes a broken header for the end
    return found, f"it is damaged at byte {tar.offset}" if rest.strip(b"\0") else None


def _removed(members: list[_Member], kept: Mapping[str, bool], all_known: bool) -> _Found:
    files = [i for i, member in enumerate(members) if member.isfile or member.link]
    found = _Found()
    for sample in samples_of([members[i].name for i in files]):
        found.samples += 1
        verdicts = [kept[name] for name in sample.files if name in kept]
        unknown = not verdicts and not all_known and bool(sample.captions())
        found.alone += not verdicts and not unknown
        found.unknown += unknown
        if unknown or (verdicts and not any(verdicts)):
            found.removed += 1
            found.members.update(files[place] for place in sample.places)
            found.keys.add(PurePosixPath(sample.files[0]).name.partition(".")[0])
    wanted = {m.link for i, m in enumerate(members) if m.link and i not in found.members}
    if wanted:  # what a link that stays needs stays too
        found.members = {i for i in found.members if members[i].name not in wanted}
    return found


def _copy(stream: IO[bytes], members: list[_Member], gone: set[int], out: Any) -> None:
    at = written = 0
    for i, member in enumerate(members):
        if i in gone:
            written += _copy_bytes(stream, at, member.start, out)  # a global header before it
            at = member.stop
    end = members[-1].stop if members else 0
    written += _copy_bytes(stream, at, end, out)
    padding = 1024 + -(written + 1024) % tarfile.RECORDSIZE
    out.write(bytes(padding))


def _copy_bytes(stream: IO[bytes], start: int, stop: int, out: Any) -> int:
    stream.seek(start)
    left = stop - start
    while left > 0 and (block := stream.read(min(left, COPIED))):
        out.write(block)
        left -= len(block)
    out.write(bytes(left))  # the padding of a last member that was cut off
    return stop - start


def copy_sidecars(source: Path, target: Path, keys: set[str]) -> list[str]:
    """Copy what img2dataset leaves beside a shard: ``00000.parquet`` without these keys, ``00000_stats.json`` as it is.

    Returns:
        What was done, a line each.
    """
    stem = _stem(source.name)
    said = []
    for beside in sorted(source.parent.glob(f"{glob_escape(stem)}*")):
        if beside.name == source.name or not beside.is_file() or not _is_sidecar(beside.name, stem):
            continue
        new = target.parent / beside.name
        if beside.suffix == ".parquet":
            said.append(_filtered(beside, new, keys))
        else:
            with whole(new) as part:
                shutil.copyfile(beside, part)
            said.append(f"{beside.name} was copied as it is: it counts the whole shard")
    return said


def glob_escape(text: str) -> str:
    """A name for a pattern."""
    import glob

    return glob.escape(text)


def _stem(name: str) -> str:
    for suffix in (".tar.gz", ".tgz", ".tar"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _is_sidecar(name: str, stem: str) -> bool:
    return name in sidecar_names(stem)


def sidecar_names(shard: str) -> tuple[str, ...]:
    """What files beside a shard of this name would be called."""
    stem = _stem(shard)
    return f"{stem}.parquet", f"{stem}_stats.json", f"{stem}.json"


def _filtered(source: Path, target: Path, keys: set[str]) -> str:
    """A metadata table without the rows of these keys."""
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(source) as file:
        if "key" not in file.schema_arrow.names:
            with whole(target) as part:
                shutil.copyfile(source, part)
            return f"{source.name} was copied as it is: it has no column key"
        before = after = 0
        with whole(target) as part, parquet.ParquetWriter(part, file.schema_arrow) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                mask = pyarrow.array([str(key) not in keys for key in table["key"].to_pylist()])
                rest = table.filter(mask)
                before, after = before + table.num_rows, after + rest.num_rows
                writer.write_table(rest)
    return f"{source.name}: {before - after} of {before} rows were left out"


def save_json(path: Path, content: Mapping[str, Any] | Iterable[Any]) -> None:
    """A small JSON file, whole or not at all."""
    from cliplet.files import write_atomically

    write_atomically(path, json.dumps(content, indent=1) + "\n")
