"""The packaged model's training: from parts that install with pip, photos and captions to a model folder.

1. The teacher: a space of captions from three sentence encoders, and for each photo the mean of its captions mixed with
   the prediction of an ensemble of ImageNet encoders and a detector (teacher.py).
2. The text tower, factorised, started from MiniLM's layers and distilled from that space.
3. The last stages of the image tower, on kept feature maps of views of the photos: two trainings, averaged.
4. The text tower once more: ReLUs for its GELUs, by self-distillation, and one token less (relu.py).
5. The model folder, int8.

Both towers learn the teacher's space alone, so they fit together; training them together afterwards, with false
captions, was tried and cost agreement with people and retrieval.

Each part is kept in the run's folder, so that an interrupted run goes on where it stopped.
"""

import dataclasses
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
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.models.config import DualConfig, TextConfig, TimmConfig, to_dict
from cliplet.models.dual import DualModel, save_weights
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.late import LateTower, early_stages, late_outputs
from cliplet.models.pretrained import efficientnet_lite, english_word_pieces, factorise, sentence_model
from cliplet.models.text import TextTower
from cliplet.models.vision import TimmImageTower
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

from .data import SIZE, PairBatches, detector_graph, outputs
from .heads import anchor_classes, joined, split_text_head
from .recipe import AT_THE_END, Settings
from .relu import LengthBatches, ReluStudent, relu_tower, without_end
from .student import PairStudent
from .teacher import Targets, Teacher, read_texts


