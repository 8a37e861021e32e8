"""Photos in: decode, turn upright, resize. One decoding policy for every encoder.

Policy: the first frame of an animated file; EXIF orientation applied; wide integers and floats as
:mod:`cliplet.data.pixels` reads them; then ``convert("RGB")``, which drops transparency, as CLIP pipelines do.
(Models of Transformers get the image with its transparency: their library's processors lay it on white.)
"""

import errno
import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cliplet.data.pixels import TWELVE_BIT, array_image, common_mode
from cliplet.errors import InputError, StoreError


@runtime_checkable
class StoredPhoto(Protocol):
    """A photo that is read when needed, such as a member of a tar."""

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        ...


class Tensor(Protocol):
    """An array of another library, such as PyTorch's."""

    def __array__(self) -> NDArray[Any]:
        """The values for NumPy."""
        ...


ImageInput: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Image.Image
    | NDArray[Any]
    | Mapping[str, Any]
    | IO[bytes]
    | StoredPhoto
    | Tensor
)
"""A path, encoded bytes (JPEG, PNG, ...) or a binary file that holds them, a PIL image, an array or tensor (see
:mod:`cliplet.data.pixels`), a mapping with ``bytes`` or ``path`` (Hugging Face's), or a tar member."""

MAX_PIXELS = 200_000_000
"""Largest photo that is decoded; beyond it a file is taken for a decompression bomb."""
MAX_BYTES = 1 << 30
"""Largest encoded photo that is read from an open file."""
MAX_ASPECT = 1000
"""Longest photo, in widths, whose short side is scaled to a tower's size."""

# Pillow's advice on odd files (what matters is raised below). Once for the process, because photos are decoded in
# threads and catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_WHOLE = ("JPEG", "PNG")
"""Formats whose decoded image needs its file no more."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def open_image(source: ImageInput, at_least: int | None = None) -> Image.Image:
    """Decode one image: upright, first frame, 8 bits a channel, in its own mode.

    Args:
        source: what to decode.
        at_least: when given, a JPEG may be decoded at a fraction of its size whose short side stays at least this
            many pixels (scaled decoding: several times faster on large photos).

    Raises:
        InputError: missing, empty, truncated, corrupt, not an image, or too large.
    """
    image, note = _open(source, at_least)
    if note is not None:
        for heard in list(_listening.values()):
            if id(source) in heard:
                heard[id(source)] = note
    return image


@contextmanager
def noted(sources: Iterable[object]) -> Iterator[dict[int, str]]:
    """Hear what decoding has to say of these objects, in any thread: notes by ``id``, empty where there is none.

    The objects must be kept alive meanwhile, and be the very ones that are decoded.
    """
    heard = {id(source): "" for source in sources}
    _listening[id(heard)] = heard
    try:
        yield heard
    finally:
        del _listening[id(heard)]


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a photo's file; raises InputError as :func:`open_image` does (a fifo is never waited for)."""
    return _with_file(path, lambda stream, name, size: stream.read())


def is_one_image(source: object) -> bool:
    """Whether this is an image by itself rather than a sequence of several."""
    if isinstance(source, np.ndarray):
        return source.ndim == 0 or (
            source.dtype == np.uint8
            if source.ndim == 1
            else source.dtype.kind not in "OUST" and source.ndim != 4
        )
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, StoredPhoto)
    if isinstance(source, kinds) or hasattr(source, "as_py") or _is_file(source):
        return True
    if hasattr(source, "__array__") and not hasattr(source, "iloc"):  # a tensor, but no table of pandas
        axes = getattr(source, "ndim", 1)
        return axes in (2, 3) or (axes < 2 and is_tensor(source))
    return isinstance(source, Mapping) and ("bytes" in source or "path" in source)


