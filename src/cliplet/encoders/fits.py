"""The ways to align two spaces: from photos' and captions' embeddings to a map for each side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Embeddings, unit_norm
from cliplet.errors import InputError
from cliplet.statistics.alignment import (
    AffineMap,
    CanonicalCorrelation,
    procrustes,
    ridge,
    robust_procrustes,
)

Ints = NDArray[np.int64]
RIDGE_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridge penalties that are tried, each as a multiple of the number of photos times the mean variance of a dimension
times the number of dimensions / 100."""
CCA_PENALTIES = (0.3, 1.0, 4.0, 16.0)
"""Penalties of the photos' covariance that are tried, as shares of its mean eigenvalue."""
CCA_TEXT_PENALTY = 0.1
"""Penalty of the texts' covariance."""
CCA_POWERS = (0.5, 1.0, 2.0)
"""Powers of the correlations that are tried."""
CCA_AXES = 256
"""Most axes kept."""
NORMALISE_SHARE = 0.5
"""Share of the mean that distribution normalisation takes away."""
HELD_OUT = 1000
"""Most photos that choose a penalty, and a fifth of them all."""


@dataclass(frozen=True)
class Pairs:
    """Unit embeddings of photos and their captions."""

    images: Embeddings
    """``[n, d]``."""
    texts: Embeddings
    """``[m, k]``."""
    owner: Ints
    """The photo of each caption, ``[m]``."""

    def targets(self) -> NDArray[np.float64]:
        """Each photo's mean caption ``[n, k]``."""
        sums = np.zeros((len(self.images), self.texts.shape[1]))
        np.add.at(sums, self.owner, self.texts)
        return sums / np.bincount(self.owner, minlength=len(sums))[:, None]

    def of(self, photos: Ints) -> "Pairs":
        """Only these photos, in this order, with their captions."""
        place = np.full(len(self.images), -1)
        place[photos] = np.arange(len(photos))
        kept = place[self.owner] >= 0
        return Pairs(self.images[photos], self.texts[kept], place[self.owner[kept]])


@dataclass(frozen=True)
class Fit:
    """A map for each side, and what was chosen."""

    image: AffineMap
    """Of photo embeddings."""
    text: AffineMap
    """Of text embeddings."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the card says of it."""

    def embed(self, images: Embeddings, texts: Embeddings) -> tuple[Embeddings, Embeddings]:
        """Unit embeddings after the maps."""
        return unit_norm(self.image(images)), unit_norm(self.text(texts))


def recall_at_1(images: Embeddings, texts: Embeddings, owner: Ints) -> float:
    """Share of texts ``[m, d]`` whose own photo among ``[n, d]`` is nearest, 0 to 1; a tie counts against."""
    found = 0
    for start in range(0, len(texts), 1024):
        scores = texts[start : start + 1024] @ images.T
        own = owner[start : start + 1024]
        mine = scores[np.arange(len(own)), own].copy()
        scores[np.arange(len(own)), own] = -np.inf
        found += int((mine > scores.max(axis=1)).sum())
    return found / max(len(texts), 1)


