"""How good `cliplet explain` is: the wrong word found, the phrase's region hit, long captions kept in order.

    python -m benchmarks.explain --data DIR                      # all three, about 20 minutes on two cores
    python -m benchmarks.explain --data DIR --level words --pairs 500
    python -m benchmarks.explain --data DIR --fit                # the weights of cliplet.scoring.wrong_word

DIR holds flickr8k/ (Flickr8k.token.txt, split_dev.txt, images_dev.tar), coco-dev/ (captions.json, photos.tar) and
yolox-nano/yolox_nano.onnx. The weights are fitted on one half of the dev photos (by the CRC of their names) and the
words of Flickr8k are tested on the other half; nothing is fitted on coco-dev. Intervals are 95 % bootstrap intervals
that resample photos. Writes benchmarks/results/explain_NAME.csv.
"""

import argparse
import csv
import json
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cliplet
from cliplet.data.images import load_rgb
from cliplet.data.photos import open_photos
from cliplet.evaluation.hard_negatives import HardNegative, hard_negatives
from cliplet.regions import make_proposer
from cliplet.scoring.explain import Explainer, _Plan, _Texts
from cliplet.scoring.units import sentences, words
from cliplet.scoring.wrong_word import KINDS, WordDoubt, evidence
from cliplet.statistics.resampling import bootstrap_mean

Book = dict[str, list[str]]
Row = dict[str, Any]

NOUNS = {
    "person": "man woman boy girl person child kid baby toddler player guy lady men women boys girls people children "
    "kids players surfer skier rider climber skateboarder",
    "dog": "dog dogs puppy puppies", "cat": "cat cats", "horse": "horse horses", "bird": "bird birds",
    "sheep": "sheep", "cow": "cow cows", "elephant": "elephant elephants", "bicycle": "bike bikes bicycle bicycles",
    "motorcycle": "motorcycle motorbike", "car": "car cars", "bus": "bus", "truck": "truck",
    "boat": "boat boats canoe kayak",
    "sports ball": "ball football basketball", "frisbee": "frisbee", "skateboard": "skateboard",
    "surfboard": "surfboard",
    "bench": "bench", "chair": "chair chairs", "umbrella": "umbrella umbrellas", "backpack": "backpack",
    "tennis racket": "racket", "bottle": "bottle", "cup": "cup",
}  # fmt: skip
"""The detector's classes and the nouns that mean them."""
CLASS_OF = {noun: name for name, nouns in NOUNS.items() for noun in nouns.split()}


def collections(data: Path) -> dict[str, tuple[Book, Any]]:
    """Captions and photos of both development sets; never the judged half."""
    names = set((data / "flickr8k/split_dev.txt").read_text().split())
    flickr: Book = defaultdict(list)
    for line in (data / "flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t")
        if key.partition("#")[0] in names:
            flickr[key.partition("#")[0]].append(caption)
    coco = json.loads((data / "coco-dev/captions.json").read_text(encoding="utf-8"))
    return {
        "dev": (dict(flickr), open_photos(data / "flickr8k/images_dev.tar")),
        "coco-dev": (coco, open_photos(data / "coco-dev/photos.tar")),
    }


def half(image: str) -> int:
    return zlib.crc32(image.encode()) & 1


def swapped_place(negative: HardNegative) -> int:
    """Which word of the false caption was swapped; the article before it may differ too."""
    pairs = zip(words(negative.true), words(negative.false), strict=True)
    return max(i for i, (true, false) in enumerate(pairs) if true.text != false.text)


def sample(book: Book, n: int, keep: int | None) -> list[HardNegative]:
    """False captions as ``cliplet evaluate pairs --from-captions`` makes them, of one half or of all photos."""
    negatives = [h for h in hard_negatives(book, seed=0) if keep is None or half(h.image) == keep]
    random.Random(1).shuffle(negatives)
    return negatives[:n]


