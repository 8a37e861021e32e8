"""Classifiers from a few labelled photos: class means, a linear probe, Tip-Adapter, and soft k-means.

All of them work on the embeddings of a frozen encoder and are fitted in well under a second. What they have in common:
a photo's unit vector x becomes ``q = unit((x - centre) @ map)``, and its scores are a function of q.

- ``mean``: cosine of q and the mean of each class's photos (prototypes, Snell et al. 2017); centred by the mean of the
  unlabelled photos where there are any, else of the labelled ones.
- ``probe``: multinomial logistic regression on x (:func:`~cliplet.classification.logistic.logistic_regression`).
- ``tip``: Tip-Adapter (Zhang et al. 2022, section 3.2) in the form that CODER gives it: the keys are neighbour vectors,
  a photo's cosines to all class texts, and ``logits = text + alpha * exp(-beta (1 - q keys')) onehot``. The keys are
  computed once and saved. ``text`` is the text scores, standardised.
- ``soft-kmeans``: prototypes refined by unlabelled photos (Ren et al. 2018, section 3.1.1), in a whitened space, with
  the texts as a prior: ``P = softmax(q M' / temperature + text * z)`` for the u unlabelled photos, ``M = unit(mean of
  the labelled photos + pull * (C/u) P' q)``, five times; then ``logits = q M' / temperature + text * z``. z are the
  text scores, standardised. ``map`` is ``(S + shrink * tr(S)/d * I)^(-1/2)`` of the covariance S of the unlabelled
  photos. It takes the classes to be about as frequent as each other among them. Without unlabelled photos there is no
  refinement, and S is that of the labelled ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.background import Background
from cliplet.classification.bank import TextBank
from cliplet.classification.coder import TextHead
from cliplet.classification.confidence import softmax
from cliplet.classification.logistic import logistic_regression
from cliplet.data.plugins import table
from cliplet.encoders.base import Embeddings, unit_norm
from cliplet.errors import InputError
from cliplet.statistics.kendall import Ints

Floats32 = NDArray[np.float32]
Settings = Mapping[str, float]
ABOVE_ZERO = ("shrink", "temperature", "strength")
"""Settings that cannot be 0."""
ROUNDS = 5
FOLDS = 4


@dataclass(frozen=True)
class Shots:
    """What an adapter may learn from."""

    vectors: Embeddings
    """[n, d] unit vectors of the labelled photos."""
    labels: Ints
    """[n] their class numbers."""
    classes: int
    """C."""
    unlabelled: Background | None = None
    """Photos without labels."""
    text: TextHead | None = None
    """Scores by class texts."""
    bank: TextBank | None = None
    """The class texts' vectors."""

    @cached_property
    def background(self) -> Background:
        """The unlabelled photos, else the labelled ones."""
        twice = len(self.vectors) < 2  # a single photo is its own mean
        return self.unlabelled or Background(np.repeat(self.vectors, 2, axis=0) if twice else self.vectors)

    def only(self, rows: NDArray[Any]) -> "Shots":
        """Some of the labelled photos."""
        return replace(self, vectors=self.vectors[rows], labels=self.labels[rows])


def _nothing(*shape: int) -> Floats32:
    return np.empty(shape, dtype=np.float32)


