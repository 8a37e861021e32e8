"""What each ingredient of the packaged model's recipe is worth, on the features that a run has kept.

Command: python -m benchmarks.ablation_packaged runs/lclip_everyday --data D [--seeds 3]
Needs: a finished run of recipes/lclip_everyday (its features, targets and models are read), and D laid out like it.

Each row but the last two is one ridge regression from what the frozen EfficientNet-Lite2 sees at 224 pixels to the
teacher's space, with the teacher's own captions on the other side; a row adds one ingredient to the row before. The
last two are the run's model, in fp32 and in 8 bits.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
from benchmarks.packaged_model import SECTIONS
from benchmarks.packaged_model_data import Data

from cliplet.encoders.base import BaseEncoder, unit_norm
from cliplet.encoders.card import ModelCard
from cliplet.encoders.registry import load
from cliplet.export.frozen import frozen
from cliplet.models.config import from_dict
from cliplet.models.late import LateTower, early_stages
from cliplet.models.pretrained import sentence_model
from cliplet.training.config import AugmentConfig
from cliplet.training.teacher_space import (
    CaptionSpace,
    ridge,
    sentence_space_inputs,
    standardise,
    unseen_predictions,
)
from cliplet.training.text_distillation import Captions
from lclip_everyday.bare import BarePhotos, pseudo_captions
from lclip_everyday.data import pixels
from lclip_everyday.recipe import Settings
from lclip_everyday.run import LIKELY, Run
from lclip_everyday.teacher import PENALTY, WIDTH
from lclip_everyday.words import CLASSES, class_texts

Floats = NDArray[np.float32]
TABLES = ("retrieval", "pairs", "imagenet", "animals", "near-nouns")


@dataclass(frozen=True)
class Parts:
    """Which ingredients take part."""

    both_spaces: bool = False
    likely: bool = False
    names: bool = False
    everyday: float = 0.0
    detected: bool = False
    named: bool = False
    retrieved: int = 0
    inside: bool = False


ROWS: list[tuple[str, Parts]] = [("Flickr8k's captions, Lite2's features", Parts())]
for _name, _change in (
    ("+ the space fitted on COCO's captions too", {"both_spaces": True}),
    ("+ the classifier's probabilities", {"likely": True}),
    ("+ class names at typical features", {"names": True}),
    ("+ everyday names, a share of 0.3", {"everyday": 0.3}),
    ("+ bare photos: what was detected", {"detected": True}),
    ("+ bare photos: the classifier's name", {"named": True}),
    ("+ bare photos: three captions of like photos", {"retrieved": 3}),
    ("+ what the detector finds, among the inputs", {"inside": True}),
):
    ROWS.append((_name, replace(ROWS[-1][1], **_change)))


class Seen:
    """What the frozen network sees on photos, each once."""

    def __init__(self, run: Run) -> None:
        cut = run.settings.first_stage, run.settings.first_block
        self.early, self.run = frozen(early_stages(run.body, *cut), 224), run
        self.detector = None if run.detector is None else frozen(run.detector, 224)
        self.kept: dict[str, Floats] = {}
        self.tower = LateTower(run.body, cut[0], 1, 0.0, cut[1]).eval()

    def __call__(self, images: Sequence[Any]) -> Floats:
        """Pooled features, probabilities and what the detector finds ``[n, width + classes + found]``."""
        new = [image for image in images if str(image) not in self.kept]
        for start in range(0, len(new), 32):
            some = new[start : start + 32]
            seen = pixels(some, AugmentConfig(), 0, range(len(some)), 0)
            rows = self.late(torch.from_numpy(self.early(seen)))
            if self.detector is not None:
                rows = np.concatenate([rows, self.detector(seen)], axis=1)
            self.kept.update(zip(map(str, some), rows, strict=True))
        return np.stack([self.kept[str(image)] for image in images])

    def late(self, maps: Any) -> Floats:
        """The same from the maps before the last stages."""
        with torch.inference_mode():
            pooled = self.tower.features(maps)
            return torch.cat([pooled, self.run.body.classifier(pooled).softmax(dim=1)], dim=1).numpy()


class Row(BaseEncoder):
    """Two functions as an encoder."""

    def __init__(
        self, name: str, images: Callable[[Sequence[Any]], Floats], texts: Callable[[Sequence[str]], Floats]
    ):
        self.card, self._images, self._texts = ModelCard(name, 512), images, texts

    def encode_images_safely(
        self, images: Sequence[Any], normalise: bool = True
    ) -> tuple[Floats, dict[int, str]]:
        """As the base class says."""
        return unit_norm(self._images(images)), {}

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Floats, NDArray[np.bool_], dict[int, str]]:
        """As the base class says."""
        return unit_norm(self._texts(list(texts))), np.zeros(len(texts), dtype=bool), {}


class Bench:
    """A run's kept parts, and encoders made of them."""

    def __init__(self, folder: Path) -> None:
        kept = json.loads((folder / "recipe.json").read_text())
        self.run = Run(replace(from_dict(Settings, kept), out=str(folder), processes=1), claim=False)
        self.said = self.run.targets()
        self.seen = Seen(self.run)
        self.kept_texts: dict[str, Floats] = {}
        self.models = [sentence_model(name) for name in self.run.settings.sentence_models]
        self.known = self.run.views()[1][0].astype(np.float32)

    def sentences(self, texts: Sequence[str]) -> Floats:
        """Sentence embeddings, each text once."""
        new = list(dict.fromkeys(text for text in texts if text not in self.kept_texts))
        if new:
            self.kept_texts.update(zip(new, sentence_space_inputs(new, self.models), strict=True))
        return np.stack([self.kept_texts[text] for text in texts])

    def ridge_row(self, name: str, parts: Parts, seed: int = 0) -> Row:
        """The encoder of a row; a seed above 0 leaves out a tenth of the photos."""
        run, s = self.run, self.run.settings
        own, count = run.pairs, len(run.pairs.photos)
        flickr, coco = (run.teacher.sentences(p.captions) for p in (own, run.more))
        space = self.said.space
        if not parts.both_spaces:
            space = CaptionSpace.fit(flickr, own.photo_of, s.space)
        meaning = lambda texts: unit_norm(space(self.sentences(texts))[:, : s.dim])  # noqa: E731
        captions = Captions(own.captions, own.photo_of, [], space(flickr))
        means = unit_norm(captions.photo_targets(s.dim))
        features = run.teacher.features(own, run.bare.pairs)
        penalty = PENALTY * features.shape[1] / WIDTH
        guess = unseen_predictions(features[:count], means, penalty)
        target = unit_norm((1 - s.ensemble_share) * means + s.ensemble_share * guess)
        weights = np.ones(count, dtype=np.float32)
        if parts.detected:
            none: list[list[str]] = [[] for _ in run.bare.pairs.photos]
            bare = BarePhotos(run.bare.pairs, run.bare.detected, run.bare.named if parts.named else none)
            guess = unit_norm(features[count:] @ ridge(features[:count], means, penalty))
            texts = bare.texts()
            store = Captions(
                [*own.captions, *run.more.captions],
                np.zeros(0, np.int64),
                [],
                space(np.concatenate([flickr, coco])),
            )
            known = dict(zip(texts, space(self.sentences(texts)), strict=True))
            _, pseudo = pseudo_captions(bare, guess, store, known, s.dim, parts.retrieved)
            pseudo = unit_norm((1 - s.ensemble_share) * pseudo + s.ensemble_share * guess)
            target = np.concatenate([target, pseudo])
            weights = np.concatenate([weights, np.full(len(pseudo), s.bare_weight, np.float32)])
        known, end = self.known[: len(target)], WIDTH + CLASSES
        _, mean, deviation = standardise(known)

        def inputs(rows: Floats) -> Floats:
            z = (rows - mean) / deviation
            likely, found = LIKELY * rows[:, WIDTH:end] * parts.likely, z[:, end:] * parts.inside
            return np.concatenate([z[:, :WIDTH], likely, found], axis=1)

        drawn = np.ones(len(target), dtype=bool)
        if seed:
            drawn = np.random.default_rng(seed).random(len(target)) < 0.9
        root = np.sqrt(weights)[drawn, None]
        x, y = [inputs(known[drawn]) * root], [target[drawn] * root]
        if parts.names:
            taught = [i for i in range(CLASSES) if i not in run.left_out]
            x.append(self.typical(deviation[:WIDTH], parts.likely, inputs(known))[taught] * 3**0.5)
            y.append(0.6 * self.classes(meaning, parts.everyday)[taught] * 3**0.5)
        matrix = ridge(np.concatenate(x), np.concatenate(y), 5e3)
        return Row(name, lambda images: inputs(self.seen(images)) @ matrix, meaning)

    def typical(self, deviation: Floats, likely: bool, photos: Floats) -> Floats:
        """What a typical photo of each class looks like to the ridge regression, given what the photos do."""
        rows = self.run.body.classifier.weight.detach().numpy() * deviation
        rows = unit_norm(rows) * WIDTH**0.5
        named = 0.85 * LIKELY * likely * np.eye(CLASSES, dtype=np.float32)
        found = rows @ ridge(photos[:, :WIDTH], photos[:, WIDTH + CLASSES :], 0.1 * len(photos))
        return np.concatenate([rows, named, found], axis=1)

    def classes(self, meaning: Callable[[list[str]], Floats], everyday: float) -> Floats:
        """The classes' names in the space."""
        texts = class_texts()
        name = unit_norm(meaning([t[0] for t in texts]) + meaning([t[1] for t in texts]))
        return unit_norm((1 - everyday) * name + everyday * meaning([t[2] for t in texts]))


