"""Diversity measures of a scored file."""

import json

import numpy as np
import pytest
from PIL import Image

from cliplet.scoring.diversity import caption_diversity
from cliplet.scoring.file import score_file
from cliplet.scoring.scorer import Scorer
from tests.tiny_model import build_tiny_model


def test_measures_of_a_small_file_by_hand(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((9, 9, 3), 40 + 90 * i, np.uint8)).save(tmp_path / f"{i}.png")
    captions = {
        "0.png": ["a dog runs", "a dog sits"],
        "1.png": "a man",
        "2.png": "red red red red",
        "9.png": "lost",
    }
    (tmp_path / "c.json").write_text(json.dumps(captions))
    (tmp_path / "t.json").write_text('{"x": "A man .", "y": "two cars"}')
    scorer = Scorer(build_tiny_model(tmp_path / "model"))
    table = score_file(tmp_path / "c.json", tmp_path, scorer)
    found = caption_diversity(table, scorer, tmp_path / "t.json")
    assert found["mean length"] == 3  # (3 + 3 + 2 + 4) / 4
    assert found["vocabulary"] == 6
    assert found["distinct-1"] == pytest.approx(6 / 12)
    assert found["repeated words"] == pytest.approx(0.75 / 4)
    assert found["novel captions"] == 0.75
    assert 0 < found["mutual BLEU-4"] < 1
    images = scorer.encoder.encode_images([tmp_path / f"{i}.png" for i in range(3)])
    texts = scorer.encoder.encode_texts(["a dog runs", "a dog sits", "a man", "red red red red"])
    best = (texts @ images.T).argmax(axis=1)
    assert found["self-retrieval R@1"] == pytest.approx(np.mean(best == [0, 0, 1, 2]))
