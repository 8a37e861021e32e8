"""The tokeniser against the Stanford jar that pycocoevalcap runs; the full comparison is a benchmark."""

import json
import shutil

import pytest

from cliplet.metrics.tokenizer.ptb import TOKENIZERS, tokenize_many
from tests.metrics.hard_captions import GENERATORS, random_captions
from tests.shared_data import shared_data

pytest.importorskip("pycocoevalcap")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokeniser needs Java")


def jar(captions: list[str]) -> list[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokens = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
    return [tokens[i][0] for i in range(len(captions))]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each tokeniser; with ptb-punctuation pycocoevalcap's list of what it drops is empty."""
    if request.param == "ptb-punctuation":
        monkeypatch.setattr("pycocoevalcap.tokenizer.ptbtokenizer.PUNCTUATIONS", [])
    return str(request.param)


def agreement(captions: list[str], tokenizer: str) -> float:
    ours = [" ".join(tokens) for tokens in tokenize_many(captions, tokenizer=tokenizer)]
    return sum(a == b for a, b in zip(ours, jar(captions), strict=True)) / len(captions)


def real_captions() -> list[str]:
    lines = shared_data("flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()
    rows = json.loads(shared_data("coco-captions-val2017/captions_val2017.json").read_text())["annotations"]
    return [line.partition("\t")[2] for line in lines[::7]] + [row["caption"] for row in rows[::5]]


def test_real_captions_agree(tokenizer: str) -> None:
    assert agreement(real_captions(), tokenizer) == 1


def test_random_captions_agree(tokenizer: str) -> None:
    real = ["A dog isn't running on the beach.", "Two men in T-shirts play soccer .", "A U.S. flag at 5 p.m."]
    captions = [caption for kind in GENERATORS for caption in random_captions(kind, 1500, real, seed=7)]
    assert agreement(captions, tokenizer) >= 0.999
