"""Schedules, optimiser, moving average, checkpoints."""

import dataclasses
import resource
import signal

import pytest
import torch
from torch import nn

from cliplet.errors import InputError, ModelError
from cliplet.models.dual import DualModel
from cliplet.training.checkpoint import load_checkpoint, read_progress, save_checkpoint
from cliplet.training.config import DistillStage, Schedule
from cliplet.training.distill.student import Student
from cliplet.training.loop import lr_share, make_optimizer
from cliplet.training.losses import LOSSES
from cliplet.training.task import MovingAverage, Task
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
    student.begin(DistillStage(towers=("text",), losses={"cosine": 1.0}))
    decays, stays = make_optimizer(student, DistillStage(weight_decay=0.3)).param_groups
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.3, 0)
    assert all(p.ndim >= 2 for p in decays["params"])
    assert all(p.ndim < 2 for p in stays["params"])
    learning = {id(p) for g in (decays, stays) for p in g["params"]}
    assert learning == {id(p) for p in student.model.text.parameters()}


class Line(Task):
    """One number times another."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, value)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Squared difference."""
        return {"loss": (self.model(batch["x"]) - batch["y"]).square().mean()}


def test_moving_average():
    task = Line()
    average = MovingAverage(task, 0.5)
    nn.init.ones_(task.model.weight)
    average.update()  # the first decay is 2/11
    assert average.state["weight"].item() == pytest.approx(9 / 11)
    with average.in_place():
        assert task.model.weight.item() == pytest.approx(9 / 11)
    assert task.model.weight.item() == 1
    for _ in range(20):
        average.update()
    assert average.state["weight"].item() == pytest.approx(1, abs=1e-4)


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
    stage = DistillStage(losses=dict.fromkeys(LOSSES, 1.0))
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


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    student, optimizer = new()
    steps(student, optimizer, 1)
    save_checkpoint(tmp_path, student, optimizer, None, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(InputError, match=r"state\.safetensors cannot be written \(.*goes on") as caught:
            save_checkpoint(tmp_path, student, optimizer, None, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path, student, optimizer, None)["step"] == 1


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not what it was", b"[1]", b'{"step": "3"}', b"[" * 100_000]
)
def test_a_damaged_checkpoint_is_said_in_one_line(tmp_path, name, content):
    student, optimizer = new()
    steps(student, optimizer, 1)
    save_checkpoint(tmp_path, student, optimizer, None, {"step": 1})
    (tmp_path / "checkpoint" / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint.* is damaged.*--restart") as caught:
        load_checkpoint(tmp_path, student, optimizer, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 of stage text must be at least 1"),
        ({"epochs": -1}, "epochs=-1 of stage text must be at least 0"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"lr": 0.0}, "lr=0.0 of stage text must be above 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"ema": 1.0}, "ema=1.0"),
    ],
)
def test_impossible_schedules_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Schedule("text", **change)


def test_a_stage_of_distillation_has_an_epoch():
    with pytest.raises(InputError, match="epochs=0 of stage both must be at least 1"):
        DistillStage(epochs=0)


def test_the_teacher_stands_in_for_a_tower_that_does_not_learn():
    torch.manual_seed(0)
    student = Student(DualModel(make.CONFIG), 16)
    stage = DistillStage(towers=("text",), losses={"contrastive": 1.0})
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
    student.frozen = frozenset({"image.patch.weight"})
    student.begin(DistillStage(losses={"cosine": 1.0}))
    names = {n for n, p in student.model.named_parameters() if not p.requires_grad}
    assert names == {"image.patch.weight"}
    student.begin(dataclasses.replace(student.stage, towers=("image",)))
    assert all(not p.requires_grad for p in student.model.text.parameters())
