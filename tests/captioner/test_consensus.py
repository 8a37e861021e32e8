"""Weights of training captions by their agreement with the photo's other captions."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.metrics.cider import DocumentFrequencies, cider
from cliplet.training.captioner.consensus import LEAST, consensus_weights
from cliplet.training.captioner.data import stage_data
from cliplet.training.captioner.student import CaptionModel, CaptionStudent
from cliplet.training.captioner.train import CaptionRun
from tests.captioner import make

CAPTIONS = [
    ["a dog runs on the grass", "a brown dog runs on grass", "my favourite animal"],
    ["two men play football", "two men play football outside"],
    ["a cat sleeps"],
]


def test_weights_are_cider_against_the_others():
    words = [[caption.split() for caption in group] for group in CAPTIONS]
    frequencies = DocumentFrequencies.from_references(words)
    others = [[g[:i] + g[i + 1 :] for i in range(len(g))] for g in words[:2]]
    found = consensus_weights(CAPTIONS, 1.0)
    for group, rest, weights in zip(words, others, found, strict=False):
        expected = cider(group, rest, frequencies).per_caption + LEAST
        assert weights == pytest.approx(expected / expected.mean(), rel=1e-5)
    assert found[0].argmin() == 2
    assert found[2].tolist() == [1.0]


def test_power_sets_how_far_weights_spread():
    flat, soft, full = (consensus_weights(CAPTIONS, power) for power in (0.0, 0.5, 1.0))
    assert all((weights == 1).all() for weights in flat)
    assert soft[0].std() < full[0].std()
    assert all(weights.mean() == pytest.approx(1) for weights in soft + full)


@pytest.mark.usefixtures("torchvision")
def test_the_loss_is_the_weighted_mean_over_pieces(tmp_path):
    run = CaptionRun(make.recipe(tmp_path, (make.cross_entropy(consensus=1.0),)))
    stage = run.recipe.stages[0]
    student = CaptionStudent(CaptionModel(run.decoder), run.limits, run.train_split.names, run.say)
    student.begin(stage)
    student.eval()
    weights = [np.array([0.0, 2.0, 0.5][: len(group)], np.float32) for group in run.tokens]
    read = run._reader(run.train_split, False, True)
    batch = next(iter(stage_data(stage, run.tokens, read, run.limits, 0, weights).load(0, 0)))
    states = run.decoder.states(run.decoder.memory(batch["image"]), batch["tokens"], batch["caption"])
    each = F.cross_entropy(run.decoder.logits(states).transpose(1, 2), batch["targets"], reduction="none")
    total, mass = 0.0, 0.0
    for row, photo in enumerate(batch["photo"].tolist()):
        for number, weight in enumerate(weights[photo]):
            own = batch["caption"][row] == number
            total, mass = total + weight * each[row][own].sum().item(), mass + weight * int(own.sum())
    assert student(batch)["loss"].item() == pytest.approx(total / mass, rel=1e-4)


@pytest.mark.usefixtures("torchvision")
def test_a_stage_uses_the_weights(tmp_path):
    stage = make.cross_entropy(epochs=1, updates=1)
    losses = []
    for name, power in (("plain", 0.0), ("weighted", 1.0)):
        changed = dataclasses.replace(stage, consensus=power)
        CaptionRun(make.recipe(tmp_path, (changed,), out=str(tmp_path / name))).train()
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        losses.append(next(line["loss"] for line in lines if line["kind"] == "train"))
    assert losses[0] != losses[1]
    assert torch.isfinite(torch.tensor(losses)).all()
