"""The Penn Treebank tokeniser of the caption metrics, as rules run by an automaton."""

from typing import Any

__all__ = ["tokenize", "tokenize_many"]


def __getattr__(name: str) -> Any:
    """Load the grammar when the tokeniser is first used, so that a command's help need not."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("cliplet.metrics.tokenizer.ptb"), name)
    raise AttributeError(f"module 'cliplet.metrics.tokenizer' has no attribute {name!r}")
