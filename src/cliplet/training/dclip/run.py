"""DCLIP: tune a CLIP for retrieval with a cross-modal teacher that sees regions, and compare it with simpler ways.

``cliplet distill recipes/dclip_flickr8k.toml [key=value ...]`` goes through

1. data: training photos that are also in dev, tests or ``exclude`` are left out;
2. what is computed once: regions and their crops' embeddings, spans, views, the base model's embeddings;
3. the teacher, one a seed, and its embedding of every pair;
4. the student: ``dclip``, and each control;
5. measuring: retrieval on dev and tests, zero-shot accuracy, one table.

Everything is kept in the recipe's folder; an interrupted run goes on where it stopped.

Source: DCLIP (arXiv 2505.21549).
"""

import os
from pathlib import Path

from cliplet.training.dclip.config import DclipConfig, controlled
from cliplet.training.dclip.eval import SOUP, Columns, table_text
from cliplet.training.dclip.fit import Fitter
from cliplet.training.dclip.setup import claim, training_pairs
from cliplet.training.dclip.starts import open_start, start_name
from cliplet.training.dclip.tunable import Tunable
from cliplet.training.dclip.tuning import Tuning
from cliplet.training.pairs import read_pairs

TAUGHT = "taught_text"
"""Row of the base model after ``text_teachers``, before anything else learns."""


def dclip(config: DclipConfig, base: Tunable | None = None, restart: bool = False) -> str:
    """Run a recipe to its end, from where it stopped if it was interrupted.

    Args:
        config: the recipe.
        base: tuned instead of loading ``config.base``.
        restart: remove an earlier run in ``config.out`` first.

    Returns:
        The table, also in ``table.md`` of the run's folder. The tuned models are in ``NAME-seedN/model``.

    Raises:
        InputError: data, a setting, or a folder with another run.
    """
    return DclipRun(config, base, restart).run()


class DclipRun:
    """A recipe under way; :func:`dclip` is its short form."""

    def __init__(self, config: DclipConfig, base: Tunable | None = None, restart: bool = False) -> None:
        from accelerate import Accelerator

        self.config, self.out = config, Path(config.out)
        claim(self.out, config, restart)
        self.fit = Fitter(config, Accelerator(cpu=config.cpu, mixed_precision=config.precision))
        self.sets = {"dev": read_pairs(config.dev)} if config.dev.captions else {}
        self.sets |= {t.name: read_pairs(t) for t in config.tests}
        self.train = training_pairs(config, list(self.sets.values()), self.out)
        self._tunings: dict[str, Tuning] = {}
        if base is not None:
            self._tunings[config.base] = Tuning(config, base, self.train, self.sets, self.fit)

    def tuning(self, config: DclipConfig) -> Tuning:
        """The students that start where this recipe, or a control of it, starts."""
        name = start_name(config)
        if name not in self._tunings:
            start = open_start(config, self.train, self.fit)
            self._tunings[name] = Tuning(config, start, self.train, self.sets, self.fit)
        return self._tunings[name]

    def run(self) -> str:
        """All controls and seeds; returns the table."""
        config = self.config
        plain = controlled(config, "infonce")  # no teacher of any kind: it starts from the base model
        base = self.tuning(plain).measured(self.out / "base-result", None)
        results: dict[str, list[Columns]] = {"base": [base]}
        for control in config.controls or (config.control,):
            one = controlled(config, control)
            tuning = self.tuning(one)
            if one.text_teachers and TAUGHT not in results:
                results[TAUGHT] = [tuning.measured(self.out / f"{TAUGHT}-result", None)]
            for seed in config.seeds:
                print(f"{control}, seed {seed}", flush=True)
                folder = tuning.student(one, seed)
                results.setdefault(control, []).append(tuning.measured(folder, one.student.average))
                tuning.write(folder, one, [seed])
            if config.soup and len(config.seeds) > 1:
                folder = tuning.soup(one)
                results[control + SOUP] = [tuning.measured(folder, one.student.average)]
                tuning.write(folder, one, config.seeds)
            tuning.reset()
        text = table_text(results, list(self.sets), config.draws, config.control)
        part = self.out / "table.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.out / "table.md")
        return text
