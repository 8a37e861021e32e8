"""Students from one base model: what is computed from it once, their teachers, their training, their measures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliplet.classification.labelled import read_class_names
from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.evaluation.comparison import Columns, load_columns, retrieval_columns, save_columns
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.evaluation.zeroshot import class_ranks
from cliplet.files import whole, write_atomically
from cliplet.models.config import to_dict
from cliplet.models.late import POOLED
from cliplet.models.tensors import write_tensors
from cliplet.training.checkpoint import read_weights
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.base import features_folder
from cliplet.training.dclip.config import MAY_VARY, DclipConfig
from cliplet.training.dclip.data import RunData
from cliplet.training.dclip.inputs import Captions, Floats, Ints, Kept, Learner, Photos
from cliplet.training.dclip.student import Anchors, DclipStudent, StudentBatches, StudentData, average_weights
from cliplet.training.dclip.teacher import Teachers
from cliplet.training.dclip.trainable import TrainableClip
from cliplet.training.fit import BEST
from cliplet.training.objectives.base import Objective, Setup
from cliplet.training.pairs import PairSet, read_pairs, readable
from cliplet.training.processes import first_alone
from cliplet.training.rewriting import RewriteSettings, Rewriting, used_captions
from cliplet.training.run_folder import claim_folder
from cliplet.training.teacher_space import group_means


def run_folder(config: DclipConfig, seed: int) -> Path:
    """Where the student of a variant and a seed is trained."""
    return Path(config.out) / f"{config.variants[0].name}-seed{seed}"


class FineTuning:
    """Everything of a DCLIP run that starts from one model and lets the same parameters learn.

    Args:
        config: the recipe, as a variant runs it.
        base: the base model; its weights change while students train, :meth:`reset` restores them.
        data: the run's photos and captions.
        fit: trains, as :func:`~cliplet.training.fit.fit_part` without its first argument.
        device: where.
    """

    def __init__(
        self, config: DclipConfig, base: TrainableClip, data: RunData, fit: Any, device: Any
    ) -> None:
        self.base, self.data, self.fit, self.folder = base, data, fit, features_folder(config)
        if config.student.context_length:
            base.lengthen(config.student.context_length)
        self.learner = Learner(base, config.student.train, bool(config.student.low_rank.rank))
        _check(config, self.learner)
        base.encoder.model.to(device)
        self.start = {k: v.detach().clone() for k, v in base.model.state_dict().items()}
        self.captions = Captions(self.learner, data.train.captions, self.folder)
        dev = data.sets.get(data.chooses)
        self.teachers = Teachers(self.learner, self.captions, data.train, dev, self.folder, fit)
        self._sets: dict[str, tuple[Photos, Captions]] = {}
        self._rewritten: dict[RewriteSettings, tuple[PairSet, Captions, Ints]] = {}

    # ------------------------------------------------------------ student
    def target(self, config: DclipConfig, seed: int) -> Floats | None:
        """What each photo shall learn with each of its captions ``[captions, d]``, unit norm; None for nothing."""
        if not config.student.weights.teacher:
            return None
        self.reset()
        by_text = config.student.teacher == "text"
        target = self.captions.base if by_text else self.teachers.target(config, seed)
        if config.student.target == "photo":
            photo_of, used = (
                self.data.train.photo_of,
                used_captions(self.data.train, config.rewrites.captions),
            )
            target = target.copy()
            target[used] = unit_norm(group_means(target[used], photo_of[used]))
        return target

    def student(self, config: DclipConfig, seed: int) -> Path:
        """Train one student; its folder holds the tuned parameters."""
        folder = run_folder(config, seed)
        with first_alone():
            claim_folder(folder, _trained_with(config), known_as=_complete)
        if (folder / BEST).exists():
            return folder
        target = self.target(config, seed)
        self.reset()
        data, prompts = self.student_data(config, target), self.prompts(config)
        torch.manual_seed(seed)
        objectives = self.objectives(config, data, seed)
        data = dataclasses.replace(data, objectives={name: one for name, (_, one) in objectives.items()})
        student = DclipStudent(self.learner, config.student, prompts, objectives)
        batches = StudentBatches(data, config.student_stage.batch_size, seed)

        def score() -> dict[str, float]:
            student.weights()  # with adapters, the model has them only then
            return self.dev_score()

        self.fit(folder, student, config.student_stage, batches, score)
        return folder

    def student_data(self, config: DclipConfig, target: Floats | None) -> StudentData:
        """What one student learns from; the model must have the base model's weights."""
        photos = Photos.compute(self.learner, self.data.train.photos, self.folder, config.augment)
        pairs, captions, source = self.student_captions(config)
        if self.learner.text_mode == "head":
            _ = captions.states  # from which the embeddings follow
        target = target if target is None or not config.rewrites.on else target[source]
        wanted = self.learner.text_mode == "frozen" or config.student.weights.text
        data = StudentData(pairs, photos, captions, captions.base if wanted else None, target)
        if not config.student.weights.keeps:
            return data
        base = photos.base(self.captions.model, self.folder)
        classes = self.classes(config).base if config.student.weights.names else None
        return dataclasses.replace(data, base_image=base, classes=classes, anchors=self.anchors(config))

    def student_captions(self, config: DclipConfig) -> tuple[PairSet, Captions, Ints]:
        """The pairs with their rewrites, the captions as the model reads them, and whose teacher's target is theirs."""
        train, settings = self.data.train, config.rewrites
        if not settings.on:
            return train, self.captions, np.arange(len(train.captions))
        if settings not in self._rewritten:
            rewriting = Rewriting(settings, Path(config.out), self.folder, lambda: self.captions.base)
            pairs, source = rewriting(train)
            self._rewritten[settings] = pairs, Captions(self.learner, pairs.captions, self.folder), source
        return self._rewritten[settings]

    def objectives(
        self, config: DclipConfig, data: StudentData, seed: int
    ) -> dict[str, tuple[float, Objective]]:
        """Weight and objective by name; each prepares itself from the data."""
        setup = Setup(
            self.learner, data.pairs, data.photos, data.captions, self.data.bare, self.folder, config.augment,
            config.regions, config.student_stage.batch_size, seed, self.fit,
        )  # fmt: skip
        return {
            name: (one.weight, one.kind(setup, one.settings))
            for name, one in config.chosen_objectives().items()
        }

    def anchors(self, config: DclipConfig) -> Anchors | None:
        """The further photos for the anchors, with the base model's embeddings."""
        wanted, photos = config.student.anchors, None
        label = np.zeros(0, dtype=np.int64)
        if wanted.photos or wanted.captions:
            pairs = readable(read_pairs(wanted))
            photos = Photos.compute(self.learner, pairs.photos, self.folder)
            label = np.full(len(pairs.photos), -1, dtype=np.int64)
        if config.student.prototypes:
            assert self.base.prototypes is not None
            kept: list[Kept] = [*(photos.kept or [] if photos else []), self.base.prototypes]
            label = np.concatenate([label, np.arange(len(kept[-1]))])
            photos = Photos(self.learner, [], AugmentConfig(), [np.concatenate(kept)])
        return None if photos is None else Anchors(photos, photos.embeddings(), label)

    def classes(self, config: DclipConfig) -> Captions:
        """The sentences that name the classes of ``prompts``."""
        if config.student.prompt_names:
            names = read_class_names(Path(config.student.prompt_names))
        else:
            from cliplet.models.pretrained import imagenet_names

            names = imagenet_names()
        texts = [config.zeroshot.templates[0].replace("{}", n) for n in names]
        return Captions(self.learner, texts, self.folder)

    def prompts(self, config: DclipConfig) -> dict[str, Tensor] | None:
        """The classes as the student reads them."""
        if not config.student.weights.names:
            return None
        classes = self.classes(config)
        if self.learner.text_mode == "frozen":
            return {"base_text": torch.from_numpy(classes.base)}
        return classes.batch(np.arange(len(classes.captions)))

    def soup(self, config: DclipConfig) -> Path:
        """The mean of all seeds' tuned parameters, in a folder like theirs."""
        runs = [read_weights(run_folder(config, seed) / BEST) for seed in config.seeds]
        mean = {name: torch.stack([run[name] for run in runs]).mean(dim=0) for name in runs[0]}
        folder = Path(config.out) / f"{config.variants[0].name}-soup-{'-'.join(map(str, config.seeds))}"
        folder.mkdir(exist_ok=True)
        with whole(folder / BEST) as part:
            write_tensors(mean, part)
        return folder

    def dev_score(self) -> dict[str, float]:
        """R@1 of the current weights on dev; the mean of both directions decides."""
        name = self.data.chooses
        dev = self.data.sets.get(name)
        if dev is None:
            return {}
        values = recall_at_k(*self.embedded(name, dev.photos, dev.captions), self.data.right(name), ks=(1,))
        return {**values, "score": float(np.mean(list(values.values())))}

    def load_tuned(self, folder: Path, share: float) -> None:
        """Put a run's tuned weights, averaged with the base model's, into the model."""
        self.reset()
        self.base.model.load_state_dict(read_weights(folder / BEST), strict=False)
        average_weights(self.base.model, {n: self.start[n] for n in self.learner.names}, share)

    def reset(self) -> None:
        """The base model's weights again."""
        self.base.model.load_state_dict(self.start)

    # ------------------------------------------------------------ results
    def embedded(self, name: str, photos: Sequence[Any], captions: Sequence[str]) -> tuple[Floats, Floats]:
        """Embeddings of a set's photos ``[n, d]`` and captions ``[m, d]`` by the present weights."""
        if name not in self._sets:
            kept = Photos.compute(self.learner, photos, self.folder)
            self._sets[name] = kept, Captions(self.learner, captions, self.folder)
        self.base.model.eval()
        images, texts = self._sets[name]
        return images.embeddings(), texts.embeddings()

    def measure(self) -> Columns:
        """Everything about the current weights, a value a query."""
        columns: Columns = {}
        for name, pairs in self.data.sets.items():
            embedded = self.embedded(name, pairs.photos, pairs.captions)
            right = self.data.right(name) if self.data.equal_captions else None
            columns |= retrieval_columns(name, *embedded, pairs.photo_of, right)
        known = self.data.labelled
        if known is None:
            return columns
        images, texts = self.embedded("zero-shot", known.photos, known.prompts)
        classes = unit_norm(texts.reshape(known.classes, -1, texts.shape[1]).mean(axis=1))
        ranks, _ = class_ranks(images @ classes.T, known.labels)
        return columns | {f"zero-shot|top-{k}": (ranks <= k).astype(np.float32) for k in (1, 5)}

    def measured(self, folder: Path, share: float | None) -> Columns:
        """The columns of a run (of the base model without ``share``), measured once for each choice of sets."""
        file = folder / "result.npz"
        wanted = [f"{name}|" for name in (*self.data.sets, *(["zero-shot"] if self.data.labelled else []))]
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
        if config.export != "none":
            from cliplet.encoders.torch import TorchEncoder
            from cliplet.export import export

            train = self.data.train
            encoder = TorchEncoder.from_folder(final)
            captions = train.captions[:256]
            export(encoder, folder / "onnx", config.export, photos=train.photos[:64], captions=captions)
        write_atomically(share, f"{config.student.average}\n")


