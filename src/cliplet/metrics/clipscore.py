"""CLIPScore, RefCLIPScore and their scales (Hessel et al. 2021, arXiv 2104.08718, section 3).

Pure functions of cosines. Three scales circulate under one name; here each is a named preset and every output
says which one it holds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Preset:
    """A named way to turn cosines into a score."""

    name: str
    """``paper``, ``torchmetrics`` or ``cosine``."""
    column: str
    """What the score is called in outputs."""
    field: str
    """Its field in rows (JSON, CSV)."""
    with_prefix: bool
    """Whether the model's prompt prefix goes before captions and references."""
    clamped_pairs: bool
    """Whether a negative cosine becomes 0 pair by pair."""
    factor: float | None
    """What the cosine is multiplied by; None: the model's w."""

    def apply(self, cosine: ArrayLike, w: float = 2.5) -> Scores:
        """The score of each cosine (NaN stays NaN)."""
        values: Scores = np.asarray(cosine, dtype=np.float32)
        if self.clamped_pairs:
            values = np.maximum(values, np.float32(0))
        return values * np.float32(w if self.factor is None else self.factor)

    def corpus(self, scores: ArrayLike) -> float:
        """The corpus score: the mean over pairs that could be scored (NaN: none could)."""
        scores = np.asarray(scores, dtype=np.float64)
        good = scores[np.isfinite(scores)]
        if not good.size:
            return float("nan")
        mean = float(good.mean())
        return max(mean, 0.0) if self.name == "torchmetrics" else mean


PRESETS: dict[str, Preset] = {
    "paper": Preset("paper", "CLIPScore", "clip_score", with_prefix=True, clamped_pairs=True, factor=None),
    "torchmetrics": Preset(
        "torchmetrics", "100*cos", "cos_100", with_prefix=False, clamped_pairs=False, factor=100.0
    ),
    "cosine": Preset("cosine", "cosine", "cosine", with_prefix=False, clamped_pairs=False, factor=1.0),
}

MATCH = "match"
"""The calibrated score's name in outputs; it is for reading, not for comparing captioners."""

MODEL_SCORES: dict[str, str] = {preset.column: preset.field for preset in PRESETS.values()} | {
    MATCH: "match",
    "RefCLIPScore": "ref_clip_score",
    "RefMixScore": "ref_mix_score",
    "reference cosine": "reference_cosine",
    "aCLIPScore": "a_clip_score",
    "RefaCLIPScore": "ref_a_clip_score",
}
"""Each score of a model and its field in rows."""


def find_preset(name: str) -> Preset:
    """A preset by name; raises InputError for an unknown one."""
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}") from None


def pair_cosines(a: NDArray[Any], b: NDArray[Any]) -> Scores:
    """Cosines of paired unit vectors ``[n, d]``, multiplied in float32 -> ``[n]``."""
    return np.einsum("nd,nd->n", a, b, dtype=np.float32)


def clip_score(cosine: ArrayLike, w: float = 2.5) -> Scores:
    """CLIPScore, ``w * max(cos(c, v), 0)``, clamped pair by pair.

    Args:
        cosine: cosines of caption and image, ``[n]``.
        w: 2.5 for CLIP models.

    Returns:
        float32 ``[n]``, 0 to w.

    Source: Hessel et al. 2021, equation 1. Reference implementation: the authors' clipscore.py.
    """
    return PRESETS["paper"].apply(cosine, w)


def ref_clip_score(cosine: ArrayLike, best_reference_cosine: ArrayLike, w: float = 2.5) -> Scores:
    """RefCLIPScore: harmonic mean of CLIPScore and the best reference cosine, 0 where both are 0.

    Args:
        cosine: cosines of caption and image, ``[n]``.
        best_reference_cosine: largest cosine of caption and any reference, ``[n]``.
        w: weight of the image term only; 2.5 for CLIP models.

    Returns:
        float32 ``[n]``, 0 to 2w / (w + 1).

    Source: Hessel et al. 2021, equation 2.
    """
    image = clip_score(cosine, w)
    reference = np.maximum(np.asarray(best_reference_cosine, dtype=np.float32), np.float32(0))
    total: Scores = image + reference
    return np.asarray(2 * image * reference / np.maximum(total, 1e-30), dtype=np.float32)


def a_clip_score(cosine: ArrayLike) -> Scores:
    """aCLIPScore, ``max(cos(W f_I(v), f_T(c)), 0)``: CLIPScore without its scale, of an aligned encoder.

    Args:
        cosine: cosines of caption and image after the map (``cliplet align``), ``[n]``.

    Returns:
        float32 ``[n]``, 0 to 1.

    Source: ReCap (arXiv 2307.05591). **Unverified against the paper**: its scale, its centring and its prompt were not
    at hand; here both sides are centred before the map. Values must not stand beside the paper's tables.
    """
    return np.maximum(np.asarray(cosine, dtype=np.float32), np.float32(0))


def ref_a_clip_score(cosine: ArrayLike, best_reference_cosine: ArrayLike) -> Scores:
    """RefaCLIPScore: harmonic mean of aCLIPScore and ``max(max_r cos(f_T(c), f_T(r)), 0)``, 0 where both are 0.

    Args:
        cosine: cosines of caption and image after the map, ``[n]``.
        best_reference_cosine: largest cosine of caption and any reference in the aligned space, ``[n]``.

    Returns:
        float32 ``[n]``, 0 to 1.

    Source and caution: as :func:`a_clip_score`.
    """
    return ref_clip_score(cosine, best_reference_cosine, w=1.0)


def ref_mix_score(
    cosine: ArrayLike, best_reference_cosine: ArrayLike, reference_weight: float, w: float = 2.5
) -> Scores:
    """RefMixScore: ``w * max((cos(c, v) + r * max_ref cos(c, ref)) / (1 + r), 0)``, cliplet's own combination.

    The weighted mean follows human judgements more closely than the harmonic mean when one text tower embeds both
    captions and references: it does not let the smaller of the two terms decide alone.

    Args:
        cosine: cosines of caption and image, ``[n]``.
        best_reference_cosine: largest cosine of caption and any reference, ``[n]``.
        reference_weight: r, from the model's card.
        w: scale, from the model's card.

    Returns:
        float32 ``[n]``, 0 to w.
    """
    mean = np.asarray(cosine, dtype=np.float32) + np.float32(reference_weight) * np.asarray(
        best_reference_cosine, dtype=np.float32
    )
    return PRESETS["paper"].apply(mean / np.float32(1 + reference_weight), w)