def kept(source: ImageInput) -> ImageInput:
    """The image as it is now, in a form that its maker cannot change or close afterwards; paths stay paths.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(source, Image.Image):
        return _upright(_loaded(source))
    if isinstance(source, (bytes, str, os.PathLike, StoredPhoto)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, np.ndarray):
        return source.copy()
    return kept(_unwrapped(source))


def is_tensor(source: object) -> bool:
    """Whether this is a PyTorch tensor (PyTorch is not imported for it)."""
    return hasattr(source, "detach") and hasattr(source, "numpy")


def tensor_array(tensor: Any) -> NDArray[Any]:
    """A PyTorch tensor as an array; types that NumPy lacks (bfloat16) as float32.

    Raises:
        InputError: it has no values of its own (meta, sparse, quantised).
    """
    try:
        tensor = tensor.detach().cpu()
        try:
            return np.asarray(tensor.numpy())
        except TypeError:
            return np.asarray(tensor.float().numpy())
    except Exception as error:  # PyTorch raises many kinds
        raise InputError(f"a tensor cannot be read ({error}): give tensor.float().cpu().numpy()") from error


def load_rgb(source: ImageInput, at_least: int | None = None) -> Image.Image:
    """:func:`open_image`, converted to RGB."""
    return to_rgb(open_image(source, at_least))


def to_rgb(image: Image.Image) -> Image.Image:
    """``convert("RGB")``, by way of RGBA for palettes with transparency.

    Raises:
        InputError: Pillow cannot convert the image's mode.
    """
    try:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise InputError(f"an image of mode {image.mode} cannot become RGB: {error}") from None


def resize_rgb(
    image: Image.Image,
    size: int,
    resize: Literal["squash", "shortest", "shortest_floor"],
    interpolation: str,
) -> NDArray[np.uint8]:
    """Resize an RGB image to ``uint8 [size, size, 3]``: squashed, or short side first and the centre kept."""
    width, height = image.size
    filter_ = _FILTERS[interpolation]
    if resize == "squash":
        if image.size != (size, size):
            image = image.resize((size, size), filter_)
        return np.asarray(image)
    refuse_too_narrow(image)
    scale_to = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if image.size != scale_to:
        image = image.resize(scale_to, filter_)
    halved = math.floor if resize == "shortest_floor" else round  # Transformers' crop, or torchvision's
    left, top = (halved((side - size) / 2.0) for side in scale_to)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def refuse_too_narrow(image: Image.Image) -> None:
    """Raise InputError for a photo that turns into a memory bomb when its short side is scaled to a tower's size."""
    short, long = sorted(image.size)
    if long > MAX_ASPECT * short:
        raise InputError(
            f"an image of {image.width} x {image.height} pixels is too narrow: one side may be at most "
            f"{MAX_ASPECT} times the other; crop it first"
        )


def _open(source: ImageInput, at_least: int | None) -> tuple[Image.Image, str | None]:
    """The image, and what a reader of its score must know, if anything."""
    if isinstance(source, (str, os.PathLike)):
        return _with_file(source, lambda stream, name, size: _decode(stream, name, at_least, size))
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source) if isinstance(source, memoryview) else source
        return _decode(io.BytesIO(content), f"image of {len(content)} bytes", at_least, len(content))
    if isinstance(source, Image.Image):
        return common_mode(_upright(_loaded(source)), "image")
    if isinstance(source, np.ndarray) and source.ndim != 0:
        if (
            source.ndim == 1 and source.dtype == np.uint8
        ):  # an encoded file, as OpenCV and torchvision give it
            return _open(source.tobytes(), at_least)
        return array_image(source)
    if isinstance(source, StoredPhoto):
        encoded = _content_of(source)
        return _decode(io.BytesIO(encoded), str(source), at_least, len(encoded))
    return _open(_unwrapped(source), at_least)


def _unwrapped(source: Any) -> ImageInput:
    """A mapping, a file, a tensor or another library's value as bytes, a path or an array."""
    if hasattr(source, "as_py"):  # a value of pyarrow
        return source.as_py()
    if isinstance(source, Mapping):
        found: Any = next((source[key] for key in ("bytes", "path") if source.get(key) is not None), None)
        if isinstance(found, (str, os.PathLike, bytes, bytearray, memoryview)):
            return found
        fields = ", ".join(map(str, source)) or "none"
        raise InputError(
            f"a mapping is an image where it has bytes or a path; this one has the fields {fields}: give the photo "
            "itself, such as row['image']"
        )
    if is_tensor(source):
        return tensor_array(source)
    if _is_file(source):
        return _content_of(source)
    if isinstance(source, np.ndarray) and source.dtype.kind in "OUST":
        return source.item()
    if hasattr(source, "__array__") and getattr(source, "ndim", False):
        return np.asarray(source)
    raise InputError(
        f"an image must be a path, encoded bytes, a PIL image or an array, not {type(source).__name__}"
    )


def _is_file(source: object) -> bool:
    return hasattr(source, "read") and not isinstance(source, (Image.Image, type))


