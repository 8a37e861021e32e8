"""Students from one base model: what is computed from it once, their teachers, their training, their measures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cliplet.encoders.base import unit_norm
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.files import whole, write_atomically
from cliplet.models.config import to_dict
from cliplet.models.cross_modal import CrossModalTeacher
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.base import base_name, features_folder
from cliplet.training.dclip.config import MAY_VARY, DclipConfig
from cliplet.training.dclip.features import Features
from cliplet.training.dclip.inputs import StudentInputs
from cliplet.training.dclip.measure import (
    ClassGallery,
    Columns,
    Gallery,
    load_columns,
    retrieval_columns,
    save_columns,
)
from cliplet.training.dclip.student import DclipStudent, StudentBatches, average_weights, text_mode
from cliplet.training.dclip.teacher import (
    TeacherBatches,
    TeacherData,
    TeacherTask,
    make_teacher,
    teach,
    teacher_on_dev,
)
from cliplet.training.dclip.trainable import TrainableClip
from cliplet.training.fit import BEST
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.run_folder import claim_folder
from cliplet.training.task import put_weights
from cliplet.training.teacher_space import Floats, group_means
from cliplet.training.views import photo_source


def run_folder(config: DclipConfig, seed: int) -> Path:
    """Where the student of a variant and a seed is trained."""
    return Path(config.out) / f"{config.variants[0].name}-seed{seed}"


def teacher_folder(config: DclipConfig, seed: int) -> Path:
    """Where the teacher of a variant and a seed is trained; variants whose teachers are alike share it."""
    made_of = [config.spans, *map(to_dict, (config.regions, config.teacher, config.teacher_stage))]
    key = fingerprint([base_name(config), json.dumps(made_of)])[:8]
    return Path(config.out) / f"teacher-{key}-seed{seed}"


class FineTuning:
    """Everything of a DCLIP run that starts from one model and lets the same parameters learn.

    Args:
        config: the recipe, as a variant runs it.
        base: the base model; its weights change while students train, :meth:`reset` restores them.
        train: training photos and captions.
        sets: dev and tests by name.
        fit: trains, as :func:`~cliplet.training.fit.fit_part` without its first argument.
        device: where.
    """

    def __init__(
        self,
        config: DclipConfig,
        base: TrainableClip,
        train: PairSet,
        sets: dict[str, PairSet],
        fit: Any,
        device: Any,
    ) -> None:
        self.features = features_folder(config)
        self.base, self.train, self.sets, self.fit, self.device = base, train, sets, fit, device
        base.encoder.to(str(device))
        self.start = {k: v.detach().clone() for k, v in base.model.state_dict().items()}
        self.learning = base.learning(config.student.train)
        self.mode = text_mode(base, self.learning)
        self.base_features = Features(base, train, self.features)
        self.inputs = StudentInputs(base, self.learning, self.base_features)
        self.zeroshot = config.zeroshot
        self._galleries: dict[str, Any] = {}
        self._taught: dict[str, TeacherData] = {}

    # ------------------------------------------------------------ teacher
    def teacher_data(self, config: DclipConfig, features: Features) -> TeacherData:
        """Spans, regions and caption embeddings of a set; the model must have the base model's weights."""
        key = fingerprint([features.photos_key, config.spans, config.teacher.mask, config.regions])
        if key not in self._taught:
            encoder = self.base.frozen_encoder(self.features, self.train)
            self._taught[key] = TeacherData(
                features.pairs,
                features.spans(config.spans, padding=not config.teacher.mask),
                features.regions(config.regions, encoder),
                features.texts(),
            )
        return self._taught[key]

    def teacher(self, config: DclipConfig, seed: int) -> CrossModalTeacher:
        """The trained teacher of a seed."""
        self.reset()
        folder = teacher_folder(config, seed)
        torch.manual_seed(seed)
        teacher = make_teacher(config.teacher, self.base.encoder.card.embedding_dim)
        task = TeacherTask(teacher, config.teacher.temperature)
        if (folder / BEST).exists():
            put_weights(task, read_weights(folder / BEST))
            return teacher.to(self.device)
        data, dev = self.teacher_data(config, self.base_features), None
        if "dev" in self.sets:
            dev = self.teacher_data(config, Features(self.base, self.sets["dev"], self.features))

        def evaluate() -> dict[str, float]:
            return teacher_on_dev(teacher, dev) if dev else {}

        batches = TeacherBatches(data, config.teacher, config.teacher_stage.batch_size, seed)
        self.fit(folder, task, config.teacher_stage, batches, evaluate)
        return teacher.to(self.device)

    def target(self, config: DclipConfig, seed: int) -> Floats | None:
        """What each photo shall learn with each of its captions ``[captions, d]``, unit norm; None for nothing."""
        if not (config.student.weights.image or config.student.weights.relation):
            return None
        if config.student.teacher == "text":
            target = self.base_features.texts()
        else:
            file = teacher_folder(config, seed) / "target.npy"
            if not file.exists():
                teacher = self.teacher(config, seed)
                data = self.teacher_data(config, self.base_features)
                fused = teach(teacher, data, np.arange(len(self.train.captions)), "teacher's embeddings")
                with whole(file) as part, part.open("wb") as stream:
                    np.save(stream, fused.astype(np.float16))
            target = unit_norm(np.load(file, allow_pickle=False))
        if config.student.target == "photo":
            target = unit_norm(group_means(target, self.train.photo_of))
        return target

    # ------------------------------------------------------------ student
    def student(self, config: DclipConfig, seed: int) -> Path:
        """Train one student; its folder holds the tuned parameters."""
        folder = run_folder(config, seed)
        claim_folder(folder, _trained_with(config))
        if (folder / BEST).exists():
            return folder
        target = self.target(config, seed)
        self.reset()
        data, prompts = self.inputs.data(config, target), self.inputs.prompts(config)
        torch.manual_seed(seed)
        first = self.base.early(self.learning)[1]
        student = DclipStudent(self.base, config.student, self.learning, first, prompts)
        stage = config.student_stage
        batches = StudentBatches(self.base, data, config.augment, stage.batch_size, seed, self.mode)
        self.fit(folder, student, stage, batches, self.dev_score)
        return folder

    def soup(self, config: DclipConfig) -> Path:
        """The mean of all seeds' tuned parameters, in a folder like theirs."""
        from safetensors.torch import save_file

        runs = [read_weights(run_folder(config, seed) / BEST) for seed in config.seeds]
        mean = {name: torch.stack([run[name] for run in runs]).mean(dim=0) for name in runs[0]}
        folder = Path(config.out) / f"{config.variants[0].name}-soup-{'-'.join(map(str, config.seeds))}"
        folder.mkdir(exist_ok=True)
        with whole(folder / BEST) as part:
            save_file(mean, part)
        return folder

    def dev_score(self) -> dict[str, float]:
        """R@1 of the current weights on dev; the mean of both directions decides."""
        if "dev" not in self.sets:
            return {}
        dev = self.gallery("dev")
        values = recall_at_k(dev.images(), dev.texts(), dev.pairs.photo_of, ks=(1,))
        return {**values, "score": float(np.mean(list(values.values())))}

    def load_tuned(self, folder: Path, share: float) -> None:
        """Put a run's tuned weights, averaged with the base model's, into the model."""
        self.reset()
        self.base.model.load_state_dict(read_weights(folder / BEST), strict=False)
        average_weights(self.base.model, {n: self.start[n] for n in self.learning}, share)

    def reset(self) -> None:
        """The base model's weights again."""
        self.base.model.load_state_dict(self.start)

    # ------------------------------------------------------------ results
    def gallery(self, name: str) -> Gallery:
        """Photos and captions of dev or a test set."""
        if name not in self._galleries:
            pairs = self.sets[name]
            self._galleries[name] = Gallery(name, pairs, self.base, self.features, self.learning, self.mode)
        return self._galleries[name]  # type: ignore[no-any-return]

    def classes(self) -> ClassGallery | None:
        """The zero-shot photos."""
        if self.zeroshot.photos and "" not in self._galleries:
            self._galleries[""] = ClassGallery(
                self.zeroshot, self.base, self.features, self.learning, self.mode
            )
        return self._galleries.get("")

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
        wanted = [f"{name}|" for name in (*self.sets, *(["zero-shot"] if self.zeroshot.photos else []))]
        if file.exists():
            columns = load_columns(file)
            same = float(columns.pop("average", -1.0)) == (share or 0.0)
            if same and all(any(k.startswith(w) for k in columns) for w in wanted):
                return {k: v for k, v in columns.items() if k.startswith(tuple(wanted))}
        self.reset() if share is None else self.load_tuned(folder, share)
        columns = self.measure()
        folder.mkdir(exist_ok=True)
        save_columns(file, columns | {"average": np.array(share or 0.0)})
        return columns

    def write(self, folder: Path, config: DclipConfig, seeds: Sequence[int]) -> None:
        """The tuned model beside its result."""
        final, share = folder / "model", folder / "model.average"
        if final.exists() and share.exists() and float(share.read_text()) == config.student.average:
            return
        self.load_tuned(folder, config.student.average)
        columns = load_columns(folder / "result.npz")
        results = {
            k: round(float(v.mean()), 4) for k, v in columns.items() if v.ndim and not k.endswith("|photo")
        }
        facts = {"base": self.base.encoder.card.name, "seeds": list(seeds), "recipe": to_dict(config)}
        with whole(final) as part:
            self.base.save(part, config.name, config.license, facts, results)
        write_atomically(share, f"{config.student.average}\n")
        if config.export != "none":
            from cliplet.encoders.torch import TorchEncoder
            from cliplet.export import export

            photos = [photo_source(p) for p in self.train.photos[:64]]
            export(TorchEncoder.from_folder(final), folder / "onnx", config.export, photos=photos,
                   captions=self.train.captions[:256])  # fmt: skip


def _trained_with(config: DclipConfig) -> dict[str, Any]:
    """The settings of a variant's training; averaging comes after it."""
    values = to_dict(config)
    values["student"].pop("average")
    return {name: values[name] for name in MAY_VARY}
