"""The self-improving loop of a retrieval captioner: its own captions of bare photos join the store and the map's pairs.

Each round the captioner captions photos that have none; a caption whose aCLIPScore reaches the threshold (the mean of
people's own captions) joins the store; the map is fitted again on people's pairs and these. Source: ReCap's
datastore-augmentation, arXiv 2307.05591 v2 and v3 (from memory, unverified); the controls are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.captioner.recap import NEIGHBOURS, consensus_order
from cliplet.captioner.store import CaptionStore
from cliplet.encoders.base import Embeddings
from cliplet.encoders.fits import Fit, Pairs, fit_alignment
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
