"""The packaged model's recipe from nothing to its folder on drawings, whole and killed twice."""

import inspect
import itertools
import json
from pathlib import Path

import pytest

import cliplet.export
from cliplet.encoders.torch import TorchEncoder
from cliplet.models.config import from_dict
from cliplet.training import loop
from lclip_flickr8k.recipe import Settings
from lclip_flickr8k.run import Run
from tests.training import make
from tests.training.parts import use_stand_ins


class Killed(Exception):
    pass


def recipe(folder: Path, out: str) -> Settings:
    pairs, dev = (
        {"captions": [f"{folder / name}/captions.jsonl"], "photos": [f"{folder / name}/photos"]}
        for name in ("train", "dev")
    )
    stage = {"epochs": 2, "lr": 1e-3}
    return from_dict(
        Settings,
        {
            "out": str(folder / out), "train": pairs, "dev": dev, "sentence_models": ["minilm-l3"], "ensemble": [0],
            "space": 24, "dim": 12, "layers": [0], "vocabulary": 200, "rank": 8, "augment": {"views": 2},
            "first_stage": 6,
            "text_stage": {**stage, "batch_size": 16, "ema": 0.9}, "image_stage": {**stage, "batch_size": 16},
            "relu_stage": {**stage, "batch_size": 16},
        },
    )  # fmt: skip


def logged(folder: Path) -> list[dict]:
    """Every line of the stages' logs, without the times."""
    texts = [(folder / name / "log.jsonl").read_text() for name in ("text", "image0", "image1", "relu")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_killed_run_goes_on_exactly(tmp_path, monkeypatch, torchvision):
    use_stand_ins(monkeypatch, tmp_path / "parts")
    make.dataset(tmp_path / "train", 16)
    make.dataset(tmp_path / "dev", 8, seed=1)
    export = inspect.signature(cliplet.export.export)
    monkeypatch.setattr("cliplet.export.export", lambda *a, **k: export.bind(*a, **k))  # tested elsewhere
    Run(recipe(tmp_path, "whole")).run()
    assert TorchEncoder.from_folder(tmp_path / "whole" / "model").encode_texts(["a red bar"]).shape == (1, 24)
    done, real = itertools.count(), loop.train_step

    def until_killed(*arguments):
        if next(done) in (3, 9):  # in the text stage, in the second image stage
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", until_killed)
    for _ in range(2):
        with pytest.raises(Killed):
            Run(recipe(tmp_path, "cut")).run()
    Run(recipe(tmp_path, "cut")).run()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert logged(cut) == logged(whole)
    for file in ("model.safetensors", "tokenizer.json"):
        assert (cut / "model" / file).read_bytes() == (whole / "model" / file).read_bytes(), file
