"""DCLIP: tune a CLIP for retrieval with a cross-modal teacher that sees regions, and compare it with simpler ways.

``cliplet distill recipes/dclip_flickr8k.toml [key=value ...]`` goes through

1. data: training photos that are also in dev, tests or ``exclude`` are left out;
2. what is computed once: regions and their crops' embeddings, spans, views, the base model's embeddings;
3. the teacher, one a seed, and its embedding of every pair;
4. the student: ``dclip``, and each control, from the same base model;
5. measuring: retrieval on dev and tests, zero-shot accuracy, one table.

Everything is kept in the recipe's folder; an interrupted run goes on where it stopped.

Source: DCLIP (arXiv 2505.21549).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.models.config import to_dict
from cliplet.models.cross_modal import CrossModalTeacher
from cliplet.training.checkpoint import read_progress
from cliplet.training.config import StageConfig
from cliplet.training.data import photo_source, read_pairs
from cliplet.training.dclip.config import DclipConfig, controlled
from cliplet.training.dclip.eval import (
    ClassGallery,
    Columns,
    Gallery,
    load_columns,
    retrieval_columns,
    save_columns,
    table_text,
)
from cliplet.training.dclip.features import Features, fast_copy
from cliplet.training.dclip.inputs import StudentInputs
from cliplet.training.dclip.setup import claim, training_pairs
from cliplet.training.dclip.student import (
    DclipStudent,
    StudentBatches,
    StudentData,
    average_weights,
    text_mode,
)
from cliplet.training.dclip.teacher import (
    TeacherBatches,
    TeacherData,
    TeacherTrainee,
    make_teacher,
    teach,
    teacher_on_dev,
)
from cliplet.training.dclip.tunable import Tunable, open_tunable
from cliplet.training.logs import RunLog
from cliplet.training.loop import Hooks, RunState, StageData, run_stage
from cliplet.training.teacher_space import group_means


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
        self.accelerator = Accelerator(cpu=config.cpu, mixed_precision=config.precision)
        self.features = Path(config.features or self.out / "features")
        self.sets = {"dev": read_pairs(config.dev)} if config.dev.captions else {}
        self.sets |= {t.name: read_pairs(t) for t in config.tests}
        self.train = training_pairs(config, list(self.sets.values()), self.out)
        self.base = base or self._open_base()
        self.base.to(self.accelerator.device)
        self.start = {k: v.detach().clone() for k, v in self.base.model.state_dict().items()}
        self.learning = self.base.learning(config.student.train)
        self.mode = text_mode(self.base, self.learning)
        self.base_features = Features(self.base, self.train, self.features)
        self.inputs = StudentInputs(self.base, self.learning, self.base_features)
        self._galleries: dict[str, Any] = {}
        self._fast: Any = None
        self._taught: dict[tuple[str, str], TeacherData] = {}

    # ------------------------------------------------------------ data
    def _open_base(self) -> Tunable:
        name = self.config.base
        if name in ("lite0-minilm", "lite1-minilm", "lite2-minilm"):
            from cliplet.training.dclip.lite_base import build_lite_base

            name = str(build_lite_base(int(name[4]), self.train, self.features / name))
        return open_tunable(name)

    def gallery(self, name: str) -> Gallery:
        """Photos and captions of dev or a test set."""
        if name not in self._galleries:
            self._galleries[name] = Gallery(
                name, self.sets[name], self.base, self.features, self.learning, self.mode
            )
        return self._galleries[name]  # type: ignore[no-any-return]

    def classes(self) -> ClassGallery | None:
        """The zero-shot photos."""
        if not self.config.zeroshot.photos:
            return None
        if "classes" not in self._galleries:
            self._galleries["classes"] = ClassGallery(
                self.config.zeroshot, self.base, self.features, self.learning, self.mode
            )
        return self._galleries["classes"]  # type: ignore[no-any-return]

    # ------------------------------------------------------------ teacher
    def teacher_data(self, config: DclipConfig, features: Features) -> TeacherData:
        """Spans, regions and caption embeddings of a set; the model must have the base model's weights."""
        key = (features.photos_key, config.regions.proposer)
        if key not in self._taught:
            if self._fast is None:
                self._fast = fast_copy(self.base, self.features, self.train) or False
            self._taught[key] = TeacherData(
                features.pairs,
                features.spans(config.spans, padding=not config.teacher.mask),
                features.regions(config.regions, self._fast or None),
                features.texts(),
            )
        return self._taught[key]

    def teacher(self, config: DclipConfig, seed: int) -> tuple[CrossModalTeacher, Path]:
        """The trained teacher of a seed and its folder."""
        self.reset()
        folder = self.out / f"teacher-{'grid' if config.control == 'grid' else 'regions'}-seed{seed}"
        torch.manual_seed(seed)
        teacher = make_teacher(config.teacher, self.base.encoder.card.embedding_dim)
        trainee = TeacherTrainee(teacher, config.teacher.temperature)
        if not (folder / "best.safetensors").exists():
            data = self.teacher_data(config, self.base_features)
            dev = None
            if "dev" in self.sets:
                dev = self.teacher_data(config, Features(self.base, self.sets["dev"], self.features))

            def measure() -> dict[str, float]:
                return teacher_on_dev(teacher, dev) if dev else {}

            batches = TeacherBatches(data, config.teacher, config.teacher_stage.batch_size, seed)
            self.fit(
                folder,
                trainee,
                config.teacher_stage,
                batches,
                measure,
            )
        self.load_best(folder, teacher)
        return teacher.to(self.accelerator.device), folder

    def target(self, config: DclipConfig, seed: int) -> np.ndarray[Any, Any] | None:
        """What each photo shall learn with each of its captions ``[captions, d]``, unit norm; None for nothing."""
        if not (config.student.weights.image or config.student.weights.relation):
            return None
        if config.control == "caption_target":
            target = self.base_features.texts()
        else:
            teacher, folder = self.teacher(config, seed)
            file = folder / "target.npy"
            if not file.exists():
                every = np.arange(len(self.train.captions))
                data = self.teacher_data(config, self.base_features)
                fused = teach(teacher, data, every, "teacher's embeddings")
                part = file.with_suffix(".part")
                with part.open("wb") as stream:
                    np.save(stream, fused.astype(np.float16))
                os.replace(part, file)
            target = unit_norm(np.load(file))
        if config.student.target == "photo":
            target = unit_norm(group_means(target, self.train.photo_of))
        return target

    # ------------------------------------------------------------ student
    def student_data(self, config: DclipConfig, seed: int) -> StudentData:
        """What the student of one run learns from."""
        target = self.target(config, seed)
        self.reset()
        return self.inputs.data(config, target)

    def student(self, config: DclipConfig, seed: int) -> Path:
        """Train one student; its folder holds the tuned parameters."""
        folder = self.out / f"{config.control}-seed{seed}"
        if (folder / "best.safetensors").exists():
            return folder
        data = self.student_data(config, seed)
        prompts = self.inputs.prompts(config)
        torch.manual_seed(seed)
        student = DclipStudent(
            self.base, config.student, self.learning, self.base.early(self.learning)[1], prompts
        )
        batches = StudentBatches(
            self.base, data, config.augment, config.student_stage.batch_size, seed, self.mode
        )
        self.fit(folder, student, config.student_stage, batches, self.dev_score)
        return folder

    def dev_score(self) -> dict[str, float]:
        """R@1 of the current weights on dev; the mean of both ways decides."""
        if "dev" not in self.sets:
            return {}
        dev = self.gallery("dev")
        values = recall_at_k(dev.images(), dev.texts(), dev.pairs.photo_of, ks=(1,))
        return {**values, "score": float(np.mean(list(values.values())))}

    # ------------------------------------------------------------ training
    def fit(
        self,
        folder: Path,
        student: Any,
        stage: StageConfig,
        batches: Any,
        evaluate: Callable[[], dict[str, float]],
    ) -> None:
        """Train on the house's loop, from its checkpoint if there is one; the best weights end in ``best.safetensors``.

        Args:
            folder: of checkpoint, log and result.
            student: the module, whose ``model`` is saved.
            stage: how.
            batches: what ``load(epoch, first)`` gives.
            evaluate: named numbers on dev; the best ``score`` is kept, or the last without one.
        """
        from safetensors.torch import save_file

        if batches.batches < 1:
            raise InputError(
                f"{len(self.train.photos)} photos do not fill one batch of {stage.batch_size}; lower "
                f"{stage.name}_stage.batch_size"
            )
        folder.mkdir(parents=True, exist_ok=True)
        progress = read_progress(folder)
        state = RunState(**{k: v for k, v in (progress or {}).items() if k in RunState.__dataclass_fields__})

        def save(best: bool, _: dict[str, float]) -> None:
            if best:
                learned = student.learned() if hasattr(student, "learned") else student.model.state_dict()
                chosen = {k: v.detach().cpu().contiguous().clone() for k, v in learned.items()}
                save_file(chosen, folder / "best.part")

        log = RunLog(folder, state.step)
        hooks = Hooks(evaluate, save, self.config.evaluate_every, self.config.save_every, log_every=10)
        data = StageData(batches.batches, batches.load)
        try:
            run_stage(self.accelerator, student, stage, data, state, hooks, log, folder, progress is not None)
        finally:
            log.close()
        os.replace(folder / "best.part", folder / "best.safetensors")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)

    def load_best(self, folder: Path, model: nn.Module) -> None:
        """Put the kept weights into a model."""
        from safetensors.torch import load_file

        model.load_state_dict(load_file(folder / "best.safetensors"), strict=False)

    def reset(self) -> None:
        """The base model's weights again."""
        self.base.model.load_state_dict(self.start)

    # ------------------------------------------------------------ results
    def measure(self) -> Columns:
        """Everything about the current weights, a value a query."""
        columns: Columns = {}
        for name in self.sets:
            gallery = self.gallery(name)
            columns |= retrieval_columns(name, gallery.images(), gallery.texts(), gallery.pairs.photo_of)
        classes = self.classes()
        return columns | classes.columns() if classes else columns

    def measured(self, folder: Path, share: float | None) -> Columns:
        """The columns of a run (of the base model without ``share``), measured once for each choice of sets."""
        file = folder / "result.npz"
        wanted = {f"{name}|" for name in self.sets} | (
            {"zero-shot|"} if self.config.zeroshot.photos else set()
        )
        if file.exists():
            columns = load_columns(file)
            if float(columns.pop("average", -1.0)) == (share if share is not None else 0.0) and all(
                any(k.startswith(w) for k in columns) for w in wanted
            ):
                return {k: v for k, v in columns.items() if any(k.startswith(w) for w in wanted)}
        self.reset()
        if share is not None:
            self.load_best(folder, self.base.model)
            average_weights(self.base.model, {n: self.start[n] for n in self.learning}, share)
        columns = self.measure()
        folder.mkdir(exist_ok=True)
        save_columns(file, columns | {"average": np.array(share if share is not None else 0.0)})
        return columns

    def run(self) -> str:
        """All controls and seeds; returns the table."""
        config = self.config
        results: dict[str, list[Columns]] = {"base": [self.measured(self.out / "base-result", None)]}
        for control in config.controls or (config.control,):
            one = controlled(config, control)
            for seed in config.seeds:
                print(f"{control}, seed {seed}", flush=True)
                folder = self.student(one, seed)
                results.setdefault(control, []).append(self.measured(folder, one.student.average))
                self.write(folder, one, seed)
        text = table_text(results, list(self.sets), config.draws)
        part = self.out / "table.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.out / "table.md")
        self.reset()
        return text

    def write(self, folder: Path, config: DclipConfig, seed: int) -> None:
        """The tuned model beside its result."""
        final, share = folder / "model", folder / "model.average"
        if final.exists() and share.exists() and float(share.read_text()) == config.student.average:
            return
        self.reset()
        self.load_best(folder, self.base.model)
        average_weights(self.base.model, {n: self.start[n] for n in self.learning}, config.student.average)
        part = folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        columns = load_columns(folder / "result.npz")
        results = {
            k: round(float(v.mean()), 4) for k, v in columns.items() if v.ndim and not k.endswith("|photo")
        }
        facts = {"base": self.base.encoder.card.name, "seed": seed, "recipe": to_dict(config)}
        self.base.save(part, config.name, config.license, facts, results)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        share.write_text(f"{config.student.average}\n")
        if config.export != "none":
            from cliplet.encoders.torch import TorchEncoder
            from cliplet.training.export import export

            photos = [photo_source(p) for p in self.train.photos[:64]]
            export(TorchEncoder.from_folder(final), folder / "onnx", config.export, photos=photos,
                   captions=self.train.captions[:256])  # fmt: skip