@dataclass(frozen=True)
class ShotHead:
    """Scores of C classes from labelled photos; made by :func:`fit_shots`."""

    adapter: str
    """Name of the adapter."""
    settings: dict[str, float]
    """Its settings."""
    matrix: Floats32
    """[C, k] prototypes or weights; for ``tip`` the keys [n, k]."""
    bias: Floats32 = field(default_factory=lambda: _nothing(0))
    """[C]; empty for none."""
    centre: Floats32 = field(default_factory=lambda: _nothing(0))
    """[d] subtracted from a photo's vector; empty for a vector that is taken as it is."""
    map: Floats32 = field(default_factory=lambda: _nothing(0, 0))
    """[d, k]; empty for none."""
    labels: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """[n] classes of the keys of ``tip``."""
    text: TextHead | None = None
    """Scores by class texts, added."""
    text_scale: tuple[float, float] = (0.0, 1.0)
    """Mean and weight of the text scores: ``(s - mean) * weight`` is added."""
    temperature: float = 1.0
    """Of the softmax, uncalibrated."""

    def scores(self, photos: Embeddings) -> Floats32:
        """[n, C] for unit vectors [n, d]."""
        near = transformed(photos, self.centre, self.map) @ self.matrix.T
        if self.adapter == "tip":
            values = self.settings["alpha"] * np.exp(-self.settings["beta"] * (1 - near))
            near = values @ np.eye(len(self.bias), dtype=np.float32)[self.labels]
        elif self.adapter == "soft-kmeans":
            near = near / self.settings["temperature"]
        if len(self.bias):
            near = near + self.bias
        if self.text is not None:
            near = near + (self.text.scores(photos) - self.text_scale[0]) * self.text_scale[1]
        return np.asarray(near, dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Its arrays by name, to be saved; those of its texts are not among them."""
        return {k: v for k, v in self.__dict__.items() if isinstance(v, np.ndarray)}


def transformed(photos: Embeddings, centre: Floats32, matrix: Floats32) -> Floats32:
    """``unit((x - centre) @ matrix)`` of rows x; without a matrix ``unit(x - centre)``, without a centre x itself."""
    if not len(centre):
        return photos
    moved = photos - centre
    return unit_norm(moved @ matrix if matrix.size else moved)


# ---------------------------------------------------------------- the adapters
def _class_means(vectors: Floats32, labels: Ints, classes: int) -> Floats32:
    """[C, k] mean of each class's rows; zero where it has none."""
    sums = np.eye(classes, dtype=np.float32)[:, labels] @ vectors
    return np.asarray(sums / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None], dtype=np.float32)


def _mean(shots: Shots, settings: Settings) -> ShotHead:
    centre = shots.background.centre
    if shots.unlabelled is None and shots.classes < 2:
        centre = np.zeros_like(centre)  # one class alone has nothing to stand apart from
    rows = transformed(shots.vectors, centre, _nothing(0, 0))
    matrix = unit_norm(_class_means(rows, shots.labels, shots.classes))
    return ShotHead("mean", dict(settings), matrix, centre=centre, temperature=0.1)


def _probe(shots: Shots, settings: Settings) -> ShotHead:
    centre = shots.vectors.mean(axis=0)
    weights, bias = logistic_regression(
        shots.vectors - centre, shots.labels, shots.classes, settings["strength"]
    )
    shift = bias - weights @ centre
    return ShotHead("probe", dict(settings), weights.astype(np.float32), shift.astype(np.float32))


def _tip(shots: Shots, settings: Settings) -> ShotHead:
    centre, matrix = shots.background.centre, _nothing(0, 0)
    if shots.bank is not None:
        texts = np.concatenate([shots.bank.names, shots.bank.texts])
        matrix = np.ascontiguousarray(texts.T, dtype=np.float32)
    text, scale = _text_prior(shots, 1.0)
    return ShotHead(
        "tip", dict(settings), transformed(shots.vectors, centre, matrix), np.zeros(shots.classes, np.float32),
        centre, matrix, shots.labels, text, scale,
    )  # fmt: skip


def _soft_kmeans(shots: Shots, settings: Settings) -> ShotHead:
    background = shots.background
    matrix, free = background.whitened(settings["shrink"])
    own = transformed(shots.vectors, background.centre, matrix)
    text, scale = _text_prior(shots, settings["text"])
    prior = np.float32(0) if text is None else (background.scores(text) - scale[0]) * scale[1]
    known = _class_means(own, shots.labels, shots.classes)
    prototypes = unit_norm(known)
    for _ in range(ROUNDS if shots.unlabelled else 0):
        soft = softmax(free @ prototypes.T / np.float32(settings["temperature"]) + prior)  # [u, C]
        average = soft.T @ free / np.float32(len(free) / shots.classes)
        prototypes = unit_norm(known + np.float32(settings["pull"]) * average)
    return ShotHead(
        "soft-kmeans",
        dict(settings),
        prototypes,
        centre=background.centre,
        map=matrix,
        text=text,
        text_scale=scale,
    )


def _text_prior(shots: Shots, weight: float) -> tuple[TextHead | None, tuple[float, float]]:
    """The text head, and mean and weight that standardise its scores over the background photos."""
    if shots.text is None or weight <= 0:
        return None, (0.0, 1.0)
    scores = shots.background.scores(shots.text)
    return shots.text, (float(scores.mean()), weight / max(float(scores.std()), 1e-6))