def held_out(photos: int, seed: int = 0) -> tuple[Ints, Ints]:
    """A fixed split of photos: those to fit on and those to choose by (a fifth, at most :data:`HELD_OUT`)."""
    order = np.random.default_rng(seed).permutation(photos)
    n = max(1, min(HELD_OUT, photos // 5))
    return np.sort(order[n:]), np.sort(order[:n])


def check_method(method: str, same_space: bool) -> None:
    """See that there is such a method and that it can join these sides, before photos are embedded.

    Raises:
        InputError: there is none, or it cannot join two spaces.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "normalise" and not same_space:
        raise InputError(
            "normalise moves two clouds of one space; two encoders that never met need procrustes, robust, ridge or "
            "cca"
        )


def fit_alignment(method: str, pairs: Pairs, same_space: bool = True) -> Fit:
    """Fit a map by one of :data:`METHODS`.

    Args:
        method: its name.
        pairs: photos and captions; ``normalise`` uses only their means.
        same_space: whether both sides have one space, which ``normalise`` needs.

    Raises:
        InputError: no such method, too few or degenerate pairs, or a method that cannot join two spaces.
    """
    check_method(method, same_space)
    if not len(pairs.images) or not len(pairs.texts):
        raise InputError("there are no pairs to fit on: give photos and their captions")
    if method != "normalise":
        if len(pairs.images) < 2:
            raise InputError("one photo gives no map: give at least two with captions, better hundreds")
        for rows, what in ((pairs.images, "photos"), (pairs.texts, "captions")):
            if float(np.ptp(rows, axis=0).max()) < 1e-6:
                raise InputError(f"the {what} are all the same to the encoder: nothing can be fitted on them")
    return METHODS[method](pairs)


def _centred(pairs: Pairs) -> tuple[AffineMap, AffineMap, NDArray[np.float64], NDArray[np.float64]]:
    targets = pairs.targets()
    image, text = AffineMap(pairs.images.astype(np.float64).mean(axis=0)), AffineMap(targets.mean(axis=0))
    return image, text, pairs.images - image.mean, targets - text.mean


def _procrustes(pairs: Pairs) -> Fit:
    image, text, x, y = _centred(pairs)
    return Fit(replace(image, matrix=procrustes(x, y)), text)


def _robust(pairs: Pairs) -> Fit:
    image, text, x, y = _centred(pairs)
    matrix, weights = robust_procrustes(x, y)
    return Fit(replace(image, matrix=matrix), text, {"least_weight": round(float(weights.min()), 4)})


def _normalise(pairs: Pairs) -> Fit:
    means = [NORMALISE_SHARE * rows.astype(np.float64).mean(axis=0) for rows in (pairs.images, pairs.texts)]
    return Fit(AffineMap(means[0]), AffineMap(means[1]), {"share": NORMALISE_SHARE})


def _ridge(pairs: Pairs) -> Fit:
    return _chosen(pairs, RIDGE_PENALTIES, _ridge_path)


def _ridge_path(pairs: Pairs, penalties: Sequence[float]) -> Iterator[Fit]:
    image, text, x, y = _centred(pairs)
    spread = np.maximum(x.std(axis=0), 1e-6)
    x = x / spread
    for penalty in penalties:
        matrix = ridge(x, y, penalty * len(x) * x.shape[1] / 100) / spread[:, None]
        yield Fit(replace(image, matrix=matrix), text, {"penalty": penalty})


def _cca(pairs: Pairs) -> Fit:
    return _chosen(pairs, [(p, q) for p in CCA_PENALTIES for q in CCA_POWERS], _cca_path)


def _cca_path(pairs: Pairs, choices: Sequence[tuple[float, float]]) -> Iterator[Fit]:
    image, text, x, y = _centred(pairs)
    analysis = CanonicalCorrelation(x, y, pairs.texts - text.mean, CCA_TEXT_PENALTY)
    for penalty, power in choices:
        first, second = analysis.maps(penalty, power, CCA_AXES)
        yield Fit(
            replace(image, matrix=first), replace(text, matrix=second), {"penalty": penalty, "power": power}
        )


def _chosen(
    pairs: Pairs, choices: Sequence[Any], path: Callable[[Pairs, Sequence[Any]], Iterator[Fit]]
) -> Fit:
    """The fit on all pairs with the choice whose fit on some finds the others' photos most often."""
    inner, outer = held_out(len(pairs.images))
    if len(inner) < 4 or len(outer) < 2:  # among one photo every caption finds its own
        return next(path(pairs, [choices[len(choices) // 2]]))
    rest = pairs.of(outer)
    found = [
        recall_at_1(*fit.embed(rest.images, rest.texts), rest.owner) for fit in path(pairs.of(inner), choices)
    ]
    best = int(np.argmax(found))
    fit = next(path(pairs, [choices[best]]))
    return replace(fit, settings=fit.settings | {"chosen_by": f"{len(outer)} of the photos held out"})


METHODS: dict[str, Callable[[Pairs], Fit]] = {
    "procrustes": _procrustes,
    "ridge": _ridge,
    "robust": _robust,
    "normalise": _normalise,
    "cca": _cca,
}
"""Each method by name: orthogonal Procrustes, ridge regression (penalty by inner validation), Procrustes with
reweighted pairs, distribution normalisation (means alone), canonical correlation analysis (penalty by inner
validation)."""
