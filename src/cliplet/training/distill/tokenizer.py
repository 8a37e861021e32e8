"""The student's tokeniser: CLIP's, one trained on the captions, or a file."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cliplet.errors import InputError, MissingExtraError


def make_tokenizer(setting: str, captions: Iterable[str], size: int) -> Any:
    """The ``tokenizers.Tokenizer`` that a recipe asks for.

    Args:
        setting: ``clip``, ``train``, or the path of a tokenizer.json.
        captions: what ``train`` learns from.
        size: word pieces that ``train`` learns at most.
    """
    from tokenizers import Tokenizer

    if setting == "train":
        return train_word_pieces(captions, size)
    if setting == "clip":
        return _clip()
    if not Path(setting).is_file():
        raise InputError(f"tokenizer={setting!r} is neither 'clip', 'train' nor a file")
    try:
        return Tokenizer.from_file(setting)
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{setting} is not a tokenizer.json: {error}") from error


def _clip() -> Any:
    """CLIP's byte pairs, whose vocabulary comes with open_clip."""
    from cliplet.export.tokenizers import clip_bpe_tokenizer
    from cliplet.models.compat import prepare_torchvision

    prepare_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("CLIP's tokeniser", "open-clip") from error
    return clip_bpe_tokenizer(open_clip.get_tokenizer("ViT-B-32"))


def train_word_pieces(captions: Iterable[str], size: int) -> Any:
    """Lower-cased word pieces in BERT's manner, chosen from captions: ``[CLS] words [SEP]``.

    The vocabulary holds every character, then the most frequent words (four fifths of ``size``), then the most
    frequent beginnings and ends of the words left over. The same captions give the same vocabulary in the same
    order, which the library's own trainer does not promise.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        text = normalizer.normalize_str(caption)
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_choose_pieces(counts, size - 4)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $0 [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def _choose_pieces(counts: Counter[str], size: int) -> list[str]:
    """Characters, frequent words, frequent beginnings and ends; ties in alphabetical order."""

    def frequent(counter: Counter[str]) -> list[str]:
        return sorted((p for p, n in counter.items() if n > 1), key=lambda p: (-counter[p], p))

    letters: Counter[str] = Counter()
    for word, n in counts.items():
        letters.update({c: n for c in word})
    single = sorted(letters, key=lambda c: (-letters[c], c))[: size // 4]  # many scripts must not fill it
    pieces = dict.fromkeys([*single, *("##" + c for c in single)])
    words = [w for w in frequent(counts) if len(w) > 1]
    room = max(0, size * 4 // 5 - len(pieces))
    pieces |= dict.fromkeys(words[:room])
    parts: Counter[str] = Counter()
    for word, n in counts.items():
        if word not in pieces:
            for length in range(2, min(len(word), 8)):
                parts[word[:length]] += n
                parts["##" + word[-length:]] += n
    pieces |= dict.fromkeys([p for p in frequent(parts) if p not in pieces][: max(0, size - len(pieces))])
    return list(pieces)[:size]
