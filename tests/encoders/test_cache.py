"""The embedding cache: hits, keys by content and model, two processes, bounds, damage."""

import os
import sqlite3
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from cliplet.encoders.cache import CachedEncoder, EmbeddingCache
from cliplet.encoders.card import ModelCard
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError
from cliplet.scoring.scorer import Scorer
from tests.tiny_model import build_tiny_model

TEXTS = ["a dog", "a red cat", "the grass"]


class Counting(OnnxEncoder):
    images = 0
    texts = 0

    def embed_images(self, prepared):
        self.images += len(prepared)
        return super().embed_images(prepared)

    def embed_tokens(self, tokens):
        self.texts += len(tokens)
        return super().embed_tokens(tokens)


@pytest.fixture
def model(tmp_path):
    return build_tiny_model(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def cached(model, folder, **options):
    return CachedEncoder(Counting(model), EmbeddingCache(folder, **options))


def test_same_photos_with_new_captions_cost_only_the_captions(model, photos, tmp_path):
    first = cached(model, tmp_path / "cache")
    one = Scorer(first).score(photos, ["a dog"] * 7)
    again = cached(model, tmp_path / "cache")
    two = Scorer(again).score(photos, ["a cat"] * 6 + ["a dog"])
    assert (first.encoder.images, first.encoder.texts) == (7, 1)
    assert (again.encoder.images, again.encoder.texts) == (0, 1)
    np.testing.assert_array_equal(one.score[6], two.score[6])
    plain = Scorer(OnnxEncoder(model)).score(photos, ["a cat"] * 6 + ["a dog"])
    np.testing.assert_allclose(two.score, plain.score, atol=1e-6)


def test_the_key_is_the_content_not_the_name(model, photos, tmp_path):
    encoder = cached(model, tmp_path / "cache")
    encoder.encode_images(photos)
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    encoder.encode_images([copy, photos[0].read_bytes()])
    assert encoder.encoder.images == 7
    copy.write_bytes(photos[1].read_bytes())
    np.testing.assert_array_equal(encoder.encode_images([copy]), encoder.encode_images([photos[1]]))
    array = np.asarray(Image.open(photos[2]))
    encoder.encode_images([array, Image.open(photos[2])])
    encoder.encode_images([array.copy(), Image.open(photos[2])])
    assert encoder.encoder.images == 9, "an array and a PIL image are hashed by their pixels, once each"


def test_another_model_never_gets_these_vectors(model, photos, tmp_path):
    cached(model, tmp_path / "cache").encode_images(photos)
    other = cached(build_tiny_model(tmp_path / "other", seed=1), tmp_path / "cache")
    vectors = other.encode_images(photos)
    assert other.encoder.images == 7
    np.testing.assert_allclose(vectors, OnnxEncoder(tmp_path / "other").encode_images(photos), atol=1e-6)


def test_truncation_is_remembered(model, tmp_path):
    long = "dog " * 40
    _, first = cached(model, tmp_path / "cache").encode_texts_counted([long, "a dog"])
    _, second = cached(model, tmp_path / "cache").encode_texts_counted(["a dog", long])
    assert first.tolist() == [True, False]
    assert second.tolist() == [False, True]


def test_failures_are_not_cached(model, photos, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(photos[0].read_bytes()[:200])
    encoder = cached(model, tmp_path / "cache")
    for _ in range(2):
        vectors, reasons = encoder.encode_images_safely([photos[0], bad, tmp_path / "none.png"])
        assert sorted(reasons) == [1, 2]
        assert np.isnan(vectors[1:]).all()
        assert not np.isnan(vectors[0]).any()
    with pytest.raises(InputError, match="truncated or corrupt"):
        encoder.encode_images([bad])


def test_size_stays_bounded(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", max_bytes=300_000)
    for i in range(400):
        cache.put({f"{i:04d}-{j}".encode(): b"x" * 1000 for j in range(10)})
    assert cache.size_bytes <= 300_000
    assert cache.path.stat().st_size <= 400_000
    assert cache.get([b"0399-9"]), "the newest are kept"


def test_two_processes_write_at_once(model, photos, tmp_path):
    code = (
        "import sys; from cliplet.scoring.scorer import Scorer\n"
        "r = Scorer(sys.argv[1], cache=sys.argv[2]).score(sys.argv[3:], ['a dog'] * len(sys.argv[3:]))\n"
        "assert r.failures == [None] * len(sys.argv[3:]), r.failures\nprint(r.mean)"
    )
    command = [sys.executable, "-c", code, model, tmp_path / "cache", *photos * 20]
    running = [subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1
    encoder = cached(model, tmp_path / "cache")
    encoder.encode_images(photos)
    assert encoder.encoder.images == 0


def test_a_damaged_file_is_set_aside(tmp_path):
    (tmp_path / "embeddings.sqlite").write_bytes(b"this is not a database, it only looks like one" * 40)
    with pytest.warns(UserWarning, match="was damaged"):
        cache = EmbeddingCache(tmp_path)
    cache.put({b"k": b"v"})
    assert cache.get([b"k"]) == {b"k": b"v"}


def test_random_bytes_in_the_file_never_change_a_score(model, photos, tmp_path):
    """Whatever is overwritten: a damaged row is computed again, a damaged database begins anew."""
    encoder = cached(model, tmp_path / "cache")
    images, texts = encoder.encode_images(photos), encoder.encode_texts(TEXTS)
    encoder.cache.close()  # which writes the log into the file
    path = encoder.cache.path
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    recomputed = 0
    for trial in range(60):
        damaged = bytearray(whole)
        start = int(rng.integers(0, len(whole) - 64)) if trial else whole.rindex(images[0].tobytes()[:16])
        damaged[start : start + 64] = rng.bytes(64)
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some bytes make the whole file unreadable
            again = cached(model, tmp_path / "cache")
            np.testing.assert_array_equal(again.encode_images(photos), images)
            np.testing.assert_array_equal(again.encode_texts(TEXTS), texts)
        recomputed += again.encoder.images + again.encoder.texts
        again.cache.close()
        for left in path.parent.glob("embeddings.*"):
            left.unlink()
    assert recomputed > 0


def test_a_database_damaged_while_it_is_open_is_rebuilt_once(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put({f"{i}".encode(): b"v" * 500 for i in range(200)})
    cache.close()
    cache = EmbeddingCache(tmp_path)
    pages = cache.path.read_bytes()
    cache.path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))  # the header stays
    with pytest.warns(UserWarning, match="was damaged; moved to embeddings.damaged-"):
        assert cache.get([b"1"]) == {}
    cache.put({b"k": b"v"})
    assert cache.get([b"k"]) == {b"k": b"v"}
    assert len(list(tmp_path.glob("embeddings.damaged-*"))) == 1
    other = EmbeddingCache(tmp_path)  # another process sees the new file
    assert other.get([b"k"]) == {b"k": b"v"}
    cache._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = cache.path.read_bytes()
    cache.path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))
    cache._connection.execute("PRAGMA shrink_memory")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cache.get([b"k"])
        cache.put({b"l": b"v"})
    assert all("moved to" not in str(w.message) for w in said), "once"


def test_a_row_is_bound_to_its_key(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put({b"one": b"first", b"two": b"second"})
    cache._connection.execute(
        "UPDATE embeddings SET value = (SELECT value FROM embeddings WHERE key = ?)", (b"one",)
    )
    assert cache.get([b"one", b"two"]) == {b"one": b"first"}
    cache._connection.execute("UPDATE embeddings SET value = 7")
    assert cache.get([b"one", b"two"]) == {}


def test_an_encoder_without_a_fingerprint_is_refused(tmp_path):
    class Mine:
        card = ModelCard("mine", 3)

        def encode_images(self, images):
            return np.ones((len(images), 3))

        encode_texts = encode_images

    with pytest.raises(
        InputError, match=r"mine cannot be cached: its card has no fingerprint.*give the card"
    ):
        CachedEncoder(Mine(), EmbeddingCache(tmp_path))
    with pytest.raises(InputError, match="mine cannot be cached"):
        Scorer(Mine(), cache=tmp_path)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        EmbeddingCache(tmp_path / "file" / "cache")


def test_a_full_disk_switches_the_cache_off_not_the_run(model, photos, tmp_path):
    encoder = cached(model, tmp_path / "cache")
    encoder.cache._connection.execute(
        "PRAGMA max_page_count = 3"
    ).fetchone()  # what SQLite says on a full disk
    with pytest.warns(UserWarning, match="switched off: database or disk is full"):
        vectors = encoder.encode_images(photos * 40 + [np.full((9, 9), i, np.uint8) for i in range(200)])
    assert not np.isnan(vectors).any()


def test_a_cache_closes_its_own_file_and_never_its_parents(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path)
    connection = cache._connection
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        cache.close()
        del cache
    assert connection.execute("SELECT COUNT(*) FROM embeddings").fetchone() == (0,)
    cache = EmbeddingCache(tmp_path)
    connection = cache._connection
    del cache
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_what_cannot_be_opened_is_closed(tmp_path, monkeypatch):
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(connect(*a, **k)) or opened[-1])
    (tmp_path / "embeddings.sqlite").write_bytes(b"no database at all" * 300)
    with pytest.warns(UserWarning, match="was damaged"):
        cache = EmbeddingCache(tmp_path)
    first, second = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first.execute("SELECT 1")
    assert cache._connection is second


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path, monkeypatch):
    """Going over to write-ahead mode finds the file locked where two processes do so at once, without waiting."""

    tries = []
    real = EmbeddingCache._open

    def open_after_two(cache):
        tries.append(1)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")
        real(cache)

    monkeypatch.setattr(EmbeddingCache, "_open", open_after_two)
    cache = EmbeddingCache(tmp_path)
    cache.put({b"k": b"v"})
    assert cache.get([b"k"]) == {b"k": b"v"}
