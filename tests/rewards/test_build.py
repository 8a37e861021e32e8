"""Rewards by name: what each name makes, what is checked first, and that PyTorch stays out."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, MissingExtraError
from cliplet.metrics import meteor as meteor_module
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.rouge import rouge_l
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import (
    REWARDS,
    BleuReward,
    CaptionEmbeddings,
    CiderReward,
    FluencyReward,
    ImageEmbeddings,
    LClipScoreReward,
    LengthReward,
    MeteorReward,
    RefLClipScoreReward,
    RepetitionReward,
    Reward,
    RewardSpec,
    build_reward,
    sees_photos,
)
from tests.test_import_light import HEAVY, modules_after
from tests.tiny_model import DIM, build_tiny_model

REFERENCES = {
    "dog.jpg": ["A dog runs on the beach.", "The brown dog is running."],
    "cat.jpg": ["A cat sits on a mat.", "A black cat", "a cat on grass"],
    7: ["Two men talk.", "Two men are talking in the street."],
}
VECTORS = np.random.default_rng(0).normal(size=(3, DIM))
IMAGES = ["cat.jpg", 7, "dog.jpg", "dog.jpg"]
CAPTIONS = ["a cat sits", "two men are men are men", "", "a dog runs on the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OnnxEncoder:
    return OnnxEncoder(folder)


@pytest.fixture
def nobody() -> Any:
    """An encoder that must not be asked for anything."""
    return object()


def test_each_name_makes_its_reward(encoder: OnnxEncoder) -> None:
    pytest.importorskip("pycocoevalcap")
    mixed = build_reward(
        dict.fromkeys(REWARDS, 0.5), REFERENCES, encoder=encoder, image_embeddings=VECTORS, normalise=False
    )
    captions, photos = CaptionEmbeddings(encoder), ImageEmbeddings.given(VECTORS, list(REFERENCES))
    alone: dict[str, Reward] = {
        "lclipscore": LClipScoreReward(captions, photos),
        "ref_lclipscore": RefLClipScoreReward(captions, photos, REFERENCES),
        "cider": CiderReward(REFERENCES),
        "bleu": BleuReward(REFERENCES),
        "meteor": MeteorReward(REFERENCES),
        "length": LengthReward(REFERENCES),
        "repetition": RepetitionReward(),
        "fluency": FluencyReward([caption for group in REFERENCES.values() for caption in group]),
    }
    found = mixed.parts(IMAGES, CAPTIONS)
    assert list(found.values) == list(REWARDS) == list(alone)
    for name, reward in alone.items():
        assert reward.name == name
        np.testing.assert_allclose(found.values[name], reward(IMAGES, CAPTIONS), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.total, sum(0.5 * values for values in found.values.values()))


def test_the_end_token_and_frequencies_reach_cider_and_bleu() -> None:
    training = [[[*words, "<end>"] for words in tokenize_many(g, joined=False)] for g in REFERENCES.values()]
    frequencies = DocumentFrequencies.from_references([*training, [["a", "bird", "<end>"]]])
    mixed = build_reward(
        {"cider": 1, "bleu": 1},
        REFERENCES,
        document_frequencies=frequencies,
        end_token="<end>",
        normalise=False,
    )
    found = mixed.parts(IMAGES, CAPTIONS)
    np.testing.assert_array_equal(
        found.values["cider"], CiderReward(REFERENCES, frequencies, end_token="<end>")(IMAGES, CAPTIONS)
    )
    np.testing.assert_array_equal(
        found.values["bleu"], BleuReward(REFERENCES, end_token="<end>")(IMAGES, CAPTIONS)
    )
    with pytest.raises(InputError, match="do not know the end token"):
        build_reward({"cider": 1}, REFERENCES, document_frequencies=frequencies, end_token="</s>")


@pytest.mark.parametrize("given", ["array", "mapping", "photos"])
def test_photos_come_in_three_ways(encoder: OnnxEncoder, photos: dict[str, Path], given: str) -> None:
    pytest.importorskip("skimage")
    from cliplet.scoring.demo import CAPTIONS as SHOWN
    from cliplet.scoring.demo import demo_photos

    paths = {name: demo_photos() / name for name in SHOWN}
    vectors = encoder.encode_images(list(paths.values()))
    backwards = dict(reversed(list(paths.items())))
    arguments: dict[str, Mapping[str, Any]] = {
        "array": {"image_embeddings": vectors},
        "mapping": {"image_embeddings": dict(zip(paths, vectors, strict=True))},
        "photos": {"images": backwards},
    }
    reward = build_reward({"lclipscore": 1.0}, SHOWN, encoder=encoder, normalise=False, **arguments[given])
    texts = ["a dog on the beach", "red car"] * 3
    expected = 2.5 * np.maximum(np.einsum("nd,nd->n", vectors, encoder.encode_texts(texts)), 0)
    np.testing.assert_allclose(reward(list(SHOWN), texts), expected, atol=1e-5)


def test_the_packaged_model_is_the_default() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 512))
    reward = build_reward({"lclipscore": 1.0}, REFERENCES, image_embeddings=vectors, normalise=False)
    part = reward.rewards["lclipscore"]
    assert isinstance(part, LClipScoreReward)
    assert part._captions.encoder.card.name == "lclip-everyday"


def test_options_reach_the_mixture() -> None:
    mixed = build_reward({"length": 1}, REFERENCES, normalise=True, window=77)
    assert mixed.normalise
    assert mixed.window == 77
    assert mixed.weights == {"length": 1.0}


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (
            {"clip": 1.0},
            {},
            "unknown reward 'clip': choose from lclipscore, ref_lclipscore, cider, bleu, meteor, length",
        ),
        ({}, {}, "give weights for some of lclipscore"),
        ({"cider": float("nan")}, {}, "weight of the reward 'cider' must be a finite number"),
        ({"cider": "1"}, {}, "weight of the reward 'cider' must be a finite number"),
        ({"lclipscore": 1.0}, {}, "lclipscore must see the photos: give either image_embeddings or images"),
        (
            {"lclipscore": 1.0, "ref_lclipscore": 1.0},
            {"images": {}, "image_embeddings": VECTORS},
            "lclipscore and ref_lclipscore must see",
        ),
        (
            {"lclipscore": 1.0},
            {"images": {7: "7.jpg"}},
            "2 of 3 images .* have no photo .* among them 'dog.jpg'",
        ),
        (
            {"lclipscore": 1.0},
            {"image_embeddings": {"dog.jpg": VECTORS[0], 7: VECTORS[0]}},
            "1 of 3 .* 'cat.jpg'",
        ),
    ],
)
def test_what_cannot_be_built_is_said_before_any_work(
    nobody: Any, weights: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_reward(weights, REFERENCES, encoder=nobody, **options)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({}, "at least one image"),
        ({"dog.jpg": []}, "image 'dog.jpg' has no reference caption"),
        ({"dog.jpg": "a dog"}, "references of image 'dog.jpg' must be a list"),
        ({"dog.jpg": ["a dog", None]}, "all strings or all lists"),
        ([["a dog"]], "must be a mapping from image to captions, not list"),
    ],
)
def test_bad_references_are_named(references: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_reward({"repetition": 1.0}, references)


def test_meteor_without_its_tables_fails_before_photos_are_embedded(
    nobody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("METEOR", "meteor")

    monkeypatch.setattr(meteor_module, "load_tables", missing)
    with pytest.raises(MissingExtraError, match=r"cliplet\[meteor\]"):
        build_reward({"lclipscore": 1, "meteor": 1}, REFERENCES, encoder=nobody, image_embeddings=VECTORS)


def test_a_metric_without_a_reward_of_its_own_is_one_too() -> None:
    mixed = build_reward({"rouge": 1.0, "cider": 0.0}, REFERENCES, normalise=False)
    words = tokenize_many(CAPTIONS, joined=False)
    expected = rouge_l(
        words, [tokenize_many(REFERENCES[image], joined=False) for image in IMAGES]
    ).per_caption
    np.testing.assert_array_equal(mixed(IMAGES, CAPTIONS), expected)
    with pytest.raises(InputError, match="image 'bird' has no references in the reward 'rouge'"):
        mixed(["bird"], ["a bird"])


OWN = """
import cliplet.rewards as rewards
from cliplet.metrics.registry import ReferenceMetric, ReferenceScores

