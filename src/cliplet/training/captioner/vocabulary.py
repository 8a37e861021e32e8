"""The captioner's own vocabulary: byte pairs learnt from the training captions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.metrics.tokenizer.ptb import tokenize_many

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<s>", "</s>"
_LETTERS = 200


def plain(captions: Sequence[str]) -> list[str]:
    """Captions as the captioner writes them: the metrics' words (lower case, no punctuation), one blank between."""
    return [" ".join(words) for words in tokenize_many(captions)]


def train_vocabulary(captions: Iterable[str], size: int) -> Any:
    """A ``tokenizers.Tokenizer`` of byte pairs; words carry a mark at their beginning, so decoding restores blanks.

    Args:
        captions: plain captions.
        size: tokens at most, the four special ones included.

    Raises:
        InputError: ``size`` is too small to hold the letters.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if size < _LETTERS // 2:
        raise InputError(f"tokenizer_size={size} is too small; give at least {_LETTERS // 2}")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[PAD, UNKNOWN, START, END],
        limit_alphabet=_LETTERS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return tokenizer


def open_vocabulary(path: str) -> Any:
    """A tokenizer.json of an earlier run.

    Raises:
        InputError: it is missing, cannot be read, or lacks the special tokens.
    """
    from tokenizers import Tokenizer

    if not Path(path).is_file():
        raise InputError(f"tokenizer={path!r} is neither 'train' nor a file")
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{path} is not a tokenizer.json: {error}") from error
    missing = [token for token in (PAD, START, END) if tokenizer.token_to_id(token) is None]
    if missing:
        raise InputError(f"{path} has no tokens {', '.join(missing)}: it is not a captioner's vocabulary")
    return tokenizer
