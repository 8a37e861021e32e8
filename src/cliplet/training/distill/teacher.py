"""One or several encoders as a teacher."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Encoder, adapt, unit_norm
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.quick_products import fp32_products
from cliplet.training.config import TeacherConfig

Floats = NDArray[np.float32]


class Teacher:
    """Encoders whose embeddings a student learns.

    Args:
        encoders: one or several.
        config: how several become one (``names``, ``device`` and ``precision`` are not read here).
    """

    def __init__(self, encoders: Sequence[Encoder], config: TeacherConfig) -> None:
        if not encoders:
            raise InputError("there is no teacher; give teacher.names")
        if config.weights and len(config.weights) != len(encoders):
            raise InputError(f"{len(config.weights)} teacher weights for {len(encoders)} teachers")
        dims = [e.card.embedding_dim for e in encoders]
        if config.combine == "average" and len(set(dims)) > 1:
            raise InputError(f"teachers of widths {dims} cannot be averaged; use combine = 'concat'")
        self.encoders = [adapt(e) for e in encoders]
        self.config = config
        weights = np.array(config.weights or [1.0] * len(encoders), dtype=np.float32)
        self._weights = weights / weights.sum()
        self.dim = sum(dims) if config.combine == "concat" else dims[0]

    @classmethod
    def from_config(cls, config: TeacherConfig) -> "Teacher":
        """Load the teachers by name, on the recipe's device and in its precision."""
        prepare_torchvision()
        names = [None if name == "packaged" else name for name in config.names]
        return cls([load(name, config.device, config.precision or None) for name in names], config)

    @property
    def name(self) -> str:
        """For logs and cards."""
        return " + ".join(e.card.name for e in self.encoders)

    @property
    def fingerprint(self) -> str:
        """Changes whenever an embedding would."""
        parts = [e.card.fingerprint for e in self.encoders]
        if "unknown" in parts:
            raise InputError("a teacher's card has no fingerprint, so its embeddings cannot be kept")
        c = self.config
        numerics = [e.numerics for e in self.encoders]
        made_by = (
            [numerics] if any(numerics) else []
        )  # nothing for the usual: files of earlier runs stay good
        return json.dumps([parts, c.combine, self._weights.tolist(), not self.raw, c.prompt_prefix, *made_by])

    def images(self, sources: Sequence[Any]) -> tuple[Floats, dict[int, str]]:
        """``[n, d]`` with NaN rows for bad photos, and their reasons."""
        with fp32_products():
            if self.raw:
                return self.encoders[0].encode_images_safely(sources, normalise=False)
            results = [e.encode_images_safely(sources) for e in self.encoders]
        merged = {i: reason for _, reasons in results for i, reason in reasons.items()}
        return self._combine([r for r, _ in results]), merged

    def texts(self, texts: Sequence[str]) -> Floats:
        """``[n, d]``."""
        full = [self.config.prompt_prefix + t for t in texts]
        with fp32_products():
            if self.raw:
                return self.encoders[0].encode_texts_safely(full, normalise=False)[0]
            return self._combine([e.encode_texts(full) for e in self.encoders])

    @property
    def raw(self) -> bool:
        """Whether embeddings keep their length, which L1 learns too; else they have length 1."""
        return len(self.encoders) == 1 and self.encoders[0].raw and not self.config.normalise

    @property
    def unit_only(self) -> bool:
        """Whether a single teacher's embeddings have length 1 although the recipe does not ask for it."""
        return len(self.encoders) == 1 and not self.encoders[0].raw and not self.config.normalise

    def _combine(self, parts: list[Floats]) -> Floats:
        """Unit embeddings of all teachers as one."""
        if self.config.combine == "average":
            return unit_norm(sum(w * p for w, p in zip(self._weights, parts, strict=True)))
        return np.concatenate(
            [np.sqrt(w) * p for w, p in zip(self._weights, parts, strict=True)], axis=1, dtype=np.float32
        )
