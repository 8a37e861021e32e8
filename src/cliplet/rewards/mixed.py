"""A weighted mixture of rewards, each part brought to a like spread and reported on its own."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np

from cliplet.errors import InputError
from cliplet.metrics.ngrams import Floats
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards.base import Reward, WordReward, check_pairs

WINDOW = 10_000
"""Captions that the running statistics remember."""
LIMIT = 5.0
"""A normalised part stays within plus and minus this."""
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class RewardParts:
    """The rewards of n captions, with what they are made of."""

    total: Floats
    """[n]: the mixture."""
    values: dict[str, Floats]
    """For each part its own values ``[n]``, neither weighted nor normalised."""
    spreads: dict[str, float]
    """For each part its running standard deviation, with these captions in it."""


@dataclass
class RunningSpread:
    """Mean and variance of a stream: of all values so far, then of about the last ``window`` of them.

    With n values in a batch, mean ``m_b`` and variance ``v_b``, and N values seen with them, ``a = n / min(N, window)``
    (at most 1): ``v <- (1 - a) v + a v_b + a (1 - a) (m_b - m)^2`` and ``m <- m + a (m_b - m)``. The first batch
    therefore gives its own mean and variance.
    """

    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0

    def after(self, values: Floats, window: int) -> "RunningSpread":
        """The statistics with a batch of values in them."""
        seen = self.seen + len(values)
        share = min(1.0, len(values) / min(seen, window))
        apart = float(values.mean()) - self.mean
        variance = (1 - share) * self.variance + share * float(values.var()) + share * (1 - share) * apart**2
        return RunningSpread(self.mean + share * apart, variance, seen)

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return sqrt(self.variance)


class MixedReward:
    """``sum_k weight_k * part_k``, each part normalised by its running spread if wanted. For one thread at a time.

    With ``normalise`` a part is ``clip((r_k - mean_k) / spread_k, -5, 5)``, with the running mean and standard
    deviation of :class:`RunningSpread` over about the last ``window`` captions, those of this call included; a part
    that never varied is 0. Without it the raw values are weighed. A weight of 0 measures a part without rewarding it.

    Normalised, a weight says how much a part counts whatever its scale. A caption's total then depends on the captions
    before it: give a step's samples and its baseline captions in one call, and score captions outside training with
    ``update=False``. Rare penalties (repetition in a good captioner) have a small spread, which makes each
    case count much: the limit bounds that.

    Source: mixing L-CLIPScore with an n-gram reward, arXiv 2507.08710; the normalisation is cliplet's own.

    Args:
        parts: for each name a reward and its weight.
        normalise: divide each part by its running spread.
        window: captions that the statistics remember.

    Raises:
        InputError: no parts, a weight that is no number, or a window below 1.

    Example::

        reward = MixedReward({"cider": (CiderReward(references), 1.0), "length": (LengthReward(references), 0.2)})
        found = reward.parts(["dog.jpg", "dog.jpg"], ["a dog runs", "a dog"])
        found.total, found.values["cider"], found.spreads["cider"]
    """

    name = "mixture"

    def __init__(
        self, parts: Mapping[str, tuple[Reward, float]], *, normalise: bool = True, window: int = WINDOW
    ) -> None:
        if not parts:
            raise InputError("a mixture needs at least one reward")
        if window < 1:
            raise InputError(f"the window of the running statistics must be at least 1 caption, not {window}")
        self.rewards: dict[str, Reward] = {name: reward for name, (reward, _) in parts.items()}
        self.weights = {name: checked_weight(name, weight) for name, (_, weight) in parts.items()}
        self.normalise, self.window = normalise, window
        self._running: dict[str, RunningSpread] = {name: RunningSpread() for name in parts}

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str], *, update: bool = True) -> Floats:
        """The mixture for each caption, float64 ``[n]``; see :meth:`parts`."""
        return self.parts(images, captions, update=update).total

    def parts(
        self, images: Sequence[Hashable], captions: Sequence[str], *, update: bool = True
    ) -> RewardParts:
        """The mixture and its parts for each caption.

        Args:
            images: an image id for each caption.
            captions: n strings.
            update: whether these captions enter the running statistics. If not, and none were seen before, they are
                normalised by their own.

        Raises:
            InputError: nothing to reward, lengths that differ, a caption that is no string, or an image that some
                part does not know; before any part begins.
        """
        check_pairs(images, captions)
        for reward in self.rewards.values():
            if hasattr(reward, "check_images"):
                reward.check_images(images)
        words = None
        values: dict[str, Floats] = {}
        for name, reward in self.rewards.items():
            if isinstance(reward, WordReward):
                words = tokenize_many(captions, joined=False) if words is None else words
                values[name] = reward.of_words(images, words)
            else:
                values[name] = np.asarray(reward(images, captions), np.float64)
            _check_values(name, values[name], len(captions))
        running = self._statistics(values, update)
        total = np.zeros(len(captions))
        for name, part in values.items():
            total += self.weights[name] * (self._normal(part, running[name]) if self.normalise else part)
        return RewardParts(total, values, {name: state.spread for name, state in running.items()})

    def state_dict(self) -> dict[str, Any]:
        """The running statistics as plain numbers, to continue exactly where a run stopped."""
        return {
            name: {"mean": state.mean, "variance": state.variance, "seen": state.seen}
            for name, state in self._running.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; raises InputError if it is of another mixture."""
        if set(state) != set(self._running):
            raise InputError(
                f"the saved reward statistics are of {', '.join(sorted(state))}, but this mixture has"
                f" {', '.join(sorted(self._running))}"
            )
        self._running = {
            name: RunningSpread(
                float(state[name]["mean"]), float(state[name]["variance"]), int(state[name]["seen"])
            )
            for name in self._running
        }

    def _statistics(self, values: dict[str, Floats], update: bool) -> dict[str, RunningSpread]:
        if not update and all(state.seen for state in self._running.values()):
            return self._running
        running = {name: self._running[name].after(part, self.window) for name, part in values.items()}
        if update:
            self._running = running
        return running

    def _normal(self, part: Floats, state: RunningSpread) -> Floats:
        if state.spread < _NO_SPREAD:
            return np.zeros(len(part))
        result: Floats = np.clip((part - state.mean) / state.spread, -LIMIT, LIMIT)
        return result


def checked_weight(name: str, weight: object) -> float:
    """The weight as a number; raises InputError if it is none."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not isfinite(weight):
        raise InputError(f"the weight of the reward {name!r} must be a finite number, not {weight!r}")
    return float(weight)


def _check_values(name: str, values: Floats, expected: int) -> None:
    if values.shape != (expected,):
        raise InputError(f"the reward {name!r} gave an array of shape {values.shape} for {expected} captions")
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"the reward {name!r} gave {values[place]} for caption {place}")
