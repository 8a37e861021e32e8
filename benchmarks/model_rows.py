"""What ``benchmarks/packaged_model.py`` measures of a model: one function a table, each from a folder of data.

Everything is scored by cliplet's own evaluation functions. A measure keeps its value for each question and the photo
that it was asked about, so that two models can be compared question by question.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cliplet.data.book import read_book
from cliplet.data.photos import PhotoStore
from cliplet.encoders.base import Encoder
from cliplet.evaluation.calibration import Mix, calibrate, calibration_error, mix_captions
from cliplet.evaluation.embed import embed_photos, embed_texts
from cliplet.evaluation.hard_negatives import hard_negatives, mentioned
from cliplet.evaluation.model_runs import RetrievalSet, embed_captioned_photos, labelled_nouns, made_pairs
from cliplet.evaluation.near_nouns import FALLS_ON, TEMPLATE, NounPhoto, evaluate_near_nouns, from_detector
from cliplet.evaluation.pairs import CaptionPair, PairSet, evaluate_pairs
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.runs import ScoreSources, evaluate_human
from cliplet.evaluation.zeroshot import LabelledPhotos, evaluate_zeroshot, read_labelled_photos
from cliplet.regions.base import Regions
from cliplet.regions.detector import OnnxDetector
from cliplet.scoring.match import matches
from cliplet.statistics.resampling import bootstrap_mean

NEAR_WRONG = Path(__file__).with_name("near_wrong.csv")
BARE = 400
"""The last COCO photos without captions, by name: kept out of training."""
KEPT_OUT = 100
"""ImageNet classes whose names are kept out of training."""
LEAST = 3
"""Of five captions that must name a thing."""
ANIMALS = {
    "bird": "birds?", "cat": "cats?|kittens?", "dog": "dogs?|pupp(?:y|ies)", "horse": "horses?|pon(?:y|ies)",
    "sheep": "sheeps?|lambs?", "cow": "cows?|cattle|bulls?|cal(?:f|ves)", "elephant": "elephants?",
    "bear": r"(?<!teddy )(?<!stuffed )bears?(?! costume)", "zebra": "zebras?", "giraffe": "giraffes?",
}  # fmt: skip
"""COCO's ten animals, and the words that name them."""
COUNTS = {"two", "three", "four", "five", "2", "3", "4", "5"}
ONE_WAY = re.compile(
    r"\b(?:on|onto|in|into|inside|riding|rides?|holding|holds|carrying|carries|wearing|wears|pulling|pulls|pushing|"
    r"pushes|chasing|chases|throwing|throws|catching|catches|kicking|kicks|eating|eats|under|through|over|behind)\b"
)
"""Words between two things that make "A ... B" say something else than "B ... A"."""
BOTH_WAYS = re.compile(
    r"\b(?:and|with|near|beside|next|by|between|or|to|front|as|while|,)(?:\b|$)|[,.;]", re.IGNORECASE
)
"""Words between two things that may leave the meaning the same, or end the sentence about the first."""


@dataclass(frozen=True)
class Measure:
    """One number of one model."""

    collection: str
    name: str
    value: float
    low: float = float("nan")
    """Lower end of the 95 % interval, photos resampled; NaN for none."""
    high: float = float("nan")
    asked: int = 0
    """Questions: queries, pairs, photos, ratings."""
    photos: int = 0
    wins: NDArray[np.float64] | None = field(default=None, repr=False)
    """[asked] 1 for a question answered right, else 0; None for what is no share of them."""
    photo: NDArray[Any] | None = field(default=None, repr=False)
    """[asked] the photo that each was asked about."""
    digits: int = 1


@dataclass
class Remembered:
    """A detector that looks at each photo once."""

    detector: OnnxDetector
    seen: dict[str, Regions] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The detector's."""
        return self.detector.name

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """What the detector found on this photo, the first time that it was asked."""
        if photo not in self.seen:
            self.seen[photo] = self.detector.propose(image, photo)
        return self.seen[photo]


