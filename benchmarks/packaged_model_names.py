"""The tables of ``benchmarks/packaged_model.py`` in which a photo meets names of things; and aerial photos."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from benchmarks.packaged_model_captions import recalls
from benchmarks.packaged_model_data import BARE, LEAST, Data, Measure, blind, share
from numpy.typing import NDArray

from cliplet.classification.labelled import LabelledPhotos, read_labelled_photos
from cliplet.data.images import open_image
from cliplet.data.photos import PhotoStore
from cliplet.encoders.base import Encoder
from cliplet.encoders.embed import embed_photos, embed_texts
from cliplet.errors import MissingExtraError
from cliplet.evaluation.model_runs import embed_captioned_photos, labelled_nouns
from cliplet.evaluation.near_nouns import FALLS_ON, TEMPLATE, NounPhoto, evaluate_near_nouns, from_detector
from cliplet.evaluation.zeroshot import evaluate_zeroshot

KEPT_OUT = 100
"""ImageNet classes whose names are kept out of training."""
ANIMALS = {
    "bird": "birds?", "cat": "cats?|kittens?", "dog": "dogs?|pupp(?:y|ies)", "horse": "horses?|pon(?:y|ies)",
    "sheep": "sheeps?|lambs?", "cow": "cows?|cattle|bulls?|cal(?:f|ves)", "elephant": "elephants?",
    "bear": r"(?<!teddy )(?<!stuffed )bears?(?! costume)", "zebra": "zebras?", "giraffe": "giraffes?",
}  # fmt: skip
"""COCO's ten animals, and the words that name them."""


def kept_out_synsets() -> set[str]:
    """WordNet numbers of the classes whose names are kept out of training, such as n01484850; timm knows them."""
    from cliplet.models.pretrained import imagenet_names

    try:
        count = len(imagenet_names())  # makes timm ready too
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise MissingExtraError("which ImageNet names are kept out", "train") from error

    info = ImageNetInfo("imagenet-1k")
    chosen = np.random.default_rng(0).choice(count, KEPT_OUT, replace=False)
    return {str(info.index_to_label_name(int(i))) for i in chosen}


def imagenet(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """The class of each photo among 500 names."""
    photos = read_labelled_photos(data.folder / "imagenet500" / "images.tar", label_from="name")
    result = evaluate_zeroshot(encoder, photos, resamples=0)
    every = np.ones(len(result.kept), dtype=bool)
    kept_out = kept_out_synsets()
    unseen = np.array([photos.names[i][:9] in kept_out for i in result.kept])
    for what, rows in (
        (f"all {len(photos.classes)} classes", every),
        (f"{unseen.sum()} classes whose names were kept out", unseen),
        (f"the other {(~unseen).sum()} classes, whose names training saw", ~unseen),
    ):
        for k in (1, 5):
            yield share(
                "imagenet500", f"{what}: top-{k} of {len(photos.classes)} names", result.ranks[rows] <= k
            )


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
    found = {}
    for photo in data.bare.names():
        regions = data.detector.propose(open_image(data.bare.get(photo)), photo)
        sure = {regions.label(i) for i, score in enumerate(regions.scores) if score >= FALLS_ON}
        if len(here := sure & ANIMALS.keys()) == 1:
            found[photo] = here.pop()
    return found


def animals(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """The animal on a photo among ten."""
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
    """The noun of a photo among the nouns nearest to it."""
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


def aerial(data: Data, encoder: Encoder) -> Iterator[Measure]:
    """Photos from above, which no model here was trained on: retrieval and class names."""
    folder, name = data.folder / "ucm-captions", "UCM-Captions val"
    found = embed_captioned_photos(encoder, [folder / "captions_val.json"], [folder / "photos_val.tar"])
    distinct = {text: i for i, text in enumerate(dict.fromkeys(found.captions))}
    place = {text: n for n, text in enumerate(found.captions)}
    texts = found.texts[[place[text] for text in distinct]]
    pairs = {(distinct[t], int(i)) for t, i in zip(found.captions, found.caption_image, strict=True)}
    pairs_table = np.array([(i, t) for t, i in sorted(pairs)])
    yield from recalls(f"{name}, {len(distinct)} distinct captions", found.images, texts, pairs_table)
    words = json.loads((folder / "class_names.json").read_text(encoding="utf-8"))
    store = PhotoStore([folder / "photos_val.tar"])
    names = store.names()
    labels = np.array([list(words).index(re.sub(r"\d+\.jpg$", "", photo)) for photo in names])
    photos = LabelledPhotos(names, [store.get(n) for n in names], labels, list(words.values()))
    ranks = evaluate_zeroshot(encoder, photos, resamples=0).ranks
    for k in (1, 5):
        yield share(name, f"class names: top-{k} of {len(words)}", ranks <= k)
