"""L-CLIPScore rewards: the scorer's values, each caption encoded once, and photos checked beforehand."""

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cliplet
from cliplet.encoders.base import Encoder
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, ModelError
from cliplet.rewards import CaptionEmbeddings, ImageEmbeddings, LClipScoreReward, RefLClipScoreReward, Reward
from cliplet.scoring.demo import CAPTIONS, demo_photos
from tests.tiny_model import DIM, build_tiny_model

VECTORS = np.random.default_rng(0).normal(size=(3, DIM))


class Counting:
    """An encoder that remembers what it was asked."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.card = encoder, encoder.card
        self.texts: list[str] = []

    def encode_images(self, images: Sequence) -> np.ndarray:
        return self.encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return self.encoder.encode_texts(texts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> OnnxEncoder:
    return OnnxEncoder(build_tiny_model(tmp_path_factory.mktemp("model"), prefix="photo of "))


@pytest.fixture
def counting(tiny: OnnxEncoder) -> Counting:
    return Counting(tiny)


def test_the_values_are_the_scorers_with_the_packaged_model() -> None:
    pytest.importorskip("skimage")
    photos = {name: demo_photos() / name for name in CAPTIONS}
    images = [*CAPTIONS, *list(CAPTIONS)[::-1]]
    texts = [group[0] for group in CAPTIONS.values()] * 2
    references = {name: group[1:] or ["a photo"] for name, group in CAPTIONS.items()}
    scorer = cliplet.Scorer()
    expected = scorer.score(
        [photos[name] for name in images], texts, references=[references[name] for name in images]
    )
    embeddings = ImageEmbeddings.encoded(scorer.encoder, photos)
    captions = CaptionEmbeddings(scorer.encoder)
    values = LClipScoreReward(captions, embeddings)(images, texts)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected.score, atol=1e-5)
    assert values[: len(CAPTIONS)].mean() > values[len(CAPTIONS) :].mean() + 0.1
    with_references = RefLClipScoreReward(captions, embeddings, references)(images, texts)
    np.testing.assert_allclose(with_references, expected.ref_clip_score, atol=1e-5)


def test_references_of_different_numbers_stay_with_their_image(tiny: OnnxEncoder) -> None:
    references = {"c": ["a cat"], "a": ["a dog runs", "the beach", "red car"], "b": ["two man", "a woman"]}
    images, texts = ["a", "b", "c", "a"], ["a dog", "a woman sits", "blue grass", "red car"]
    embeddings = ImageEmbeddings(["a", "b", "c"], VECTORS)
    values = RefLClipScoreReward(CaptionEmbeddings(tiny), embeddings, references)(images, texts)
    for image, text, value in zip(images, texts, values, strict=True):
        caption = tiny.encode_texts([f"photo of {text}"])[0]
        score = 2.5 * max(float(embeddings.vectors[embeddings.rows[image]] @ caption), 0)
        best = max(
            float((tiny.encode_texts([f"photo of {r}" for r in references[image]]) @ caption).max()), 0
        )
        assert value == pytest.approx(2 * score * best / max(score + best, 1e-30), abs=1e-6)


def test_equal_captions_are_encoded_once_and_remembered(counting: Counting) -> None:
    captions = CaptionEmbeddings(counting)
    reward = LClipScoreReward(captions, ImageEmbeddings(["a", "b", "c"], VECTORS))
    first = reward(["a", "b", "a"], ["a dog", "a dog", "red car"])
    assert counting.texts == ["photo of a dog", "photo of red car"]
    again = reward(["a", "c", "b"], ["red car", "a cat", "a dog"])
    assert counting.texts[2:] == ["photo of a cat"]
    np.testing.assert_array_equal(again[[0, 2]], first[[2, 1]])
    other = LClipScoreReward(captions, ImageEmbeddings(["a"], VECTORS[:1]))
    np.testing.assert_array_equal(other(["a"], ["a dog"]), first[:1])
    assert len(counting.texts) == 3


def test_the_memory_of_captions_is_bounded(counting: Counting) -> None:
    captions = CaptionEmbeddings(counting, remember=5)
    for start in range(0, 40, 4):
        captions([f"dog {number}" for number in range(start, start + 4)])
        assert len(captions._memory) <= 5
    many = captions([f"cat {number % 30}" for number in range(90)])
    assert len(captions._memory) <= 5
    np.testing.assert_array_equal(many[:30], many[60:])
    before = len(counting.texts)
    nothing = CaptionEmbeddings(counting, remember=0)
    np.testing.assert_array_equal(nothing(["a dog", "a dog"]), nothing(["a dog", "a dog"]))
    assert len(counting.texts) == before + 2


def test_threads_may_share_it(tiny: OnnxEncoder) -> None:
    reward = LClipScoreReward(CaptionEmbeddings(tiny, remember=3), ImageEmbeddings(["a", "b", "c"], VECTORS))
    images, texts = ["a", "b", "c"] * 2, ["a dog", "a cat", "red", "blue", "green car", "the beach"]
    expected = reward(images, texts)
    with ThreadPoolExecutor(6) as pool:
        for values in pool.map(lambda _: reward(images, texts), range(60)):
            np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_model_that_gives_nan_or_too_few_vectors_is_named(tiny: OnnxEncoder) -> None:
    class Broken(Counting):
        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            vectors = self.encoder.encode_texts([t for t in texts if "gone" not in t])
            vectors[[i for i, t in enumerate(texts) if "broken" in t]] = np.nan
            return vectors

    reward = LClipScoreReward(CaptionEmbeddings(Broken(tiny)), ImageEmbeddings(["a"], VECTORS[:1]))
    for texts, message in (
        (["a dog", "a broken cat"], "tiny-0 gave NaN for the caption 'a broken cat'"),
        (["a dog", "gone"], "tiny-0 gave 1 embeddings for 2 captions"),
    ):
        with pytest.raises(ModelError, match=message):
            reward(["a", "a"], texts)
    assert np.isfinite(reward(["a"], ["a dog"])).all()


def test_captions_embeddings_can_be_pickled_without_their_memory() -> None:
    captions = CaptionEmbeddings(Fixed())
    captions(["a dog"])
    again = pickle.loads(pickle.dumps(captions))
    assert not again._memory
    np.testing.assert_array_equal(again(["a dog"]), captions(["a dog"]))


class Fixed:
    """Of this module, so that pickle finds it."""

    card = cliplet.ModelCard(name="fixed", embedding_dim=3)

    def encode_images(self, images: Sequence) -> np.ndarray:
        return self.encode_texts(images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.float32([1, 0, 0]), (len(texts), 1))


def test_a_caption_without_words_gets_nothing_and_odd_text_is_taken(tiny: OnnxEncoder) -> None:
    reward = LClipScoreReward(CaptionEmbeddings(tiny), ImageEmbeddings(["a"], VECTORS[:1]))
    values = reward(["a"] * 4, ["", " \n", "dog \ud800", "dog " * 400])
    np.testing.assert_array_equal(values[:2], 0)
    assert np.isfinite(values).all()


def test_embeddings_come_as_a_mapping_an_array_or_photos(tiny: OnnxEncoder, photos: dict[str, Path]) -> None:
    names = ["a", 5, ("x", 1)]
    by_name = ImageEmbeddings.given(dict(zip(names, VECTORS, strict=True)))
    in_order = ImageEmbeddings.given(VECTORS, names)
    for found in (by_name, in_order):
        assert list(found.rows) == names
        np.testing.assert_allclose(
            found.vectors, VECTORS / np.linalg.norm(VECTORS, axis=1)[:, None], rtol=1e-6
        )
    assert list(ImageEmbeddings.given(VECTORS).rows) == [0, 1, 2]
    chosen = dict(list(photos.items())[:3])
    good = {name: path for name, path in chosen.items() if _readable(tiny, path)}
    made = ImageEmbeddings.encoded(tiny, good)
    np.testing.assert_allclose(made.vectors, tiny.encode_images(list(good.values())), atol=1e-6)


def _readable(encoder: Encoder, path: Path) -> bool:
    try:
        encoder.encode_images([path])
    except InputError:
        return False
    return True


def test_bad_embeddings_and_photos_are_named(tiny: OnnxEncoder, tmp_path: Path) -> None:
    for given, order, message in (
        ({}, None, "there are no images"),
        (VECTORS, ["a", "b"], r"shape \(3, 16\) do not fit 2 images"),
        (VECTORS, ["a", "b", "a"], "same image id stands twice"),
        (VECTORS * [[1], [0], [1]], ["a", "b", "c"], "embedding of image 'b' is not a direction"),
        (VECTORS * [[1], [1], [np.nan]], ["a", "b", "c"], "embedding of image 'c' is not a direction"),
        ({"a": VECTORS[0], "b": VECTORS[1][:4]}, None, "vectors of one length"),
    ):
        with pytest.raises(InputError, match=message):
            ImageEmbeddings.given(given, order)
    with pytest.raises(InputError, match=r"have 4 values each, but tiny-0 makes 16"):
        LClipScoreReward(CaptionEmbeddings(tiny), ImageEmbeddings(["a"], VECTORS[:1, :4]))
    missing = {f"{number}.jpg": tmp_path / f"{number}.jpg" for number in range(5)}
    with pytest.raises(InputError, match=r"5 of 5 photos cannot be used: '0\.jpg': "):
        ImageEmbeddings.encoded(tiny, missing)


def test_unknown_images_and_bad_captions_are_named(counting: Counting) -> None:
    captions = CaptionEmbeddings(counting)
    embeddings = ImageEmbeddings(["a", "b", "c"], VECTORS)
    plain = LClipScoreReward(captions, embeddings)
    referenced = RefLClipScoreReward(captions, embeddings, {"a": ["a dog"]})
    assert isinstance(plain, Reward)
    before = len(counting.texts)
    for reward, images, texts, message in (
        (plain, ["a", "z"], ["a dog", "x"], "image 'z' has no embedding in the reward 'lclipscore'"),
        (referenced, ["b"], ["a dog"], "image 'b' has no references in the reward 'ref_lclipscore'"),
        (plain, [], [], "no captions to reward"),
        (plain, ["a"], [["a", "dog"]], "caption 0 .* is not a string but list"),
        (plain, ["a"], ["a", "b"], "2 captions but 1 images"),
    ):
        with pytest.raises(InputError, match=message):
            reward(images, texts)
    for references in ({"a": []}, {"a": "a dog"}, {"a": [["a", "dog"]]}):
        with pytest.raises(InputError, match="image 'a' needs reference captions"):
            RefLClipScoreReward(captions, embeddings, references)
    with pytest.raises(InputError, match="references of at least one image"):
        RefLClipScoreReward(captions, embeddings, {})
    assert len(counting.texts) == before