@dataclass
class Data:
    """The folder of data; a detector's findings are kept for the next model."""

    folder: Path

    @cached_property
    def detector(self) -> Remembered:
        """YOLOX-Nano."""
        return Remembered(OnnxDetector(self.folder / "yolox-nano" / "yolox_nano.onnx"))

    @cached_property
    def bare(self) -> PhotoStore:
        """The bare COCO photos kept out of training."""
        store = PhotoStore([self.folder / "coco-train2014-photos" / "photos.tar"])
        return PhotoStore(extra={name: store.get(name) for name in sorted(store.names())[-BARE:]})

    @cached_property
    def coco(self) -> PhotoStore:
        """The photos of coco-dev."""
        return PhotoStore([self.folder / "coco-dev" / "photos.tar"])

    @property
    def dev(self) -> dict[str, tuple[Path, Path, str | None]]:
        """Captions, photos and split of the two collections with captions."""
        flickr, coco = self.folder / "flickr8k", self.folder / "coco-dev"
        split = str(flickr / "split_dev.txt")
        return {
            "Flickr8k dev": (flickr / "Flickr8k.token.txt", flickr / "images_dev.tar", split),
            "coco-dev": (coco / "captions.json", coco / "photos.tar", None),
        }

    def captions(self, collection: str) -> dict[str, list[str]]:
        """The captions by photo, of the photos that are there."""
        file, photos, split = self.dev[collection]
        book = read_book([file])
        there = set(PhotoStore([photos]).names())
        kept = there if split is None else there & set(Path(split).read_text().split())
        return {name: list(own) for name, own in book.images.items() if name in kept}


def share(
    collection: str, name: str, wins: ArrayLike, photo: Sequence[Any] | NDArray[Any] | None = None
) -> Measure:
    """The share of questions answered right, times 100, with its interval by photo."""
    right = np.asarray(wins, dtype=np.float64)
    photo = np.arange(len(right)) if photo is None else np.asarray(photo)
    found = bootstrap_mean(right, photo)
    value, low, high = (100 * v for v in (found.value, found.low, found.high))
    return Measure(collection, name, value, low, high, found.n, len(np.unique(photo)), right, photo)


def blind(collection: str, controls: Mapping[str, float], asked: Measure) -> Iterator[Measure]:
    """What guessers get that see no photo."""
    for name, value in controls.items():
        shown = name if name == "chance" else f"blind: {name}"
        yield Measure(
            collection, f"{asked.name} ({shown})", 100 * value, asked=asked.asked, photos=asked.photos
        )


# ---------------------------------------------------------------- captions
def embedded(data: Data, encoder: Encoder, collection: str) -> RetrievalSet:
    file, photos, split = data.dev[collection]
    return embed_captioned_photos(encoder, [file], [photos], split)


def _recalls(
    collection: str, images: NDArray[Any], texts: NDArray[Any], pairs: NDArray[np.int64]
) -> Iterator[Measure]:
    """R@1 and R@5 of both ways; ``pairs`` [pairs, 2] (image, text), sorted by text."""
    first = dict(reversed([(int(t), int(i)) for i, t in pairs]))
    for direction in evaluate_retrieval(images, texts, pairs, RetrievalProtocol(resamples=0)):
        ranks = direction.folds[0]
        of_image = direction.name == "image-to-text"
        photo = ranks.queries if of_image else np.array([first[int(t)] for t in ranks.queries])
        for k in ("R@1", "R@5"):
            yield share(collection, f"{direction.name} {k}", ranks.columns()[k], photo)


def retrieval(data: Data, encoder: Encoder) -> Iterator[Measure]:
    for collection in data.dev:
        found = embedded(data, encoder, collection)
        pairs = np.stack([found.caption_image, np.arange(len(found.texts))], axis=1)
        yield from _recalls(collection, found.images, found.texts, pairs)


