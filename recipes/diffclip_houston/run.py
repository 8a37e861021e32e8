"""The grid: every arm, number of shots and draw, one line each in ``results.jsonl``; a run goes on where it stopped."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.multimodal import agreement
from cliplet.files import write_atomically
from cliplet.models.multimodal import MultimodalClassifier
from cliplet.training.diffclip.folder import FewShotMultimodal
from cliplet.training.diffclip.tune import probabilities
from cliplet.training.logs import Progress
from cliplet.training.run_folder import claim_folder

from .arms import ARMS
from .baselines import choose, predict
from .data import prepare, read_samples
from .network import Networks
from .recipe import Settings
from .table import tables

RESULTS, CHOSEN = "results.jsonl", "chosen.json"
Job = tuple[int, str, int]
"""Shots, arm, draw."""
FREE = ("out", "shots", "draws", "arms")
"""Settings that may change when a run goes on: what is done stays."""


def jobs(settings: Settings) -> list[Job]:
    """Everything that a run measures, in the order of work."""
    return [(k, arm, draw) for k in settings.shots for arm in settings.arms for draw in range(settings.draws)]


def read_results(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of results; a line that was cut off when a run was killed is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class Grid:
    """A run of the grid in its folder."""

    def __init__(self, settings: Settings, restart: bool = False) -> None:
        self.settings, self.out = settings, Path(settings.out)
        self.pixels = prepare(settings, read_samples(settings))
        self.pixels.shots(settings, max(settings.shots), 0)  # raises where a class has too few
        claim_folder(self.out, settings, FREE, restart)
        self.networks = Networks(settings, self.pixels, self.out)
        parts = self.pixels.parts
        self.rows = parts.test if settings.report_on == "test" else parts.dev
        self.path = self.out / RESULTS
        found = read_results(self.path)
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in found))
        self.done: set[Job] = {(row["shots"], row["arm"], row["draw"]) for row in found}

    def run(self) -> list[dict[str, Any]]:
        """Measure what is missing; returns all results that the settings ask for."""
        wanted = jobs(self.settings)
        missing = [job for job in wanted if job not in self.done]
        bar = Progress("trainings", len(missing), not missing)
        with self.path.open("a", encoding="utf-8") as stream:
            for number, (shots, arm, draw) in enumerate(missing, 1):
                stream.write(json.dumps(self.measure(arm, shots, draw)) + "\n")
                stream.flush()
                bar.update(number, f", {arm}, {shots} shots")
        asked = set(wanted)
        return [r for r in read_results(self.path) if (r["shots"], r["arm"], r["draw"]) in asked]

    def measure(self, arm: str, shots: int, draw: int) -> dict[str, Any]:
        """One training and its figures."""
        began = time.perf_counter()
        labels = self.pixels.samples.labels[self.rows]
        given: dict[str, Any] = {}
        if ARMS[arm].family == "scikit-learn":
            given = self.chosen(arm, shots)
            found = predict(self.pixels, arm, given, self.pixels.shots(self.settings, shots, draw), self.rows)
        else:
            found = self._classes(self.networks.tuned(arm, shots, draw))
        figures = agreement(found, labels)
        return {
            "arm": arm, "shots": shots, "draw": draw, **vars(figures), "settings": given,
            "seconds": round(time.perf_counter() - began, 2),
        }  # fmt: skip

    def _classes(self, model: Any) -> NDArray[np.int64]:
        return probabilities(model, self.pixels.rows(self.rows)).argmax(dim=1).numpy()

    def chosen(self, arm: str, shots: int) -> dict[str, Any]:
        """An arm's settings for a number of shots, chosen on dev once and kept."""
        path, key = self.out / CHOSEN, f"{arm}-{shots}"
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if key not in kept:
            kept[key] = choose(self.settings, self.pixels, arm, shots)
            write_atomically(path, json.dumps(kept, indent=2) + "\n")
        return dict(kept[key])

    def save_model(self) -> Path | None:
        """Save the first DiffCLIP arm, tuned on the first draw of the first number of shots, as a folder."""
        arm = next((a for a in self.settings.arms if ARMS[a].family == "diffclip"), None)
        folder = self.out / "model"
        if arm is None or folder.exists():
            return folder if arm else None
        shots = self.settings.shots[0]
        model = self.networks.tuned(arm, shots, 0)
        assert isinstance(model, MultimodalClassifier)
        training = {"recipe": self.settings.name, "arm": arm, "shots": shots, "draw": 0}
        classes = self.pixels.samples.classes
        FewShotMultimodal(model, self.pixels.inputs, classes, training).save(folder)
        return folder


def run_grid(settings: Settings, restart: bool = False) -> str:
    """Run the grid to its end; returns its tables, which are ``table.md`` in its folder too."""
    grid = Grid(settings, restart)
    text = tables(settings, grid.run())
    write_atomically(grid.out / "table.md", text)
    folder = grid.save_model()
    if folder is not None:
        print(f"{folder}: the classifier tuned on the first draw", file=sys.stderr)
    return text


def unfinished(settings: Settings) -> Iterator[Job]:
    """What a run in the settings' folder would still measure."""
    done = {(r["shots"], r["arm"], r["draw"]) for r in read_results(Path(settings.out) / RESULTS)}
    return (job for job in jobs(settings) if job not in done)
