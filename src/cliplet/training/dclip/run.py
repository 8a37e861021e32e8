"""DCLIP: tune a CLIP for retrieval with a cross-modal teacher that sees regions, and compare it with simpler ways.

``cliplet distill RECIPE [key=value ...]`` with a recipe of ``kind = "dclip"`` goes through

1. data: training photos that are also in dev, tests or ``exclude`` are left out;
2. what is computed once: regions and their crops' embeddings, spans, views, the base model's embeddings;
3. the teacher, one a seed, and its embedding of every pair;
4. the student, of each variant and seed;
5. measuring: retrieval on dev and tests, zero-shot accuracy, one table.

Everything is kept in the recipe's folder; an interrupted run goes on where it stopped.

Source: DCLIP (arXiv 2505.21549).
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.evaluation.comparison import SOUP, Columns, table_text
from cliplet.files import write_atomically
from cliplet.models.config import to_dict
from cliplet.training.dclip.base import base_maker, base_name, open_base
from cliplet.training.dclip.config import DclipConfig, dclip_config, variant_config
from cliplet.training.dclip.data import RunData
from cliplet.training.dclip.finetuning import FineTuning
from cliplet.training.dclip.trainable import TrainableClip
from cliplet.training.fit import fit_part, make_accelerator
from cliplet.training.loop import Intervals
from cliplet.training.pairs import fingerprint
from cliplet.training.processes import first_alone, rank
from cliplet.training.run_folder import claim_folder

BASES = "bases.json"
"""In the run's folder: the base model of each variant."""
FREE = (
    "variants", "only", "main", "baseline", "seeds", "soup", "tests", "zeroshot", "resamples", "cpu", "save_every",
    "out", "export", "name", "license",
)  # fmt: skip
"""Settings that may change between two calls with the same folder."""


def dclip(config: DclipConfig, base: TrainableClip | None = None, restart: bool = False) -> str:
    """Run a recipe to its end, from where it stopped if it was interrupted.

    Args:
        config: the recipe.
        base: tuned instead of loading ``config.base``.
        restart: remove an earlier run in ``config.out`` first.

    Returns:
        The table, also in ``table.md`` of the run's folder. The tuned models are in ``VARIANT-seedN/model``.

    Raises:
        InputError: data, a setting, or a folder with another run.
    """
    return DclipRun(config, base, restart).run()


class DclipRun:
    """A recipe under way; :func:`dclip` is its short form."""

    def __init__(self, config: DclipConfig, base: TrainableClip | None = None, restart: bool = False) -> None:
        self.config, self.out = config, Path(config.out)
        self.variants = [variant_config(config, v) for v in config.trained]
        base_maker(config)  # what is wrong with it is said before anything begins
        for one in self.variants:
            one.rewrites.check()
        # student.train may name what no loss of a variant uses
        accelerator = make_accelerator(config.cpu, config.precision, some_unused=True)
        self.device = accelerator.device
        with first_alone():
            claim(self.out, config, restart and not rank())
        every = Intervals(config.evaluate_every, config.save_every, log_every=10)
        self.fit = partial(fit_part, accelerator, every=every)
        names = {v.name: base_name(variant_config(config, v)) for v in config.variants}
        write_atomically(self.out / BASES, json.dumps(names, indent=2) + "\n")
        self.data = RunData(config)
        self._given = {base_name(config): base} if base is not None else {}
        self._tunings: dict[Any, FineTuning] = {}

    def fine_tuning(self, config: DclipConfig) -> FineTuning:
        """Where students of a variant begin; variants that begin alike share it."""
        name = base_name(config)
        student = config.student
        key = (name, student.train, student.context_length, bool(student.low_rank.rank))
        if key not in self._tunings:
            base = self._given.get(name) or open_base(config, self.data.train, self.fit)
            self._tunings[key] = FineTuning(config, base, self.data, self.fit, self.device)
        return self._tunings[key]

    def run(self) -> str:
        """All variants and seeds; returns the table."""
        config, start = self.config, base_name(self.config)
        base = self._measured(self.fine_tuning(config), self.out / "base-result", None)
        rows: dict[str, list[Columns]] = {"base": [base]}
        begun = {start}
        for one in self.variants:
            name, tuning, start = one.variants[0].name, self.fine_tuning(one), base_name(one)
            if start not in begun:
                begun.add(start)
                folder = self.out / f"base-result-{fingerprint([start])}"
                rows[f"{name}, before tuning"] = [self._measured(tuning, folder, None)]
            for seed in config.seeds:
                if not rank():
                    print(f"{name}, seed {seed}", flush=True)
                folder = tuning.student(one, seed)
                rows.setdefault(name, []).append(self._measured(tuning, folder, one.student.average))
                with first_alone():
                    tuning.write(folder, one, [seed])
            if config.soup and len(config.seeds) > 1:
                with first_alone():
                    folder = tuning.soup(one)
                rows[name + SOUP] = [self._measured(tuning, folder, one.student.average)]
                with first_alone():
                    tuning.write(folder, one, config.seeds)
            tuning.reset()
        main = config.main or config.variants[0].name
        text = table_text(rows, list(self.data.sets), main, config.baseline, config.resamples)
        if not rank():
            write_atomically(self.out / "table.md", text)
        return text

    def _measured(self, tuning: FineTuning, folder: Path, share: float | None) -> Columns:
        """:meth:`FineTuning.measured`, by the first process; the others read it."""
        with first_alone():
            return tuning.measured(folder, share)


def claim(out: Path, config: DclipConfig, restart: bool) -> None:
    """Take the run's folder, or say that it holds another run."""
    for what, path in (
        ("zeroshot.photos", config.zeroshot.photos),
        ("zeroshot.class_names", config.zeroshot.class_names),
    ):
        if path and not Path(path).exists():
            raise InputError(f"{what}: there is no {path}")
    wanted = to_dict(config)

    def averaged_alike(known: dict[str, Any]) -> dict[str, Any]:  # averaging comes after training
        known = to_dict(dclip_config(known))  # settings newer than the run have their defaults
        return {**known, "student": {**known["student"], "average": wanted["student"]["average"]}}

    claim_folder(out, wanted, FREE, restart, averaged_alike)
