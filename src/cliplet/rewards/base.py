"""What every reward is: a callable on image ids and captions, and the checks that come before any work."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.ngrams import Caption, Floats, Ints
from cliplet.metrics.tokenizer.ptb import tokenize_many


@runtime_checkable
class Reward(Protocol):
    """A number for each sampled caption; higher is better."""

    name: str
    """How the reward is called in weights and logs."""

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> Floats:
        """The reward of each caption for its image, float64 ``[n]``; one image id for each caption."""
        ...


class WordReward:
    """A reward that looks at a caption's words; in a mixture these are found once for all such rewards.

    Subclasses set ``name`` and implement :meth:`of_words`; those that need something of the image also set ``rows``.
    """

    name: str
    rows: Mapping[Hashable, int] | None = None
    """For each image that the reward knows its row; None: any image will do."""

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> Floats:
        """The reward of each caption for its image, float64 ``[n]``.

        Args:
            images: an image id for each caption.
            captions: n strings; an empty one is a caption without words.

        Raises:
            InputError: nothing to reward, lengths that differ, a caption that is no string, or an unknown image.
        """
        check_pairs(images, captions)
        self.check_images(images)
        return self.of_words(images, tokenize_many(captions, joined=False))

    def check_images(self, images: Sequence[Hashable]) -> None:
        """Raise InputError if the reward cannot judge captions of one of these images."""
        if self.rows is not None:
            check_known(images, self.rows, f"references in the reward {self.name!r}")

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> Floats:
        """The reward of captions given as lists of words (``cliplet.metrics.tokenizer.ptb``), float64 ``[n]``."""
        raise NotImplementedError


def check_pairs(images: Sequence[Hashable], captions: Sequence[object]) -> None:
    """Raise InputError unless there are captions, all strings, and one image for each."""
    for value, what in ((images, "images"), (captions, "captions")):
        if isinstance(value, str):
            raise InputError(
                f"{what} must be a list with one entry for each caption, not one string: {value!r}"
            )
    check_lengths(images, captions)
    if not len(captions):
        raise InputError("there are no captions to reward: the lists are empty")
    for place, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise InputError(
                f"caption {place} (image {images[place]!r}) is not a string but {type(caption).__name__}:"
                " decode token ids first"
            )


def check_lengths(images: Sequence[Hashable], captions: Sequence[object]) -> None:
    """Raise InputError unless there is one image for each caption."""
    if len(images) != len(captions):
        raise InputError(
            f"{len(captions)} captions but {len(images)} images: give one image for each caption"
        )


def check_known(images: Sequence[Hashable], known: Collection[Hashable], what: str) -> None:
    """Raise InputError naming the first image that is not among the known ones."""
    for place, image in enumerate(images):
        try:
            found = image in known
        except TypeError:
            raise InputError(
                f"image {place} cannot be an image id, being a {type(image).__name__}: give the id (a name or a"
                " number), not the image"
            ) from None
        if not found:
            raise InputError(f"image {image!r} has no {what}; known are {_some(known)}")


def image_rows(images: Sequence[Hashable], rows: Mapping[Hashable, int]) -> Ints:
    """The row of each image, int64 ``[n]``."""
    return np.fromiter(map(rows.__getitem__, images), np.int64, len(images))


def _some(known: Collection[Hashable]) -> str:
    shown = [repr(image) for image, _ in zip(known, range(3), strict=False)]
    return f"{len(known):,} images: {', '.join(shown)}{', ...' if len(known) > 3 else ''}"
