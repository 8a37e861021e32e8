"""Stages and parts on one loop: where results go, what a second call does, how a run goes on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cliplet.errors import InputError, ModelError
from cliplet.training import loop
from cliplet.training.config import Schedule
from cliplet.training.fit import BEST, fit, fit_part, make_accelerator
from cliplet.training.loop import Intervals, Part, StageData
from cliplet.training.task import Task

pytest.importorskip("accelerate")


class Line(Task):
    """A number that learns another, with noise that depends on the state of the random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        self.begun: list[str] = []

    def begin(self, stage: Schedule) -> None:
        """Remember it."""
        self.begun.append(stage.name)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared difference."""
        noise = 0.1 * torch.randn_like(batch["x"])
        return {"loss": (self.model(batch["x"] + noise) - 2 * batch["x"]).square().mean()}


def load(epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
    for batch in range(first, 4):
        generator = torch.Generator().manual_seed(100 * epoch + batch)
        yield {"x": torch.randn(8, 1, generator=generator)}


DATA = StageData(4, load)
STAGE = Schedule("toy", epochs=3, batch_size=8, lr=0.05, ema=0.5)
EVERY = Intervals(save_every=1)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def interrupt(monkeypatch, *steps: int) -> None:
    """Training ends before these of its steps."""
    real, calls = loop.train_step, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) in steps:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", dies)


def test_a_part_ends_in_its_best_weights(tmp_path):
    scores = iter([0.1, 0.9, 0.5])
    seen: list[Tensor] = []

    def evaluate() -> dict[str, float]:
        seen.append(task.model.weight.detach().clone())
        return {"score": next(scores)}

    task = Line()
    fit_part(make_accelerator(cpu=True), tmp_path / "part", task, STAGE, DATA, evaluate)
    assert task.begun == ["toy"]
    assert sorted(f.name for f in (tmp_path / "part").iterdir()) == [BEST, "log.jsonl"]
    best = load_file(tmp_path / "part" / BEST)
    assert torch.equal(best["weight"], seen[1])  # what was evaluated: the moving average
    assert torch.equal(task.model.weight, best["weight"])
    assert [line["score"] for line in lines(tmp_path / "part") if line["kind"] == "dev"] == [0.1, 0.9, 0.5]
    again = Line()
    fit_part(make_accelerator(cpu=True), tmp_path / "part", again, STAGE, DATA, lambda: pytest.fail("again"))
    assert torch.equal(again.model.weight, best["weight"])
    (tmp_path / "part" / BEST).write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"best\.safetensors is damaged"):
        fit_part(make_accelerator(cpu=True), tmp_path / "part", again, STAGE, DATA)


def test_an_interrupted_part_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    for name in ("whole", "cut"):
        if name == "cut":
            interrupt(monkeypatch, 3, 8)
        for attempt in range(3):
            torch.manual_seed(attempt)  # what was drawn before a resume does not matter
            if attempt == 0:
                torch.manual_seed(7)
            try:
                place = tmp_path / name
                fit_part(make_accelerator(cpu=True), place, Line(), STAGE, DATA, None, EVERY, place / "x")
            except KeyboardInterrupt:
                continue
            break
    assert (tmp_path / "whole/x").read_bytes() == (tmp_path / "cut/x").read_bytes()
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_stages_start_from_what_the_one_before_has_saved(tmp_path, monkeypatch):
    kept: dict[int, Tensor] = {}
    started: list[float] = []

    def part(index: int) -> Part:
        task = Line()
        if index:
            with torch.no_grad():
                task.model.weight.copy_(kept[index - 1])
        started.append(task.model.weight.item())

        def save(best: bool, _: dict[str, float]) -> None:
            kept[index] = task.model.weight.detach().clone()

        torch.manual_seed(index)
        stage = Schedule(f"s{index}", epochs=2, lr=0.05)
        return Part(task, stage, DATA, save, lambda: {}, measure_start=True, watch=lambda line: ["odd"])

    parts = [lambda: part(0), lambda: part(1)]
    fit(make_accelerator(cpu=True), tmp_path / "whole", parts, EVERY)
    whole = kept[1].clone()
    assert started[1] != 0
    interrupt(monkeypatch, 6, 12)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(make_accelerator(cpu=True), tmp_path / "cut", parts, EVERY)
    fit(make_accelerator(cpu=True), tmp_path / "cut", parts, EVERY)
    assert torch.equal(kept[1], whole)
    found = [lines(tmp_path / name) for name in ("whole", "cut")]
    for log in found:
        for line in log:
            line.pop("seconds", None)
    assert found[0] == found[1]
    assert [line["epoch"] for line in found[0] if line["kind"] == "dev"] == [0, 1, 2, 0, 1, 2]
    assert sum(line["kind"] == "warning" for line in found[0]) == 16
    assert [line["step"] for line in found[0] if line["kind"] == "train"] == list(range(1, 17))


def test_nothing_to_train(tmp_path):
    fit_part(make_accelerator(cpu=True), tmp_path / "none", Line(), Schedule(epochs=0), DATA)
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="does not fill one batch of 8; lower toy_stage.batch_size"):
        fit_part(make_accelerator(cpu=True), tmp_path / "few", Line(), STAGE, StageData(0, load))
