"""Other libraries' tokenisers as one ``tokenizer.json``."""

import html
import html.entities
from typing import Any

from cliplet.errors import ModelError

_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_QUOTES = {"[‘’‚‛]": "'", "[“”„‟]": '"'}
_LIGATURES = {"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl"}


def clip_bpe_tokenizer(simple: Any) -> Any:
    """open_clip's ``SimpleTokenizer`` (CLIP's byte-pair encoding) as a ``tokenizers.Tokenizer``.

    It cleans text with ftfy; the same here for what occurs in captions: curly quotes, ligatures, full-width forms,
    HTML entities by name, runs of white space. It does not repair text that was decoded with the wrong encoding.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    clean = getattr(getattr(simple, "clean_fn", None), "__name__", "_clean_lower")
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.get)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=dict(simple.encoder), merges=[m for m in merges if len(m) == 2], end_of_word_suffix="</w>"
        )
    )
    steps = _entity_steps(Regex, normalizers)
    steps += [normalizers.Replace(Regex(k), v) for k, v in {**_QUOTES, **_LIGATURES}.items()]
    steps += [normalizers.NFC()]
    steps += _clean_steps(clean, Regex, normalizers)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    names = {v: k for k, v in simple.encoder.items()}
    start, end = names[simple.sot_token_id], names[simple.eot_token_id]
    tokenizer.add_special_tokens([start, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _entity_steps(regex: Any, normalizers: Any) -> list[Any]:
    """Named HTML entities of Latin-1 that captions contain, ampersand last."""
    table = {"lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " ", "#39": "'", "#34": '"', "#038": "&"}
    table |= {k: chr(v) for k, v in html.entities.name2codepoint.items() if 0xC0 <= v <= 0xFF}
    steps = [normalizers.Replace(f"&{name};", value) for name, value in table.items()]
    return [normalizers.Replace("&amp;", "&"), *steps]


def _clean_steps(clean: str, regex: Any, normalizers: Any) -> list[Any]:
    """open_clip's cleaning functions: ``lower``, ``whitespace``, ``canonicalize``."""
    space = [normalizers.Replace(regex(r"\s+"), " "), normalizers.Strip()]
    if clean == "_clean_lower":
        return [*space, normalizers.Lowercase()]
    if clean == "_clean_whitespace":
        return space
    if clean == "_clean_canonicalize":
        marks = normalizers.Replace(regex(_PUNCTUATION), "")
        return [normalizers.Replace("_", " "), marks, normalizers.Lowercase(), *space]
    raise ModelError(f"the tokeniser cleans text by {clean}, which cannot be exported")


def fast_tokenizer(owner: Any) -> tuple[Any, int]:
    """The ``tokenizers.Tokenizer`` inside a tokeniser of Transformers, and its padding id.

    Args:
        owner: an object with ``tokenizer``: an encoder of Transformers or open_clip's ``HFTokenizer``.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    library = owner.tokenizer
    if type(library).__name__ == "SiglipTokenizer":
        return siglip_tokenizer(library), int(library.pad_token_id)
    backend = getattr(library, "backend_tokenizer", None) or getattr(library, "_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise ModelError(f"{type(library).__name__} has no fast form, so there is no tokenizer.json to write")
    if getattr(owner, "strip_sep_token", False) or getattr(owner, "tokenizer_mode", ""):
        raise ModelError("open_clip changes this tokeniser's output; it cannot be exported")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    clean = getattr(getattr(owner, "clean_fn", None), "__name__", None)
    if clean:
        steps = _clean_steps(clean, Regex, normalizers)
        old = tokenizer.normalizer
        tokenizer.normalizer = normalizers.Sequence(steps if old is None else [*steps, old])
    return tokenizer, int(library.pad_token_id or 0)


def siglip_tokenizer(library: Any) -> Any:
    """Transformers' ``SiglipTokenizer``, which has no fast form, as a ``tokenizers.Tokenizer``.

    The same unigram model and character map; lower case, punctuation and white space as the library treats them.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(library.sp_model.serialized_model_proto())
    tokenizer = Tokenizer(
        models.Unigram(
            [(piece.piece, piece.score) for piece in proto.pieces], proto.trainer_spec.unk_id, False
        )
    )
    lower = [normalizers.Lowercase()] if library.do_lower_case else []
    charsmap = proto.normalizer_spec.precompiled_charsmap
    spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    steps = [
        normalizers.Replace("\u2581", " "),
        *lower,
        normalizers.Replace(Regex(_PUNCTUATION), ""),
        *spaces,
    ]
    steps += [normalizers.Precompiled(charsmap), *spaces] if charsmap else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    end = library.eos_token
    tokenizer.add_special_tokens([end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, library.eos_token_id)]
    )
    return tokenizer
