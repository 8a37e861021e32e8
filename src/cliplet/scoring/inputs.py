"""What a Scorer is given: lists, columns, arrays, tensors and generators, each read by position, in order and once."""

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, count, islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from cliplet.data.images import is_one_image, is_tensor, kept, tensor_array
from cliplet.data.text import caption_problem
from cliplet.errors import InputError

BLOCK_ROWS = 256
"""Images of a lazy container or a generator that are held at once, at most."""
BLOCK_BYTES = 128_000_000
"""Their decoded bytes, likewise (one image may be larger)."""

Block: TypeAlias = tuple[list[int], list[Any], list[Hashable]]
_spaces = count(1)


class Rows(NamedTuple):
    """Images, captions and references of n rows."""

    images: "Photos"
    """n images."""
    captions: list[Any]
    """n captions as they were given."""
    references: list[list[str]] | None
    """For each row its usable references."""
    notes: list[str]
    """What a reader of the scores must know."""


def read_rows(images: Any, captions: Any, references: Any = None) -> Rows:
    """Images, captions and references as rows; lengths are compared before any work wherever they are known.

    Raises:
        InputError: lengths that differ, containers without an order, Series with the same labels in another order.
    """
    notes = check_labels({"images": images, "captions": captions, "references": references})
    one_image, one_caption = is_one_image(images), _is_one_text(captions)
    known = None if one_image else _length(images)
    texts = [_plain(captions)] if one_caption else column(captions, "captions", known)
    if one_caption and not one_image:
        _iterator(images, "images")
        if known is None:
            raise InputError("images without a length need a list of captions, one for each")
        texts = texts * known
    photos = Photos(images, len(texts))
    groups = None
    if references is not None:
        groups, unusable = _groups(references, len(texts), one_caption, one_image)
        if unusable:
            notes.append(
                f"{unusable} references are no usable text (no string, empty or no UTF-8) and were left out"
            )
    return Rows(photos, texts, groups, notes)


def column(values: Any, what: str, expected: int | None = None) -> list[Any]:
    """The items of any ordered container or iterator of texts, by position.

    Args:
        values: the container.
        what: its name in errors.
        expected: items that there should be; an iterator is read no further than one beyond.
    """
    items = _iterator(values.to_pylist() if hasattr(values, "to_pylist") else values, what)  # pyarrow's
    if _length(values) is None and expected is not None:
        items = islice(items, expected + 1)
    return [_plain(item) for item in items]


def check_labels(named: Mapping[str, Any]) -> list[str]:
    """Refuse pandas Series whose labels say another order than their positions; a note where labels half agree."""
    notes = []
    labelled = [(what, values.index) for what, values in named.items() if hasattr(values, "iloc")]
    for (what, index), (other, labels) in combinations(labelled, 2):
        if len(index) != len(labels) or index.equals(labels):
            continue
        first, second = Counter(index), Counter(labels)
        if first == second:
            raise InputError(
                f"{what} and {other} are Series with the same labels in another order, so it is not clear which rows "
                "belong together: sort both alike, then .reset_index(drop=True) on both pairs them by position"
            )
        if first & second:
            notes.append(f"{what} and {other} are Series with other labels; they were paired by position")
    return notes


class Photos:
    """n images in order, each taken once.

    The items of lists, arrays and Series live as long as this object. What a lazy container or a generator makes is
    copied when it is drawn (a buffer may be used again for the next one) and kept only while its block is scored.

    Raises:
        InputError: another number than n, where it is known; no order; an array that can be read in two ways.
    """

    def __init__(self, source: Any, n: int, beside: str = "captions") -> None:
        self.n, self._unequal = n, f"images but {n} {beside}: give one image for each"
        self.held: list[Any] | None = None
        self._contents: dict[int, Hashable] = {}
        self._lazy: Any = None
        self._iterator: Iterator[Any] | None = None
        if is_one_image(source):
            _check_not_a_stack(source, n)
            self.held = [source] * n
            return
        _check_ordered(source, "images")
        length = _length(source)
        if length is not None and length != n:
            raise InputError(f"{length} {self._unequal}")
        if is_tensor(source):
            source = tensor_array(source)
        if isinstance(source, (np.ndarray, list, tuple)) or hasattr(source, "iloc"):
            self.held = list(_iterator(source, "images"))
        elif length is not None and hasattr(source, "__getitem__"):
            self._lazy = source
        else:
            self._iterator = _iterator(source, "images")

    def blocks(self, rows: range, failures: Sequence[str | None]) -> Iterator[Block]:
        """Rows without a failure, their images (or the InputError that reading one gave) and the images' identities.

        Equal identities mean the same image. An object's own is good only while it lives: it holds for one block of
        what is made anew at each access, and for this object's life of what it holds.
        """
        if self.held is not None:
            wanted = [i for i in rows if failures[i] is None]
            items = [self.held[i] for i in wanted]
            yield wanted, items, [self._held_identity(item) for item in items]
            return
        block, items, size = [], [], 0
        for i in rows:
            if failures[i] is not None and self._iterator is None:
                continue
            drawn = self._draw(i)
            if failures[i] is None:
                block.append(i)
                items.append(_kept(drawn))
                size += _bytes(items[-1])
            if len(block) == BLOCK_ROWS or size > BLOCK_BYTES:
                yield block, items, _identities(items)
                block, items, size = [], [], 0
        yield block, items, _identities(items)

    def _held_identity(self, item: Any) -> Hashable:
        if not isinstance(item, bytes):
            return _identity(item, 0)
        if id(item) not in self._contents:  # one photo for many captions is hashed once
            self._contents[id(item)] = _identity(item, 0)
        return self._contents[id(item)]

    def finish(self) -> None:
        """Raise InputError when an iterator holds more than n images."""
        if self._iterator is not None and next(self._iterator, self) is not self:
            raise InputError(f"more than {self.n} {self._unequal}")

    def _draw(self, i: int) -> Any:
        if self._iterator is None:
            try:
                return self._lazy[i]
            except Exception as error:  # whatever the container's own decoder raises on a damaged photo
                return InputError(f"image {i} cannot be read: {error or type(error).__name__}")
        try:
            return next(self._iterator)
        except StopIteration:
            raise InputError(f"{i} {self._unequal}") from None
        except Exception as error:
            what = error or type(error).__name__
            raise InputError(f"the images end with an error at number {i}: {what}") from error


