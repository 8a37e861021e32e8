"""The Penn Treebank tokeniser of the caption metrics, as rules run by an automaton."""

from cliplet.metrics.tokenizer.ptb import tokenize, tokenize_many

__all__ = ["tokenize", "tokenize_many"]
