"""The packaged model's training: from parts that install with pip, photos and captions to a model folder.

1. Pseudo-captions for the bare photos: what a detector found, the classifier's name, captions of like photos (bare.py).
2. The teacher: a space of captions from three sentence encoders, and for each photo the mean of its captions mixed with
   the prediction of an ensemble of ImageNet encoders and a detector (teacher.py).
3. The text tower, factorised, started from MiniLM's layers and distilled from that space: captions, pseudo-captions
   and short texts.
4. The last stages of the image tower, which learn beside the classifier's own, on kept feature maps of views of all
   photos: as many trainings as `soft` has values, averaged; then ImageNet's classes are brought near their names.
5. The text tower once more: ReLUs for its GELUs, by self-distillation, and one token less (relu.py).
6. The model folder, int8.

Both towers learn the teacher's space alone, so they fit together; training them together afterwards, with false
captions, was tried and cost agreement with people and retrieval.

Each part is kept in the run's folder, so that an interrupted run goes on where it stopped.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliplet.encoders.base import unit_norm
from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.files import write_atomically
from cliplet.models.config import DualConfig, TextConfig, TwinConfig, to_dict
from cliplet.models.dual import DualModel, save_weights
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.late import LateTower, early_stages
from cliplet.models.pretrained import efficientnet_lite, english_word_pieces, factorise, sentence_model
from cliplet.models.text import TextTower
from cliplet.models.vision import LastStages, TwinImageTower
from cliplet.models.yolox import yolox_features
from cliplet.regions.coco import COCO_CLASSES
from cliplet.regions.detector import OnnxDetector
from cliplet.training.config import Schedule
from cliplet.training.fit import fit_part, make_accelerator
from cliplet.training.loop import Batches, Intervals
from cliplet.training.pairs import PairSet, fingerprint, read_pairs, readable
from cliplet.training.run_folder import claim_folder, list_left_out
from cliplet.training.task import Task
from cliplet.training.teacher_space import Floats, ridge, standardise
from cliplet.training.text_distillation import (
    Captions,
    TextBatches,
    TextStudent,
    encode_all,
    start_text_head,
)

from .aside import aside, share_cores
from .bare import BarePhotos, class_captions
from .data import SIZE, PairBatches, check_kinds, detector_graph, found_by, known_features, outputs
from .detections import SPOKEN, captions, counted
from .heads import anchor_classes, class_inputs, joined, split_text_head
from .recipe import AT_THE_END, Settings
from .relu import LengthBatches, ReluStudent, relu_tower, without_end
from .student import NearNames, PairStudent, TwinTower, head_inputs
from .teacher import Targets, Teacher, read_texts
from .words import CLASSES, kept_out, short_texts

LIKELY = 30.0
"""Weight of the probabilities beside features of deviation 1."""


class Run:
    """The recipe under way."""

    def __init__(self, settings: Settings, restart: bool = False, claim: bool = True) -> None:
        """Read the data; ``claim`` is False for a second process of a run that has its folder."""
        self.settings, self.out = settings, Path(settings.out)
        if settings.detector:
            detector_graph(Path(settings.detector), settings.detector_layers)  # is it one?
        if settings.near_names:
            check_kinds(Path(settings.detector), len(COCO_CLASSES))
        self.body = efficientnet_lite(settings.trunk)
        if settings.first_block >= (blocks := len(self.body.blocks[settings.first_stage])):
            raise InputError(
                f"first_block={settings.first_block} is not below {blocks}, the blocks of stage {settings.first_stage}"
            )
        side = settings.detector_inside
        self.detector = yolox_features(settings.detector, side) if side else None
        if claim:
            claim_folder(self.out, settings, ("out", "processes", *AT_THE_END), restart)
        self.accelerator = make_accelerator(cpu=True)
        torch.manual_seed(settings.seed)
        self.pairs, self.dev = (readable(read_pairs(data)) for data in (settings.train, settings.dev))
        self.more = read_texts(settings.more_captions)
        self.bare = BarePhotos(read_bare(settings))
        if claim:
            list_left_out(self.out, [*self.pairs.skipped, *self.dev.skipped, *self.bare.pairs.skipped])
        self.photos = [*self.pairs.photos, *self.bare.pairs.photos]
        self.left_out = kept_out(settings.classes_left_out, settings.seed)
        self.teacher = Teacher(settings, self.out)

    def run(self) -> Path:
        """All stages; returns the model folder."""
        s = self.settings
        share_cores(s)
        with aside(s, "look_at_photos"):
            self.read_captions()
        said = self.targets()
        with aside(s, "train_images"):
            tower = self.trained_text_tower(said)
        image, link = self.trained_image_tower(said)  # as it was kept
        maps, known = self.views()
        if s.anchoring:
            seen = torch.from_numpy(head_inputs(image, maps[0], known[0]))
            classes = class_inputs(image, self.body.classifier.weight.detach(), seen)
            taught = [i for i in range(len(classes)) if i not in self.left_out]
            names = torch.from_numpy(said.classes()[taught])
            anchor_classes(image.head, link, seen, classes[taught], names, s.anchoring)
        split_text_head(tower, link, s.dim)
        return self.finish(image, tower, said.train, maps[0], known[0])

    # ------------------------------------------------------------ what is computed once
    def look_at_photos(self) -> None:
        """Everything about photos that needs no caption but the detector's part."""
        self.views()
        self.dev_view()
        self.teacher.look([self.pairs, self.bare.pairs], self.settings.ensemble)

    def read_captions(self) -> None:
        """The captions by the sentence encoders, then the detector's part."""
        for pairs in (self.pairs, self.dev, self.more):
            self.teacher.sentences(pairs.captions)
        if self.settings.detector:
            self.teacher.look([self.pairs, self.bare.pairs], ["detector"])
            self.found()

    def targets(self) -> Targets:
        """What the teacher says, and the tokeniser."""
        s, bare = self.settings, self.bare
        if bare.pairs.photos:
            known, width = self.views()[1][0][len(self.pairs.photos) :], int(self.body.num_features)
            likely = known[:, width : width + CLASSES].astype(np.float32)
            bare.named = class_captions(likely, self.left_out)
            bare.detected = self.found() if s.detector else [[] for _ in bare.pairs.photos]
        short = (
            short_texts([*self.pairs.captions, *self.more.captions], COCO_CLASSES) if s.short_texts else []
        )
        texts = [*self.pairs.captions, *self.more.captions, *bare.texts(), *short]
        self.tokenizer, self.old_ids, self.counts = english_word_pieces(texts, s.vocabulary)
        return self.teacher.targets(self.pairs, self.dev, self.more, bare, short, self.tokenizer)

    def found(self) -> list[list[str]]:
        """For each bare photo ways to say what the detector found on it."""
        photos = self.bare.pairs.photos
        file = self.out / f"found-{fingerprint([self.settings.detector, *photos])}.json"
        if photos and not file.exists():
            found = found_by(OnnxDetector(self.settings.detector), photos)
            write_atomically(file, json.dumps([captions(things) for things in found]))
        return json.loads(file.read_text(encoding="utf-8")) if photos else []

    def views(self) -> tuple[list[NDArray[np.float16]], list[NDArray[np.float16]]]:
        """Kept maps of each view of all training photos, and what is known of them."""
        numbers = range(self.settings.augment.views)
        maps = [self.maps(self.photos, view) for view in numbers]
        return maps, [self.known(self.photos, view, maps[view]) for view in numbers]

    def dev_view(self) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """The same of the dev photos as they are."""
        maps = self.maps(self.dev.photos, 0)
        return maps, self.known(self.dev.photos, 0, maps)

    def train(
        self, name: str, task: Task, stage: Schedule, data: Batches, evaluate: Callable[[], dict[str, float]]
    ) -> None:
        """One stage; its best weights end in ``task`` and are kept in ``name.safetensors``."""
        torch.manual_seed(self.settings.seed)  # whatever was computed or kept before
        result, every = self.out / f"{name}.safetensors", Intervals(save_every=100, log_every=10)
        stage = dataclasses.replace(stage, name=stage.name or name)
        fit_part(self.accelerator, self.out / name, task, stage, data, evaluate, every, result)

    # ------------------------------------------------------------ text
    def trained_text_tower(self, said: Targets) -> TextTower:
        """The text tower, distilled from the captions' targets."""
        s, tower = self.settings, self.text_tower()
        start_text_head(tower, said.every, s.seed)

        def agreement() -> dict[str, float]:
            found = unit_norm(encode_all(tower, said.dev.tokens))
            return {"score": float((found * said.dev.target).sum(axis=1).mean())}

        batches = TextBatches(said.every, s.text_stage.batch_size, s.seed)
        self.train("text", TextStudent(tower, s.dim), s.text_stage, batches, agreement)
        if not s.relu_stage.epochs:
            return tower
        self.tokenizer = without_end(self.tokenizer)
        found = self.with_relus(tower, said.every, said.dev)
        said.train = dataclasses.replace(said.train, tokens=[tokens[:-1] for tokens in said.train.tokens])
        return found

    def text_tower(self) -> TextTower:
        """The text tower with MiniLM-L3's layers and, factorised, its word embedding; its head spans the space."""
        s = self.settings
        tower = TextTower(text_config(s, len(self.old_ids)))
        weights = read_transformers_bert(sentence_model("minilm-l3"))
        inherit(tower, weights, ("positions", "norm"), s.layers)
        assert weights.embedding is not None
        assert tower.embedding.expand is not None
        table, expand, mean = factorise(weights.embedding[self.old_ids], self.counts, s.rank)
        with torch.no_grad():
            tower.embedding.table.weight.copy_(table)
            tower.embedding.expand.weight.copy_(expand)
            tower.embedding.expand.bias.copy_(mean)
        return tower

    def with_relus(self, tower: TextTower, every: Captions, dev: Captions) -> TextTower:
        """The text tower with ReLUs, for texts without the token at the end."""
        s = self.settings
        new, wanted = relu_tower(tower), unit_norm(encode_all(tower, dev.tokens))

        def likeness() -> dict[str, float]:
            found = unit_norm(encode_all(new, [tokens[:-1] for tokens in dev.tokens]))
            return {"score": float((found * wanted).sum(axis=1).mean())}

        batches = LengthBatches(every.tokens, s.relu_stage.batch_size, s.seed)
        self.train("relu", ReluStudent(new, tower), s.relu_stage, batches, likeness)
        return new

    # ------------------------------------------------------------ image
    def train_images(self) -> None:
        """The image tower's trainings, whose results are kept."""
        self.trained_image_tower(self.targets())

    def trained_image_tower(self, said: Targets) -> tuple[TwinTower, nn.Linear]:
        """The image tower's learning part and the link from a caption's target to its matching half, both averaged."""
        s, (maps, known), (dev_maps, dev_known) = self.settings, self.views(), self.dev_view()
        image = self.twin_tower(known[0], said.photos)
        link = nn.Linear(s.space, s.dim)
        with torch.no_grad():
            link.weight.copy_(torch.eye(s.dim, s.space))
            link.bias.zero_()

        def with_targets() -> dict[str, float]:
            with torch.no_grad():
                matching = link(torch.from_numpy(said.dev.target)).numpy()
                photos = image.head(torch.from_numpy(head_inputs(image, dev_maps, dev_known))).numpy()
            texts = np.concatenate([unit_norm(said.dev.target[:, : s.dim]), matching], axis=1)
            return retrieval(photos, texts, said.dev)

        pair = nn.ModuleDict({"image": image, "link": link})
        start = {k: v.clone() for k, v in pair.state_dict().items()}
        targets, photos = torch.from_numpy(said.train.target), torch.from_numpy(said.photos)
        weights, names = torch.from_numpy(self.weights()), self.near_names(said)
        found = []
        for i, soft in enumerate(s.soft):
            pair.load_state_dict(start)
            batches = PairBatches(maps, known, said.train, s.image_stage.batch_size, s.seed + i)
            student = PairStudent(image, link, targets, photos, soft, weights, names, s.near_names)
            self.train(f"image{i}", student, s.image_stage, batches, with_targets)
            found.append({k: v.clone() for k, v in pair.state_dict().items()})
        pair.load_state_dict({k: torch.stack([f[k] for f in found]).mean(dim=0) for k in start})
        return image, link

    def near_names(self, said: Targets) -> NearNames | None:
        """What the detector found on the training photos, for the loss of near names."""
        s = self.settings
        if not s.near_names:
            return None
        roots = self.teacher.found([self.pairs, self.bare.pairs])[:, : len(COCO_CLASSES)]
        names = said.meant([f"a photo of {counted(SPOKEN.get(name, name), 1)}" for name in COCO_CLASSES])
        return NearNames(torch.from_numpy(names), torch.from_numpy(roots**2), s.meaning)

    def weights(self) -> Floats:
        """Of the photos in the losses: a bare photo counts less."""
        bare = np.full(len(self.bare.pairs.photos), self.settings.bare_weight, dtype=np.float32)
        return np.concatenate([np.ones(len(self.pairs.photos), dtype=np.float32), bare])

    def twin_tower(self, known: NDArray[np.float16], target: Floats) -> TwinTower:
        """The image tower's learning part; both halves of the head start at the ridge regression from what is known."""
        s, width = self.settings, int(self.body.num_features)
        pooled, likely, found = np.split(known.astype(np.float32), (width, width + CLASSES), axis=1)
        z, mean, deviation = standardise(pooled)
        z_found, mean_found, deviation_found = standardise(found)
        late = LateTower(self.body, s.first_stage, 1, 0.0, s.first_block)
        image = TwinTower(late, width, CLASSES, 2 * s.dim, found=found.shape[1])
        zero, scale = np.zeros(CLASSES, np.float32), np.full(CLASSES, 1 / LIKELY, np.float32)
        means, deviations = [mean, mean, zero, mean_found], [deviation, deviation, scale, deviation_found]
        image.mean.copy_(torch.from_numpy(np.concatenate(means)))
        image.deviation.copy_(torch.from_numpy(np.concatenate(deviations)))
        x = np.concatenate([z, z, likely * LIKELY, z_found], axis=1)
        root = np.sqrt(self.weights())[:, None]
        weight = ridge(x * root, target * root, 1e4)
        with torch.no_grad():
            image.head.weight.copy_(torch.from_numpy(np.concatenate([weight, weight], axis=1).T))
            image.head.bias.zero_()
        return image

    def maps(self, photos: Sequence[Any], view: int) -> NDArray[np.float16]:
        """Feature maps before the stages that are there twice, for a view of photos ``[photos, C, h, w]``."""
        s = self.settings
        early = early_stages(self.body, s.first_stage, s.first_block)
        return outputs(
            early, photos, self.out / f"maps-{fingerprint(photos)}-{view}.npy", s.augment, s.seed, view
        )

    def known(self, photos: Sequence[Any], view: int, maps: NDArray[np.float16]) -> NDArray[np.float16]:
        """What is known of a view of photos, by the classifier and the detector inside ``[photos, known]``."""
        s, end = self.settings, f"{fingerprint(photos)}-{view}.npy"
        known = known_features(self.body, s.first_stage, s.first_block, maps, self.out / f"known-{end}")
        if self.detector is None:
            return known
        file = self.out / f"inside{s.detector_inside}-{end}"
        return np.concatenate([known, outputs(self.detector, photos, file, s.augment, s.seed, view)], axis=1)

    # ------------------------------------------------------------ the end
    def finish(
        self,
        image: TwinTower,
        tower: TextTower,
        own: Captions,
        maps: NDArray[np.float16],
        known: NDArray[np.float16],
    ) -> Path:
        """Join the halves, fold the standardisation into the head, write ``model`` and export it to ``onnx``."""
        s = self.settings
        with torch.no_grad():
            some = image.head(torch.from_numpy(head_inputs(image, maps[:1000], known[:1000])))
        joined(image.head, some, s.meaning)
        joined(tower.head, torch.from_numpy(encode_all(tower, own.tokens[:2000])), s.meaning)
        model = DualModel(DualConfig(image=image_config(s), text=tower.config))
        model.text.load_state_dict(tower.state_dict())
        assert isinstance(model.image, TwinImageTower)
        model.image.body.load_state_dict(self.body.state_dict())
        model.image.late.load_state_dict(LastStages(self.body, s.first_stage, s.first_block).state_dict())
        if model.image.detector is not None and self.detector is not None:
            model.image.detector.load_state_dict(self.detector.state_dict())
        image.late.write_back(model.image.late, 0)
        with torch.no_grad():
            model.image.scale.copy_(1 / image.deviation)
            model.image.head.weight.copy_(image.head.weight)
            model.image.head.bias.copy_(image.head.bias - image.head.weight @ (image.mean / image.deviation))
        folder = self.out / "model"
        save_weights(model, folder)
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        self.card().save(folder)
        return self.exported(folder)

    def card(self) -> ModelCard:
        """The model's card."""
        s = self.settings
        return ModelCard(
            name=s.name,
            embedding_dim=2 * s.dim,
            image=ImageSpec(SIZE, "squash", "bicubic"),
            text=TextSpec(77, ""),
            score=ScoreSpec(s.w, s.reference_weight),
            license="Apache-2.0",
            training={"recipe": to_dict(s)},
        )

    def exported(self, folder: Path) -> Path:
        """The model in 8 bits, computing in the ranges that some training photos and captions show."""
        from cliplet.export import export

        step = max(1, len(self.photos) // 128)
        export(
            TorchEncoder.from_folder(folder), self.out / "onnx", "int8",
            photos=self.dev.photos[:64], captions=self.dev.captions[:256],
            calibration=self.photos[::step],
            calibration_captions=self.pairs.captions[:: max(1, step // 8)],
        )  # fmt: skip
        return self.out / "onnx"


def text_config(settings: Settings, vocabulary: int) -> TextConfig:
    """The text tower before its head is split into halves."""
    s = settings
    return TextConfig(
        width=384, heads=12, blocks=len(s.layers), repeats=s.repeats, mixers=s.repeats > 1, norm="post",
        qkv_bias=True, vocab_size=vocabulary, context_length=77, embedding_rank=s.rank, mask="padding",
        pooling="mean", embedding_dim=s.space,
    )  # fmt: skip


def image_config(settings: Settings) -> TwinConfig:
    """The image tower."""
    s, half = settings, (0.5, 0.5, 0.5)
    return TwinConfig(
        name=f"tf_efficientnet_lite{s.trunk}", embedding_dim=2 * s.dim, first_stage=s.first_stage,
        first_block=s.first_block, classes=CLASSES, detector=s.detector_inside, image_size=SIZE, mean=half, std=half,
    )  # fmt: skip


def read_bare(settings: Settings) -> PairSet:
    """The photos without captions; the last by name are kept out, for measuring."""
    if not settings.bare.photos:
        return PairSet()
    found = readable(read_pairs(settings.bare))
    last = set(sorted(found.names)[len(found.names) - settings.bare_left_out :])
    return found.keep(np.array([name not in last for name in found.names], dtype=bool))


def retrieval(images: Floats, texts: Floats, captions: Captions) -> dict[str, float]:
    """R@1 both ways with both halves weighing the same; ``score`` is their mean."""
    half = images.shape[1] // 2

    def alike(x: Floats) -> Floats:
        return np.concatenate([unit_norm(x[:, :half]), unit_norm(x[:, half:])], axis=1) / np.sqrt(2)

    found = recall_at_k(alike(images), alike(texts), captions.photo, ks=(1,))
    return {**found, "score": float(np.mean(list(found.values())))}
