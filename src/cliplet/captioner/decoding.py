"""Decoding of captions: greedy, sampling (nucleus) and beam search, over any decoder with a key-value cache.

Everything here is numpy. The decoder itself is behind :class:`Steps`: ONNX Runtime in a model folder, PyTorch in
training; both use this one implementation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Steps(Protocol):
    """One step of a decoder, for ``k`` hypotheses of each of ``n`` photos."""

    def start(self, memory: Any, hypotheses: int) -> Any:
        """An empty cache."""
        ...

    def step(self, memory: Any, tokens: Ints, past: Any) -> tuple[NDArray[np.float32], Any]:
        """Last tokens ``[n, k]`` -> logits of the next ones ``[n, k, V]``, and the longer cache."""
        ...

    def photos(self, memory: Any, past: Any, rows: Ints) -> tuple[Any, Any]:
        """Memory and cache of these photos only."""
        ...

    def hypotheses(self, past: Any, parents: Ints) -> Any:
        """The cache of hypotheses that continue ``parents`` ``[n, k]``."""
        ...


@dataclass(frozen=True)
class DecodeConfig:
    """How captions are chosen."""

    method: Literal["greedy", "beam", "nucleus"] = "beam"
    """``greedy``: the likeliest token each time; ``beam``: beam search; ``nucleus``: sampling."""
    beam: int = 3
    """Hypotheses of beam search."""
    length_penalty: float = 0.0
    """Beam search compares log-probability / tokens^this; 0 prefers short captions, 1 does not."""
    top_p: float = 0.9
    """Nucleus: least set of tokens with this probability (Holtzman et al., ICLR 2020); 1 samples from all."""
    temperature: float = 1.0
    """Nucleus: logits are divided by this."""
    captions: int = 1
    """Captions for each photo: nucleus draws, or the best of the beam."""
    seed: int = 0
    """Of nucleus sampling. A photo's captions depend on the seed and its place in the list, not on the batch."""

    def __post_init__(self) -> None:
        if self.beam < 1 or self.captions < 1:
            raise InputError(f"beam={self.beam} and captions={self.captions} must be at least 1")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.temperature <= 0:
            raise InputError(f"temperature={self.temperature} must be above 0")
        most = {"greedy": 1, "beam": self.beam}.get(self.method)
        if most is not None and self.captions > most:
            raise InputError(f"{self.method} gives at most {most} captions a photo, not {self.captions}")


@dataclass(frozen=True)
class Limits:
    """What decoding needs to know of a model."""

    start_id: int
    """Piece that every caption starts with (not part of the result)."""
    end_id: int
    """Piece that ends a caption."""
    max_tokens: int
    """Longest caption in tokens, the end included."""


@dataclass(frozen=True)
class Decoded:
    """The captions of one photo, best first (in order of drawing for nucleus)."""

    tokens: list[list[int]]
    """Tokens of each caption, without start and end."""
    log_prob: list[float]
    """Log-probability of each, the end included, under the model's plain distribution."""
    ended: list[bool]
    """False where the length ran out before the end."""


def decode(
    steps: Steps, memory: Any, limits: Limits, config: DecodeConfig, keys: Sequence[int] | None = None
) -> list[Decoded]:
    """Captions of each photo of ``memory`` ``[n, ...]``.

    Args:
        steps: the decoder.
        memory: what it looks at.
        limits: its special tokens and greatest length.
        config: greedy, beam or nucleus.
        keys: number of each photo for the random numbers of nucleus sampling; 0..n-1 when not given.
    """
    if not len(memory):
        return []
    if config.method == "beam":
        return beam_search(steps, memory, limits, config)
    count = config.captions if config.method == "nucleus" else 1
    draws = None
    if config.method == "nucleus":
        shape = (count, limits.max_tokens)
        numbers = range(len(memory)) if keys is None else keys
        draws = np.stack([np.random.default_rng([config.seed, key]).random(shape) for key in numbers])
    return sample(steps, memory, limits, count, draws, config.top_p, config.temperature)


def sample(
    steps: Steps,
    memory: Any,
    limits: Limits,
    count: int,
    draws: Floats | None,
    top_p: float = 1.0,
    temperature: float = 1.0,
) -> list[Decoded]:
    """``count`` captions of each photo, token by token.

    Args:
        steps: the decoder.
        memory: ``[n, ...]``.
        limits: special tokens and greatest length.
        count: captions of a photo, ``k``.
        draws: uniform random numbers ``[n, k, max_tokens]``; None takes the likeliest token each time.
        top_p: nucleus.
        temperature: of sampling.
    """
    n = len(memory)
    tokens = np.full((n, count, limits.max_tokens), limits.end_id, dtype=np.int64)
    log_prob = np.zeros((n, count))
    done = np.zeros((n, count), dtype=bool)
    photo = np.arange(n)[:, None]  # [m, 1] and slot [m, k]: whose caption each hypothesis is
    slot = np.tile(np.arange(count), (n, 1))
    last = np.full((n, count), limits.start_id, dtype=np.int64)
    past = steps.start(memory, count)
    for t in range(limits.max_tokens):
        logits, past = steps.step(memory, last, past)
        log_p = log_softmax(logits)  # [m, k, V]
        if draws is None:
            last = log_p.argmax(axis=2)
        else:
            last = draw(log_p, draws[photo, slot, t], top_p, temperature)
        finished = done[photo, slot]
        last = np.where(finished, limits.end_id, last)
        gained = np.take_along_axis(log_p, last[:, :, None], axis=2)[:, :, 0]
        log_prob[photo, slot] += np.where(finished, 0.0, gained)
        tokens[photo, slot, t] = last
        done[photo, slot] = finished | (last == limits.end_id)
        alive = ~done[photo, slot]
        if not alive.any():
            break
        if 2 * alive.sum() <= alive.size:  # go on with the unfinished ones alone, as one hypothesis a row
            rows, columns = np.nonzero(alive)
            memory, past = steps.photos(memory, past, rows)
            past = steps.hypotheses(past, columns[:, None])
            photo, slot, last = photo[rows], slot[rows, columns][:, None], last[rows, columns][:, None]
    return [
        Decoded([_before_end(row, limits.end_id) for row in tokens[i]], list(log_prob[i]), list(map(bool, done[i])))
        for i in range(n)
    ]  # fmt: skip