# ---------------------------------------------------------------- the wrong word
def word_level(
    explainer: Explainer, book: Book, photos: Any, n: int, keep: int | None, name: str
) -> list[Row]:
    rows = []
    hits: dict[str, list[float]] = defaultdict(list)
    images, kinds = [], []
    for negative in sample(book, n, keep):
        place = swapped_place(negative)
        start = words(negative.false)[place].start
        found = explainer.explain(photos.find(negative.image)[1], negative.false, regions=False)
        every = [w for s in found.sentences for w in s.words]
        chosen = {
            "explain": found.wrong_word or every[0],
            "without the weights of kinds": max(every, key=_without_kind),
            "leave one word out": max(every, key=lambda w: w.left_out),
            "kinds alone (no photo)": max(every, key=lambda w: KINDS[w.kind] if w.kind else -9),
        }
        for method, word in chosen.items():
            hits[method].append(float(word.start == start))
        hits["chance"].append(1 / len(every))
        images.append(negative.image)
        kinds.append(negative.category)
    for method, values in hits.items():
        rows.append(row(f"wrong word, {name}", method, values, images))
    of = np.array(kinds)
    for kind in sorted(set(kinds)):
        chosen_rows = np.flatnonzero(of == kind)
        rows.append(
            row(f"wrong word, {name}", f"explain, {kind}", np.array(hits["explain"])[chosen_rows],
                [images[i] for i in chosen_rows])
        )  # fmt: skip
    return rows


def _without_kind(word: WordDoubt) -> float:
    return word.doubt - KINDS[word.kind] if word.kind else -9.0


def fit(explainer: Explainer, book: Book, photos: Any, n: int) -> None:
    """Print the weights of the softmax over a sentence's words, fitted on one half of the photos."""
    from scipy.optimize import minimize

    names = list(KINDS)
    blocks, targets = [], []
    for negative in sample(book, n, 0):
        place = swapped_place(negative)
        at = words(negative.false)[place].start
        for part in (
            p for p in _plans(negative.false) if p.sentence.start <= at < p.sentence.end and p.variants
        ):
            vector, _ = explainer._images(load_rgb(photos.find(negative.image)[1]), False)
            texts = list(dict.fromkeys(["a photo", *part.texts]))
            known = _Texts(*explainer._encoded(texts), texts)
            spread = float(explainer._background_cosines(vector).std())
            near = [(known.cosine(a, vector), known.cosine(b, vector)) for a, b in part.variants.near]
            others = [[(w, known.cosine(t, vector)) for w, t in own] for own in part.variants.others]
            terms = evidence(part.words, known.cosine(part.sentence.text, vector), near, others, spread)
            flags = np.array([[float(w.kind == k) for k in names] for w in part.words])
            kept = [i for i, w in enumerate(part.words) if w.kind is not None]
            blocks.append(np.hstack([terms, flags])[kept])
            targets.append(
                kept.index(next(i for i, w in enumerate(part.words) if part.sentence.start + w.start == at))
            )
    weights = minimize(_loss, np.zeros(2 + len(names)), args=(blocks, targets)).x
    weights[2:] -= weights[2 + names.index("place")]
    print(f"{len(blocks)} captions: ALTERNATIVES {weights[0]:.2f}, LEFT_OUT {weights[1]:.2f}, KINDS")
    print({k: round(float(w), 2) for k, w in zip(names, weights[2:], strict=True)})


def _plans(caption: str) -> list[_Plan]:
    return [_Plan(s, True) for s in sentences(caption)]


def _loss(weights: np.ndarray, blocks: list[np.ndarray], targets: list[int]) -> float:
    total = 0.0
    for terms, target in zip(blocks, targets, strict=True):
        values = terms @ weights
        total += np.log(np.exp(values - values.max()).sum()) + values.max() - values[target]
    return total / len(blocks) + 0.0025 * float(weights @ weights)


