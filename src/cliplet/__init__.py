"""cliplet: judge image captions, and make the small CLIP models that judge them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cliplet.classification.classifier import Classifier
    from cliplet.encoders.aligned import align
    from cliplet.encoders.base import Encoder
    from cliplet.encoders.card import ModelCard
    from cliplet.encoders.registry import load
    from cliplet.errors import ClipletError, InputError, MissingExtraError, ModelError
    from cliplet.scoring.explain import Explanation, explain
    from cliplet.scoring.scorer import Scorer, ScoreResult, score
    from cliplet.search.index import Index

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "cliplet.encoders.base",
    "ModelCard": "cliplet.encoders.card",
    "load": "cliplet.encoders.registry",
    "align": "cliplet.encoders.aligned",
    "ClipletError": "cliplet.errors",
    "InputError": "cliplet.errors",
    "MissingExtraError": "cliplet.errors",
    "ModelError": "cliplet.errors",
    "Scorer": "cliplet.scoring.scorer",
    "ScoreResult": "cliplet.scoring.scorer",
    "score": "cliplet.scoring.scorer",
    "explain": "cliplet.scoring.explain",
    "Explanation": "cliplet.scoring.explain",
    "Index": "cliplet.search.index",
    "Classifier": "cliplet.classification.classifier",
}

__all__ = [  # noqa: RUF022 (kept in the order of use)
    "score",
    "Scorer",
    "ScoreResult",
    "explain",
    "Explanation",
    "Index",
    "Classifier",
    "load",
    "align",
    "Encoder",
    "ModelCard",
    "ClipletError",
    "InputError",
    "ModelError",
    "MissingExtraError",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import cliplet`` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cliplet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
