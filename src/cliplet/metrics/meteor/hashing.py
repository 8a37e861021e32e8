"""64-bit hashes of words and phrases, over whole arrays of text at once.

The hash of a string of bytes b is a polynomial modulo 2**64, ``H(b) = sum_k v[b_k] * B**(n-1-k)``, so the hash of a
phrase follows from those of its words: ``H(x + y) = H(x) * B**len(y) + H(y)``. With the two million phrases of
METEOR's table the chance that any two share a hash is about one in ten million.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_B = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_B_INVERSE = pow(_B, -1, 1 << 64)


def _byte_values() -> np.ndarray:
    """A number without pattern for each byte: the splitmix64 sequence."""
    values = []
    for k in range(1, 257):
        z = k * 0x9E3779B97F4A7C15 % (1 << 64)
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % (1 << 64)
        values.append(z ^ (z >> 31))
    return np.array(values, dtype=np.uint64)


_VALUES = _byte_values()


@lru_cache(maxsize=4)
def _powers(base: int, length: int) -> np.ndarray:
    """base**0 ... base**(length-1), uint64 [length]."""
    powers = np.full(length, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def power(exponents: np.ndarray) -> np.ndarray:
    """B to each of some powers, uint64."""
    return _powers(_B, 1 << max(8, int(exponents.max(initial=0)).bit_length()))[exponents]


def append_word(phrase: np.ndarray, word: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The hashes of phrases with a space and a word more; ``shift`` is B to the power of the word's bytes."""
    return (phrase * np.uint64(_B) + _VALUES[ord(" ")]) * shift + word


def span_hashes(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The hash of each ``text[start:end]`` of a uint8 array, uint64 like ``starts``."""
    if not len(text):
        return np.zeros(len(starts), dtype=np.uint64)
    size = 1 << max(8, len(text).bit_length())
    sums = np.zeros(len(text) + 1, dtype=np.uint64)  # sums[k] = sum of v * B**-position over text[:k]
    np.cumsum(_VALUES[text] * _powers(_B_INVERSE, size)[: len(text)], out=sums[1:])
    lasts = np.maximum(ends - 1, 0)  # an empty span has the hash 0 whatever it is multiplied by
    return (sums[ends] - sums[starts]) * _powers(_B, size)[lasts]


def line_hashes(text: np.ndarray) -> np.ndarray:
    """The hash of each line of a uint8 array that ends in a newline."""
    ends = np.flatnonzero(text == 10)
    return span_hashes(text, np.concatenate([[0], ends[:-1] + 1]), ends)


def string_hashes(strings: Sequence[str]) -> np.ndarray:
    """The hash of each string's UTF-8 bytes, uint64 [n]."""
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
    ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return span_hashes(text, np.concatenate([[0], ends])[:-1], ends)
