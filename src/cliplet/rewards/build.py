"""Rewards by name, put together for a training run with everything checked first."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.data.plugins import known_or_own
from cliplet.encoders.base import Encoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.meteor.tables import load_tables
from cliplet.metrics.registry import METRICS, ReferenceMetric, find_metrics
from cliplet.rewards.base import Reward
from cliplet.rewards.bleu import BleuReward
from cliplet.rewards.cider import CiderReward
from cliplet.rewards.clip import LClipScoreReward, RefLClipScoreReward
from cliplet.rewards.embeddings import REMEMBERED, CaptionEmbeddings, ImageEmbeddings
from cliplet.rewards.fluency import FluencyReward
from cliplet.rewards.meteor import MeteorReward
from cliplet.rewards.metric import MetricReward
from cliplet.rewards.mixed import WINDOW, MixedReward, checked_weight
from cliplet.rewards.references import References, reference_words
from cliplet.rewards.shape import LengthReward, RepetitionReward

GivenEmbeddings: TypeAlias = Mapping[Hashable, NDArray[Any]] | NDArray[Any]


@dataclass(frozen=True)
class RewardInputs:
    """What rewards are made from."""

    references: Mapping[Hashable, Sequence[str]]
    """For each image its captions."""
    words: References
    """The same as lists of words."""
    document_frequencies: DocumentFrequencies | None = None
    """For CIDEr-D; None: those of the references."""
    end_token: str | None = None
    """A word after every caption and reference."""
    encoder: Encoder | None = None
    """For rewards that see photos; None: the packaged model."""
    image_embeddings: GivenEmbeddings | None = None
    """The photos by that encoder."""
    images: Mapping[Hashable, ImageInput] | None = None
    """Or the photos."""
    remember: int = REMEMBERED
    """Captions whose embeddings are kept between calls."""

    @cached_property
    def caption_embeddings(self) -> CaptionEmbeddings:
        """The encoder's text side, shared by all rewards; made when first asked for."""
        return CaptionEmbeddings(load() if self.encoder is None else self.encoder, self.remember)

    @cached_property
    def photo_embeddings(self) -> ImageEmbeddings:
        """The photos' embeddings; made when first asked for."""
        if self.image_embeddings is not None:
            return ImageEmbeddings.given(self.image_embeddings, list(self.words))
        assert self.images is not None
        photos = {image: self.images[image] for image in self.words}
        return ImageEmbeddings.encoded(self.caption_embeddings.encoder, photos)


@dataclass(frozen=True)
class RewardSpec:
    """A reward's row in the table."""

    maker: Callable[[RewardInputs], Reward]
    """Makes it."""
    sees_photos: bool = False
    """Whether it needs the photos or their embeddings."""
    needs: Callable[[], object] | None = None
    """Raises where this machine lacks what it needs; called before anything is made."""


REWARDS: dict[str, RewardSpec] = {
    "lclipscore": RewardSpec(
        lambda i: LClipScoreReward(i.caption_embeddings, i.photo_embeddings), sees_photos=True
    ),
    "ref_lclipscore": RewardSpec(
        lambda i: RefLClipScoreReward(i.caption_embeddings, i.photo_embeddings, i.references),
        sees_photos=True,
    ),
    "cider": RewardSpec(lambda i: CiderReward(i.words, i.document_frequencies, end_token=i.end_token)),
    "bleu": RewardSpec(lambda i: BleuReward(i.words, end_token=i.end_token)),
    "meteor": RewardSpec(lambda i: MeteorReward(i.words), needs=load_tables),
    "length": RewardSpec(lambda i: LengthReward(i.words)),
    "repetition": RewardSpec(lambda i: RepetitionReward()),
    "fluency": RewardSpec(
        lambda i: FluencyReward([caption for group in i.words.values() for caption in group])
    ),
}
"""The rewards that `build_reward` knows by name, beside the metrics of cliplet.metrics.registry."""


def find_reward(name: str) -> RewardSpec:
    """How to make a reward: a row of :data:`REWARDS`, a metric on references, or a user's own ``module:attribute``.

    That is a function from image ids and captions to numbers (a :class:`Reward`), a class made from the references,
    a :class:`RewardSpec`, or a ReferenceMetric.

    Raises:
        InputError: an unknown name, or an attribute that is nothing of these.
    """
    metrics = {other: metric for other, metric in METRICS.items() if other not in REWARDS}
    found: Any = known_or_own(name, {**REWARDS, **metrics}, "reward")
    if isinstance(found, RewardSpec):
        return found
    if isinstance(found, ReferenceMetric):
        return RewardSpec(lambda i: MetricReward(found, i.references), needs=partial(find_metrics, [found]))
    if not callable(found):
        raise InputError(
            f"reward {name!r} is of type {type(found).__name__}: it must be a function of images and captions"
        )
    return RewardSpec(lambda i: found(i.references) if isinstance(found, type) else found)


def sees_photos(names: Iterable[str]) -> bool:
    """Whether any of these rewards needs the photos or their embeddings."""
    return any(find_reward(name).sees_photos for name in names)


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
        weights: name to weight, names as :func:`find_reward` takes them; 0 measures a part without rewarding it.
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
    specs = _specs(weights)
    rows, grouped = reference_words(references, "mixed")
    order = list(rows)
    if seeing := [name for name, spec in specs.items() if spec.sees_photos]:
        _check_photos(seeing, order, image_embeddings, images)
    for spec in specs.values():
        if spec.needs is not None:
            spec.needs()
    inputs = RewardInputs(
        references,
        dict(zip(order, grouped, strict=True)),
        document_frequencies,
        end_token,
        encoder,
        image_embeddings,
        images,
        remember,
    )
    made = {}
    for name in sorted(specs, key=lambda name: specs[name].sees_photos):  # embedding photos takes longest
        made[name] = specs[name].maker(inputs)
    parts = {name: (made[name], weight) for name, weight in weights.items()}
    return MixedReward(parts, normalise=normalise, window=window)


def _specs(weights: Mapping[str, float]) -> dict[str, RewardSpec]:
    """Each reward's row; the weights are checked too."""
    if not weights:
        raise InputError(f"no rewards are named: give weights for some of {', '.join(REWARDS)}")
    for name, weight in weights.items():
        checked_weight(name, weight)
    return {name: find_reward(name) for name in weights}


def _check_photos(
    seeing: Sequence[str],
    order: list[Hashable],
    embeddings: GivenEmbeddings | None,
    images: Mapping[Hashable, ImageInput] | None,
) -> None:
    """Raise InputError unless every image with references has its photo or embedding."""
    if (embeddings is None) == (images is None):
        raise InputError(
            f"{' and '.join(sorted(seeing))} must see the photos: give either image_embeddings or images"
        )
    given = embeddings if images is None else images
    missing = [image for image in order if image not in given] if isinstance(given, Mapping) else []
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(order):,} images with references have no photo or embedding, among them"
            f" {missing[0]!r}"
        )
