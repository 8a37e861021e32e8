"""What scoring gives: one number a row, with what it is made of and what went wrong."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.card import ModelCard
from cliplet.metrics.clipscore import MATCH, Preset
from cliplet.versions import versions

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ScoreResult:
    """Scores of n captions; a row that could not be scored is NaN and its reason stands in ``failures``."""

    score: Floats
    """The preset's score, float32 ``[n]``."""
    cosine: Floats
    """Cosine of caption and image, float32 ``[n]``, -1 to 1."""
    failures: list[str | None]
    """Why a row has no score; None where it has one."""
    truncated: NDArray[np.bool_]
    """Whether the caption was longer than the model's context, bool ``[n]``."""
    preset: Preset
    """How ``score`` was made from ``cosine``."""
    card: ModelCard
    """The model's card."""
    device: str = "cpu"
    """Where the model computed."""
    provider: str = ""
    """What computed there: an execution provider of ONNX Runtime, or PyTorch; empty where it is not known."""
    match: Floats | None = None
    """Probability that the caption is the photo's own, in the mix that the card states, float32 ``[n]``, 0 to 1; 0 for
    captions without content. None where the model was not calibrated for this preset."""
    without_content: dict[int, str] = field(default_factory=dict)
    """Captions that say nothing about any photo, by position, and why; empty without ``match``."""
    reference_cosine: Floats | None = None
    """Largest cosine of caption and any reference, float32 ``[n]``; NaN without references."""
    ref_clip_score: Floats | None = None
    """RefCLIPScore, float32 ``[n]``."""
    ref_mix_score: Floats | None = None
    """RefMixScore, float32 ``[n]``."""
    image_embeddings: Floats | None = None
    """The images' unit vectors, float32 ``[n, d]``, NaN where a row failed; None unless asked for."""
    text_embeddings: Floats | None = None
    """The captions' unit vectors, likewise."""
    a_clip_score: Floats | None = None
    """aCLIPScore, float32 ``[n]``; None for a model that was not aligned."""
    ref_a_clip_score: Floats | None = None
    """RefaCLIPScore, float32 ``[n]``; None for a model that was not aligned, or without references."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the scores must know, such as photos whose values are suspect."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Model, fingerprint, preset, w, prefix, preprocessing, precision, device, versions, and counts of rows."""
        card = self.card
        facts: dict[str, Any] = {
            "model": card.name,
            "fingerprint": card.fingerprint,
            "preset": self.preset.name,
            "score": self.preset.column,
            "w": card.score.w if self.preset.factor is None else self.preset.factor,
            "prompt_prefix": card.text.prompt_prefix if self.preset.with_prefix else "",
            "preprocessing": {
                "image": f"{card.image.resize} {card.image.size} {card.image.interpolation}",
                "context_length": card.text.context_length,
            },
            "precision": card.precision,
            "device": self.device,
            "provider": self.provider,
            **({"alignment": asdict(card.alignment)} if card.alignment else {}),
            "versions": versions(),
            "rows": len(self.failures),
            "failed": sum(f is not None for f in self.failures),
            "truncated": int(self.truncated.sum()),
        }
        if self.reference_cosine is not None:
            scored = np.array([f is None for f in self.failures], dtype=bool)
            facts["reference_weight"] = card.score.reference_weight
            facts["without_references"] = int((scored & np.isnan(self.reference_cosine)).sum())
        return facts

    @property
    def mean(self) -> float:
        """The corpus score over rows that could be scored."""
        return self.preset.corpus(self.score)

    def columns(self) -> dict[str, Floats]:
        """Every score by its name in outputs."""
        named: dict[str, Floats] = {self.preset.column: self.score}
        if self.match is not None:
            named[MATCH] = self.match
        if self.a_clip_score is not None:
            named["aCLIPScore"] = self.a_clip_score
        named["cosine"] = self.cosine
        if (
            self.reference_cosine is not None
            and self.ref_clip_score is not None
            and self.ref_mix_score is not None
        ):
            named |= {
                "RefCLIPScore": self.ref_clip_score,
                "RefMixScore": self.ref_mix_score,
                "reference cosine": self.reference_cosine,
            }
        if self.ref_a_clip_score is not None:
            named["RefaCLIPScore"] = self.ref_a_clip_score
        return named
