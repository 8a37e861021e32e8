"""Rows of which items have different numbers: padded, and kept in blocks that a killed computation goes on from."""

import numpy as np
import pytest

from cliplet.data.ragged import Ragged, kept_blocks
from cliplet.errors import InputError


def test_padding_by_hand():
    rows = np.arange(8, dtype=np.float16).reshape(4, 2)
    ragged = Ragged.of(rows, np.array([1, 0, 3]))
    assert ragged.starts.tolist() == [0, 1, 1, 4]
    padded, counts = ragged.padded(np.array([2, 0, 1]))
    assert padded.shape == (3, 3, 2)
    assert padded[0].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert padded[1].tolist() == [[0, 1], [0, 0], [0, 0]]
    assert counts.tolist() == [
        [True] * 3,
        [True, False, False],
        [True, False, False],
    ]  # none: one zero vector
    assert ragged.padded(np.array([0, 1]))[0].shape == (2, 1, 2)


def test_a_killed_computation_goes_on(tmp_path):
    calls, shown = [], []

    def compute(start, stop):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append((start, stop))
        return {"rows": np.arange(start, stop)}

    with pytest.raises(KeyboardInterrupt):
        list(kept_blocks(tmp_path / "x", 7, 3, compute))
    assert len(list((tmp_path / "x").iterdir())) == 2  # whole files alone
    calls.clear()
    found = list(kept_blocks(tmp_path / "x", 7, 3, compute, lambda *done: shown.append(done)))
    assert calls == [(6, 7)]
    assert np.concatenate([b["rows"] for b in found]).tolist() == list(range(7))
    assert shown == [(3, 7), (6, 7), (7, 7)]
    (tmp_path / "x" / "00000003.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match="00000003.npz is damaged"):
        list(kept_blocks(tmp_path / "x", 7, 3, compute))