# ---------------------------------------------------------------- regions
def region_level(
    explainer: Explainer, book: Book, photos: Any, detector: Path, n: int, name: str
) -> list[Row]:
    proposer = make_proposer(str(detector))
    names = sorted(book)
    random.Random(0).shuffle(names)
    hits: dict[str, list[float]] = defaultdict(list)
    images: list[str] = []
    for image in names:
        if len(set(images)) >= n:
            break
        photo = load_rgb(photos.find(image)[1])
        boxes = proposer.propose(photo)
        areas = {c: _area(boxes, photo.size, c) for c in NOUNS}
        small = {c for c, area in areas.items() if 0 < area.mean() < 0.25}
        for caption in book[image][:2]:
            nouns = {w.text.lower() for w in words(caption)} & set(CLASS_OF)
            if not any(CLASS_OF[noun] in small for noun in nouns):
                continue
            for unit in (
                u for s in explainer.explain(photo, caption, doubt_words=False).sentences for u in s.units
            ):
                heads = [w.text.lower() for w in words(unit.text) if w.text.lower() in CLASS_OF]
                if not heads or CLASS_OF[heads[-1]] not in small:
                    continue
                area = areas[CLASS_OF[heads[-1]]]
                hits["explain"].append(
                    0.0 if unit.region is None else _inside(area, unit.region.x, unit.region.y)
                )
                hits["chance by area"].append(float(area.mean()))
                hits["middle of the photo"].append(_inside(area, 0.5, 0.5))
                images.append(image)
    return [row(f"region hits the box, {name}", method, values, images) for method, values in hits.items()]


