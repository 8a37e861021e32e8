"""Weights as integers: with scales of least error, and rounded together so that their errors cancel on real inputs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED = 127
"""Largest weight that is only stored in 8 bits: its products are in fp32."""
MULTIPLIED = 63
"""Largest weight of a product of integers: 255 * (63 + 63) = 32,130 fits into 16 bits with a sign.

x86 processors without VNNI add two products of an unsigned activation and a signed weight in 16 bits (``VPMADDUBSW``)
and cut off what is larger; with weights of 8 bits that can be 255 * (127 + 127) = 64,770."""
SHARES = np.linspace(1, 0.6, 21)
"""Parts of a channel's largest weight that are tried as the value of the largest integer."""
DAMPING = 0.01
"""Share of the mean variance that is added to every input's, so that few examples suffice."""
BLOCK = 128
"""Inputs of a large matrix that are rounded before the weights behind them are moved."""


def quantise(
    values: NDArray[Any], axis: int, largest: int = STORED
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers with one scale for each index of ``axis``, chosen for the least squared error.

    Args:
        values: the weights.
        axis: that of the output channels.
        largest: the integers lie between ``-largest`` and ``largest``.

    Returns:
        The integers, and the scales with the same number of axes: ``values ~ integers * scales``.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    top = np.abs(values).max(axis=others, keepdims=True).astype(np.float32)
    best_error = np.full(top.shape, np.inf, dtype=np.float32)
    best_scale = np.ones_like(top)
    for share in SHARES:
        scale = np.where(top > 0, top * share / largest, 1).astype(np.float32)
        back = np.clip(np.rint(values / scale), -largest, largest) * scale
        error = ((back - values) ** 2).sum(axis=others, keepdims=True)
        best_scale = np.where(error < best_error, scale, best_scale)
        best_error = np.minimum(error, best_error)
    integers = np.clip(np.rint(values / best_scale), -largest, largest).astype(np.int8)
    return integers, best_scale.astype(np.float32)


def round_together(
    weights: NDArray[Any], scales: NDArray[Any], products: NDArray[Any], largest: int = MULTIPLIED
) -> NDArray[np.int8]:
    """Round weights one input after the other, each time moving the weights still to come against the error made.

    This is GPTQ (Frantar et al., 2023, arXiv:2210.17323), on several groups at once. The result's error on the inputs
    is less than that of the nearest integers, which have the least error of the weights alone.

    Args:
        weights: ``[groups, outputs, inputs]``.
        scales: of one step, ``[groups, outputs]``.
        products: mean products of any two inputs, ``[groups, inputs, inputs]``.
        largest: the integers lie between ``-largest`` and ``largest``.

    Returns:
        The integers, ``[groups, outputs, inputs]``.
    """
    count = weights.shape[2]
    size = np.einsum("gii->gi", products).astype(np.float64)  # [g, i]
    damping = DAMPING * size.mean(axis=1) + 1e-9
    order = np.argsort(-size, axis=1, kind="stable")  # what weighs most is rounded first
    groups = np.arange(len(weights))[:, None, None]
    moments = products[groups, order[:, :, None], order[:, None, :]].astype(np.float64)
    moments += damping[:, None, None] * np.eye(count)
    factor = np.linalg.cholesky(np.linalg.inv(moments)).transpose(0, 2, 1)  # upper triangles
    left = np.take_along_axis(weights.astype(np.float64), order[:, None, :], axis=2)
    rounded = np.zeros_like(left)
    for i in range(count):
        rounded[:, :, i] = np.clip(np.rint(left[:, :, i] / scales), -largest, largest)
        error = (left[:, :, i] - rounded[:, :, i] * scales) / factor[:, None, i, i]
        left[:, :, i + 1 :] -= error[:, :, None] * factor[:, None, i, i + 1 :]
    integers = np.empty(weights.shape, dtype=np.int8)
    np.put_along_axis(integers, np.broadcast_to(order[:, None, :], weights.shape), rounded.astype(np.int8), 2)
    return integers


def round_matrix(
    weights: NDArray[Any], scales: NDArray[Any], products: NDArray[Any], largest: int = MULTIPLIED
) -> NDArray[np.int8]:
    """:func:`round_together` of one large matrix, in blocks of inputs: most of the work is then products of matrices.

    Args:
        weights: ``[inputs, outputs]``.
        scales: of one step, ``[outputs]``.
        products: mean products of any two inputs, ``[inputs, inputs]``.
        largest: the integers lie between ``-largest`` and ``largest``.

    Returns:
        The integers, ``[inputs, outputs]``.
    """
    count = len(weights)
    order = np.argsort(-np.diagonal(products), kind="stable")
    moments = products[np.ix_(order, order)].astype(np.float64)
    moments[np.diag_indices(count)] += DAMPING * float(np.mean(np.diagonal(products))) + 1e-9
    factor = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)  # an upper triangle
    left = weights[order].astype(np.float32)
    rounded = np.zeros(weights.shape, dtype=np.int8)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.zeros((end - start, left.shape[1]), dtype=np.float32)
        for i in range(start, end):
            rounded[i] = np.clip(np.rint(left[i] / scales), -largest, largest)
            errors[i - start] = (left[i] - rounded[i] * scales) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - start]
        left[end:] -= factor[start:end, end:].T @ errors
    integers = np.empty_like(rounded)
    integers[order] = rounded
    return integers


def round_in_parts(weights: NDArray[Any]) -> list[tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """A matrix as the sum of two of 7-bit integers, of which the second holds what the first leaves.

    Args:
        weights: ``[inputs, outputs]``.

    Returns:
        Integers from ``-MULTIPLIED`` to ``MULTIPLIED`` and their steps ``[outputs]``, twice. The sum is off by at most
        1/15,876 of a column's largest weight.
    """
    top = np.abs(weights).max(axis=0)
    steps = np.where(top > 0, top / MULTIPLIED, 1).astype(np.float32)
    found = []
    left = weights
    for _ in range(2):
        integers = np.clip(np.rint(left / steps), -MULTIPLIED, MULTIPLIED).astype(np.int8)
        found.append((integers, steps))
        left = left - integers * steps
        steps = steps / np.float32(2 * MULTIPLIED)
    return found
