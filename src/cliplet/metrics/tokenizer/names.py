"""The tokenisers by name, apart from their grammar so that a command's help need not load it."""

TOKENIZERS = ("ptb", "ptb-punctuation")
"""Which tokens count: the words of the captioning metrics, or these with the punctuation that is otherwise dropped."""