def measured(encoder: BaseEncoder, data: Data) -> dict[str, float]:
    """The figures of a row."""
    found = {}
    for name in TABLES:
        for measure in SECTIONS[name].measure(data, encoder):
            found[f"{measure.collection}: {measure.name}"] = measure.value
    return found


COLUMNS = {
    "dev I2T": "Flickr8k dev: image-to-text R@1", "dev T2I": "Flickr8k dev: text-to-image R@1",
    "COCO I2T": "coco-dev: image-to-text R@1", "COCO T2I": "coco-dev: text-to-image R@1",
    "word, dev": "Flickr8k dev: one wrong word", "word, COCO": "coco-dev: one wrong word",
    "names seen": "top-1 of 500 names|saw", "names kept out": "top-1 of 500 names|kept out",
    "animal, COCO": "coco-dev, by captions: right animal among ten",
    "animal, bare": "400 bare COCO photos, by detector: right animal among ten",
    "noun, COCO": "coco-dev, by captions: right noun", "noun, bare": "400 bare COCO photos, by detector: right noun",
}  # fmt: skip


def cells(rows: Iterable[dict[str, float]]) -> list[str]:
    """One row of the table: the mean over seeds, with the deviation where there are several."""
    rows, out = list(rows), []
    for key in COLUMNS.values():
        end, _, part = key.partition("|")
        values = [
            v
            for row in rows
            for k, v in row.items()
            if (k == key if not part else k.endswith(end) and part in k)
        ]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(rows) > 1 else ""
        out.append(f"{np.mean(values):.1f}{spread}" if values else "-")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="folder of data")
    parser.add_argument(
        "--seeds", type=int, default=3, help="draws of nine tenths of the photos for the largest steps"
    )
    arguments = parser.parse_args()
    bench, data = Bench(arguments.run), Data(arguments.data)
    print("| | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))

    def show(name: str, rows: Iterable[dict[str, float]]) -> None:
        print(f"| {name} | " + " | ".join(cells(rows)) + " |", flush=True)

    for name, parts in ROWS:
        show(name, [measured(bench.ridge_row(name, parts), data)])
    for at in (3, 5):  # class names and what was detected
        for i in (at - 1, at):
            name, parts = ROWS[i]
            drawn = [
                measured(bench.ridge_row(name, parts, seed), data) for seed in range(1, arguments.seeds + 1)
            ]
            show(f"{name}: {arguments.seeds} draws of nine tenths", drawn)
    fp32 = load(str(arguments.run / "model"))
    show("the run's model", [measured(fp32, data)])
    show("the same in 8 bits", [measured(load(str(arguments.run / "onnx")), data)])


if __name__ == "__main__":
    main()
