"""The recipe of the packaged model: from parts that install with pip and Flickr8k to a model folder.

``cliplet distill recipes/lclip_flickr8k.toml [key=value ...]`` goes through

1. the teacher: a space of captions from three sentence encoders (:mod:`~cliplet.training.teacher_space`), and for
   each photo the mean of its captions mixed with the prediction of an ensemble of ImageNet encoders and a detector;
2. the text tower, factorised, started from MiniLM's layers and distilled from that space;
3. the last stages of the image tower, on kept feature maps of augmented photos: two trainings, averaged;
4. the text tower once more, quickened: ReLUs for its GELUs, and one token less;
5. the model folder, int8.

Both towers learn the teacher's space alone, so they fit together; training them together afterwards, with false
captions, was tried and cost agreement with people and retrieval.

Each part is kept in the recipe's folder, so that an interrupted run goes on where it stopped.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliplet.data.captions import read_captions
from cliplet.encoders.base import unit_norm
from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.models.config import DualConfig, TextConfig, TimmConfig, from_dict, to_dict
from cliplet.models.dual import DualModel, save_weights
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.late import LateTower, late_outputs
from cliplet.models.pretrained import (
    efficientnet_lite,
    english_word_pieces,
    factorise,
    imagenet_names,
    sentence_model,
)
from cliplet.models.text import TextTower
from cliplet.models.vision import TimmImageTower
from cliplet.training.config import DataConfig, Schedule
from cliplet.training.fit import fit_part
from cliplet.training.loop import Batches, Intervals
from cliplet.training.pairs import PairSet, read_pairs
from cliplet.training.recipe_file import read_settings
from cliplet.training.run_folder import claim_folder
from cliplet.training.small.data import (
    SIZE,
    PairBatches,
    captions_of,
    detector_features,
    detector_graph,
    kept_outputs,
    kept_rows,
)
from cliplet.training.small.heads import joined, name_classes, split_text_head
from cliplet.training.small.quicken import QuickBatches, QuickStudent, quick_tower, without_end
from cliplet.training.small.student import PairStudent
from cliplet.training.task import Task
from cliplet.training.teacher_space import (
    CaptionSpace,
    Floats,
    ridge,
    sentence_space_inputs,
    standardise,
    unseen_predictions,
)
from cliplet.training.text_distillation import Captions, TextBatches, TextStudent, encode_all, start_text_head
from cliplet.training.views import photo_source

FINISH = ("name", "naming", "meaning", "w", "reference_weight")
"""Settings of the last step alone, which may change when a run is finished again."""
PROMPT = "a photo of a {}."
"""What a class's name becomes."""
WIDTH = 1280
"""Features of each EfficientNet-Lite."""


@dataclass(frozen=True)
class SmallRecipe:
    """Settings of the packaged model's recipe."""

    name: str = "lclip-flickr8k"
    """Name of the model."""
    out: str = "runs/lclip_flickr8k"
    """Folder of the run."""
    seed: int = 0
    """Of weights, order and crops."""
    train: DataConfig = field(default_factory=DataConfig)
    """Photos and captions to learn from."""
    dev: DataConfig = field(default_factory=DataConfig)
    """Photos and captions that choose the best epoch."""
    more_captions: tuple[str, ...] = ()
    """Captions without photos, for the text tower."""
    sentence_models: tuple[str, ...] = ("minilm-l3", "minilm-l6", "mpnet")
    """The teacher's sentence encoders."""
    ensemble: tuple[int, ...] = (0, 2)
    """The teacher's EfficientNet-Lites."""
    detector: str = ""
    """A YOLOX detector (ONNX) whose features join the ensemble's; none when left out."""
    detector_layers: tuple[str, ...] = ()
    """Inner tensors of the detector whose mean and maximum over the photo are features too."""
    ensemble_share: float = 0.45
    """Weight of the ensemble's prediction in a photo's target."""
    space: int = 512
    """Directions of the caption space; the text tower learns all of them."""
    dim: int = 256
    """Width of each half of the embedding."""
    layers: tuple[int, ...] = (0, 1, 2)
    """MiniLM-L3's layer for each stored block of the text tower."""
    repeats: int = 1
    """Times that each stored block is executed, with private LayerNorms and head mixers (weight multiplexing)."""
    vocabulary: int = 8_900
    """Word pieces of the text tower."""
    rank: int = 184
    """Rank of the factorised word embedding."""
    views: int = 4
    """Kept views of each photo: the photo and this many less one augmented ones; all are mirrored as well."""
    first_stage: int = 5
    """First of EfficientNet's stages (counted from 0) that learns, 1 to 6."""
    soft: tuple[float, ...] = (0.25, 0.5)
    """Weight of similar captions among those that a photo should match. An image tower is trained for each value, and
    their weights are averaged (a model soup, Wortsman et al. 2022), which is better than either."""
    text_stage: Schedule = field(default_factory=Schedule)
    """Training of the text tower alone; a batch counts captions."""
    image_stage: Schedule = field(default_factory=Schedule)
    """Training of the image tower's last stages."""
    quick_stage: Schedule = field(default_factory=lambda: Schedule(epochs=0))
    """Training of the quickened text tower; without epochs the tower stays as it is. A batch counts captions."""
    naming: float = 1.0
    """Weight of ImageNet's classes in the image tower's head at the end: a photo with a class's typical features is
    brought near the class's name, so that what these photos do not show is not forgotten. 0 leaves it out."""
    meaning: float = 0.5
    """Share of the meaning half in the final cosine."""
    w: float = 2.5
    """The card's scale of scores."""
    reference_weight: float = 1.0
    """The card's weight of references."""


