"""Rows computed once: after a kill, by several processes at the same time, with damage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.training.computed import computed

PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from cliplet.training.computed import computed
folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def compute(start, stop):
    with (folder / "asked.txt").open("a") as stream:
        stream.write(f"{name} {start}\\n")
    time.sleep(seconds)
    return np.arange(start, stop, dtype=np.float32)[:, None].repeat(3, axis=1)
print(computed(folder / "rows.npy", 10, compute, 2).sum())
"""


def rows(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.float32)[:, None].repeat(3, axis=1)


def process(folder: Path, name: str, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(folder), name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def asked(folder: Path) -> list[str]:
    file = folder / "asked.txt"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupted_computation_goes_on_where_it_stopped(tmp_path):
    done: list[tuple[int, int]] = []

    def compute(start: int, stop: int, fail_at: int = 6) -> np.ndarray:
        if start >= fail_at:
            raise KeyboardInterrupt
        done.append((start, stop))
        return rows(start, stop)

    file = tmp_path / "deep" / "rows.npy"
    with pytest.raises(KeyboardInterrupt):
        computed(file, 10, compute, 3)
    assert not file.exists()
    found = computed(file, 10, lambda a, b: compute(a, b, 99), 3)
    assert done == [(0, 3), (3, 6), (6, 9), (9, 10)]
    np.testing.assert_array_equal(found, rows(0, 10))
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0
    again = computed(file, 10, lambda a, b: pytest.fail("asked again"), 3)
    np.testing.assert_array_equal(again, found)
    assert [f.name for f in file.parent.iterdir()] == ["rows.npy"]


def test_any_shape_and_type(tmp_path):
    found = computed(tmp_path / "a.npy", 5, lambda a, b: np.full((b - a, 2, 4), a, np.float64), 2, np.float16)
    assert (found.shape, found.dtype) == ((5, 2, 4), np.float16)
    assert found[:, 0, 0].tolist() == [0, 0, 2, 2, 4]


def test_two_processes_compute_every_row_once(tmp_path):
    first = process(tmp_path, "first", 0.3)
    wait_for(lambda: len(asked(tmp_path)) > 1)
    second = process(tmp_path, "second", 0.0)
    outputs = [p.communicate(timeout=60) for p in (first, second)]
    assert [out.strip() for out, _ in outputs] == ["135.0", "135.0"]
    assert asked(tmp_path) == [f"first {start}" for start in range(0, 10, 2)]
    assert "rows: another process computes this; waiting for it" in outputs[1][1]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["asked.txt", "rows.npy"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_a_waiting_process_takes_over_from_a_killed_one(tmp_path):
    first = process(tmp_path, "first", 0.5)
    wait_for(lambda: len(asked(tmp_path)) > 2)  # two blocks are done
    second = process(tmp_path, "second", 0.0)
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, errors = second.communicate(timeout=60)
    assert out.strip() == "135.0", errors
    taken = [line for line in asked(tmp_path) if line.startswith("second")]
    assert taken
    assert "second 0" not in taken  # what was done is not done again
    assert int(taken[0].split()[1]) + 2 * len(taken) == 10


def test_damage_and_emptiness_are_said(tmp_path):
    file = tmp_path / "rows.npy"
    computed(file, 10, rows, 3)
    with pytest.raises(InputError, match=r"rows\.npy has 10 rows instead of 9"):
        computed(file, 9, rows, 3)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"rows\.npy is damaged .*; remove it and run again"):
        computed(file, 10, rows, 3)
    with pytest.raises(InputError, match="photos: there is nothing to compute"):
        computed(file, 0, rows, 3, what="photos")
    (tmp_path / "part.json").write_text("{broken")
    (tmp_path / "part.part").write_bytes(b"")
    assert computed(tmp_path / "part.npy", 4, rows, 3).shape == (4, 3)
