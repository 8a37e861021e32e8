"""Students from one starting model: what is computed from it once, their teacher, their training, their measures."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cliplet.encoders.base import unit_norm
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.models.config import to_dict
from cliplet.models.cross_modal import CrossModalTeacher
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.eval import (
    ClassGallery,
    Columns,
    Gallery,
    load_columns,
    retrieval_columns,
    save_columns,
)
from cliplet.training.dclip.features import Features, fast_copy
from cliplet.training.dclip.fit import BEST, Fitter
from cliplet.training.dclip.inputs import StudentInputs
from cliplet.training.dclip.starts import features_folder
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
from cliplet.training.dclip.tunable import Tunable
from cliplet.training.pairs import PairSet
from cliplet.training.teacher_space import group_means
from cliplet.training.views import photo_source


class Tuning:
    """Everything of a DCLIP run that starts from one model.

    Args:
        config: the recipe.
        base: the starting model; its weights change while students train, :meth:`reset` restores them.
        train: training photos and captions.
        sets: dev and tests by name.
        fit: trains.
    """

    def __init__(
        self, config: DclipConfig, base: Tunable, train: PairSet, sets: dict[str, PairSet], fit: Fitter
    ) -> None:
        self.config, self.out, self.features = config, Path(config.out), features_folder(config)
        self.base, self.train, self.sets, self.fit = base, train, sets, fit
        self.device = fit.accelerator.device
        self.base.to(self.device)
        self.start = {k: v.detach().clone() for k, v in self.base.model.state_dict().items()}
        self.learning = self.base.learning(config.student.train)
        self.mode = text_mode(self.base, self.learning)
        self.base_features = Features(self.base, self.train, self.features)
        self.inputs = StudentInputs(self.base, self.learning, self.base_features)
        self._galleries: dict[str, Any] = {}
        self._fast: Any = None
        self._taught: dict[tuple[str, str], TeacherData] = {}

    # ------------------------------------------------------------ data
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
        if not (folder / BEST).exists():
            data = self.teacher_data(config, self.base_features)
            dev = None
            if "dev" in self.sets:
                dev = self.teacher_data(config, Features(self.base, self.sets["dev"], self.features))

            def measure() -> dict[str, float]:
                return teacher_on_dev(teacher, dev) if dev else {}

            batches = TeacherBatches(data, config.teacher, config.teacher_stage.batch_size, seed)
            self.fit(folder, trainee, config.teacher_stage, batches, measure)
        self.load_best(folder, teacher)
        return teacher.to(self.device), folder

    def target(self, config: DclipConfig, seed: int) -> np.ndarray[Any, Any] | None:
        """What each photo shall learn with each of its captions ``[captions, d]``, unit norm; None for nothing."""
        if not (config.student.weights.image or config.student.weights.relation):
            return None
        if config.control in ("caption_target", "no_regions"):
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
        if (folder / BEST).exists():
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

    def soup(self, config: DclipConfig) -> Path:
        """The mean of all seeds' tuned parameters, in a folder like theirs."""
        from safetensors.torch import load_file, save_file

        runs = [load_file(self.out / f"{config.control}-seed{seed}" / BEST) for seed in config.seeds]
        mean = {name: torch.stack([run[name] for run in runs]).mean(dim=0) for name in runs[0]}
        folder = self.out / f"{config.control}-soup-{'-'.join(map(str, config.seeds))}"
        folder.mkdir(exist_ok=True)
        save_file(mean, folder / "best.part")
        os.replace(folder / "best.part", folder / BEST)
        return folder

    def dev_score(self) -> dict[str, float]:
        """R@1 of the current weights on dev; the mean of both ways decides."""
        if "dev" not in self.sets:
            return {}
        dev = self.gallery("dev")
        values = recall_at_k(dev.images(), dev.texts(), dev.pairs.photo_of, ks=(1,))
        return {**values, "score": float(np.mean(list(values.values())))}

    def load_best(self, folder: Path, model: nn.Module) -> None:
        """Put the kept weights into a model."""
        from safetensors.torch import load_file

        model.load_state_dict(load_file(folder / BEST), strict=False)

    def load_tuned(self, folder: Path, share: float) -> None:
        """Put a run's tuned weights, averaged with the start's, into the model, which has the start's."""
        self.load_best(folder, self.base.model)
        average_weights(self.base.model, {n: self.start[n] for n in self.learning}, share)

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
            self.load_tuned(folder, share)
        columns = self.measure()
        folder.mkdir(exist_ok=True)
        save_columns(file, columns | {"average": np.array(share if share is not None else 0.0)})
        return columns

    def write(self, folder: Path, config: DclipConfig, seeds: Sequence[int]) -> None:
        """The tuned model beside its result."""
        final, share = folder / "model", folder / "model.average"
        if final.exists() and share.exists() and float(share.read_text()) == config.student.average:
            return
        self.reset()
        self.load_tuned(folder, config.student.average)
        part = folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        columns = load_columns(folder / "result.npz")
        results = {
            k: round(float(v.mean()), 4) for k, v in columns.items() if v.ndim and not k.endswith("|photo")
        }
        facts = {"base": self.base.encoder.card.name, "seeds": list(seeds), "recipe": to_dict(config)}
        self.base.save(part, config.name, config.license, facts, results)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        share.write_text(f"{config.student.average}\n")
        if config.export != "none":
            from cliplet.encoders.torch import TorchEncoder
            from cliplet.export import export

            photos = [photo_source(p) for p in self.train.photos[:64]]
            export(TorchEncoder.from_folder(final), folder / "onnx", config.export, photos=photos,
                   captions=self.train.captions[:256])  # fmt: skip