def _kept(item: Any) -> Any:
    try:
        return item if isinstance(item, InputError) else kept(item)
    except InputError as error:
        return error


def text_pairs(first: Any, second: Any) -> tuple[list[Any], list[Any]]:
    """Two columns of texts, one text beside many repeated; raises InputError when the lengths differ."""
    a, b = ([_plain(t)] if _is_one_text(t) else column(t, "texts") for t in (first, second))
    a, b = a * len(b) if _is_one_text(first) else a, b * len(a) if _is_one_text(second) else b
    if len(a) != len(b):
        raise InputError(
            f"{len(a)} texts but {len(b)} to compare them with: give one for each, or one for all"
        )
    return a, b


def row_count(first: Any, second: Any) -> int:
    """How many rows two arguments with images make: one image goes with all of the other's."""
    known = [
        length
        for values in (first, second)
        if not is_one_image(values) and (length := _length(values)) is not None
    ]
    if not known and not (is_one_image(first) and is_one_image(second)):
        raise InputError("images without a length need a list beside them: give list(images)")
    return known[0] if known else 1


def _identities(items: list[Any]) -> list[Hashable]:
    space = next(_spaces)
    return [_identity(item, space) for item in items]


def _identity(image: Any, space: int) -> Hashable:
    if isinstance(image, (str, os.PathLike)):
        return "path", os.fspath(image)
    if isinstance(image, bytes):
        return "bytes", hashlib.blake2b(image, digest_size=16).digest()
    return space, id(image)


def _is_one_text(values: Any) -> bool:
    return isinstance(values, (str, bytes, bytearray))


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except TypeError:
        return None


def _check_ordered(values: Any, what: str) -> None:
    """Raise InputError for containers that have no order, or hold more than one column."""
    name = type(values).__name__
    if isinstance(values, (set, frozenset)):
        raise InputError(f"{what} are a {name}, which has no order: give a list")
    if isinstance(values, Mapping) or (hasattr(values, "keys") and not hasattr(values, "iloc")):
        raise InputError(f"{what} are a {name}: give a list, such as list({what}.values())")
    columns = getattr(values, "columns", None)
    columns = getattr(values, "column_names", None) if columns is None else columns
    if columns is not None:
        shown = ", ".join(map(str, list(columns)[:6]))
        way = "list(table.to_numpy())" if what == "references" else "one column"
        raise InputError(f"{what} are a whole table ({name}) with the columns {shown}: give {way}")


def _iterator(values: Any, what: str) -> Iterator[Any]:
    _check_ordered(values, what)
    try:
        return iter(values)
    except TypeError:
        raise InputError(f"{what} must be a list or another sequence, not {type(values).__name__}") from None


def _check_not_a_stack(source: Any, n: int) -> None:
    """Refuse an array that is one image with its channels first, or as many grey ones as there are captions."""
    shape = tuple(getattr(source, "shape", ()))
    if len(shape) == 3 and shape[0] == n and n in (3, 4) and shape[2] not in (1, 3, 4):
        raise InputError(
            f"an array of shape {shape} for {n} captions is one image [{n}, h, w] or {n} greys [h, w]: give "
            f"[array] * {n} or list(array)"
        )


def _bytes(item: Any) -> int:
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    return item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, bytes) else 0


def _groups(references: Any, n: int, one_caption: bool, one_image: bool) -> tuple[list[list[str]], int]:
    """Each row's usable references, and how many were not usable."""
    rows = (
        [_plain(references)]
        if isinstance(references, str)
        else column(references, "references", None if one_caption else n)
    )
    if rows and all(isinstance(row, str) for row in rows):
        if one_caption:  # all of them are its references
            rows = [rows] * n
        elif one_image and n > 1:
            raise InputError(
                f"references are plain strings beside one image and {n} captions: give [references] * {n} where all "
                "captions share them, or [[r] for r in references] where each has its own"
            )
    if len(rows) != n:
        raise InputError(f"{len(rows)} lists of references but {n} captions: give one list for each caption")
    groups, unusable = [], 0
    for row in rows:
        items = _items(row)
        groups.append([item for item in items if caption_problem(item) is None])
        unusable += sum(not _missing(item) for item in items) - len(groups[-1])
    return groups, unusable


def _items(row: Any) -> list[Any]:
    """The references of one row: none, one string, or any container of strings."""
    if _missing(row):
        return []
    if isinstance(row, (str, bytes, Mapping)) or not isinstance(row, Iterable):
        return [row]
    return [_plain(item) for item in row]


def _plain(value: Any) -> Any:
    """pyarrow's values as Python's, and a string of any subclass (NumPy's, an enumeration's) as a plain one."""
    value = value.as_py() if hasattr(value, "as_py") else value
    return str.__str__(value) if isinstance(value, str) and type(value) is not str else value


def _missing(value: Any) -> bool:
    """None, NaN or pandas' NA."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _MISSING


_MISSING = ("NAType", "NaTType")