def words(images, captions):
    return [float(len(caption.split())) for caption in captions]

class Known:
    name = "known"

    def __init__(self, references):
        self.references = references

    def __call__(self, images, captions):
        return [float(len(self.references[image])) for image in images]

class Photos(rewards.LClipScoreReward):
    pass

photos = rewards.RewardSpec(lambda i: Photos(i.caption_embeddings, i.photo_embeddings), sees_photos=True)

def scores(corpus):
    found = ReferenceScores()
    found.add("Letters", __import__("numpy").array([float(len(text)) for text in corpus.captions]))
    return found

letters = ReferenceMetric("letters", ("Letters",), ("letters",), scores)
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "own_rewards"


def test_a_users_own_reward_is_named_by_module_and_attribute(encoder: OnnxEncoder, own: str) -> None:
    names = [f"{own}:words", f"{own}:Known", f"{own}:letters", f"{own}:photos", "lclipscore"]
    mixed = build_reward(
        dict.fromkeys(names, 1.0), REFERENCES, encoder=encoder, image_embeddings=VECTORS, normalise=False
    )
    found = mixed.parts(IMAGES, CAPTIONS).values
    assert list(found) == names
    np.testing.assert_array_equal(found[names[0]], [3, 6, 0, 5])
    np.testing.assert_array_equal(found[names[1]], [3, 2, 2, 2])
    np.testing.assert_array_equal(found[names[2]], [len(caption) for caption in CAPTIONS])
    np.testing.assert_array_equal(found[names[3]], found["lclipscore"])
    with pytest.raises(InputError, match="own_rewards:photos must see the photos"):
        build_reward({f"{own}:photos": 1.0}, REFERENCES)
    with pytest.raises(InputError, match="is of type int: it must be a function of images and captions"):
        build_reward({f"{own}:number": 1.0}, REFERENCES)


