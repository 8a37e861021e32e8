"""Rewards by name, put together for a training run with everything checked first."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.base import Encoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.rewards.base import Reward
from cliplet.rewards.bleu import BleuReward
from cliplet.rewards.cider import CiderReward
from cliplet.rewards.clip import LClipScoreReward, RefLClipScoreReward
from cliplet.rewards.embeddings import REMEMBERED, CaptionEmbeddings, ImageEmbeddings
from cliplet.rewards.fluency import FluencyReward
from cliplet.rewards.meteor import MeteorReward
from cliplet.rewards.mixed import WINDOW, MixedReward, checked_weight
from cliplet.rewards.references import References, reference_words
from cliplet.rewards.shape import LengthReward, RepetitionReward

REWARDS = ("lclipscore", "ref_lclipscore", "cider", "bleu", "meteor", "length", "repetition", "fluency")
"""The rewards that `build_reward` knows."""
GivenEmbeddings: TypeAlias = Mapping[Hashable, NDArray[Any]] | NDArray[Any]
_OF_PHOTOS = {"lclipscore", "ref_lclipscore"}


def build_reward(
    weights: Mapping[str, float],
    references: Mapping[Hashable, Sequence[str]],
    *,
    encoder: Encoder | None = None,
    image_embeddings: GivenEmbeddings | None = None,
    images: Mapping[Hashable, ImageInput] | None = None,
    normalise: bool = True,
    window: int = WINDOW,
    document_frequencies: DocumentFrequencies | None = None,
    end_token: str | None = None,
    remember: int = REMEMBERED,
) -> MixedReward:
    """A mixture of rewards by name.

    Everything slow (counting references, embedding photos and references) happens here; scoring afterwards only reads.

    Args:
        weights: name to weight, names from :data:`REWARDS`; 0 measures a part without rewarding it.
        references: for each image its captions: the training split's. They are what ``cider``, ``bleu``, ``meteor``,
            ``length`` and ``ref_lclipscore`` compare with, and what ``fluency`` learns language from.
        encoder: for ``lclipscore`` and ``ref_lclipscore``; default the packaged model.
        image_embeddings: the photos by that encoder: a mapping, or an array ``[images, d]`` in the references' order.
        images: or the photos themselves, to be embedded now.
        normalise: bring the parts to one spread (see :class:`MixedReward`).
        window: captions that the running statistics remember.
        document_frequencies: for ``cider``; default those of ``references``.
        end_token: a word after every caption and reference for ``cider`` and ``bleu``: stopping properly counts.
        remember: captions whose embeddings are kept between calls.

    Returns:
        The mixture; its parts are in the order of ``weights``.

    Raises:
        InputError: an unknown name (the message lists the known), a bad weight, references that are missing or empty,
            photos or embeddings that are missing for a reward that needs them.
        MissingExtraError: ``meteor`` without its tables.

    Example::

        reward = build_reward({"lclipscore": 1.0, "cider": 1.0}, references, images=photos)
        reward(["dog.jpg", "dog.jpg"], ["a dog runs on the beach", "a cat"])       # float64 [2]
    """
    _check_names(weights)
    rows, grouped = reference_words(references, "mixed")
    order = list(rows)
    if _OF_PHOTOS & set(weights):
        _check_photos(weights, order, image_embeddings, images)
    words: References = dict(zip(order, grouped, strict=True))
    makers: dict[str, Callable[[], Reward]] = {  # those that fail early come first
        "meteor": lambda: MeteorReward(words),
        "cider": lambda: CiderReward(words, document_frequencies, end_token=end_token),
        "bleu": lambda: BleuReward(words, end_token=end_token),
        "length": lambda: LengthReward(words),
        "repetition": RepetitionReward,
        "fluency": lambda: FluencyReward([caption for group in grouped for caption in group]),
    }
    made = {name: make() for name, make in makers.items() if name in weights}
    if _OF_PHOTOS & set(weights):
        encoder = load() if encoder is None else encoder
        photos = _photo_embeddings(encoder, order, image_embeddings, images)
        captions = CaptionEmbeddings(encoder, remember)
        if "lclipscore" in weights:
            made["lclipscore"] = LClipScoreReward(captions, photos)
        if "ref_lclipscore" in weights:
            made["ref_lclipscore"] = RefLClipScoreReward(captions, photos, references)
    parts = {name: (made[name], weight) for name, weight in weights.items()}
    return MixedReward(parts, normalise=normalise, window=window)


def _photo_embeddings(
    encoder: Encoder,
    order: list[Hashable],
    embeddings: GivenEmbeddings | None,
    images: Mapping[Hashable, ImageInput] | None,
) -> ImageEmbeddings:
    if embeddings is not None:
        return ImageEmbeddings.given(embeddings, order)
    assert images is not None
    return ImageEmbeddings.encoded(encoder, {image: images[image] for image in order})


def _check_names(weights: Mapping[str, float]) -> None:
    if not weights:
        raise InputError(f"no rewards are named: give weights for some of {', '.join(REWARDS)}")
    for name, weight in weights.items():
        if name not in REWARDS:
            raise InputError(f"unknown reward {name!r}: known are {', '.join(REWARDS)}")
        checked_weight(name, weight)


def _check_photos(
    weights: Mapping[str, float],
    order: list[Hashable],
    embeddings: GivenEmbeddings | None,
    images: Mapping[Hashable, ImageInput] | None,
) -> None:
    """Raise InputError unless every image with references has its photo or embedding."""
    if (embeddings is None) == (images is None):
        names = " and ".join(sorted(_OF_PHOTOS & set(weights)))
        raise InputError(f"{names} must see the photos: give either image_embeddings or images")
    given = embeddings if images is None else images
    missing = [image for image in order if image not in given] if isinstance(given, Mapping) else []
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(order):,} images with references have no photo or embedding, among them"
            f" {missing[0]!r}"
        )