def _wrong_words(
    encoder: Encoder, collection: str, pairs: PairSet, store: PhotoStore, name: str
) -> Iterator[Measure]:
    """True captions above false ones: all, by kind, and what blind guessers get."""
    result = evaluate_pairs(encoder, pairs, store, prefix="", resamples=0)
    wins, kinds = result.margins > 0, np.array([p.category for p in result.pairs])
    photo = np.array([p.image for p in result.pairs])
    yield (total := share(collection, name, wins, photo))
    for kind in dict.fromkeys(kinds) if len(set(kinds)) > 1 else ():
        yield share(collection, f"{name}: {kind}", wins[kinds == kind], photo[kinds == kind])
    yield from blind(collection, result.results[0].blind, total)


def wrong_words(data: Data, encoder: Encoder) -> Iterator[Measure]:
    for collection, (file, photos, split) in data.dev.items():
        store = PhotoStore([photos])
        pairs = made_pairs([file], split, 0, store)
        yield from _wrong_words(encoder, collection, pairs, store, "one wrong word")


def match(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """Calibration errors, 0 to 1, without an interval: resampling would add its own noise to an error."""
    mixes = [_mix(name, encoder, embedded(data, encoder, name)) for name in data.dev]
    anew = calibrate(mixes).errors()
    aerial = data.folder / "ucm-captions"
    found = embed_captioned_photos(encoder, [aerial / "captions_val.json"], [aerial / "photos_val.tar"])
    for mix in [*mixes, _mix("UCM-Captions val (aerial)", encoder, found)]:
        counts: dict[str, Any] = {
            "asked": len(mix.cosine), "photos": len(np.unique(mix.photo)), "digits": 3
        }  # fmt: skip
        spec = encoder.card.match
        if spec:
            error = calibration_error(matches(spec, mix.cosine), mix.right)
            yield Measure(mix.name, "calibration error of the card's match", error, **counts)
        if mix.name in anew:
            name = "calibration error of a match measured on other photos of both (5 folds)"
            yield Measure(mix.name, name, anew[mix.name], **counts)


def _mix(name: str, encoder: Encoder, found: RetrievalSet) -> Mix:
    return mix_captions(
        name, encoder, found.images, found.texts, found.captions, found.caption_image,
        encoder.card.text.prompt_prefix,
    )  # fmt: skip


# ---------------------------------------------------------------- names
def kept_out_synsets() -> set[str]:
    """WordNet numbers of the classes whose names are kept out of training, such as n01484850; timm knows them."""
    from cliplet.models.pretrained import imagenet_names

    count = len(imagenet_names())  # makes timm ready too
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    chosen = np.random.default_rng(0).choice(count, KEPT_OUT, replace=False)
    return {str(info.index_to_label_name(int(i))) for i in chosen}


def imagenet(data: Data, encoder: Encoder) -> Iterator[Measure]:
    photos = read_labelled_photos(data.folder / "imagenet500" / "images.tar", label_from="name")
    result = evaluate_zeroshot(encoder, photos, resamples=0)
    kept_out = kept_out_synsets()
    unseen = np.array([photos.names[i][:9] in kept_out for i in result.kept])
    for what, rows in (
        ("all 500 classes", np.ones(len(unseen), dtype=bool)),
        (f"{unseen.sum()} classes with a name kept out", unseen),
        (f"the other {(~unseen).sum()} classes", ~unseen),
    ):
        for k in (1, 5):
            yield share("imagenet500", f"{what}: top-{k} of 500 names", result.ranks[rows] <= k)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def animals_by_captions(captions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The photos on which at least 3 captions name exactly one of the ten animals, and which."""
    found = {}
    for photo, own in captions.items():
        texts = [caption.lower() for caption in own]
        counts = {
            animal: sum(bool(re.search(rf"\b(?:{words})\b", text)) for text in texts)
            for animal, words in ANIMALS.items()
        }
        sure = [animal for animal, n in counts.items() if n >= LEAST]
        if len(sure) == 1:
            found[photo] = sure[0]
    return found


def animals_by_detector(data: Data) -> dict[str, str]:
    """The bare photos on which the detector is sure of exactly one of the ten animals, and which."""
    from cliplet.data.images import open_image

    found = {}
    for photo in data.bare.names():
        regions = data.detector.propose(open_image(data.bare.get(photo)), photo)
        sure = {regions.label(i) for i, score in enumerate(regions.scores) if score >= FALLS_ON}
        if len(here := sure & ANIMALS.keys()) == 1:
            found[photo] = here.pop()
    return found


def animals(data: Data, encoder: Encoder) -> Iterator[Measure]:
    texts = embed_texts(encoder, [f"a photo of {_article(animal)}" for animal in ANIMALS])
    for collection, labels, store in (
        ("coco-dev, by captions", animals_by_captions(data.captions("coco-dev")), data.coco),
        (f"{BARE} bare COCO photos, by detector", animals_by_detector(data), data.bare),
    ):
        photos = embed_photos(encoder, [store.get(name) for name in labels], list(labels))
        cosines = photos.embeddings @ texts.T  # [photos, animals]
        own = np.array([list(ANIMALS).index(animal) for animal in labels.values()])[photos.kept]
        better = (cosines >= cosines[np.arange(len(own)), own][:, None]).sum(axis=1)
        yield share(collection, "right animal among ten", better == 1)


def near_nouns(data: Data, encoder: Encoder) -> Iterator[Measure]:
    captions, tar = data.dev["coco-dev"][0], data.folder / "imagenet500" / "images.tar"
    imagenet_photos = PhotoStore([tar])
    bare = {name: data.bare.get(name) for name in data.bare.names()}
    for collection, store, asked in (
        ("coco-dev, by captions", data.coco, labelled_nouns("captions", [captions], data.coco)[0]),
        ("imagenet500, by names", imagenet_photos, labelled_nouns("names", [tar], imagenet_photos)[0]),
        (f"{BARE} bare COCO photos, by detector", data.bare, from_detector(data.detector, bare)[0]),
    ):
        results, _ = evaluate_near_nouns(encoder, asked, store, resamples=0)
        wins, photo = _noun_wins(encoder, asked, store), np.array([a.image for a in asked])
        assert np.isclose(wins.mean(), results[0].interval.value), "not cliplet's own near nouns"
        yield (total := share(collection, "right noun", wins, photo))
        for result in results[1:]:
            here = np.array([a.group == result.category for a in asked])
            yield share(collection, f"right noun: {result.category}", wins[here], photo[here])
        yield from blind(collection, results[0].blind, total)


def _noun_wins(encoder: Encoder, asked: Sequence[NounPhoto], store: PhotoStore) -> NDArray[np.float64]:
    """[asked] whether the right noun is nearest, for comparisons question by question."""
    images = embed_photos(encoder, [store.get(a.image) for a in asked], [a.image for a in asked]).embeddings
    wins = []
    for a, image in zip(asked, images, strict=True):
        cosines = embed_texts(encoder, [TEMPLATE.format(noun) for noun in a.choices]) @ image
        wins.append(cosines[0] > cosines[1:].max())
    return np.array(wins, dtype=np.float64)


# ---------------------------------------------------------------- near-wrong sentences
def read_near_wrong() -> list[dict[str, Any]]:
    """The list: photo, the words that at least 3 of its captions have one of, right and wrong sentences."""
    with NEAR_WRONG.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "photo": row["photo"], "named": row["named"].split("/"), "right": row["right"],
            "wrong": [row[f"wrong {i}"] for i in (1, 2, 3) if row[f"wrong {i}"]],
        }
        for row in rows
    ]  # fmt: skip


def near_wrong_answers(data: Data, encoder: Encoder) -> list[dict[str, Any]]:
    """Of each photo of the list the sentence that the model puts first, and by how much the right one is ahead."""
    rows = read_near_wrong()
    found = embed_photos(encoder, [data.coco.get(row["photo"]) for row in rows], [r["photo"] for r in rows])
    average = found.embeddings.mean(axis=0)
    answers = []
    for row, image in zip(rows, found.embeddings, strict=True):
        texts = embed_texts(encoder, [row["right"], *row["wrong"]])
        cosines, unseen = texts @ image, texts @ average
        best = int(np.argmax(cosines[1:]))
        answers.append(
            {
                "photo": row["photo"], "right": row["right"], "best wrong": row["wrong"][best],
                "ahead": float(cosines[0] - cosines[1:].max()), "won": bool(cosines[0] > cosines[1:].max()),
                "blind": bool(unseen[0] > unseen[1:].max()), "chance": 1 / len(texts),
            }
        )  # fmt: skip
    return answers


def near_wrong(data: Data, encoder: Encoder) -> Iterator[Measure]:
    answers = near_wrong_answers(data, encoder)
    total = share("coco-dev, 30 photos", "right sentence first", [a["won"] for a in answers])
    yield total
    controls = {"this model, average photo": "blind", "chance": "chance"}
    yield from blind(
        "coco-dev, 30 photos",
        {k: float(np.mean([a[v] for a in answers])) for k, v in controls.items()},
        total,
    )


# ---------------------------------------------------------------- what it is bad at
def counting_pairs(captions: Mapping[str, Sequence[str]]) -> list[CaptionPair]:
    """Captions that name a number from two to five, and the same with another number."""
    return [n.pair() for n in hard_negatives(captions, ("number",)) if n.before.lower() in COUNTS]


def order_pairs(captions: Mapping[str, Sequence[str]]) -> list[CaptionPair]:
    """Captions of exactly two listed things, one doing something to the other, and the same with the things swapped."""
    pairs = []
    for photo, own in captions.items():
        for caption in own:
            words = [(m, mentioned([m.group()], "object")) for m in re.finditer(r"[A-Za-z][\w'-]*", caption)]
            things = [(m, thing) for m, thing in words if thing]
            if len(things) != 2 or things[0][1] == things[1][1]:
                continue
            (a, _), (b, _) = things
            between = caption[a.end() : b.start()]
            if len(between.split()) > 5 or not ONE_WAY.search(between) or BOTH_WAYS.search(between):
                continue
            swapped = (
                caption[: a.start()] + b.group().lower() + between + a.group().lower() + caption[b.end() :]
            )
            swapped = re.sub(r"\b([Aa])n? (?=(\w))", _fit_article, swapped)
            pairs.append(CaptionPair(photo, caption, swapped, "word order"))
    return pairs


def _fit_article(found: re.Match[str]) -> str:
    return f"{found.group(1)}{'n' if found.group(2).lower() in 'aeio' else ''} "


def counting_and_order(data: Data, encoder: Encoder) -> Iterator[Measure]:
    for name, make in (
        ("right number (two to five) above another", counting_pairs),
        ("right order of two things above swapped", order_pairs),
    ):
        for collection, (_, photos, _) in data.dev.items():
            pairs = make(data.captions(collection))
            if pairs:
                yield from _wrong_words(encoder, collection, PairSet(pairs), PhotoStore([photos]), name)


def aerial(data: Data, encoder: Encoder) -> Iterator[Measure]:
    folder, name = data.folder / "ucm-captions", "UCM-Captions val"
    found = embed_captioned_photos(encoder, [folder / "captions_val.json"], [folder / "photos_val.tar"])
    distinct = {text: i for i, text in enumerate(dict.fromkeys(found.captions))}
    place = {text: n for n, text in enumerate(found.captions)}
    texts = found.texts[[place[text] for text in distinct]]
    pairs = {(distinct[t], int(i)) for t, i in zip(found.captions, found.caption_image, strict=True)}
    pairs_table = np.array([(i, t) for t, i in sorted(pairs)])
    yield from _recalls(f"{name}, {len(distinct)} distinct captions", found.images, texts, pairs_table)
    words = json.loads((folder / "class_names.json").read_text(encoding="utf-8"))
    store = PhotoStore([folder / "photos_val.tar"])
    names = store.names()
    labels = np.array([list(words).index(re.sub(r"\d+\.jpg$", "", photo)) for photo in names])
    photos = LabelledPhotos(names, [store.get(n) for n in names], labels, list(words.values()))
    ranks = evaluate_zeroshot(encoder, photos, resamples=0).ranks
    for k in (1, 5):
        yield share(name, f"class names: top-{k} of {len(words)}", ranks <= k)


def judged(data: Data, encoder: Encoder) -> Iterator[Measure]:
    folder = data.folder / "flickr8k"
    sources = ScoreSources(encoder, metrics=[])
    run = evaluate_human(["flickr8k-expert", "flickr8k-cf"], folder, sources, [folder / "images_judged.tar"])
    photos = {name: about["images"] for name, about in run.provenance["benchmarks"].items()}
    for e in run.entries:
        yield Measure(
            e.benchmark, f"{e.metric}, {e.statistic}", e.value, e.low, e.high, e.n, photos[e.benchmark]
        )


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    measure: Callable[[Data, Encoder], Iterable[Measure]]
    needs: tuple[str, ...]
    """Folders of the data."""
    about: str = ""


SECTIONS: dict[str, Section] = {
    "retrieval": Section("Retrieval", retrieval, ("flickr8k", "coco-dev")),
    "pairs": Section(
        "Captions with one wrong word", wrong_words, ("flickr8k", "coco-dev"),
        "The true caption must score above the same with one word swapped (`cliplet evaluate pairs --from-captions`).",
    ),
    "match": Section(
        "Match", match, ("flickr8k", "coco-dev", "ucm-captions"),
        "Mean distance of match and share of right captions, 0 to 1; no interval: resampling adds noise to an error.",
    ),
    "imagenet": Section(
        "ImageNet class names", imagenet, ("imagenet500",),
        "One photo for each of 500 classes. Training has seen the class names, so this is not zero-shot, but for the "
        "classes kept out (numpy's default_rng(0).choice(1000, 100, replace=False)); `lclip-flickr8k` saw those too.",
    ),
    "animals": Section(
        "Right animal among ten", animals, ("coco-dev", "coco-train2014-photos", "yolox-nano"),
        "\"A photo of a ...\" with COCO's ten animals. By captions: at least 3 of 5 name exactly one of them; by "
        f"detector: YOLOX-Nano is sure ({FALLS_ON}) of exactly one, on photos kept out of training.",
    ),
    "near-nouns": Section(
        "Near nouns", near_nouns, ("coco-dev", "imagenet500", "coco-train2014-photos", "yolox-nano"),
        "The right noun among the ten nearest of its group (`cliplet evaluate pairs --near-nouns`).",
    ),
    "near-wrong": Section(
        "Right sentence above near-wrong ones", near_wrong, ("coco-dev",),
        "30 photos of 30 kinds of scene (`benchmarks/near_wrong.csv`): the right sentence must beat all of its two or "
        "three wrong ones, in which one thing is exchanged for a like one.",
    ),
    "bad-at": Section(
        "Counting and word order", counting_and_order, ("flickr8k", "coco-dev"),
        "Text in photos is not measured: no photos with text are at hand.",
    ),
    "aerial": Section("Aerial photos", aerial, ("ucm-captions",), "Equal captions count as one."),
    "judged": Section(
        "Agreement with people", judged, ("flickr8k",),
        "Flickr8k's judged half, `cliplet evaluate human flickr8k-expert flickr8k-cf --metrics ''`: CLIPScore sees the "
        "photo alone, the others the references too.",
    ),
}  # fmt: skip
"""The tables, in their order."""
