"""The former home of :mod:`cliplet.metrics.tokenizer`, kept for code that imports from here."""

from cliplet.metrics.tokenizer import tokenize, tokenize_many

__all__ = ["tokenize", "tokenize_many"]
