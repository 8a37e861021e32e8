"""Distillation: teacher and image-caption pairs in, a small model folder out."""

from cliplet.training.distill.run import Run, distill

__all__ = ["Run", "distill"]