def test_who_sees_the_photos(own: str) -> None:
    assert {name for name in REWARDS if sees_photos([name])} == {"lclipscore", "ref_lclipscore"}
    assert sees_photos(["cider", f"{own}:photos"])
    assert not sees_photos(["cider", "rouge", f"{own}:words"])
    assert not sees_photos([])


def test_what_a_reward_needs_is_asked_before_anything_is_made(
    nobody: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("this", "hub")

    def made(_: Any) -> Reward:
        raise AssertionError("made")

    monkeypatch.setitem(REWARDS, "cider", RewardSpec(made))
    monkeypatch.setitem(REWARDS, "length", RewardSpec(made, needs=missing))
    with pytest.raises(MissingExtraError):
        build_reward({"cider": 1.0, "length": 1.0}, REFERENCES)


def test_rewards_never_import_pytorch(folder: Path) -> None:
    code = """
import sys
import numpy as np
import cliplet
from cliplet.rewards import TrlReward, build_reward
weights = {"lclipscore": 1, "ref_lclipscore": 1, "cider": 1, "bleu": 1, "length": 1, "repetition": 1, "fluency": 1}
vectors = np.eye(1, 16)
reward = build_reward(weights, {"a": ["a dog"]}, encoder=cliplet.load(sys.argv[1]), image_embeddings=vectors)
TrlReward(reward)(["say"], ["a dog runs"], image_id=["a"])
"""
    assert not modules_after(code, folder) & (HEAVY | {"trl", "datasets"})
