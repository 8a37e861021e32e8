"""Few-shot classification of remote-sensing samples without PyTorch: parts, draws, class vectors, figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError
from cliplet.statistics.resampling import bootstrap_mean

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

TEMPLATES = (
    "a multimodal fusion patch of a {}.",
    "{}",
    "an aerial photo of {}.",
    "land covered by {}.",
    "{}, seen from above.",
)
"""Class sentences; the first is the released code's. Their embeddings are averaged."""


# ---------------------------------------------------------------- figures
@dataclass(frozen=True)
class Agreement:
    """How well predicted classes agree with the true ones."""

    overall: float
    """Overall accuracy: share of samples that are right, in [0, 1]."""
    average: float
    """Average accuracy: mean over the classes of the share that is right, in [0, 1]."""
    kappa: float
    """Cohen's kappa: agreement beyond chance, in [-1, 1]; NaN where chance alone agrees fully."""


def agreement(predicted: ArrayLike, labels: ArrayLike) -> Agreement:
    """Overall accuracy, average accuracy and Cohen's kappa.

    ``kappa = (p - e) / (1 - e)`` with the overall accuracy p and the agreement by chance
    ``e = sum_c share_true(c) share_predicted(c)``. Equal to scikit-learn's ``accuracy_score``,
    ``balanced_accuracy_score`` and ``cohen_kappa_score``. Classes without samples do not count in the average.

    Args:
        predicted: classes 0.. ``[n]``.
        labels: true classes 0.. ``[n]``.

    Raises:
        InputError: there are no samples, or the two differ in length.
    """
    found, true = np.asarray(predicted, dtype=np.int64).ravel(), np.asarray(labels, dtype=np.int64).ravel()
    if len(found) != len(true) or not len(true):
        raise InputError(
            f"{len(found)} predictions for {len(true)} labels; give one for each of at least one"
        )
    size = int(max(found.max(), true.max())) + 1
    table = np.zeros((size, size))
    np.add.at(table, (true, found), 1)
    right, of_class = np.diag(table), table.sum(axis=1)
    overall = float(right.sum() / len(true))
    there = of_class > 0
    chance = float((of_class @ table.sum(axis=0)) / len(true) ** 2)
    kappa = (overall - chance) / (1 - chance) if chance < 1 else float("nan")
    return Agreement(overall, float((right[there] / of_class[there]).mean()), kappa)


@dataclass(frozen=True)
class OverDraws:
    """A figure over several draws."""

    mean: float
    """Its mean."""
    low: float
    """Lower end of the mean's 95 % bootstrap interval over draws."""
    high: float
    """Upper end of it."""
    spread: float
    """Standard deviation over the draws (n - 1 in the denominator); NaN for one draw."""
    draws: int
    """How many."""


def over_draws(values: ArrayLike) -> OverDraws:
    """Mean, interval and spread of one value a draw."""
    v = np.asarray(values, dtype=np.float64)
    found = bootstrap_mean(v, resamples=2000)
    spread = float(v.std(ddof=1)) if len(v) > 1 else float("nan")
    return OverDraws(found.value, found.low, found.high, spread, len(v))


# ---------------------------------------------------------------- parts and draws
@dataclass(frozen=True)
class Parts:
    """Rows of the samples in each part; no sample and no repeated value is in two of them."""

    train: Rows
    """What shots are drawn from; without labels also what is pretrained on."""
    dev: Rows
    """What chooses settings."""
    test: Rows
    """What is reported."""


