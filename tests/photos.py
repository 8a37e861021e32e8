"""Real photos of every kind that a user's folder holds, made from those that scikit-image and scikit-learn ship."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

_EXIF_ORIENTATION = 0x0112
# How to store an upright photo so that a viewer who obeys the orientation sees it upright again.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def shipped(name: str) -> Path:
    """The path of a photo inside scikit-image (``astronaut.png``...) or scikit-learn (``china.jpg``...)."""
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin and (path := Path(spec.origin).parent / folder / name).is_file():
            return path
    pytest.skip(f"{name} needs scikit-image and scikit-learn, which ship photos")


@cache
def photo(name: str) -> Image.Image:
    """One of the shipped photos, decoded."""
    with Image.open(shipped(name)) as image:
        image.load()
        return image


def _wide() -> Image.Image:
    return photo("china.jpg").crop((0, 100, 640, 260))


def _tall() -> Image.Image:
    return photo("astronaut.png").crop((150, 0, 330, 512))


def _transparent() -> Image.Image:
    """A cat that fades out to the right: alpha 255 to 0."""
    cat = photo("chelsea.png").convert("RGBA")
    ramp = np.linspace(255, 0, cat.width).astype(np.uint8)
    cat.putalpha(Image.fromarray(np.tile(ramp, (cat.height, 1))))
    return cat


def _palette(transparent: bool) -> Image.Image:
    return photo("coffee.png").quantize(200 if transparent else 256)


def _grey16() -> Image.Image:
    values = np.asarray(photo("flower.jpg")).astype(np.uint32).sum(axis=2) * 85  # 0..765 -> 0..65025
    return Image.fromarray(values.astype(np.uint16))


def _oriented(orientation: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        upright = photo("rocket.jpg").convert("RGB").resize((320, 213))
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = orientation
        stored = upright.transpose(_STORED[orientation]) if orientation in _STORED else upright
        stored.save(path, exif=exif, **_quick(path))

    return write


def _animation(path: Path) -> None:
    """Three different photos; the first frame is the flower."""
    first, *rest = [
        photo(n).convert("RGB").resize((300, 200)) for n in ("flower.jpg", "china.jpg", "chelsea.png")
    ]
    options = {"lossless": True, "method": 0} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=100, loop=0, **options)


def twelve_megapixels(seed: int = 0) -> Image.Image:
    """A 4000 x 3000 photo with real detail everywhere: shipped photos, turned and tiled."""
    rng = np.random.default_rng(seed)
    names = ["china.jpg", "flower.jpg", "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]
    sheet = Image.new("RGB", (4000, 3000))
    for top in range(0, 3000, 1000):
        for left in range(0, 4000, 1000):
            tile = photo(names[rng.integers(len(names))]).convert("RGB")
            tile = tile.rotate(90 * int(rng.integers(4)), expand=True)
            sheet.paste(tile.resize((1000, 1000), Image.Resampling.BILINEAR), (left, top))
    return sheet


def _quick(path: Path) -> dict[str, object]:
    return {"compress_level": 1} if path.suffix == ".png" else {}


def _save(make: Callable[[], Image.Image], **options: object) -> Callable[[Path], None]:
    return lambda path: make().save(path, **_quick(path), **options)


KINDS: dict[str, Callable[[Path], None]] = {
    "plain.jpg": _save(lambda: photo("china.jpg"), quality=92),
    "square.png": _save(lambda: photo("astronaut.png")),
    "wide.jpg": _save(_wide),
    "tall.png": _save(_tall),
    "grey.jpg": _save(lambda: photo("camera.png")),
    "grey_alpha.png": _save(lambda: _transparent().convert("LA")),
    "grey16.png": _save(_grey16),
    "one_bit.png": _save(lambda: photo("page.png").convert("1")),
    "palette.png": _save(lambda: _palette(False)),
    "palette_transparent.png": _save(lambda: _palette(True), transparency=3),
    "palette_alpha.png": _save(lambda: _palette(True), transparency=bytes(range(0, 200))),
    "alpha.png": _save(_transparent),
    "alpha.webp": _save(_transparent, lossless=True, method=0),
    "cmyk.jpg": _save(lambda: photo("flower.jpg").convert("CMYK")),
    "progressive.jpg": _save(lambda: photo("flower.jpg"), progressive=True),
    "animated.gif": _animation,
    "animated.webp": _animation,
    "one_pixel.png": _save(lambda: photo("coffee.png").crop((300, 200, 301, 201))),
    "sliver_tall.png": _save(lambda: photo("astronaut.png").crop((200, 0, 203, 500))),
    "sliver_wide.png": _save(lambda: photo("astronaut.png").crop((0, 200, 500, 203))),
    "big.bmp": _save(lambda: photo("hubble_deep_field.jpg")),
    **{f"exif{n}.png": _oriented(n) for n in range(1, 9)},
    **{f"exif{n}.jpg": _oriented(n) for n in (3, 6, 8)},
}
"""File name -> how to write it."""


def write_photos(folder: Path) -> dict[str, Path]:
    """Write every kind into ``folder``: paths by file name."""
    for name, write in KINDS.items():
        write(folder / name)
    return {name: folder / name for name in KINDS}


def as_a_viewer_shows_it(path: Path) -> Image.Image:
    """What the decode policy promises, in the fewest words of Pillow: first frame, 8 bits, upright, own mode."""
    with Image.open(path) as image:
        image.seek(0)
        if image.mode.startswith("I"):
            return Image.fromarray((np.asarray(image).astype(np.int64) // 256).astype(np.uint8))
        return ImageOps.exif_transpose(image)
