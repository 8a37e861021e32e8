"""The tables of ``benchmarks/packaged_model.py`` in which a photo meets right and wrong sentences."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.packaged_model_data import Data, Measure, blind, share
from numpy.typing import NDArray

from cliplet.data.photos import PhotoStore
from cliplet.encoders.base import Encoder
from cliplet.encoders.embed import embed_photos, embed_texts
from cliplet.evaluation.calibration import Mix, calibrate, calibration_error, mix_captions
from cliplet.evaluation.hard_negatives import hard_negatives, mentioned
from cliplet.evaluation.model_runs import RetrievalSet, embed_captioned_photos, made_pairs
from cliplet.evaluation.pairs import CaptionPair, PairSet, evaluate_pairs
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.runs import ScoreSources, evaluate_human
from cliplet.scoring.match import matches

NEAR_WRONG = Path(__file__).with_name("near_wrong.csv")
COUNTS = {"two", "three", "four", "five", "2", "3", "4", "5"}
ONE_WAY = re.compile(
    r"\b(?:on|onto|in|into|inside|riding|rides?|holding|holds|carrying|carries|wearing|wears|pulling|pulls|pushing|"
    r"pushes|chasing|chases|throwing|throws|catching|catches|kicking|kicks|eating|eats|under|through|over|behind)\b"
)
"""Words between two things that make "A ... B" say something else than "B ... A"."""
BOTH_WAYS = re.compile(r"\b(?:and|with|near|beside|next|by|between|or|to|front|as|while|of)\b|[,.;]")
"""Words between two things that may leave the meaning the same, or begin another part of the sentence."""
AFTER = re.compile(
    r"\s*$|\s*[,.;]|\s+(?:is|are|was|that|who|in|on|onto|into|inside|under|over|through|behind|with|while|near|of|to|"
    r"for|by|at|outside|during|next|as|from|along|down|up|across|around|above|against|\w+ing|\w+s)\b"
)
"""What follows a noun that ends its phrase: "a snow board" is no snow."""


def embedded(data: Data, encoder: Encoder, collection: str) -> RetrievalSet:
    """Its photos and captions."""
    file, photos, split = data.dev[collection]
    return embed_captioned_photos(encoder, [file], [photos], split)


def recalls(
    collection: str, images: NDArray[Any], texts: NDArray[Any], pairs: NDArray[np.int64]
) -> Iterator[Measure]:
    """R@1 and R@5 of both ways; ``pairs`` [pairs, 2] (image, text), sorted by text."""
    first = dict(reversed([(int(t), int(i)) for i, t in pairs]))
    for direction in evaluate_retrieval(images, texts, pairs, RetrievalProtocol(resamples=0)):
        ranks = direction.folds[0]
        of_image = direction.name == "image-to-text"
        photo = ranks.queries if of_image else np.array([first[int(t)] for t in ranks.queries])
        for k in ("R@1", "R@5"):
            yield share(collection, f"{direction.name} {k}", ranks.columns()[k], photo, len(images))


def retrieval(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """The right caption, or the right photo, among the first."""
    for collection in data.dev:
        found = embedded(data, encoder, collection)
        pairs = np.stack([found.caption_image, np.arange(len(found.texts))], axis=1)
        yield from recalls(collection, found.images, found.texts, pairs)


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
    controls = {k: v for k, v in result.results[0].blind.items() if k not in ("shorter", "longer")}
    yield from blind(collection, controls, total)


def wrong_words(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """The true caption above the same with one wrong word."""
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
    """The right sentence above all its near-wrong ones."""
    answers = near_wrong_answers(data, encoder)
    total = share("coco-dev, 30 photos", "right sentence first", [a["won"] for a in answers])
    yield total
    controls = {"this model, average photo": "blind", "chance": "chance"}
    yield from blind(
        "coco-dev, 30 photos",
        {k: float(np.mean([a[v] for a in answers])) for k, v in controls.items()},
        total,
    )


def counting_pairs(captions: Mapping[str, Sequence[str]]) -> list[CaptionPair]:
    """Captions that name a number from two to five, and the same with another number; "two" stands apart.

    Most captions with a number say "two": a guesser that prefers it does well there, and badly on the others.
    """
    return [
        CaptionPair(n.image, n.true, n.false, "two" if n.before.lower() in ("two", "2") else "three to five")
        for n in hard_negatives(captions, ("number",))
        if n.before.lower() in COUNTS
    ]


def things_of(caption: str) -> list[tuple[int, int]]:
    """Where the caption's phrases of an article, perhaps one more word, and a listed thing begin and end."""
    found = []
    for article in re.finditer(r"\b(?:an?|the)\b", caption, re.IGNORECASE):
        words = list(re.finditer(r"[\w-]+", caption[article.end() :]))[:2]
        for word in words:
            end = article.end() + word.end()
            if mentioned([word.group()], "object") and AFTER.match(caption, end):
                found.append((article.start(), end))
                break
            if AFTER.match(caption, end):  # the phrase ends without a listed thing
                break
    return found


def order_pairs(captions: Mapping[str, Sequence[str]]) -> list[CaptionPair]:
    """Captions in which one listed thing is in, on, under ... another or does something to it, and both exchanged.

    "A dog runs through the snow" becomes "The snow runs through a dog".
    """
    pairs = []
    for photo, own in captions.items():
        for caption in own:
            things = things_of(caption)
            for (a, a_end), (b, b_end) in pairwise(things):
                first, between, second = caption[a:a_end], caption[a_end:b], caption[b:b_end]
                same = mentioned([first], "object") == mentioned([second], "object")
                if (
                    same
                    or len(between.split()) > 5
                    or BOTH_WAYS.search(between)
                    or not ONE_WAY.search(between)
                ):
                    continue
                first, second = first[0].lower() + first[1:], second[0].lower() + second[1:]
                if caption[a].isupper():
                    second = second[0].upper() + second[1:]
                swapped = caption[:a] + second + between + first + caption[b_end:]
                pairs.append(CaptionPair(photo, caption, swapped, "word order"))
                break
    return pairs


def counting_and_order(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """Numbers, and who does what to whom."""
    for name, make in (
        ("right number (two to five) above another", counting_pairs),
        ("right order of two things above swapped", order_pairs),
    ):
        for collection, (_, photos, _) in data.dev.items():
            pairs = make(data.captions(collection))
            if pairs:
                yield from _wrong_words(encoder, collection, PairSet(pairs), PhotoStore([photos]), name)


def judged(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """Correlations with people's ratings of captions."""
    folder = data.folder / "flickr8k"
    sources = ScoreSources(encoder, metrics=[])
    run = evaluate_human(["flickr8k-expert", "flickr8k-cf"], folder, sources, [folder / "images_judged.tar"])
    photos = {name: about["images"] for name, about in run.provenance["benchmarks"].items()}
    for e in run.entries:
        yield Measure(
            e.benchmark, f"{e.metric}, {e.statistic}", e.value, e.low, e.high, e.n, photos[e.benchmark]
        )