def split_parts(
    values: ArrayLike,
    labels: ArrayLike,
    shares: tuple[float, float] = (0.45, 0.15),
    seed: int = 0,
    blocks: int = 0,
) -> Parts:
    """Split samples into train, dev and test by class.

    Samples with equal values are one unit, so that no test sample has a twin in train. With ``blocks``, runs of
    consecutive samples of a class are one unit: where the rows follow the scene, neighbours mostly stay together.

    Args:
        values: ``[n, d]``.
        labels: classes ``[n]``.
        shares: of train and dev; the rest is test.
        seed: of the split.
        blocks: runs that each class is cut into; 0 splits sample by sample.

    Raises:
        InputError: a class has too few samples for three parts, or the shares leave no test.
    """
    y = np.asarray(labels, dtype=np.int64).ravel()
    train, dev = shares
    if not (train > 0 and dev > 0 and train + dev < 1):
        raise InputError(f"shares {shares} of train and dev must be above 0 and leave something for test")
    twins = np.unique(np.asarray(values), axis=0, return_inverse=True)[1].ravel()
    rng = np.random.default_rng(seed)
    part = np.full(int(twins.max()) + 1, -1)  # of each distinct value
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        runs = np.arange(len(rows)) * blocks // len(rows) if blocks else np.arange(len(rows))
        order = rng.permutation(int(runs.max()) + 1)
        ends = np.round(np.cumsum([train, dev]) * len(order)).astype(int)
        if not 0 < ends[0] < ends[1] < len(order):
            raise InputError(f"class {c} has {len(order)} units, too few for train, dev and test")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.searchsorted(ends, np.arange(len(order)), side="right")
        units = twins[rows]
        free = part[units] < 0  # a twin that has its part keeps it
        part[units[free][::-1]] = place[runs[free]][::-1]  # the first of several twins decides
    of_row = part[twins]
    return Parts(*(np.flatnonzero(of_row == p) for p in range(3)))


def draw_shots(labels: ArrayLike, rows: ArrayLike, shots: int, seed: int) -> Rows:
    """The same number of labelled samples of each class.

    Draws of one seed are nested: those of 2 shots hold those of 1.

    Args:
        labels: classes of all samples ``[n]``.
        rows: of the samples to draw from.
        shots: samples a class.
        seed: of the draw.

    Returns:
        Rows ``[classes * shots]``, class by class.

    Raises:
        InputError: a class has fewer samples there.
    """
    y, allowed = np.asarray(labels).ravel(), np.asarray(rows, dtype=np.int64)
    rng = np.random.default_rng([seed, 17])
    found = []
    for c in np.unique(y):
        there = rng.permutation(allowed[y[allowed] == c])
        if len(there) < shots:
            raise InputError(f"class {c} has {len(there)} samples to draw {shots} shots from; ask for fewer")
        found.append(there[:shots])
    return np.concatenate(found)


# ---------------------------------------------------------------- class vectors
ClassVectors = Literal["words", "shuffled", "random", "one-hot"]
"""What stands for a class: its own sentences, those of another class, a random vector, or its number."""


def class_sentences(names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[list[str]]:
    """Sentences of each class."""
    return [[template.format(name) for template in templates] for name in names]


def derangement(n: int, seed: int) -> Rows:
    """A permutation of ``n`` things, at least 2, that leaves none in its place.

    Raises:
        InputError: there is only one thing.
    """
    if n < 2:
        raise InputError("one class cannot get another class's words; give at least two")
    rng = np.random.default_rng([seed, 29])
    while True:
        order = rng.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def class_vectors(kind: ClassVectors, sentences: ArrayLike, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors ``[C, d]`` of the classes.

    Sentence embeddings are averaged over the templates and centred over the classes, since what all sentences share
    tells no class from another. ``random`` vectors are centred too and have the same width; ``one-hot`` ones have C.

    Args:
        kind: what stands for a class.
        sentences: embeddings ``[C, templates, d]``, which ``random`` and ``one-hot`` take for their shape alone.
        seed: of shuffling and of random vectors.
    """
    found = np.asarray(sentences, dtype=np.float64)
    classes, _, width = found.shape
    if kind == "one-hot":
        return np.eye(classes, dtype=np.float32)
    if kind == "random":
        mean = np.random.default_rng([seed, 31]).standard_normal((classes, width))
    else:
        mean = (found / np.linalg.norm(found, axis=2, keepdims=True)).mean(axis=1)
    mean = mean - mean.mean(axis=0)
    vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return (vectors[derangement(classes, seed)] if kind == "shuffled" else vectors).astype(np.float32)
