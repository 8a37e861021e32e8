"""What METEOR's matchers need to know about each distinct word of a corpus, as arrays over word numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cliplet.metrics.meteor.hashing import string_hashes
from cliplet.metrics.meteor.stemmer import stem
from cliplet.metrics.meteor.tables import MeteorTables, span_indices

EXACT, STEM, SYNONYM = 1, 2, 4  # bits of the relation between two words

# WordNet's detachment rules in METEOR's order: the first result that WordNet knows is the base form
_DETACHMENTS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
)
_LAST_LETTERS = tuple({ending[-1] for ending, _ in _DETACHMENTS})


@dataclass(frozen=True)
class Lexicon:
    """Facts about word 0, 1, ... of a corpus."""

    numbers: dict[str, int]
    """Word -> its number."""
    keys: np.ndarray
    """int64: words with the same key are the same word."""
    stem_keys: np.ndarray
    """int64: likewise for stems."""
    is_function: np.ndarray
    """bool: the word weighs less."""
    hashes: np.ndarray
    """uint64: of the word's bytes."""
    sizes: np.ndarray
    """int64: how many bytes those are."""
    set_starts: np.ndarray
    """int64 [n + 1]: where each word's synonym sets begin in ``sets``."""
    sets: np.ndarray
    """int32: synonym sets."""

    def relations(self, words: np.ndarray) -> np.ndarray:
        """How each of some words relates to each other: uint8 [n, n] of EXACT | STEM | SYNONYM bits."""
        related = np.zeros((len(words), len(words)), dtype=np.uint8)
        keys = self.keys[words]
        for values, bit in ((keys, EXACT), (self.stem_keys[words], STEM)):
            a, b = _pairs_within_groups(values)
            differ = keys[a] != keys[b]
            keep = ~differ if bit == EXACT else differ
            related[a[keep], b[keep]] |= bit
        counts = self.set_starts[words + 1] - self.set_starts[words]
        owners = np.repeat(np.arange(len(words)), counts)
        a, b = _pairs_within_groups(self.sets[span_indices(self.set_starts[words], counts)])
        a, b = owners[a], owners[b]
        differ = keys[a] != keys[b]
        related[a[differ], b[differ]] |= SYNONYM
        return related


def build_lexicon(
    captions: Iterable[Sequence[str]], function_words: frozenset[str], tables: MeteorTables | None
) -> Lexicon:
    """Number the words of all captions and look them up."""
    words = list(dict.fromkeys(word for caption in captions for word in caption))
    starts, sets = (
        _synonym_sets(words, tables) if tables else (np.zeros(len(words) + 1, int), np.zeros(0, int))
    )
    return Lexicon(
        numbers={word: k for k, word in enumerate(words)},
        keys=_array(map(_java_hash, words)),
        stem_keys=_array(_java_hash(stem(word)) for word in words),
        is_function=np.array([word in function_words for word in words], dtype=bool),
        hashes=string_hashes(words),
        sizes=_array(len(word.encode("utf-8", "surrogatepass")) for word in words),
        set_starts=starts,
        sets=sets,
    )


def _array(values: Iterable[int]) -> np.ndarray:
    return np.fromiter(values, dtype=np.int64)


@lru_cache(maxsize=1 << 16)
def _java_hash(word: str) -> int:
    """Java's hash of a string: METEOR takes two words with the same one for the same word ("an" and "c0")."""
    code = 0
    for unit in memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H"):
        code = (31 * code + unit) & 0xFFFFFFFF
    return code


def _synonym_sets(words: list[str], tables: MeteorTables) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sets): each word's own synonym sets, then those of its base form."""
    own = tables.synonym.find(hashes := string_hashes(words))
    irregular = tables.exception.find(hashes)
    forms, owners = [], []
    for k in np.flatnonzero(irregular < 0):
        word = words[k]
        if len(word) > 2 and word.endswith(_LAST_LETTERS) and not word.endswith("ss"):
            for ending, replacement in _DETACHMENTS:
                if word.endswith(ending):
                    forms.append(word[: -len(ending)] + replacement)
                    owners.append(k)
    rows = tables.synonym.find(string_hashes(forms))
    base = np.full(len(words), -1)
    known = np.flatnonzero(rows >= 0)[::-1]  # written backwards, the first known form is what stays
    base[np.array(owners, dtype=np.int64)[known]] = rows[known]

    parts, counts = [], np.zeros(len(words), dtype=np.int64)
    for table, found in ((tables.synonym, own), (tables.exception, irregular), (tables.synonym, base)):
        at = np.flatnonzero(found >= 0)
        begin = table.starts[found[at]].astype(np.int64)
        length = table.starts[found[at] + 1] - begin
        parts.append((np.repeat(at, length), table.values[span_indices(begin, length)]))
        counts[at] += length
    owner, sets = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.concatenate([[0], np.cumsum(counts)]), sets[np.argsort(owner, kind="stable")]


def _pairs_within_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices (a, b) of all ordered pairs with ``values[a] == values[b]``, each with itself too."""
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    of_group = np.repeat(np.arange(len(first)), counts)  # for each element in order
    return np.repeat(order, counts[of_group]), order[span_indices(first[of_group], counts[of_group])]
