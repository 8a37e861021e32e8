"""What the encoders on PyTorch libraries share."""

TOKENIZER_PROBE = "A photo depicts Two dogs, it's 12 o'clock: naïve 狗"
"""Its token ids stand for the tokeniser in the fingerprint."""
