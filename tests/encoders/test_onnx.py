"""The encoder of model folders: what it promises of its vectors, its bounds and its errors."""

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.encoders.base import Encoder
from cliplet.encoders.batching import decoding_threads, encode_images_safely, prepared_batches
from cliplet.encoders.card import ModelCard
from cliplet.encoders.onnx import FILES, OnnxEncoder
from cliplet.errors import InputError, ModelError
from tests.tiny_model import CONTEXT, DIM, SIZE, build_tiny_model

TEXTS = [
    "a dog",
    "a red cat sits on the beach",
    "",
    "woman",
    "the man and the dog of the car",
    "DOG",
    "unheard-of",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be damaged."""
    return shutil.copytree(folder, tmp_path / "broken")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty different small images."""
    rng = np.random.default_rng(0)
    paths = [tmp_path_factory.mktemp("noise") / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (30 + i, 50, 3), dtype=np.uint8)).save(path)
    return paths


def test_vectors_are_unit_norm_float32_in_order(folder: Path, noise: list[Path]) -> None:
    encoder = OnnxEncoder(folder)
    assert isinstance(encoder, Encoder)
    for vectors, n in ((encoder.encode_images(noise), 20), (encoder.encode_texts(TEXTS), len(TEXTS))):
        assert vectors.shape == (n, DIM)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert len(np.unique(vectors.round(4), axis=0)) >= n - 1  # "dog" differs from "DOG" in nothing
    assert encoder.encode_images([]).shape == (0, DIM)
    assert encoder.encode_texts([]).shape == (0, DIM)


