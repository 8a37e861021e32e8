"""What encoders can do beyond the protocol: declared, with defaults for strangers, and the same through wrappers."""

import multiprocessing
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from cliplet.encoders.base import BaseEncoder, adapt, unit_norm
from cliplet.encoders.batching import BatchedEncoder, encode_images_safely, encode_texts_safely
from cliplet.encoders.cache import CachedEncoder, EmbeddingCache
from cliplet.encoders.card import ModelCard
from cliplet.encoders.embed import embed_texts
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, ModelError
from cliplet.scoring.scorer import Scorer
from tests.tiny_model import build_tiny_model

PHOTOS = [np.full((9, 9, 3), 20 * i, np.uint8) for i in range(5)]
TEXTS = ["a dog", "a red cat", "the grass", "a car"]


class Stranger:
    """An Encoder of somebody who knows the protocol alone."""

    def __init__(self, width: int = 4) -> None:
        self.card = ModelCard("stranger", 4)
        self.width = width

    def encode_images(self, images):
        return np.stack([np.full(self.width, np.asarray(image).mean() + 1.0) for image in images])

    def encode_texts(self, texts):
        return np.stack([np.arange(self.width) + len(text) for text in texts])


class Towers(BatchedEncoder):
    """Four steps that make vectors of a photo's mean and a text's length; NaN for 100 and for "nan"."""

    raw = True

    def __init__(self) -> None:
        self.card = ModelCard("towers", 2, fingerprint_of=lambda: "0123456789abcdef")

    def prepare_image(self, source):
        if source is None:
            raise InputError("no image")
        return float(np.asarray(source).mean())

    def embed_images(self, prepared):
        return np.array([[np.nan if p == 100 else 3.0 * p, 4.0 * p] for p in prepared])

    def tokenize(self, texts):
        return [list(text) for text in texts], np.array([len(text) > 20 for text in texts])

    def embed_tokens(self, tokens):
        return np.array([[np.inf if t == list("nan") else 1.0, len(t)] for t in tokens])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("abilities") / "model")


def test_a_stranger_has_every_ability_by_default():
    encoder = adapt(Stranger())
    assert (encoder.raw, encoder.library, encoder.model, encoder.device) == (False, "", None, "cpu")
    encoder.preload()
    encoder.to("cpu")
    with pytest.raises(InputError, match="stranger computes on cpu alone, not on cuda"):
        encoder.to("cuda")
    vectors, reasons = encoder.encode_images_safely([PHOTOS[0], b"no image", PHOTOS[1]])
    assert list(reasons) == [1]
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(vectors[[0, 2]], 0.5)
    _, truncated = encoder.encode_texts_counted(TEXTS)
    assert truncated.tolist() == [False] * 4
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_texts(TEXTS), axis=1), 1, atol=1e-6)
    assert adapt(encoder) is encoder
    assert Scorer(Stranger()).score(PHOTOS[:2], ["a dog", "a cat"]).failures == [None, None]


def test_a_stranger_whose_card_is_wrong_is_told():
    with pytest.raises(ModelError, match=r"shape \(2, 3\) for 2 texts: one row of 4"):
        adapt(Stranger(width=3)).encode_texts(["a", "b"])
    with pytest.raises(ModelError, match="for 5 images: one row of 4"):
        adapt(Stranger(width=3)).encode_images_safely(PHOTOS)


def test_raw_embeddings_are_given_where_they_are_declared():
    encoder = Towers()
    raw, reasons = encode_images_safely(encoder, [PHOTOS[1], None], normalise=False)
    np.testing.assert_array_equal(raw[0], [60, 80])
    assert reasons == {1: "no image"}
    texts, _, _ = encode_texts_safely(encoder, ["abcd"], normalise=False)
    np.testing.assert_array_equal(texts, [[1, 4]])
    np.testing.assert_array_equal(encoder.encode_texts(["abcd"]), unit_norm(texts))


@pytest.mark.parametrize("wrapped", [False, True])
def test_raw_embeddings_are_refused_elsewhere(folder, tmp_path, wrapped):
    encoder = OnnxEncoder(folder)
    encoder = CachedEncoder(encoder, EmbeddingCache(tmp_path)) if wrapped else encoder
    assert not encoder.raw
    with pytest.raises(InputError, match="tiny-0 gives embeddings of length 1 alone"):
        encoder.encode_texts_safely(TEXTS, normalise=False)
    with pytest.raises(InputError, match="tiny-0 gives embeddings of length 1 alone"):
        encoder.encode_images_safely(PHOTOS, normalise=False)


def test_a_cache_gives_raw_and_unit_embeddings_apart(tmp_path):
    plain = Towers()
    for _ in range(2):  # computed, then read
        encoder = CachedEncoder(plain, EmbeddingCache(tmp_path))
        for normalise in (False, True):
            ours, theirs = (
                (
                    e.encode_images_safely(PHOTOS[1:4], normalise)[0],
                    e.encode_texts_safely(TEXTS, normalise)[0],
                )
                for e in (encoder, plain)
            )
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])