def draw(log_p: NDArray[np.float32], uniform: Floats, top_p: float, temperature: float) -> Ints:
    """Tokens ``[m, k]`` drawn from ``log_p`` ``[m, k, V]`` by one uniform number each."""
    p = np.exp(log_p if temperature == 1 else log_softmax(log_p / np.float32(temperature)))
    if top_p >= 1:
        mass = np.cumsum(p, axis=2, dtype=np.float64)
        place = (mass < uniform[:, :, None] * mass[:, :, -1:]).sum(axis=2)
        return np.minimum(place, p.shape[2] - 1)
    order = np.argsort(-p, axis=2, kind="stable")
    mass = np.cumsum(np.take_along_axis(p, order, axis=2), axis=2, dtype=np.float64)
    inside = (mass < top_p).sum(axis=2)  # [m, k] last position that is still needed to reach top_p
    inside = np.minimum(inside, p.shape[2] - 1)
    whole = np.take_along_axis(mass, inside[:, :, None], axis=2)
    place = np.minimum((mass < uniform[:, :, None] * whole).sum(axis=2), inside)
    return np.take_along_axis(order, place[:, :, None], axis=2)[:, :, 0]


def beam_search(steps: Steps, memory: Any, limits: Limits, config: DecodeConfig) -> list[Decoded]:
    """The ``captions`` best finished hypotheses of each photo; a photo is done when ``beam`` of them are finished.

    A beam of width 1 is greedy decoding.
    """
    n, width = len(memory), config.beam
    pools: list[list[_Hypothesis]] = [[] for _ in range(n)]
    alive = np.arange(n)
    tokens = np.zeros((n, width, 0), dtype=np.int64)
    last = np.full((n, width), limits.start_id, dtype=np.int64)
    total = np.full((n, width), -np.inf)
    total[:, 0] = 0.0  # at the start all hypotheses are the same one
    past = steps.start(memory, width)
    for _ in range(limits.max_tokens):
        logits, past = steps.step(memory, last, past)
        log_p = log_softmax(logits)
        size = log_p.shape[2]
        scores = (total[:, :, None] + log_p).reshape(len(alive), -1)  # [m, width V]
        best = _top(scores, min(2 * width, scores.shape[1]))  # [m, 2 width] likeliest first
        parents = np.zeros((len(alive), width), dtype=np.int64)
        following = np.full((len(alive), width), limits.end_id, dtype=np.int64)
        new_total = np.full((len(alive), width), -np.inf)
        for row, photo in enumerate(alive):
            kept = 0
            for rank, cell in enumerate(best[row]):
                parent, token = divmod(int(cell), size)
                score = float(scores[row, cell])
                if token == limits.end_id:
                    if rank < width and score > -np.inf:
                        before = tokens[row, parent].tolist()
                        pools[photo].append(_Hypothesis(before, score, True, config.length_penalty))
                elif kept < width:
                    parents[row, kept], following[row, kept], new_total[row, kept] = parent, token, score
                    kept += 1
        rows = np.arange(len(alive))[:, None]
        tokens = np.concatenate([tokens[rows, parents], following[:, :, None]], axis=2)
        last, total = following, new_total
        past = steps.hypotheses(past, parents)
        still = np.flatnonzero([len(pools[photo]) < width for photo in alive])
        if len(still) < len(alive):
            if not len(still):
                break
            memory, past = steps.photos(memory, past, still)
            alive, tokens, last, total = alive[still], tokens[still], last[still], total[still]
    else:
        for row, photo in enumerate(alive):  # the length ran out
            for row_tokens, score in zip(tokens[row], total[row], strict=True):
                if score > -np.inf:
                    unended = _Hypothesis(row_tokens.tolist(), float(score), False, config.length_penalty)
                    pools[photo].append(unended)
    return [_best_of(pool, config.captions) for pool in pools]


@dataclass(frozen=True)
class _Hypothesis:
    tokens: list[int]
    log_prob: float
    ended: bool
    penalty: float

    @property
    def score(self) -> float:
        return self.log_prob / (len(self.tokens) + self.ended) ** self.penalty


def _best_of(pool: list[_Hypothesis], count: int) -> Decoded:
    """Finished hypotheses before unfinished ones, then by score."""
    kept = sorted(pool, key=lambda h: (not h.ended, -h.score))[:count]
    return Decoded([h.tokens for h in kept], [h.log_prob for h in kept], [h.ended for h in kept])


def _top(scores: NDArray[Any], count: int) -> Ints:
    """Cells of the ``count`` highest scores of each row, highest first; equal ones in their order."""
    some = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    some.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _before_end(tokens: Ints, end_id: int) -> list[int]:
    ends = np.flatnonzero(tokens == end_id)
    return [int(p) for p in (tokens[: ends[0]] if len(ends) else tokens)]


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Along the last axis, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]