def _content_of(source: Any) -> bytes:
    """All that a stored photo or a binary file holds, from its start; an open file stays where it was."""
    try:
        if not _is_file(source):
            content = source.read_bytes()
        else:
            with _alone(source):
                seekable = hasattr(source, "seekable") and source.seekable()
                at = source.tell() if seekable else 0
                if seekable:
                    source.seek(0)
                content = source.read(MAX_BYTES + 1)
                if seekable:
                    source.seek(at)
    except StoreError:  # it says nothing about the photo
        raise
    except Exception as error:  # closed, gone, or another library's own error
        raise InputError(f"{source} cannot be read: {error}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise InputError(f"{source} gives {type(content).__name__}, not bytes: open it with mode 'rb'")
    if len(content) > MAX_BYTES:
        raise InputError(f"{source} holds more than {MAX_BYTES:,} bytes: not taken for a photo")
    return bytes(content)


def _with_file(path: str | os.PathLike[str], use: Any) -> Any:
    """``use(stream, name, size)`` of a regular file."""
    name = os.fsdecode(path)
    try:
        about = os.stat(name)  # before it is opened: a fifo would be waited for
        if stat.S_ISDIR(about.st_mode):
            raise InputError(f"{name} is a folder, not an image")
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{name} is a fifo, a socket or a device, not a file with an image")
        with open(name, "rb") as stream:
            return use(stream, name, about.st_size)
    except FileNotFoundError:
        if "://" in name or name.startswith("data:"):
            raise InputError(
                f"{name[:80]} is an address, which is not fetched: give the file or its bytes"
            ) from None
        raise InputError(f"{name}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        long = getattr(error, "errno", None) == errno.ENAMETOOLONG
        hint = "; if it is an encoded photo, decode it first (base64.b64decode)" if long else ""
        shown = name[:80] + "..." if long else name
        raise InputError(
            f"{shown} cannot be opened: {getattr(error, 'strerror', None) or error}{hint}"
        ) from error


def _decode(stream: Any, name: str, at_least: int | None, size: int) -> tuple[Image.Image, str | None]:
    if not size:
        raise InputError(f"{name} is empty (0 bytes)")
    try:
        image = Image.open(stream)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: "
                "taken for a decompression bomb; scale it down first"
            )
        if at_least is not None and image.format == "JPEG" and min(image.size) > 2 * at_least:
            short = min(image.size)
            image.draft(None, (image.width * at_least // short + 1, image.height * at_least // short + 1))
        wide = image.format != "JPEG" and ";16" in str(getattr(image, "tile", [])[:1])
        image.load()
        dark = wide and image.mode in ("RGB", "RGBA", "LA") and _brightest(image) < 16
        shown, note = common_mode(_upright(image, name, own=image.format in _WHOLE), name)
        return shown, TWELVE_BIT if dark else note  # Pillow keeps the high byte of 16-bit colours
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{name} is not an image of a known format, or its header is damaged") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is taken for a decompression bomb: {error}") from error
    except MemoryError:
        raise InputError(f"{name} does not fit in memory once decoded") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(f"{name} is truncated or corrupt: {error}") from error


def _brightest(image: Image.Image) -> int:
    bands: Any = image.getextrema()
    return int(max(high for _, high in bands[: 1 if image.mode == "LA" else 3]))


def _loaded(image: Image.Image) -> Image.Image:
    try:
        with _alone(image):
            image.load()  # Image.open reads no more than the header
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(f"the image is truncated, corrupt or closed: {error}") from error
    return image


def _upright(image: Image.Image, name: str = "image", own: bool = False) -> Image.Image:
    """A copy, turned as its EXIF data say; the image itself where it is ``own`` and stands upright."""
    if image.width == 0 or image.height == 0:
        raise InputError(f"{name} has no pixels ({image.width} x {image.height})")
    try:
        if own and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are still good
        return image if own else image.copy()


_listening: dict[int, dict[int, str]] = {}
_stripes: list[threading.Lock] = []


def _alone(source: object) -> threading.Lock:
    """A lock that all who use this object share, so that two threads never read one file at a time."""
    return _stripes[id(source) // 16 % len(_stripes)]


def _new_stripes() -> None:
    _stripes[:] = [threading.Lock() for _ in range(64)]


_new_stripes()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_stripes)  # whoever held one is not in the child
