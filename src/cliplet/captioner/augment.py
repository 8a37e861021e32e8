"""The self-improving loop of a retrieval captioner: its own captions of bare photos join the store and the map's pairs.

Each round the captioner captions photos that have none; a caption whose aCLIPScore reaches the threshold (the mean of
people's own captions) joins the store; the map is fitted again on people's pairs and these. Source: ReCap's
datastore-augmentation, arXiv 2307.05591 v2 and v3 (from memory, unverified); the controls are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.captioner.recap import NEIGHBOURS, consensus_order
from cliplet.captioner.store import CaptionStore
from cliplet.data.images import ImageInput
from cliplet.encoders.aligned import (
    AlignedEncoder,
    aligned_card,
    caption_groups,
    embedded_pairs,
    find_sides,
    measured_report,
)
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.fits import Fit, Pairs, check_method, fit_alignment
from cliplet.errors import InputError

Control = Literal["", "random", "no threshold", "no refit"]
CONTROLS: tuple[Control, ...] = ("", "random", "no threshold", "no refit")
"""What takes the place of the loop: nothing; captions of other photos, as many; all captions; the map stays."""
EmbedTexts = Callable[[Sequence[str]], Embeddings]


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop."""

    method: str = "cca"
    """How the map is fitted."""
    same_space: bool = False
    """Whether both sides have one space before the map."""
    rounds: int = 3
    """How often."""
    neighbours: int = NEIGHBOURS
    """Captions retrieved for a photo."""
    control: Control = ""
    """A control in the loop's place."""
    seed: int = 0
    """Of the control's random captions."""

    def __post_init__(self) -> None:
        if self.control not in CONTROLS:
            raise InputError(
                f"no control {self.control!r}: choose one of {', '.join(filter(None, CONTROLS))}"
            )
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, not {self.rounds}")


@dataclass(frozen=True)
class Round:
    """The captioner after a round; round 0 is the one before the loop."""

    fit: Fit
    """Its map."""
    store: CaptionStore
    """Its captions, embedded through the map."""
    joined: int
    """Captions of its own that are in the store."""
    threshold: float
    """aCLIPScore that a caption had to reach."""


def augment(
    pairs: Pairs,
    captions: Sequence[str],
    bare: Embeddings,
    embed_texts: EmbedTexts,
    config: LoopConfig | None = None,
) -> Iterator[Round]:
    """Run the loop.

    Args:
        pairs: people's pairs before the map: photos ``[n, d]``, captions ``[m, k]``.
        captions: the texts of the m captions.
        bare: photos without captions, before the map ``[b, d]``.
        embed_texts: texts to unit rows before the map.
        config: settings.

    Yields:
        The captioner before the loop, then after each round.
    """
    config, rng = config or LoopConfig(), np.random.default_rng((config or LoopConfig()).seed)
    fit = fit_alignment(config.method, pairs, config.same_space)
    store = _store(fit, pairs, captions)
    threshold = _people(fit, pairs)
    yield Round(fit, store, 0, threshold)
    for _ in range(config.rounds):
        photos = fit.embed(bare, pairs.texts[:1])[0]
        found = consensus_order(store, store.nearest(photos, config.neighbours))[:, 0]
        scores = np.maximum(np.einsum("nd,nd->n", photos, store.embeddings[found]), 0)
        kept = (
            np.arange(len(bare)) if config.control == "no threshold" else np.flatnonzero(scores >= threshold)
        )
        own = [store.captions[found[i]] for i in kept]
        if config.control == "random":
            own = [captions[i] for i in rng.integers(0, len(captions), len(kept))]
        more = _joined(pairs, bare[kept], embed_texts(own) if own else pairs.texts[:0])
        if config.control != "no refit" and own:
            fit = fit_alignment(config.method, more, config.same_space)
        store = _store(fit, more, [*captions, *own])
        threshold = _people(fit, pairs)
        yield Round(fit, store, len(own), threshold)


@dataclass(frozen=True)
class Improved:
    """A captioner by retrieval after the loop."""

    encoder: AlignedEncoder
    """Its model, with the last round's map."""
    store: CaptionStore
    """People's captions and its own."""
    joined: tuple[int, ...]
    """Captions of its own in the store after each round; the first is 0."""
    failures: dict[int, str]
    """Pairs that were left out, by position, and why."""
    bare_failures: dict[int, str]
    """Bare photos that could not be read, likewise."""


def improve(
    encoder: Encoder | str | Path,
    photos: Sequence[ImageInput],
    captions: Sequence[str | Sequence[str]],
    bare: Sequence[ImageInput],
    config: LoopConfig | None = None,
    *,
    text_encoder: Encoder | str | Path | None = None,
    name: str | None = None,
) -> Improved:
    """:func:`augment` for an encoder and photos.

    Args:
        encoder: what :func:`cliplet.align` takes, as ``text_encoder`` is.
        photos: photos with captions.
        captions: their captions.
        bare: photos without captions.
        config: settings; ``same_space`` is found out here.
        text_encoder: what embeds texts, where it is another encoder.
        name: the new model's name.

    Raises:
        InputError: no pairs, or none of the bare photos can be read.
    """
    images, texts = find_sides(encoder, text_encoder)
    config = replace(config or LoopConfig(), same_space=images is texts)
    check_method(config.method, config.same_space)
    spoken: list[str] = []
    pairs, failures = embedded_pairs(images, texts, photos, caption_groups(photos, captions), kept=spoken)
    rows, bad = images.encode_images_safely(bare)
    good = [i for i in range(len(rows)) if i not in bad]
    if not good:
        raise InputError(f"none of the {len(bare)} photos without captions can be read{_first(bad)}")
    prefix = texts.card.text.prompt_prefix
    rounds = list(
        augment(pairs, spoken, rows[good], lambda own: texts.encode_texts([prefix + t for t in own]), config)
    )
    last = rounds[-1]
    report = measured_report(config.method, pairs, last.fit, images is texts, failures)
    card = aligned_card(images, texts, last.fit, report, name)
    loop = {
        "rounds": config.rounds,
        "control": config.control,
        "own_captions": last.joined,
        "bare_photos": len(good),
    }
    aligned = AlignedEncoder(images, texts, last.fit, replace(card, training={**card.training, "loop": loop}))
    aligned.report = report
    store = replace(last.store, model=aligned.card.name, fingerprint=aligned.card.fingerprint)
    return Improved(aligned, store, tuple(one.joined for one in rounds), failures, bad)


def _first(reasons: dict[int, str]) -> str:
    return f"; the first: {reasons[min(reasons)]}" if reasons else ""


def _joined(pairs: Pairs, photos: Embeddings, texts: Embeddings) -> Pairs:
    first = len(pairs.images)
    owner = np.concatenate([pairs.owner, np.arange(first, first + len(photos), dtype=np.int64)])
    return Pairs(np.concatenate([pairs.images, photos]), np.concatenate([pairs.texts, texts]), owner)


def _store(fit: Fit, pairs: Pairs, captions: Sequence[str]) -> CaptionStore:
    rows: NDArray[np.float32] = fit.embed(pairs.images[:1], pairs.texts)[1]
    return CaptionStore(list(captions), rows, pairs.owner, "augmented", "")


def _people(fit: Fit, pairs: Pairs) -> float:
    """Mean aCLIPScore of people's captions."""
    images, texts = fit.embed(pairs.images, pairs.texts)
    return float(np.maximum(np.einsum("nd,nd->n", images[pairs.owner], texts), 0).mean())
