"""A whole distillation: teacher and image-caption pairs in, a small model folder out."""

import dataclasses
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.files import whole
from cliplet.models.config import TextConfig, to_dict
from cliplet.models.dual import WEIGHTS, DualModel, save_weights
from cliplet.training.checkpoint import read_weights
from cliplet.training.config import DataConfig, DistillConfig
from cliplet.training.distill.batches import StageBatches
from cliplet.training.distill.dev import DevSet
from cliplet.training.distill.student import Student
from cliplet.training.distill.targets import TargetFiles, Targets
from cliplet.training.distill.teacher import Teacher
from cliplet.training.distill.tokenizer import make_tokenizer
from cliplet.training.fit import fit, make_accelerator
from cliplet.training.loop import Intervals, Part
from cliplet.training.pairs import PairSet, expand_paths, read_pairs
from cliplet.training.run_folder import claim_folder, list_left_out
from cliplet.training.task import put_weights


def distill(config: DistillConfig, teacher: Teacher | None = None, restart: bool = False) -> Path:
    """Run a recipe to its end, from where it stopped if it was interrupted.

    Args:
        config: the recipe.
        teacher: used instead of loading ``config.teacher.names``.
        restart: remove an earlier run in ``config.out`` first.

    Returns:
        The model folder: ``model`` in the run's folder (ONNX), or ``best`` (PyTorch) with ``export = "none"``.

    Raises:
        InputError: data, a setting, or a folder with another run.
    """
    run = Run(config, teacher, restart)
    run.train()
    return run.finish()