def _check(config: DclipConfig, learner: Learner) -> None:
    """Say before anything is computed what a base model cannot do.

    Raises:
        InputError: the recipe asks for it.
    """
    base, student = learner.clip, config.student
    name = base.encoder.card.name
    if student.weights.teacher and student.teacher == "cross_modal":
        config.teacher.check(base.encoder.card.embedding_dim)
    if config.export != "none" and not base.can_export:
        raise InputError(f"export={config.export}: {name} has no export here; leave it out")
    if student.prototypes and base.prototypes is None:
        raise InputError(
            f"student.prototypes needs a base model that knows its class prototypes, such as that of "
            f"recipes/dclip_flickr8k; {name} does not"
        )
    anchors = student.anchors.photos or student.anchors.captions
    if student.prototypes and anchors and learner.first != POOLED:
        raise InputError(
            "student.prototypes and student.anchors go together only where no more of the image tower than its last "
            "projection learns"
        )
    if student.weights.anchoring and learner.text_mode == "all":
        raise InputError(
            "student.weights.anchoring needs all classes in every batch: of the text tower, only text.head.* may learn"
        )


def _complete(known: dict[str, Any]) -> dict[str, Any]:
    """What a run was trained with, and for settings that are newer than the run their defaults."""
    found: dict[str, Any] = _filled(_trained_with(DclipConfig()), known)
    return found


def _filled(default: Any, known: Any) -> Any:
    """A table with defaults for what it does not say, also in its tables; what is no table stays."""
    if not (isinstance(default, dict) and isinstance(known, dict)):
        return known
    return {**known, **{n: _filled(d, known[n]) if n in known else d for n, d in default.items()}}


def _trained_with(config: DclipConfig) -> dict[str, Any]:
    """The settings of a variant's training; averaging comes after it."""
    values = to_dict(config)
    values["student"].pop("average")
    return {name: values[name] for name in MAY_VARY}