@dataclass(frozen=True)
class Adapter:
    """A way to learn classes from a few photos: its row in the table."""

    name: str
    """As given on the command line."""
    fit: Callable[[Shots, Settings], ShotHead]
    """Makes the head."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of each setting to choose from; the first ones are the defaults."""

    def choices(self) -> list[dict[str, float]]:
        """Every combination of settings, the defaults first."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


ADAPTERS: dict[str, Adapter] = table(
    (
        Adapter(
            "soft-kmeans", _soft_kmeans,
            {"shrink": (0.3, 0.1, 1.0), "temperature": (0.05, 0.1), "text": (0.3, 0.0, 0.6), "pull": (10.0, 3.0, 1.0)},
        ),
        Adapter("mean", _mean),
        Adapter("probe", _probe, {"strength": (10.0, 0.1, 1.0, 100.0, 1000.0, 10000.0)}),
        Adapter("tip", _tip, {"alpha": (10.0, 1.0, 3.0, 30.0, 100.0), "beta": (3.0, 1.0, 10.0, 30.0)}),
    ),
    "adapter",
)  # fmt: skip
"""Name to adapter."""


def fit_shots(
    shots: Shots, adapter: str | None = None, settings: Settings | None = None, names: Sequence[str] = ()
) -> ShotHead:
    """Fit an adapter.

    Args:
        shots: labelled photos, at least one of every class, and what else it may use.
        adapter: its name in :data:`ADAPTERS`; default: ``soft-kmeans`` with unlabelled photos, else ``probe``.
        settings: values of its settings; those left out are chosen by :func:`chosen_settings`.
        names: the classes' names, for errors.

    Raises:
        InputError: no such adapter or setting, or a class without a photo.
    """
    if adapter is None:
        adapter = "soft-kmeans" if shots.unlabelled else "probe"
    found = ADAPTERS.get(adapter)
    if found is None:
        raise InputError(f"unknown adapter {adapter!r}: choose from {', '.join(ADAPTERS)}")
    unknown = [name for name in settings or {} if name not in found.grid]
    if unknown:
        raise InputError(
            f"adapter {adapter} has no setting {unknown[0]!r}; it has {', '.join(found.grid) or 'none'}"
        )
    _check_settings(settings or {})
    counts = np.bincount(shots.labels, minlength=shots.classes)
    if not counts.all():
        first = int(np.argmin(counts))
        name = repr(names[first]) if len(names) else f"number {first}"
        raise InputError(f"class {name} has no labelled photo: each class needs at least one")
    if set(settings or {}) != set(found.grid):
        settings = chosen_settings(shots, found, given=settings)
    return found.fit(shots, settings or {})


def _check_settings(settings: Settings) -> None:
    for name, value in settings.items():
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or value < 0 or (value == 0 and name in ABOVE_ZERO):
            least = "above 0" if name in ABOVE_ZERO else "from 0 up"
            raise InputError(f"setting {name} must be a number {least}, not {value!r}")


def chosen_settings(
    shots: Shots, adapter: Adapter, seed: int = 0, given: Settings | None = None
) -> dict[str, float]:
    """Settings by cross-validation inside the labelled photos: the first of those with the highest accuracy.

    Those ``given`` stay, and the others are chosen beside them. At most four folds, each with photos of every class
    left to learn from; the defaults where a class has one photo.
    """
    choices = [c | dict(given or {}) for c in adapter.choices()]
    choices = [c for i, c in enumerate(choices) if c not in choices[:i]]
    counts = np.bincount(shots.labels, minlength=shots.classes)
    folds = int(min(FOLDS, counts.min()))
    if folds < 2 or len(choices) < 2:
        return choices[0]
    order = np.random.default_rng(seed).permutation(len(shots.labels))
    order = order[np.argsort(shots.labels[order], kind="stable")]
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = within % folds
    right = np.zeros(len(choices))
    for k in range(folds):
        rest, held = shots.only(fold != k), np.flatnonzero(fold == k)
        for i, settings in enumerate(choices):
            scores = adapter.fit(rest, settings).scores(shots.vectors[held])
            right[i] += (scores.argmax(axis=1) == shots.labels[held]).sum()
    return choices[int(right.argmax())]
