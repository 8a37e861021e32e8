"""Shapley values: a sum shared out fairly among those that made it together."""

from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError

MOST_PLAYERS = 16
"""Beyond them 2^n values are too many to be asked for."""


def subsets(n: int) -> list[tuple[int, ...]]:
    """All subsets of ``range(n)`` as :func:`shapley_values` takes them: subset ``i`` holds ``i``'s set bits."""
    if not 0 <= n <= MOST_PLAYERS:
        raise InputError(f"{n} units: all subsets are made of 0 to {MOST_PLAYERS}")
    return [tuple(k for k in range(n) if i >> k & 1) for i in range(2**n)]


def shapley_values(values: ArrayLike) -> NDArray[np.float64]:
    """Each player's mean marginal contribution over all orders in which the players may come.

    phi_i = sum over subsets S without i of |S|! (n - |S| - 1)! / n! * (v(S + i) - v(S)). They sum to v(all) - v(none);
    players that do the same get the same; one that never changes the value gets 0.

    Args:
        values: ``[2^n]`` value of every subset, in the order of :func:`subsets`.

    Returns:
        float64 ``[n]``, in the unit of the values.

    Raises:
        InputError: their number is no power of two.

    Source: Shapley 1953, "A value for n-person games"; as explanation of a model Lundberg and Lee 2017
    (arXiv 1705.07874), equation 4. Computed exactly, not sampled.
    """
    v: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    n = len(v).bit_length() - 1
    if v.ndim != 1 or len(v) != 2**n:
        raise InputError(f"values of shape {v.shape} are not one for each subset: 2^n are needed")
    index = np.arange(len(v))
    size = np.array([int(i).bit_count() for i in index])
    weight = np.array([factorial(s) * factorial(n - s - 1) / factorial(n) for s in range(n)] or [0.0])
    out = np.zeros(n)
    for player in range(n):
        absent = index[(index >> player & 1) == 0]
        out[player] = np.sum(weight[size[absent]] * (v[absent | 1 << player] - v[absent]))
    return out


def pair_interactions(values: ArrayLike) -> NDArray[np.float64]:
    """Shapley interaction index of each pair, ``[n, n]``: how much two add together beyond what each adds alone.

    Source: Grabisch and Roubens 1999; zero for a game in which contributions simply add up.
    """
    v: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    n = len(v).bit_length() - 1
    index = np.arange(len(v))
    size = np.array([int(i).bit_count() for i in index])
    out = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        absent = index[((index >> i | index >> j) & 1) == 0]
        weight = np.array([factorial(s) * factorial(n - s - 2) / factorial(n - 1) for s in size[absent]])
        gain = v[absent | 1 << i | 1 << j] - v[absent | 1 << i] - v[absent | 1 << j] + v[absent]
        out[i, j] = out[j, i] = np.sum(weight * gain)
    return out
