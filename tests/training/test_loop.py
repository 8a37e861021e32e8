"""Schedules, optimiser, moving average, checkpoints."""

import dataclasses

import pytest
import torch
from torch import nn

from cliplet.models.dual import DualModel
from cliplet.training.checkpoint import load_checkpoint, read_progress, save_checkpoint
from cliplet.training.config import LossWeights, StageConfig
from cliplet.training.loop import lr_share, make_optimizer
from cliplet.training.student import MovingAverage, Student
from tests.training import make


def test_learning_rate_rises_and_falls():
    shares = [lr_share(i, 100, 0.1, "cosine") for i in range(100)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert shares[99] < 0.01
    assert lr_share(55, 100, 0.1, "linear") == pytest.approx(0.5)
    assert lr_share(99, 100, 0.1, "constant") == 1
    assert lr_share(0, 100, 0.0, "cosine") == 1


def test_vectors_do_not_decay():
    student = Student(DualModel(make.CONFIG), 16)
    student.begin(StageConfig(towers=("text",), losses=LossWeights(cosine=1.0)))
    decays, stays = make_optimizer(student, StageConfig(weight_decay=0.3)).param_groups
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.3, 0)
    assert all(p.ndim >= 2 for p in decays["params"])
    assert all(p.ndim < 2 for p in stays["params"])
    learning = {id(p) for g in (decays, stays) for p in g["params"]}
    assert learning == {id(p) for p in student.model.text.parameters()}


def test_moving_average():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, 0.5)
    nn.init.ones_(model.weight)
    average.update(model)  # the first decay is 2/11
    assert average.state["weight"][0, 0].item() == pytest.approx(9 / 11)
    for _ in range(20):
        average.update(model)
    assert average.state["weight"][0, 0].item() == pytest.approx(1, abs=1e-4)


def steps(student: Student, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        batch = {
            "pixels": torch.randn(4, 3, 32, 32, generator=generator),
            "input_ids": torch.randint(0, 10, (4, 6), generator=generator),
            "attention_mask": torch.ones(4, 6, dtype=torch.long),
            "teacher_image": torch.randn(4, 24, generator=generator),
            "teacher_text": torch.randn(4, 24, generator=generator),
        }
        loss = student(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def new() -> tuple[Student, torch.optim.Optimizer]:
    torch.manual_seed(0)
    student = Student(DualModel(make.CONFIG), 24)
    stage = StageConfig(
        losses=LossWeights(
            l1=1.0, cosine=1.0, feature_mse=1.0, sr=1.0, contrastive=1.0, affinity=1.0, interactive=1.0
        )
    )
    student.begin(stage)
    return student, make_optimizer(student, stage)


def test_a_checkpoint_brings_everything_back(tmp_path):
    student, optimizer = new()
    steps(student, optimizer, 3)
    save_checkpoint(tmp_path, student, optimizer, None, {"step": 3})
    expected = steps(student, optimizer, 3)
    other, other_optimizer = new()
    assert load_checkpoint(tmp_path, other, other_optimizer, None)["step"] == 3
    assert steps(other, other_optimizer, 3) == expected


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    student, optimizer = new()
    steps(student, optimizer, 1)
    save_checkpoint(tmp_path, student, optimizer, None, {"step": 1})
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert read_progress(tmp_path)["step"] == 1
    save_checkpoint(tmp_path, student, optimizer, None, {"step": 2})
    assert read_progress(tmp_path)["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]


def test_the_teacher_stands_in_for_a_tower_that_does_not_learn():
    torch.manual_seed(0)
    student = Student(DualModel(make.CONFIG), 16)
    stage = StageConfig(towers=("text",), losses=LossWeights(contrastive=1.0))
    student.begin(stage)
    batch = {
        "input_ids": torch.randint(0, 10, (4, 6)), "attention_mask": torch.ones(4, 6, dtype=torch.long),
        "teacher_image": torch.randn(4, 16), "teacher_text": torch.randn(4, 16),
    }  # fmt: skip
    student(batch)["loss"].backward()
    assert student.model.text.head.weight.grad.abs().max() > 0
    assert student.logit_scale.grad is not None
    assert all(p.grad is None for p in student.model.image.parameters())


def test_frozen_parameters_stay():
    student = Student(DualModel(make.CONFIG), 16)
    student.begin(StageConfig(losses=LossWeights(cosine=1.0)), frozenset({"image.patch.weight"}))
    names = {n for n, p in student.model.named_parameters() if not p.requires_grad}
    assert names == {"image.patch.weight"}
    student.begin(dataclasses.replace(student.stage, towers=("image",)))
    assert all(not p.requires_grad for p in student.model.text.parameters())
