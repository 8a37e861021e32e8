"""Without PyTorch the commands say which extra they need."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["torch"] = None  # as if it were not installed
sys.argv = ["cliplet", *sys.argv[1:]]
from cliplet.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ["distill", "r.toml"],
        ["distill", "--settings"],
        ["export", "open_clip:ViT-B-32/openai", "out"],
    ],
)
def test_the_extra_is_named(tmp_path, command):
    (tmp_path / "r.toml").write_text("[[stages]]\nlosses = { l1 = 1.0 }\n")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 2
    assert "pip install 'cliplet[train]'" in result.stderr
    assert "Traceback" not in result.stderr
