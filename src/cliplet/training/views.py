"""Views of training photos: the photo itself and crops that depend on seed, number and view alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from cliplet.data.images import ImageInput, load_rgb
from cliplet.errors import InputError
from cliplet.training.config import AugmentConfig


def photo_view(photo: Any, config: AugmentConfig, seed: int, index: int, view: int) -> Image.Image:
    """View ``view`` of a photo: 0 is the photo, others are crops that depend on seed, index and view alone.

    Raises:
        InputError: the photo cannot be read.
    """
    image = load_rgb(photo)
    if view == 0:
        return image
    rng = np.random.default_rng([seed, index, view])
    share = rng.uniform(config.smallest_crop, 1.0)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(1, round(image.width * np.sqrt(share * ratio))))
    height = min(image.height, max(1, round(image.height * np.sqrt(share / ratio))))
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    image = image.crop((int(left), int(top), int(left) + width, int(top) + height))
    if config.flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.colour:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(1 + rng.uniform(-config.colour, config.colour))
    return image


def view_images(
    photos: Sequence[Any], config: AugmentConfig, seed: int, numbers: Iterable[int], view: int
) -> list[Image.Image]:
    """One view of the photos of some numbers.

    Raises:
        InputError: a photo cannot be read.
    """
    return [photo_view(photos[int(i)], config, seed, int(i), view) for i in numbers]


def view_sources(
    photos: Sequence[Any], config: AugmentConfig, seed: int, numbers: Iterable[int], view: int
) -> list[ImageInput]:
    """The same for an encoder that reports broken photos: one that cannot be read stays as it is."""
    found: list[ImageInput] = []
    for number in numbers:
        try:
            found.append(photo_view(photos[number], config, seed, number, view) if view else photos[number])
        except InputError:
            found.append(photos[number])
    return found
