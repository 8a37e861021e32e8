"""Where tests find the real photos, captions and judgements, which are not part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """The folder of test data: $CLIPLET_TEST_DATA, or ``../shared/data`` beside the checkout."""
    return Path(os.environ.get("CLIPLET_TEST_DATA") or ROOT.parent / "shared" / "data")


def shared_data(relative: str) -> Path:
    """A file of the test data; skips the calling test when it is not on this machine."""
    path = data_root() / relative
    if not path.exists():
        pytest.skip(f"test data {relative} is not here; set CLIPLET_TEST_DATA to the folder that holds it")
    return path
