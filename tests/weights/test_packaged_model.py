"""The model that cliplet ships: what its folder holds, how it ranks ordinary photos, what it reaches on benchmarks."""

import json
from pathlib import Path

import numpy as np
import pytest

import cliplet
from cliplet.classification.labelled import read_labelled_photos
from cliplet.encoders.registry import packaged_models
from cliplet.encoders.saturation import integer_products
from cliplet.evaluation.model_runs import embed_captioned_photos, run_pairs, run_retrieval
from cliplet.evaluation.retrieval import RetrievalProtocol
from cliplet.evaluation.runs import ScoreSources, evaluate_human
from cliplet.evaluation.zeroshot import evaluate_zeroshot
from tests.photos import shipped
from tests.shared_data import shared_data

# Written for this test; the photos come with scikit-image and scikit-learn.
CAPTIONS = {
    "astronaut.png": "a smiling woman in an orange space suit in front of a flag",
    "chelsea.png": "close-up of the face of an orange cat",
    "coffee.png": "a cup of coffee with a spoon on a saucer",
    "rocket.jpg": "a rocket stands on its launch pad at dusk",
    "china.jpg": "a temple with a curved roof under a blue sky",
    "flower.jpg": "a pink flower in front of dark green leaves",
}
FLOORS = {"image-to-text R@1": 35.0, "text-to-image R@1": 33.5}
COCO_FLOORS = {"image-to-text R@1": 56.0, "text-to-image R@1": 52.5}
JUDGED = {
    ("flickr8k-expert", "CLIPScore"): 55.6,
    ("flickr8k-expert", "RefMixScore"): 58.9,
    ("flickr8k-cf", "CLIPScore"): 34.2,
    ("flickr8k-cf", "RefMixScore"): 37.5,
}


@pytest.fixture(scope="module")
def folder() -> Path:
    (found,) = packaged_models()
    return found


def test_folder_is_small_and_complete(folder: Path) -> None:
    files = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert {"card.json", "tokenizer.json", "image.onnx", "text.onnx"} <= set(files)
    assert sum(files.values()) <= 20_000_000
    proved = str(integer_products(folder))
    assert proved.startswith("cannot saturate")
    assert json.loads((folder / "card.json").read_text())["results"]["integer_products"] == proved


def test_card_says_what_a_user_must_know(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    for name in ("description", "license", "training", "results", "good_at", "bad_at"):
        assert card[name], f"the card's {name} is empty"
    assert card["text"]["context_length"] == 77
    assert card["text"]["prompt_prefix"] == ""
    assert card["image"] == {"size": 224, "resize": "squash", "interpolation": "bicubic"}


def test_ordinary_photos_rank_their_captions_first() -> None:
    names = list(CAPTIONS)
    encoder = cliplet.load()
    photos = encoder.encode_images([shipped(name) for name in names])
    texts = encoder.encode_texts(list(CAPTIONS.values()))
    cosines = photos @ texts.T
    swapped = cosines[~np.eye(len(names), dtype=bool)]
    assert cosines.argmax(axis=1).tolist() == list(range(len(names)))
    assert np.diag(cosines).mean() > swapped.mean() + 0.2


def test_long_captions_keep_their_end_and_say_that_they_were_cut() -> None:
    encoder = cliplet.load()
    long = "a dog runs on the beach " * 60
    vectors, cut = encoder.encode_texts_counted([long, "a dog runs on the beach"])  # type: ignore[attr-defined]
    assert cut.tolist() == [True, False]
    assert float(vectors[0] @ vectors[1]) > 0.5


def _flickr8k() -> Path:
    return shared_data("flickr8k/Flickr8k.token.txt").parent


def _recall(captions: Path, photos: Path) -> dict[str, float]:
    found = embed_captioned_photos(cliplet.load(), [captions], [photos])
    result = run_retrieval(captions.stem, found, RetrievalProtocol(), {})
    return {f"{e.metric} R@1": e.value for e in result.entries if e.statistic == "R@1"}


def test_retrieval_on_dev() -> None:
    data = _flickr8k()
    recall = _recall(data / "Flickr8k.token.txt", data / "images_dev.tar")
    assert all(recall[name] >= floor for name, floor in FLOORS.items()), recall


def test_retrieval_on_photos_of_another_collection() -> None:
    data = shared_data("coco-dev/captions.json").parent
    recall = _recall(data / "captions.json", data / "photos.tar")
    assert all(recall[name] >= floor for name, floor in COCO_FLOORS.items()), recall


def test_things_that_captions_of_flickr8k_do_not_name() -> None:
    """ImageNet's classes by name; training has seen nine tenths of the names."""
    photos = read_labelled_photos(shared_data("imagenet500/images.tar"), label_from="name")
    ranks = evaluate_zeroshot(cliplet.load(), photos, resamples=0).ranks
    assert (ranks == 1).mean() >= 0.51


def test_false_captions_score_below_true_ones_on_dev(tmp_path: Path) -> None:
    """On every fifth photo; the card's figure is for all."""
    data = _flickr8k()
    some = tmp_path / "some.txt"
    some.write_text("\n".join((data / "split_dev.txt").read_text().split()[::5]) + "\n")
    files, photos = [data / "Flickr8k.token.txt"], [data / "images_dev.tar"]
    result = run_pairs(
        "dev", cliplet.load(), files, photos, from_captions=True, split=str(some), resamples=10
    )
    overall = next(e for e in result.entries if e.statistic == "accuracy")
    assert overall.n > 1000
    assert overall.value >= 80


def test_agreement_with_people_on_the_judged_half() -> None:
    data = _flickr8k()
    sources = ScoreSources(cliplet.load(), metrics=())
    result = evaluate_human(
        ["flickr8k-expert", "flickr8k-cf"],
        data,
        sources,
        [data / "images_judged.tar"],
        changes={"resamples": 10},
    )
    values = {(e.benchmark, e.metric): e.value for e in result.entries}
    for (benchmark, metric), floor in JUDGED.items():
        assert values[benchmark, metric] >= floor, f"{benchmark} {metric}: {values[benchmark, metric]:.2f}"