def _area(boxes: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """``[100, 100]`` where a class's boxes are."""
    mask = np.zeros((100, 100), dtype=bool)
    for i in range(len(boxes)):
        if boxes.label(i) == name:
            left, top, right, bottom = boxes.boxes[i] / np.array([*size, *size]) * 100
            mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def _inside(mask: np.ndarray, x: float, y: float) -> float:
    return float(mask[min(99, int(y * 100)), min(99, int(x * 100))])


# ---------------------------------------------------------------- long captions
def long_level(explainer: Explainer, book: Book, photos: Any, n: int, name: str) -> list[Row]:
    rng = random.Random(3)
    wrong = defaultdict(list)
    for negative in hard_negatives(book, seed=0):
        wrong[negative.image, negative.true].append(negative.false)
    images = sorted(book)
    rng.shuffle(images)
    hits: dict[str, list[float]] = defaultdict(list)
    used, pairs_of, verdicts = [], [], defaultdict(list)
    for image in images[:n]:
        swappable = [c for c in book[image] if wrong[image, c]]
        if len(swappable) < 2:
            continue
        false = rng.sample(swappable, 2)
        third = rng.choice([c for c in book[image] if c not in false] or [false[0]])
        true = [*false, third]
        spoiled, how = [], []
        for caption in false:
            how.append(rng.choice(("swapped", "other photo")))
            other = rng.choice([i for i in images if i != image])
            spoiled.append(
                rng.choice(wrong[image, caption]) if how[-1] == "swapped" else rng.choice(book[other])
            )
        versions = [true, [spoiled[0], *true[1:]], [*spoiled, third]]
        order = rng.sample(range(3), 3)
        photo = load_rgb(photos.find(image)[1])
        found = [
            explainer.explain(photo, _joined([version[k] for k in order]), regions=False, doubt_words=False)
            for version in versions
        ]
        for method, scores in {
            "mean of the sentences": [f.sentence_score for f in found],
            "lowest sentence": [min(s.height for s in f.sentences) for f in found],
            "whole caption at once": [f.score for f in found],
        }.items():
            hits[f"{method}, all three in order"].append(float(scores[0] > scores[1] > scores[2]))
            for a, b in ((0, 1), (1, 2), (0, 2)):
                hits[f"{method}, pairs"].append(float(scores[a] > scores[b]))
        used.append(image)
        pairs_of += [image] * 3
        if len(found[0].sentences) == len(found[2].sentences) == 3:
            for sentence in found[0].sentences:
                verdicts["true sentence"].append(sentence.verdict)
            for k, sentence in zip(order, found[2].sentences, strict=True):
                if k < 2:
                    verdicts[how[k]].append(sentence.verdict)
    rows = [
        row(f"long captions, {name}", m, v, pairs_of if m.endswith("pairs") else used)
        for m, v in hits.items()
    ]
    for what, given in verdicts.items():
        for verdict in ("supported", "doubtful", "not supported"):
            rows.append(
                row(f"verdicts, {name}", f"{what}: {verdict}", [float(v == verdict) for v in given], None)
            )
    return rows


def _joined(captions: list[str]) -> str:
    return " ".join(c.rstrip(" .!") + "." for c in captions)


# ---------------------------------------------------------------- scores
def score_level(explainer: Explainer, book: Book, photos: Any, name: str) -> list[Row]:
    """What a good score is: own captions and those of other photos."""
    images = sorted(book)
    captions = [book[i][0] for i in images]
    result = explainer.scorer.score([photos.find(i)[1] for i in images], captions)
    other = explainer.scorer.score([photos.find(i)[1] for i in images], captions[1:] + captions[:1])
    rows = []
    for what, scores in (("own caption", result.score), ("another photo's caption", other.score)):
        for q in (10, 25, 50, 75, 90, 95):
            rows.append(
                {"level": f"score, {name}", "method": f"{what}: {q} % are below",
                 "value": float(np.percentile(scores, q)),
                 "low": float("nan"), "high": float("nan"), "n": len(scores)}
            )  # fmt: skip
    return rows


def row(level: str, method: str, values: Sequence[float] | np.ndarray, images: Sequence[str] | None) -> Row:
    i = bootstrap_mean(np.asarray(values), images)
    return {"level": level, "method": method, "value": i.value, "low": i.low, "high": i.high, "n": i.n}


def show(rows: list[Row]) -> list[Row]:
    for r in rows:
        span = "" if r["low"] != r["low"] else f" ({r['low']:.3f} to {r['high']:.3f})"
        print(f"{r['level']:<32} {r['method']:<44} {r['value']:.3f}{span}  n {r['n']}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="default: the packaged model")
    parser.add_argument("--level", action="append", choices=("words", "regions", "long", "score"))
    parser.add_argument("--pairs", type=int, default=1500, help="false captions of each set")
    parser.add_argument("--photos", type=int, default=200, help="photos whose regions are looked for")
    parser.add_argument("--long", type=int, default=400, help="photos with long captions")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    explainer = Explainer(args.model)
    sets = collections(args.data)
    if args.fit:
        fit(explainer, *sets["dev"], args.pairs)
        return
    levels = args.level or ["score", "long", "regions", "words"]
    rows: list[Row] = []
    for name, (book, photos) in sets.items():
        if "score" in levels:
            rows += show(score_level(explainer, book, photos, name))
        if "long" in levels:
            rows += show(long_level(explainer, book, photos, args.long, name))
        if "regions" in levels:
            detector = args.data / "yolox-nano/yolox_nano.onnx"
            rows += show(region_level(explainer, book, photos, detector, args.photos, name))
        if "words" in levels:
            start = time.perf_counter()
            rows += show(word_level(explainer, book, photos, args.pairs, 1 if name == "dev" else None, name))
            print(f"{(time.perf_counter() - start) / args.pairs:.2f} s a caption at most", flush=True)
    stem = f"explain_{explainer.encoder.card.name}{'_' + '-'.join(args.level) if args.level else ''}.csv"
    path = Path(__file__).parent / "results" / stem
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["cliplet", *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {"cliplet": cliplet.__version__, **{k: _short(v) for k, v in r.items()}} for r in rows
        )
    print(f"written: {path}")


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