class Run:
    """The recipe under way."""

    def __init__(self, settings: Settings, restart: bool = False) -> None:
        self.settings, self.out = settings, Path(settings.out)
        if settings.detector:
            detector_graph(Path(settings.detector), settings.detector_layers)  # is it one?
        claim_folder(self.out, settings, ("out", *AT_THE_END), restart)
        self.accelerator = make_accelerator(cpu=True)
        torch.manual_seed(settings.seed)
        self.pairs, self.dev = (readable(read_pairs(data)) for data in (settings.train, settings.dev))
        list_left_out(self.out, [*self.pairs.skipped, *self.dev.skipped])
        self.more = read_texts(settings.more_captions)
        texts = [*self.pairs.captions, *self.more]
        self.tokenizer, self.old_ids, self.counts = english_word_pieces(texts, settings.vocabulary)
        self.teacher = Teacher(settings, self.out)

    def run(self) -> Path:
        """All stages; returns the model folder."""
        s = self.settings
        said = self.teacher.targets(self.pairs, self.dev, self.more, self.tokenizer)
        tower = self.trained_text_tower(said)
        body = efficientnet_lite(0)
        maps = self.maps(body, self.pairs, s.augment.views)
        late, link = self.trained_image_tower(body, maps, said)
        if s.anchoring:
            classifier, names = body.classifier.weight.detach(), torch.from_numpy(said.names())
            anchor_classes(late, link, classifier, names, maps[0], s.anchoring)
        split_text_head(tower, link, s.dim)
        own = said.train
        if s.relu_stage.epochs:
            tower = self.with_relus(tower, said.every, said.dev)
            own = dataclasses.replace(own, tokens=[tokens[:-1] for tokens in own.tokens])
            self.tokenizer = without_end(self.tokenizer)
        return self.finish(body, late, tower, own, maps[0])

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
        return tower

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
    def trained_image_tower(
        self, body: Any, maps: Sequence[NDArray[np.float16]], said: Targets
    ) -> tuple[LateTower, nn.Linear]:
        """The image tower's last stages and the link from a caption's target to its matching half, both averaged."""
        s, late, dev_maps = self.settings, self.late_tower(body, said.photos), self.maps(body, self.dev, 1)[0]
        link = nn.Linear(s.space, s.dim)
        with torch.no_grad():
            link.weight.copy_(torch.eye(s.dim, s.space))
            link.bias.zero_()

        def with_targets() -> dict[str, float]:
            with torch.no_grad():
                matching = link(torch.from_numpy(said.dev.target)).numpy()
            texts = np.concatenate([unit_norm(said.dev.target[:, : s.dim]), matching], axis=1)
            return retrieval(late_outputs(late, dev_maps), texts, said.dev)

        pair = nn.ModuleDict({"image": late, "link": link})
        start = {k: v.clone() for k, v in pair.state_dict().items()}
        targets, photos = torch.from_numpy(said.train.target), torch.from_numpy(said.photos)
        found = []
        for i, soft in enumerate(s.soft):
            pair.load_state_dict(start)
            batches = PairBatches(maps, said.train, s.image_stage.batch_size, s.seed + i)
            self.train(
                f"image{i}", PairStudent(late, link, targets, photos, soft), s.image_stage, batches, with_targets
            )  # fmt: skip
            found.append({k: v.clone() for k, v in pair.state_dict().items()})
        pair.load_state_dict({k: torch.stack([f[k] for f in found]).mean(dim=0) for k in start})
        return late, link

    def late_tower(self, body: Any, target: Floats) -> LateTower:
        """The image tower's last stages; both halves of the head start at the ridge regression from pooled features."""
        features, mean, deviation = standardise(self.teacher.pooled(0, self.pairs))
        weight = ridge(features, target, 5e3)
        late = LateTower(body, self.settings.first_stage, 2 * self.settings.dim, 0.4)
        late.mean.copy_(torch.from_numpy(mean))
        late.deviation.copy_(torch.from_numpy(deviation))
        with torch.no_grad():
            late.head.weight.copy_(torch.from_numpy(np.concatenate([weight, weight], axis=1).T))
            late.head.bias.zero_()
        return late

    def maps(self, body: Any, pairs: PairSet, views: int) -> list[NDArray[np.float16]]:
        """Feature maps before the stages that learn, for each view ``[photos, C, h, w]``."""
        s, early = self.settings, early_stages(body, self.settings.first_stage)
        name = f"maps-{fingerprint(pairs.photos)}"
        return [
            outputs(early, pairs.photos, self.out / f"{name}-{view}.npy", s.augment, s.seed, view)
            for view in range(views)
        ]

    # ------------------------------------------------------------ the end
    def finish(
        self, body: Any, late: LateTower, tower: TextTower, own: Captions, maps: NDArray[np.float16]
    ) -> Path:
        """Join the halves, fold the standardisation into the head, write ``model`` and export it to ``onnx``."""
        s = self.settings
        joined(late.head, torch.from_numpy(late_outputs(late, maps[:1000])), s.meaning)
        joined(tower.head, torch.from_numpy(encode_all(tower, own.tokens[:2000])), s.meaning)
        model = DualModel(DualConfig(image=image_config(s), text=tower.config))
        model.text.load_state_dict(tower.state_dict())
        late.write_back(body, s.first_stage)
        image_state = {k: v for k, v in body.state_dict().items() if not k.startswith("classifier")}
        assert isinstance(model.image, TimmImageTower)
        model.image.body.load_state_dict(image_state)
        with torch.no_grad():
            weight = late.head.weight / late.deviation
            model.image.head.weight.copy_(weight)
            model.image.head.bias.copy_(late.head.bias - weight @ late.mean)
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

        step = max(1, len(self.pairs.photos) // 128)
        export(
            TorchEncoder.from_folder(folder), self.out / "onnx", "int8",
            photos=self.dev.photos[:64], captions=self.dev.captions[:256],
            calibration=self.pairs.photos[::step],
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


def image_config(settings: Settings) -> TimmConfig:
    """The image tower."""
    half = (0.5, 0.5, 0.5)
    return TimmConfig("timm", "tf_efficientnet_lite0", 2 * settings.dim, SIZE, half, half)


def retrieval(images: Floats, texts: Floats, captions: Captions) -> dict[str, float]:
    """R@1 both ways with both halves weighing the same; ``score`` is their mean."""
    half = images.shape[1] // 2

    def alike(x: Floats) -> Floats:
        return np.concatenate([unit_norm(x[:, :half]), unit_norm(x[:, half:])], axis=1) / np.sqrt(2)

    found = recall_at_k(alike(images), alike(texts), captions.photo, ks=(1,))
    return {**found, "score": float(np.mean(list(found.values())))}