class SmallRun:
    """The recipe under way."""

    def __init__(self, recipe: SmallRecipe, restart: bool = False) -> None:
        from accelerate import Accelerator

        self.recipe, self.out = recipe, Path(recipe.out)
        if not 1 <= recipe.first_stage <= 6:
            raise InputError(f"first_stage={recipe.first_stage} must be 1 to 6")
        if recipe.detector:
            detector_graph(Path(recipe.detector), recipe.detector_layers)
        elif recipe.detector_layers:
            raise InputError("detector_layers are given without a detector; set detector to its ONNX file")
        claim_folder(self.out, to_dict(recipe), ("out", *FINISH), restart)
        self.accelerator = Accelerator(cpu=True)
        torch.manual_seed(recipe.seed)
        self.pairs, self.dev = read_pairs(recipe.train), read_pairs(recipe.dev)
        self.more = [
            entry.caption.strip()
            for file in recipe.more_captions
            for entry in read_captions(file)
            if isinstance(entry.caption, str) and entry.caption.strip()
        ]
        texts = [*self.pairs.captions, *self.more]
        self.tokenizer, self.old_ids, self.counts = english_word_pieces(texts, recipe.vocabulary)

    # ------------------------------------------------------------ teacher
    def teach(self) -> tuple[Captions, Captions, Captions, Floats]:
        """Captions of all texts, of train and of dev, and the photos' targets ``[photos, d]``."""
        r = self.recipe
        train, dev, more = self.pairs, self.dev, self.more
        texts = [*train.captions, *dev.captions, *more]
        kept = kept_rows(lambda: iter([self._sentences(texts)]), len(texts), self.out / "sentences.npy")
        sentences = kept.astype(np.float32)
        a, b = len(train.captions), len(train.captions) + len(dev.captions)
        self.space = space = CaptionSpace.fit(sentences[:a], train.photo_of, r.space)
        own = captions_of(train, self.tokenizer, space(sentences[:a]), train.photo_of)
        known = captions_of(dev, self.tokenizer, space(sentences[a:b]), dev.photo_of)
        others = PairSet(captions=list(more))
        alone = captions_of(others, self.tokenizer, space(sentences[b:]), np.arange(len(more)))
        every = Captions(
            own.texts + alone.texts,
            np.concatenate([own.photo, len(train.photos) + alone.photo]),
            own.tokens + alone.tokens,
            np.concatenate([own.target, alone.target]),
        )
        means = own.photo_targets(r.dim)
        features = [standardise(self.pooled(v, "train", train))[0] for v in r.ensemble]
        if r.detector:
            file = self.out / "detector-train.npy"
            seen = detector_features(Path(r.detector), r.detector_layers, train.photos, file)
            features.append(standardise(seen.astype(np.float32))[0])
        inputs = np.concatenate(features, axis=1)
        guess = unseen_predictions(inputs, means, 3e3 * inputs.shape[1] / WIDTH)
        target = (1 - r.ensemble_share) * unit_norm(means) + r.ensemble_share * guess
        return every, own, known, unit_norm(target)

    def _sentences(self, texts: Sequence[str]) -> Floats:
        models = [sentence_model(name) for name in self.recipe.sentence_models]  # type: ignore[arg-type]
        return sentence_space_inputs(texts, models)

    def pooled(self, variant: int, name: str, pairs: PairSet) -> Floats:
        """ImageNet features of the photos at 224 pixels, enlarged to the network's own size, ``[photos, 1280]``."""
        body = efficientnet_lite(variant)
        body.classifier = nn.Identity()
        side = body.pretrained_cfg["input_size"][-1]
        whole = body if side == SIZE else nn.Sequential(nn.UpsamplingBilinear2d(side), body)
        kept = kept_outputs(whole, pairs.photos, self.out / f"lite{variant}-{name}.npy")
        return kept.astype(np.float32)

    # ------------------------------------------------------------ students
    def text_tower(self) -> TextTower:
        """The text tower with MiniLM-L3's layers and, factorised, its word embedding; its head spans the space."""
        r = self.recipe
        tower = TextTower(
            TextConfig(
                width=384, heads=12, blocks=len(r.layers), repeats=r.repeats, mixers=r.repeats > 1, norm="post",
                qkv_bias=True, vocab_size=len(self.old_ids), context_length=77, embedding_rank=r.rank,
                mask="padding", pooling="mean", embedding_dim=r.space,
            )
        )  # fmt: skip
        weights = read_transformers_bert(sentence_model("minilm-l3"))
        inherit(tower, weights, ("positions", "norm"), r.layers)
        assert weights.embedding is not None
        assert tower.embedding.expand is not None
        table, expand, mean = factorise(weights.embedding[self.old_ids], self.counts, r.rank)
        with torch.no_grad():
            tower.embedding.table.weight.copy_(table)
            tower.embedding.expand.weight.copy_(expand)
            tower.embedding.expand.bias.copy_(mean)
        return tower

    def late_tower(self, body: Any, target: Floats) -> LateTower:
        """The image tower's last stages; both halves of the head start at the ridge regression from pooled features."""
        features, mean, deviation = standardise(self.pooled(0, "train", self.pairs))
        weight = ridge(features, target, 5e3)
        late = LateTower(body, self.recipe.first_stage, 2 * self.recipe.dim, 0.4)
        late.mean.copy_(torch.from_numpy(mean))
        late.deviation.copy_(torch.from_numpy(deviation))
        with torch.no_grad():
            late.head.weight.copy_(torch.from_numpy(np.concatenate([weight, weight], axis=1).T))
            late.head.bias.zero_()
        return late

    def maps(self, body: Any, name: str, pairs: PairSet, views: int) -> list[NDArray[np.float16]]:
        """Feature maps before the stages that learn."""
        early = nn.Sequential(body.conv_stem, body.bn1, *body.blocks[: self.recipe.first_stage])
        early.eval()
        seed = self.recipe.seed
        return [
            kept_outputs(early, pairs.photos, self.out / f"maps-{name}-{v}.npy", v, seed)
            for v in range(views)
        ]

    def train(
        self, name: str, task: Task, stage: Schedule, data: Batches, evaluate: Callable[[], dict[str, float]]
    ) -> None:
        """One stage; its best weights end in ``task`` and are kept in ``name.safetensors``."""
        torch.manual_seed(self.recipe.seed)  # whatever was computed or kept before
        result, every = self.out / f"{name}.safetensors", Intervals(save_every=100, log_every=10)
        fit_part(self.accelerator, self.out / name, task, stage, data, evaluate, every, result)

    # ------------------------------------------------------------ the whole
    def run(self) -> Path:
        """All stages; returns the model folder."""
        r = self.recipe
        every, own, known, target = self.teach()
        tower = self.text_tower()
        start_text_head(tower, every, r.seed)
        self.train(
            "text", TextStudent(tower, r.dim), r.text_stage, TextBatches(every, r.text_stage.batch_size, r.seed),
            lambda: {"score": float((unit_norm(encode_all(tower, known.tokens)) * known.target).sum(axis=1).mean())},
        )  # fmt: skip
        body = efficientnet_lite(0)
        maps, dev_maps = self.maps(body, "train", self.pairs, r.views), self.maps(body, "dev", self.dev, 1)[0]
        late = self.late_tower(body, target)
        link = nn.Linear(r.space, r.dim)
        with torch.no_grad():
            link.weight.copy_(torch.eye(r.dim, r.space))
            link.bias.zero_()
        pair = nn.ModuleDict({"image": late, "link": link})
        start = {k: v.clone() for k, v in pair.state_dict().items()}
        targets, photos = torch.from_numpy(own.target), torch.from_numpy(target)

        def with_targets() -> dict[str, float]:
            with torch.no_grad():
                matching = link(torch.from_numpy(known.target)).numpy()
            texts = np.concatenate([unit_norm(known.target[:, : r.dim]), matching], axis=1)
            return retrieval(late_outputs(late, dev_maps), texts, known)

        found = []
        for i, soft in enumerate(r.soft):
            pair.load_state_dict(start)
            image = PairStudent(late, link, targets, photos, soft)
            batches = PairBatches(maps, own, r.image_stage.batch_size, r.seed + i)
            self.train(f"image{i}", image, r.image_stage, batches, with_targets)
            found.append({k: v.clone() for k, v in pair.state_dict().items()})
        pair.load_state_dict({k: torch.stack([f[k] for f in found]).mean(dim=0) for k in start})
        if r.naming:
            prompts = [PROMPT.format(name) for name in imagenet_names()]
            names = torch.from_numpy(self.space(self._sentences(prompts)))
            name_classes(late, link, body.classifier.weight.detach(), names, maps[0], r.naming)
        split_text_head(tower, link, r.dim)
        if r.quick_stage.epochs:
            tower = self.quickened(tower, every, known)
            own = dataclasses.replace(own, tokens=[tokens[:-1] for tokens in own.tokens])
            self.tokenizer = without_end(self.tokenizer)
        return self.finish(body, late, tower, own, maps[0])

    def quickened(self, tower: TextTower, every: Captions, known: Captions) -> TextTower:
        """The text tower with ReLUs, for texts without the token at the end."""
        r = self.recipe
        quick, wanted = quick_tower(tower), unit_norm(encode_all(tower, known.tokens))

        def likeness() -> dict[str, float]:
            found = unit_norm(encode_all(quick, [tokens[:-1] for tokens in known.tokens]))
            return {"score": float((found * wanted).sum(axis=1).mean())}

        batches = QuickBatches(every.tokens, r.quick_stage.batch_size, r.seed)
        self.train("quick", QuickStudent(quick, tower), r.quick_stage, batches, likeness)
        return quick

    def finish(
        self, body: Any, late: LateTower, tower: TextTower, own: Captions, maps: NDArray[np.float16]
    ) -> Path:
        """Join the halves, fold the standardisation into the head, write ``model`` and export it to ``onnx``."""
        from cliplet.export import export

        r = self.recipe
        joined(late.head, torch.from_numpy(late_outputs(late, maps[:1000])), r.meaning)
        joined(tower.head, torch.from_numpy(encode_all(tower, own.tokens[:2000])), r.meaning)
        image = TimmConfig("timm", "tf_efficientnet_lite0", 2 * r.dim, 224, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
        model = DualModel(DualConfig(image=image, text=tower.config))
        model.text.load_state_dict(tower.state_dict())
        late.write_back(body, r.first_stage)
        image_state = {k: v for k, v in body.state_dict().items() if not k.startswith("classifier")}
        assert isinstance(model.image, TimmImageTower)
        model.image.body.load_state_dict(image_state)
        with torch.no_grad():
            weight = late.head.weight / late.deviation
            model.image.head.weight.copy_(weight)
            model.image.head.bias.copy_(late.head.bias - weight @ late.mean)
        card = ModelCard(
            name=r.name,
            embedding_dim=2 * r.dim,
            image=ImageSpec(224, "squash", "bicubic"),
            text=TextSpec(77, ""),
            score=ScoreSpec(r.w, r.reference_weight),
            license="Apache-2.0",
            training={"recipe": to_dict(r)},
        )
        folder = self.out / "model"
        save_weights(model, folder)
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        card.save(folder)
        photos = [photo_source(p) for p in self.dev.photos[:64]]
        encoder = TorchEncoder.from_folder(folder)
        step = max(1, len(self.pairs.photos) // 128)
        export(
            encoder, self.out / "onnx", "int8", photos=photos, captions=self.dev.captions[:256],
            calibration=[photo_source(p) for p in self.pairs.photos[::step]],
            calibration_captions=self.pairs.captions[:: max(1, step // 8)],
        )  # fmt: skip
        return self.out / "onnx"


def retrieval(images: Floats, texts: Floats, captions: Captions) -> dict[str, float]:
    """R@1 both ways with both halves weighing the same; ``score`` is their mean."""
    half = images.shape[1] // 2

    def both(x: Floats) -> Floats:
        return np.concatenate([unit_norm(x[:, :half]), unit_norm(x[:, half:])], axis=1) / np.sqrt(2)

    found = recall_at_k(both(images), both(texts), captions.photo, ks=(1,))
    return {**found, "score": float(np.mean(list(found.values())))}


def main(arguments: Sequence[str], restart: bool = False) -> None:
    """Run the recipe of the first argument with the changes of the others."""
    recipe = from_dict(SmallRecipe, read_settings(arguments[0], arguments[1:]))
    print(SmallRun(recipe, restart).run())


if __name__ == "__main__":
    main(sys.argv[1:])
