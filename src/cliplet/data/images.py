"""Photos in: decode, turn upright, resize. One decoding policy for every encoder.

Policy: the first frame of an animated file; EXIF orientation applied; 16-bit and float greys scaled to 8 bits; then
``convert("RGB")``, which drops transparency, as CLIP pipelines do.
"""

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cliplet.errors import InputError


@runtime_checkable
class StoredPhoto(Protocol):
    """A photo that is read when needed, such as a member of a tar."""

    def read_bytes(self) -> bytes:
        """The encoded photo."""
        ...


ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any] | StoredPhoto
)
"""A path, encoded bytes (JPEG, PNG, ...), a PIL image, an array ``[h, w]`` or ``[h, w, 1|3|4]``, or a tar member."""

MAX_PIXELS = 200_000_000
"""Largest photo that is decoded; beyond it a file is taken for a decompression bomb."""
MAX_ASPECT = 1000
"""Longest photo, in widths, whose short side is scaled to a tower's size."""

# Pillow's advice on odd files (what matters is raised below). Once for the process, because photos are decoded in
# threads and catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

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
    if isinstance(source, Image.Image):
        try:
            source.load()  # Image.open reads no more than the header
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise InputError(f"the image is truncated, corrupt or closed: {error}") from error
        return _upright_8bit(source, "image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"image of {len(source)} bytes", at_least, empty=not len(source))
    if not isinstance(source, (str, os.PathLike)):
        if isinstance(source, StoredPhoto):
            encoded = source.read_bytes()
            return _decode(io.BytesIO(encoded), str(source), at_least, empty=not encoded)
        raise InputError(
            f"an image must be a path, encoded bytes, a PIL image or an array, not {type(source).__name__}"
        )
    path = Path(source)
    try:
        with path.open("rb") as stream:
            return _decode(stream, str(path), at_least, empty=os.fstat(stream.fileno()).st_size == 0)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not an image") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def load_rgb(source: ImageInput, at_least: int | None = None) -> Image.Image:
    """:func:`open_image`, converted to RGB."""
    return to_rgb(open_image(source, at_least))


def to_rgb(image: Image.Image) -> Image.Image:
    """``convert("RGB")``, by way of RGBA for palettes with transparency."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


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


def _decode(stream: Any, name: str, at_least: int | None, *, empty: bool) -> Image.Image:
    if empty:
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
        image.load()
        return _upright_8bit(image, name)
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


def _upright_8bit(image: Image.Image, name: str) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise InputError(f"{name} has no pixels ({image.width} x {image.height})")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are still good
        image = image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey_to_8bit(np.asarray(image), name))
    return image


def _grey_to_8bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """16-bit greys by their high byte; floats as 0..1 (or 0..255 when they go beyond 1)."""
    if np.issubdtype(values.dtype, np.integer):
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise InputError(f"{name} has grey values outside 0..65535; scale them first")
        return (values.astype(np.int64) >> 8).astype(np.uint8)
    return _float_to_8bit(values, name)


def _float_to_8bit(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise InputError(f"{name} has NaN or infinite values")
    if values.size and (values.min() < 0 or values.max() > 255):
        raise InputError(f"{name} has values outside 0..1 (or 0..255): scale them first")
    scale = 255.0 if not values.size or values.max() <= 1 else 1.0
    return np.rint(values * scale).astype(np.uint8)


def _from_array(values: NDArray[Any]) -> Image.Image:
    name = f"array of shape {values.shape}"
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or 0 in values.shape:
        raise InputError(f"{name}: an image array must be [h, w], [h, w, 3] (RGB) or [h, w, 4] (RGBA)")
    if values.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values))
    if values.dtype == np.uint16:
        return Image.fromarray((values >> 8).astype(np.uint8))
    if values.dtype == np.bool_:
        return Image.fromarray(values.astype(np.uint8) * 255)
    if np.issubdtype(values.dtype, np.floating):
        return Image.fromarray(_float_to_8bit(values, name))
    raise InputError(f"{name} has dtype {values.dtype}: use uint8, uint16, bool or float in 0..1")