def test_wrappers_have_the_abilities_of_what_they_wrap(tmp_path):
    class Able(Towers):
        library, model = "open_clip", "weights"
        preloaded, place = False, "cpu"

        @property
        def device(self):
            return self.place

        def to(self, device):
            self.place = device

        def preload(self):
            self.preloaded = True

    inner = Able()
    encoder = CachedEncoder(inner, EmbeddingCache(tmp_path))
    assert (encoder.raw, encoder.library, encoder.model, encoder.device) == (
        True,
        "open_clip",
        "weights",
        "cpu",
    )
    encoder.to("cuda:1")
    Scorer(encoder)
    assert (inner.place, encoder.device, inner.preloaded) == ("cuda:1", "cuda:1", True)


@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_not_finite_is_a_failed_row(tmp_path, normalise):
    images = [PHOTOS[1], np.full((9, 9, 3), 100, np.uint8), PHOTOS[2]]
    for encoder in (Towers(), CachedEncoder(Towers(), EmbeddingCache(tmp_path))):
        vectors, reasons = encoder.encode_images_safely(images, normalise)
        assert reasons == {1: "the model gave NaN for this image"}
        assert np.isnan(vectors).any(axis=1).tolist() == [False, True, False]
        vectors, truncated, reasons = encoder.encode_texts_safely(["a", "x" * 21, "nan"], normalise)
        assert list(reasons) == [2]
        assert truncated.tolist() == [False, True, False]
        assert np.isnan(vectors).any(axis=1).tolist() == [False, False, True]
        for call in (lambda e=encoder: e.encode_images(images), lambda e=encoder: e.encode_texts(["nan"])):
            with pytest.raises(InputError, match="the model gave NaN for this (image|text)"):
                call()


def test_a_strangers_nan_is_a_failed_row():
    class Broken(Stranger):
        def encode_images(self, images):
            rows = super().encode_images(images)
            rows[1] = np.nan
            return rows

    vectors, reasons = encode_images_safely(Broken(), PHOTOS)
    assert list(reasons) == [1]
    assert np.isfinite(vectors[[0, 2, 3, 4]]).all()


def test_an_evaluation_never_ranks_nan():
    class Broken(Stranger):
        def encode_texts(self, texts):
            return np.full((len(texts), 4), np.nan)

    with pytest.raises(InputError, match="the model gave NaN for this text"):
        embed_texts(Broken(), TEXTS)


def test_no_caller_asks_for_attributes():
    """Callers see one base class; only ``adapt`` and ``load`` look at what a stranger gave."""
    import re

    import cliplet

    package = Path(cliplet.__file__).parent
    asked = re.compile(r"(has|get)attr\([\w.]*\bencoders?(\[\d\])?,|isinstance\([^)]*Encoder\b")
    found = {
        (str(path.relative_to(package)), line.strip())
        for path in package.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if asked.search(line)
    }
    assert {path for path, _ in found} <= {"encoders/base.py", "encoders/registry.py"}, found


@pytest.fixture
def expected(folder):
    return OnnxEncoder(folder).encode_texts(TEXTS)


def _texts_of(encoder: BaseEncoder) -> np.ndarray:
    return encoder.encode_texts(TEXTS)


def _score_of(scorer: Scorer) -> list[float]:
    return scorer.score(PHOTOS, ["a dog"] * len(PHOTOS)).score.tolist()


def test_an_encoder_and_its_scorer_can_be_pickled(folder, tmp_path, expected):
    cached = CachedEncoder(OnnxEncoder(folder), EmbeddingCache(tmp_path))
    cached.encode_texts(TEXTS)
    for encoder in (OnnxEncoder(folder), cached):
        again = pickle.loads(pickle.dumps(encoder))
        np.testing.assert_array_equal(again.encode_texts(TEXTS), expected)
        assert again.card == encoder.card
        assert again.card.fingerprint == encoder.card.fingerprint != "unknown"
    scorer = Scorer(folder)
    assert _score_of(pickle.loads(pickle.dumps(scorer))) == _score_of(scorer)
    result = scorer.score(PHOTOS[:1], ["a dog"])
    assert pickle.loads(pickle.dumps(result)).provenance == result.provenance


def test_a_spawned_process_can_use_a_scorer(folder):
    scorer = Scorer(folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(_score_of, (scorer,)).get(timeout=120) == _score_of(scorer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_a_forked_process_can_use_a_scorer(folder, tmp_path, used, cache):
    """As a DataLoader's workers do, right after ``Scorer()`` (its threads are loading) and after work."""
    alone = _score_of(Scorer(folder))
    scorer = Scorer(folder, cache=tmp_path if cache else None)
    if used:
        _score_of(scorer)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
        )
        with multiprocessing.get_context("fork").Pool(2) as pool:
            waiting = [pool.apply_async(_score_of, (scorer,)) for _ in range(4)]
            assert [w.get(timeout=120) for w in waiting] == [alone] * 4
    assert _score_of(scorer) == alone


@pytest.mark.parametrize("threads", [1, 3])
def test_photos_are_embedded_in_order_whichever_thread_decodes_them(threads):
    encoder = Towers()
    encoder.batch_size, encoder.tower_threads = 2, threads
    photos = [None if i == 5 else np.full((2, 2, 3), i, np.uint8) for i in range(17)]
    vectors, reasons = encoder.encode_images_safely(photos, normalise=False)
    assert vectors[:, 0].tolist()[:5] == [0, 3, 6, 9, 12]
    assert np.isnan(vectors[5]).all()
    assert vectors[6:, 1].tolist() == [4.0 * i for i in range(6, 17)]
    assert list(reasons) == [5]