class Run:
    """A distillation under way; :func:`distill` is its short form.

    In ``out``: ``recipe.json``, ``tokenizer.json``, ``log.jsonl``, ``skipped.txt``, ``checkpoint/``, for each stage
    ``N-NAME/best`` and ``N-NAME/last`` (model folders of PyTorch weights), ``best`` and ``last`` of the final stage,
    and ``model``, the exported folder.
    """

    def __init__(self, config: DistillConfig, teacher: Teacher | None = None, restart: bool = False) -> None:
        if not config.stages:
            raise InputError("the recipe has no [[stages]]")
        self.accelerator = make_accelerator(config.cpu, config.precision)
        self.main = self.accelerator.is_main_process
        self.out = Path(config.out)
        if self.main:
            _claim(self.out, config, restart)
        self.accelerator.wait_for_everyone()
        torch.manual_seed(config.seed)
        self.pairs = {i: read_pairs(s.data or config.train) for i, s in enumerate(config.stages)}
        self.dev = read_pairs(config.dev) if config.dev.captions or config.dev.photos else None
        self.tokenizer = self._tokenizer(config)
        self.config = _with_vocabulary(config, self.tokenizer.get_vocab_size())
        self.teacher = teacher or Teacher.from_config(config.teacher)
        self.student = Student(DualModel(self.config.model), self.teacher.dim)
        self.student.frozen = self._inherit()
        self.encoder = TorchEncoder(self.student.model, self.tokenizer, self.card({}))
        folder = Path(config.teacher.cache or self.out / "teacher")
        self._target_files = TargetFiles(folder, self.teacher, config.augment, config.seed, not self.main)
        self._targets: dict[tuple[str, int, bool], Targets] = {}
        self._check_stages()

    def _check_stages(self) -> None:
        """Find out now what would stop a later stage."""
        if self.main and self.teacher.unit_only and any("l1" in stage.losses for stage in self.config.stages):
            print(f"{self.teacher.name} gives embeddings of length 1 alone: l1 learns those", file=sys.stderr)
        for index, stage in enumerate(self.config.stages):
            self.student.begin(stage)
            pairs = self.pairs[index]
            items = len(pairs.photos if "image" in stage.towers else pairs.captions)
            needed = stage.batch_size * self.accelerator.num_processes
            if items < needed:
                raise InputError(
                    f"stage {stage.name} has {items} items, less than one batch of {needed}; lower batch_size"
                )
            if stage.pairs and not (pairs.photos and pairs.captions):
                raise InputError(
                    f"stage {stage.name} compares photos with captions, but its data has not both"
                )

    def _tokenizer(self, config: DistillConfig) -> Any:
        """The run's tokeniser: made once, then read from the run's folder."""
        path = self.out / "tokenizer.json"
        if self.main and not path.exists():
            captions = [c for pairs in self.pairs.values() for c in pairs.captions]
            with whole(path) as part:
                make_tokenizer(config.tokenizer, captions, config.tokenizer_size).save(str(part))
        self.accelerator.wait_for_everyone()
        return make_tokenizer(str(path), (), 0)

    def _inherit(self) -> frozenset[str]:
        """Copy what the recipe says from the first teacher; returns the parameters to freeze."""
        what = self.config.inherit
        if not any((what.image_parts, what.image_layers, what.text_parts, what.text_layers)):
            return frozenset()
        from cliplet.models.inherit import inherit, read_open_clip, read_transformers_clip

        teacher = self.teacher.encoders[0]
        readers = {"open_clip": read_open_clip, "transformers": read_transformers_clip}
        if teacher.library not in readers:
            raise InputError(
                f"{teacher.card.name} is no model of open_clip or Transformers to inherit weights from"
            )
        image, text = readers[teacher.library](teacher.model)
        model: Any = self.student.model
        copied: list[str] = []
        if what.image_parts or what.image_layers:
            names = inherit(model.image, image, what.image_parts, what.image_layers)
            copied += [f"image.{n}" for n in names]
        if what.text_parts or what.text_layers:
            names = inherit(model.text, text, what.text_parts, what.text_layers)
            copied += [f"text.{n}" for n in names]
        return frozenset(copied) if what.freeze else frozenset()

    def card(self, results: dict[str, Any]) -> ModelCard:
        """The student's card."""
        c = self.config
        return ModelCard(
            name=c.name,
            embedding_dim=c.model.image.embedding_dim,
            image=ImageSpec(c.model.image.image_size, c.resize, "bicubic"),
            text=TextSpec(c.model.text.context_length, c.prompt_prefix),
            score=ScoreSpec(),
            description=c.description or f"Distilled from {self.teacher.name}.",
            license=c.license,
            training={
                "teacher": self.teacher.name,
                "teacher_embeddings": "of any length" if self.teacher.raw else "of length 1",
                "photos": max(len(p.photos) for p in self.pairs.values()),
                "captions": max(len(p.captions) for p in self.pairs.values()),
                "stages": [to_dict(s) for s in c.stages],
                "seed": c.seed,
                **self._attention(),
            },
            results=results,
        )

    def _attention(self) -> dict[str, Any]:
        """For the card: which towers have an attention of another kind, and which."""
        towers = {"image": self.config.model.image, "text": self.config.model.text}
        words = {name: getattr(tower, "attention_in_words", "") for name, tower in towers.items()}
        return {"attention": {k: v for k, v in words.items() if v}} if any(words.values()) else {}

    def targets(self, data: DataConfig, pairs: PairSet, views: int, texts: bool) -> Targets:
        """The teacher's embeddings of a set: computed by the first process, then memory-mapped by all."""
        key = (repr(data), views, texts)
        if key not in self._targets:
            with self.accelerator.main_process_first():
                found = self._target_files.of(pairs, views, texts)
            self._targets[key] = found
            if self.main:
                unread = [f"{pairs.names[i]}: {found.bad[i]}" for i in sorted(found.bad)]
                list_left_out(self.out, [*pairs.skipped, *unread])
        return self._targets[key]

    def stage_batches(self, index: int) -> StageBatches:
        """The batches of a stage."""
        c, stage, pairs = self.config, self.config.stages[index], self.pairs[index]
        views = c.augment.views if "image" in stage.towers or stage.pairs else 0
        texts = "text" in stage.towers or stage.pairs
        targets = self.targets(stage.data or c.train, pairs, views, texts)
        a = self.accelerator
        return StageBatches(
            stage,
            pairs,
            targets,
            self.encoder,
            c.augment,
            c.seed,
            a.process_index,
            a.num_processes,
            c.workers,
        )

    def train(self) -> None:
        """All stages, from where the run stands."""
        c, dev = self.config, None
        if self.dev is not None:
            targets = self.targets(c.dev, self.dev, 1, True)
            dev = DevSet(self.dev, targets, self.encoder, self.student)
        parts = [partial(self._part, index, dev) for index in range(len(c.stages))]
        every = Intervals(c.evaluate_every, c.save_every, c.log_every)
        fit(self.accelerator, self.out, parts, every, c.tensorboard)

    def _part(self, index: int, dev: DevSet | None) -> Part:
        """A stage, which starts from the best weights of the one before."""
        if index:
            put_weights(self.student, read_weights(self.stage_folder(index - 1) / "best" / WEIGHTS))
        stages = self.config.stages
        towers = frozenset(t for s in stages[: index + 1] for t in s.towers)
        evaluate = None if dev is None else partial(dev.measure, towers)
        data = self.stage_batches(index)
        return Part(self.student, stages[index], data, partial(self._save, index), evaluate)

    def stage_folder(self, index: int) -> Path:
        """Where a stage keeps its best and its last weights."""
        return self.out / f"{index + 1}-{self.config.stages[index].name}"

    def _save(self, index: int, best: bool, values: dict[str, float]) -> None:
        """Write the student's current weights as the stage's last, and perhaps its best."""
        folder = self.stage_folder(index)
        self.write_folder(folder / "last", {"dev": values} if values else {})
        if best:
            _link_tree(folder / "last", folder / "best")

    def write_folder(self, folder: Path, results: dict[str, Any]) -> None:
        """A model folder of PyTorch weights; it appears whole or not at all."""
        with whole(folder) as part:
            save_weights(self.student.model, part)
            self.tokenizer.save(str(part / "tokenizer.json"))
            self.card(results).save(part)

    def finish(self) -> Path:
        """Copy the final stage's folders and export the best one."""
        last_stage = self.stage_folder(len(self.config.stages) - 1)
        result = self.out / ("best" if self.config.export == "none" else "model")
        if self.main:
            for kind in ("best", "last"):
                _link_tree(last_stage / kind, self.out / kind)
            if self.config.export != "none":
                self._export(self.out / "best", result)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return result

    def _export(self, source: Path, result: Path) -> None:
        from cliplet.export import export

        pairs = self.dev or self.pairs[len(self.config.stages) - 1]
        unread = self.teacher.images(pairs.photos[:128])[1]
        photos = [p for i, p in enumerate(pairs.photos[:128]) if i not in unread]
        export(
            TorchEncoder.from_folder(source), result, self.config.export,  # type: ignore[arg-type]
            photos=photos or None, captions=pairs.captions[:256] or None,
        )  # fmt: skip


def _claim(out: Path, config: DistillConfig, restart: bool) -> None:
    """Take the run's folder, or say that it holds another run or is an input."""
    for name in [*config.teacher.names, *map(str, expand_paths(config.train.captions))]:
        if Path(name).resolve() == out.resolve():
            raise InputError(f"out = {out} is one of the inputs")
    claim_folder(out, config, ("out", "workers", "cpu"), restart)


def _with_vocabulary(config: DistillConfig, size: int) -> DistillConfig:
    """The recipe with the text tower's vocabulary set to, or checked against, the tokeniser's."""
    text = config.model.text
    if not isinstance(text, TextConfig):
        return config
    if config.tokenizer == "train" or text.vocab_size == 0:
        text = dataclasses.replace(text, vocab_size=size)
    elif text.vocab_size < size:
        raise InputError(
            f"the tokeniser has {size} tokens, model.text.vocab_size is {text.vocab_size}; set it to 0 or to {size}"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def _link_tree(source: Path, target: Path) -> None:
    """A second name for a folder's files (a copy where links are not possible), in place of an older folder."""
    with whole(target) as part:
        try:
            shutil.copytree(source, part, copy_function=os.link)
        except (OSError, shutil.Error):
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
