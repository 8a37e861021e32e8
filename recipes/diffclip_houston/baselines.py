"""Baselines: classifiers of scikit-learn and a plain network, with the care that DiffCLIP gets."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.classification.multimodal import draw_shots
from cliplet.errors import MissingExtraError

from .data import DEV_DRAWS, Pixels
from .recipe import Settings

Ints = NDArray[np.int64]
CHOOSING_DRAWS = 5
"""Draws on dev that choose a classifier's settings, for each number of shots anew."""


class PlainNetwork(nn.Module):
    """Two hidden layers over all tokens side by side: tokens of each modality -> logits ``[n, C]``."""

    def __init__(self, values: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(values, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Logits."""
        return self.layers(torch.cat([x.flatten(1) for x in tokens], dim=1))  # type: ignore[no-any-return]


def _svm(x: NDArray[Any], c: float, gamma: float) -> Any:
    """An RBF kernel whose width counts in the spread of the inputs."""
    from sklearn.svm import SVC

    return SVC(C=c, gamma=gamma / float(x.var(axis=0).sum()))


def _forest(x: NDArray[Any], leaf: int, features: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, min_samples_leaf=leaf, max_features=features, random_state=0)


def _centroid(x: NDArray[Any]) -> Any:
    from sklearn.neighbors import NearestCentroid

    class Quiet(NearestCentroid):  # type: ignore[misc]
        def fit(self, x: NDArray[Any], y: Ints) -> Any:
            with np.errstate(
                invalid="ignore"
            ):  # with one sample a class it divides 0 by 0 for a spread it has no use for
                return super().fit(x, y)

    return Quiet()


class _SelfTrained:
    """An SVM that is fitted again and again with the unlabelled samples of each class that it is surest of."""

    def __init__(self, x: NDArray[Any], c: float, gamma: float, rounds: int, share: float) -> None:
        self.make = lambda: _svm(x, c, gamma)
        self.unlabelled, self.rounds, self.share = x, rounds, share

    def fit(self, x: NDArray[Any], y: Ints) -> "_SelfTrained":
        """Fit on labelled samples; the share of unlabelled ones that is taken for labelled grows to ``share``."""
        self.svm = self.make().fit(x, y)
        classes = len(np.unique(y))
        for number in range(1, self.rounds + 1):
            values = self.svm.decision_function(self.unlabelled)  # [n, C]
            best = values.argmax(axis=1)
            sure = values.max(axis=1) - np.partition(values, -2, axis=1)[:, -2]
            most = max(1, round(self.share * number / self.rounds * len(values) / classes))
            taken = [np.flatnonzero(best == c)[np.argsort(-sure[best == c])[:most]] for c in range(classes)]
            rows = np.concatenate(taken)
            self.svm = self.make().fit(
                np.concatenate([x, self.unlabelled[rows]]), np.concatenate([y, best[rows]])
            )
        return self

    def predict(self, x: NDArray[Any]) -> Ints:
        """Classes."""
        return self.svm.predict(x)  # type: ignore[no-any-return]


GRIDS: dict[str, tuple[Callable[..., Any], dict[str, tuple[Any, ...]]]] = {
    "svm": (_svm, {"c": (1.0, 10.0, 100.0, 1000.0), "gamma": (0.1, 0.3, 1.0, 3.0)}),
    "forest": (_forest, {"leaf": (1, 2), "features": ("sqrt", 0.3)}),
    "nearest-mean": (_centroid, {}),
    "self-trained-svm": (
        _SelfTrained,
        {"c": (100.0,), "gamma": (0.3, 1.0), "rounds": (5,), "share": (0.3, 0.8)},
    ),
}
"""What is chosen from, besides the inputs: the networks' or plainly standardised bands."""


def choices(arm: str) -> list[dict[str, Any]]:
    """All settings that an arm of scikit-learn may get; ``inputs`` is one of them."""
    _, grid = GRIDS[arm]
    return [
        {"inputs": inputs, **dict(zip(grid, values, strict=True))}
        for inputs in ("networks", "standardised")
        for values in product(*grid.values())
    ]


def predict(pixels: Pixels, arm: str, given: dict[str, Any], shots: Ints, rows: Ints) -> Ints:
    """Fit on labelled rows and predict others.

    Args:
        pixels: the data.
        arm: of :data:`GRIDS`.
        given: of :func:`choices`.
        shots: labelled rows.
        rows: to predict.
    """
    make, _ = GRIDS[arm]
    x = pixels.flat if given["inputs"] == "networks" else pixels.standard
    classifier = make(x[pixels.parts.train], **{k: v for k, v in given.items() if k != "inputs"})
    return np.asarray(classifier.fit(x[shots], pixels.samples.labels[shots]).predict(x[rows]))


def choose(settings: Settings, pixels: Pixels, arm: str, shots: int) -> dict[str, Any]:
    """The settings with the highest mean accuracy on dev, over draws that are not reported.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("baselines of scikit-learn (pip install scikit-learn)", "dev") from error
    labels, dev = pixels.samples.labels, pixels.parts.dev
    draws = [draw_shots(labels, pixels.parts.train, shots, DEV_DRAWS + i) for i in range(CHOOSING_DRAWS)]
    tried = choices(arm)
    right = [
        np.mean([(predict(pixels, arm, given, rows, dev) == labels[dev]).mean() for rows in draws])
        for given in tried
    ]
    return tried[int(np.argmax(right))]
