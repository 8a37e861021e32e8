"""The Python examples of the metric pages run."""

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs" / "metrics"


@pytest.mark.parametrize("page", ["tokenizer", "bleu", "rouge", "cider", "diversity"])
def test_examples_run(page: str) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (PAGES / f"{page}.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # the blocks of a page build on each other