def test_the_vectors_are_those_of_the_graph(folder: Path, noise: list[Path]) -> None:
    import onnxruntime

    run = onnxruntime.InferenceSession(folder / "image.onnx", providers=["CPUExecutionProvider"]).run
    pixels = np.stack([np.asarray(load_rgb(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for p in noise])
    np.testing.assert_allclose(
        OnnxEncoder(folder).encode_images(noise), run(None, {"pixels": pixels})[0], atol=1e-6
    )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_equal_one_by_one(folder: Path, noise: list[Path], batch_size: int) -> None:
    alone, encoder = OnnxEncoder(folder, batch_size=1), OnnxEncoder(folder, batch_size=batch_size)
    one_by_one = np.concatenate([alone.encode_images([path]) for path in noise])
    np.testing.assert_allclose(encoder.encode_images(noise), one_by_one, atol=1e-6)
    texts = TEXTS * 5
    one_by_one = np.concatenate([alone.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_texts(texts), one_by_one, atol=1e-6)


class OnDemand(Sequence):
    """Ten thousand images that exist only while they are asked for, and how many of them were at once."""

    def __init__(self, n: int) -> None:
        self.n, self.made = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < self.n:
            raise IndexError(i)
        self.made = max(self.made, i + 1)
        return np.full((8, 8, 3), i % 251, dtype=np.uint8)


def test_no_more_than_three_batches_are_decoded_ahead(folder: Path) -> None:
    encoder = OnnxEncoder(folder, batch_size=4)
    images = OnDemand(200)
    ahead = []
    for done, (positions, prepared, _) in enumerate(prepared_batches(encoder, images), 1):
        assert positions == list(range(4 * (done - 1), 4 * done))
        assert [int(p[0, 0, 0]) for p in prepared] == [i % 251 for i in positions]
        ahead.append(images.made - 4 * done)
    assert max(ahead) <= 3 * 4
    assert images.made == 200


def test_decoding_stops_when_nobody_wants_the_rest(folder: Path) -> None:
    images = OnDemand(10_000)
    batches: Iterator = prepared_batches(OnnxEncoder(folder, batch_size=2), images)
    next(batches)
    batches.close()
    assert images.made < 20


def test_images_are_decoded_in_several_threads(folder: Path) -> None:
    seen = set()

    class Watching(OnnxEncoder):
        def prepare_image(self, source):
            seen.add(threading.current_thread())
            return super().prepare_image(source)

    Watching(folder).encode_images(OnDemand(100))
    assert threading.main_thread() not in seen
    assert 1 <= len(seen) <= decoding_threads()


def test_a_bad_image_raises_or_is_reported(folder: Path, noise: list[Path], tmp_path: Path) -> None:
    encoder = OnnxEncoder(folder, batch_size=2)
    images = [noise[0], tmp_path / "gone.png", b"", noise[1], None, noise[2]]
    with pytest.raises(InputError, match="gone.png"):
        encoder.encode_images(images)
    vectors, reasons = encode_images_safely(encoder, images)
    assert sorted(reasons) == [1, 2, 4]
    assert np.isnan(vectors[[1, 2, 4]]).all()
    np.testing.assert_allclose(vectors[[0, 3, 5]], encoder.encode_images(noise[:3]), atol=1e-6)


def test_truncation_keeps_the_end_token_and_is_counted(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    fits = " ".join(["dog"] * (CONTEXT - 2))
    texts = ["a dog", fits, fits + " cat", "cat " * 1000]
    tokens, truncated = encoder.tokenize(texts)
    assert truncated.tolist() == [False, False, True, True]
    assert [len(ids) for ids in tokens] == [4, CONTEXT, CONTEXT, CONTEXT]
    end = tokens[0][-1]
    assert all(ids[-1] == end for ids in tokens)
    vectors, counted = encoder.encode_texts_counted(texts)
    assert counted.tolist() == truncated.tolist()
    np.testing.assert_array_equal(vectors[1], vectors[2])


@pytest.mark.parametrize(
    "text", ["a \ud83d dog", "\x00\x07", "\n\n", "\N{DOG FACE}" * 500, "x" * 100_000, "كلب 狗"]
)
def test_strange_texts_are_encoded(folder: Path, text: str) -> None:
    vectors = OnnxEncoder(folder).encode_texts([text])
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)


def test_the_fingerprint_follows_weights_tokeniser_and_preprocessing(folder: Path, broken: Path) -> None:
    original = OnnxEncoder(folder).card.fingerprint
    assert len(original) == 16
    assert OnnxEncoder(broken).card.fingerprint == original, "the same content elsewhere is the same model"
    card = json.loads((broken / "card.json").read_text())
    (broken / "card.json").write_text(json.dumps({**card, "description": "other words"}))
    assert OnnxEncoder(broken).card.fingerprint == original
    seen = {original}
    for change in ({"image": {**card["image"], "size": 31}}, {"text": {**card["text"], "context_length": 5}}):
        (broken / "card.json").write_text(json.dumps({**card, **change}))
        seen.add(OnnxEncoder(broken).card.fingerprint)
    (broken / "card.json").write_text(json.dumps(card))
    other = build_tiny_model(broken.parent / "other", seed=1)
    for name in ("image.onnx", "text.onnx", "tokenizer.json"):
        kept = (broken / name).read_bytes()
        changed = (other / name).read_bytes()
        (broken / name).write_bytes(changed if changed != kept else kept.replace(b'"beach"', b'"shore"'))
        seen.add(OnnxEncoder(broken).card.fingerprint)
        (broken / name).write_bytes(kept)
    assert len(seen) == 6
    assert OnnxEncoder(broken).card.fingerprint == original


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_at_once(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(ModelError, match=rf"broken is not a complete model folder: it has no {name}"):
        OnnxEncoder(broken)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", ["half", b"", b"not a model"])
def test_a_broken_file_is_named(broken: Path, noise: list[Path], name: str, content: str | bytes) -> None:
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    encoder = OnnxEncoder(broken)
    with pytest.raises(ModelError, match=rf"{name} cannot be"):
        encoder.encode_images(noise[:2]) if name == "image.onnx" else encoder.encode_texts(["a dog"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not a card of format 1"),
        ('{"format": 2, "name": "x", "embedding_dim": 3}', "not a card of format 1"),
        ('{"format": 1, "name": "x"}', "incomplete"),
    ],
)
def test_a_broken_card_is_named(broken: Path, content: str, message: str) -> None:
    (broken / "card.json").write_text(content)
    with pytest.raises(ModelError, match=rf"card\.json.*{message}"):
        OnnxEncoder(broken)


def test_a_card_reads_back_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    card = ModelCard.load(folder)
    card.save(tmp_path)
    assert ModelCard.load(tmp_path) == card
    card = json.loads((tmp_path / "card.json").read_text())
    card["image"]["an option of a later version"] = 1
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert ModelCard.load(tmp_path) == ModelCard.load(folder)
