"""Aligned encoders: the fits, bad input, the folder, and two encoders that never met."""

import dataclasses
import json

import numpy as np
import pytest

import cliplet
from cliplet.encoders.aligned import AlignedEncoder, align
from cliplet.encoders.base import BaseEncoder, unit_norm
from cliplet.encoders.card import ModelCard, TextSpec
from cliplet.encoders.fits import METHODS, Pairs, fit_alignment, recall_at_1
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, ModelError
from cliplet.scoring.scorer import Scorer
from tests.tiny_model import DIM, build_tiny_model

WORDS = ("dog", "cat", "man", "woman", "red", "blue", "green", "black", "white", "runs", "sits", "beach")


def colour(i: int) -> np.ndarray:
    """A photo of sixteen coloured patches, another one for each i."""
    blocks = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))


def photos_and_captions(n: int) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(1)
    return [colour(i) for i in range(n)], [" ".join(rng.choice(WORDS, 4, replace=False)) for _ in range(n)]


class Vectors(BaseEncoder):
    """Photos are numbers, texts are numbers as words; rows come from two tables."""

    def __init__(self, images: np.ndarray, texts: np.ndarray, name: str = "vectors") -> None:
        self.tables = unit_norm(images), unit_norm(texts)
        self.card = ModelCard(
            name, images.shape[1], text=TextSpec(prompt_prefix=""), fingerprint_of=lambda: name
        )

    def encode_images_safely(self, images, normalise=True):
        return self.tables[0][[int(i) for i in images]], {}

    def encode_texts_safely(self, texts, normalise=True):
        return self.tables[1][[int(t) for t in texts]], np.zeros(len(texts), bool), {}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return OnnxEncoder(build_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_a_gap_is_closed_and_the_report_says_so():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 16))
    turn, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    texts = unit_norm(base + 0.3 * rng.normal(size=base.shape)) @ turn + 2 * np.eye(16)[0]
    encoder = Vectors(base, texts)
    found = align(encoder, range(200), [str(i) for i in range(200)], "procrustes")
    assert found.report.before < 0.1
    assert found.report.after > 0.6
    assert found.report.gap[1] < 0.3 * found.report.gap[0]
    assert any("after" in line for line in found.report.lines())
    assert found.card.alignment.method == "procrustes"
    assert found.card.alignment.photos == 200


def test_where_there_is_no_gap_the_report_says_that_it_does_not_help():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(120, 16))
    encoder = Vectors(base, base + 0.05 * rng.normal(size=base.shape))
    lines = align(encoder, range(120), [str(i) for i in range(120)]).report.lines()
    assert "does not help" in lines[-1]


def test_normalise_moves_both_clouds_by_half_their_mean_and_needs_no_pairs():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(30, 8)) + 3, rng.normal(size=(20, 8)) - 3
    encoder = Vectors(images, texts)
    found = align(encoder, range(30), [str(i) for i in range(20)], "normalise")
    x, y = encoder.tables
    np.testing.assert_allclose(found.encode_images(range(30)), unit_norm(x - 0.5 * x.mean(axis=0)), atol=1e-6)
    np.testing.assert_allclose(found.encode_texts(["3"]), unit_norm(y[3:4] - 0.5 * y.mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "normalise"])
def test_every_method_joins_two_encoders_of_different_width(method):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 6))
    images, texts = hidden @ rng.normal(size=(6, 24)), hidden @ rng.normal(size=(6, 10))
    pair = Vectors(images, images), Vectors(texts, texts, "texts")
    found = align(pair[0], range(300), [str(i) for i in range(300)], method, text_encoder=pair[1])
    assert found.card.name == f"vectors+texts-{method}"
    assert found.report.before is None
    assert found.report.after > (0.3 if method in ("procrustes", "robust") else 0.9)
    assert found.encode_images([0]).shape == found.encode_texts(["0"]).shape


def test_cca_is_the_default_for_two_and_procrustes_for_one(tiny):
    photos, captions = photos_and_captions(12)
    assert align(tiny, photos, captions).report.method == "procrustes"
    other = Vectors(np.eye(12), np.eye(12))
    assert align(tiny, photos, list(map(str, range(12))), text_encoder=other).report.method == "cca"


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_gives_the_same_in_plain_onnxruntime(tiny, method, tmp_path):
    import onnxruntime

    from cliplet.export import export_aligned

    photos, captions = photos_and_captions(40)
    aligned = align(tiny, photos, captions, method)
    assert max(export_aligned(aligned, tmp_path / "out").values()) < 1e-5
    loaded = cliplet.load(tmp_path / "out")
    np.testing.assert_allclose(loaded.encode_images(photos), aligned.encode_images(photos), atol=1e-5)
    np.testing.assert_allclose(loaded.encode_texts(captions), aligned.encode_texts(captions), atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "image.onnx")
    plain = session.run(["embedding"], {"pixels": np.stack(photos[:3])})[0]
    np.testing.assert_allclose(plain, aligned.encode_images(photos[:3]), atol=1e-5)
    assert loaded.card.alignment.method == method
    content = json.loads((tmp_path / "out" / "card.json").read_text())
    assert content["training"]["alignment"]["image_encoder"] == f"tiny-0 ({tiny.card.fingerprint})"


def test_an_aligned_folder_can_be_aligned_again(tiny, tmp_path):
    from cliplet.export import export_aligned

    photos, captions = photos_and_captions(40)
    export_aligned(align(tiny, photos, captions, "ridge"), tmp_path / "first")
    again = align(tmp_path / "first", photos, captions, "cca")
    export_aligned(again, tmp_path / "second")
    loaded = cliplet.load(tmp_path / "second")
    np.testing.assert_allclose(loaded.encode_images(photos), again.encode_images(photos), atol=1e-5)


def test_the_fingerprint_changes_with_the_map_and_in_the_folder(tiny, tmp_path):
    from cliplet.export import export_aligned

    photos, captions = photos_and_captions(30)
    first, second = (align(tiny, photos[:n], captions[:n]) for n in (20, 30))
    again = align(tiny, photos[:20], captions[:20])
    assert first.card.fingerprint == again.card.fingerprint
    assert len({first.card.fingerprint, second.card.fingerprint, tiny.card.fingerprint}) == 3
    for i, encoder in enumerate((first, second)):
        export_aligned(encoder, tmp_path / str(i))
    assert cliplet.load(tmp_path / "0").card.fingerprint != cliplet.load(tmp_path / "1").card.fingerprint


def test_abilities_are_passed_on(tiny):
    photos, captions = photos_and_captions(12)
    aligned = align(tiny, photos, captions)
    assert (aligned.raw, aligned.tower_threads, aligned.device) == (tiny.raw, tiny.tower_threads, tiny.device)
    rows, reasons = aligned.encode_images_safely([photos[0], b"no photo"])
    assert set(reasons) == {1}
    assert np.isnan(rows[1]).all()
    assert np.isfinite(rows[0]).all()
    _, cut = aligned.encode_texts_counted(["dog " * 30, "dog"])
    assert cut.tolist() == [True, False]
    here = aligned.encode_here(photos[:2], captions[:2])
    np.testing.assert_allclose(here[0], aligned.encode_images(photos[:2]), atol=1e-6)
    np.testing.assert_allclose(here[2], aligned.encode_texts(captions[:2]), atol=1e-6)


def test_fewer_pairs_than_dimensions_leave_the_other_directions_alone():
    rng = np.random.default_rng(0)
    pairs = Pairs(
        unit_norm(rng.normal(size=(5, 32))), unit_norm(rng.normal(size=(5, 32))), np.arange(5, dtype=np.int64)
    )
    matrix = fit_alignment("procrustes", pairs).image.matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(32), atol=1e-8)
    values = np.linalg.svd(matrix - np.eye(32), compute_uv=False)
    assert (values[8:] < 1e-6).all()  # it differs from the identity in at most 2 x 4 directions


@pytest.mark.parametrize(
    ("photos", "captions", "why"),
    [
        ([], [], "no pairs"),
        ([colour(0)], [], "no pairs"),
        ([colour(0), colour(1)], ["a dog"], "2 photos and captions of 1"),
        ([colour(0), colour(1)], "a dog", "one text"),
        ([colour(0), colour(1)], ["a dog", "a dog"], "captions are all the same"),
        ([colour(0), colour(0)], ["a dog", "a cat"], "photos are all the same"),
        ([colour(0)], [["a dog", "a cat"]], "one photo gives no map"),
        ([b"", b""], ["a dog", "a cat"], "none of the 2 pairs"),
        ([colour(0), colour(1)], ["", None], "none of the 2 pairs"),
    ],
)
def test_what_cannot_be_fitted_is_said(tiny, photos, captions, why):
    with pytest.raises(InputError, match=why):
        align(tiny, photos, captions)


def test_a_bad_photo_and_a_bad_caption_are_left_out_and_reported(tiny):
    photos, captions = photos_and_captions(14)
    photos[3], captions[5] = b"broken", "   "
    aligned = align(tiny, photos, captions)
    assert set(aligned.report.failures) == {3, 5}
    assert aligned.report.photos == 12


def test_nan_of_the_model_is_left_out():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(20, 4)).astype(np.float32)
    encoder = Vectors(table, table)
    encoder.tables[1][7] = np.nan
    aligned = align(encoder, range(20), [str(i) for i in range(20)])
    assert aligned.report.failures == {7: "the model gave NaN for a caption"}


def test_a_method_that_cannot_join_two_spaces_is_refused_before_photos_are_embedded(tiny):
    class Unread(Vectors):
        def encode_images_safely(self, images, normalise=True):
            raise AssertionError("photos were embedded")

    with pytest.raises(InputError, match="need procrustes, robust, ridge or cca"):
        align(Unread(np.eye(4), np.eye(4)), range(4), ["0"] * 4, "normalise", text_encoder=tiny)


def test_an_unknown_method_and_normalise_of_two_spaces(tiny):
    photos, captions = photos_and_captions(4)
    with pytest.raises(InputError, match="choose one of procrustes, ridge"):
        align(tiny, photos, captions, "magic")
    with pytest.raises(InputError, match="one space"):
        align(tiny, photos, ["0", "1", "2", "3"], "normalise", text_encoder=Vectors(np.eye(4), np.eye(4)))


def test_half_an_encoder_is_told_from_a_whole_one(tiny):
    half = Vectors(np.eye(4), np.eye(4), "photos alone")
    half.reads = False
    with pytest.raises(InputError, match="embeds no texts"):
        align(half, [0, 1], ["0", "1"])
    half.reads, half.sees = True, False
    with pytest.raises(InputError, match="embeds no photos"):
        align(half, [0, 1], ["0", "1"])
    with pytest.raises(InputError, match="two encoders"):
        align("lite0+", [0, 1], ["0", "1"])


def test_a_folder_that_is_something_else_is_not_replaced(tiny, tmp_path):
    from cliplet.export import export_aligned

    photos, captions = photos_and_captions(12)
    aligned = align(tiny, photos, captions)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not a model folder"):
        export_aligned(aligned, tmp_path / "mine")
    with pytest.raises(InputError, match="the model that is aligned"):
        export_aligned(aligned, tiny.folder)
    with pytest.raises(ModelError, match="cannot be exported"):
        export_aligned(
            AlignedEncoder(
                Vectors(np.eye(DIM), np.eye(DIM)),
                tiny,
                aligned.fit,
                dataclasses.replace(aligned.card, text=tiny.card.text),
            ),
            tmp_path / "out",
        )


def test_the_scores_of_an_aligned_model(tiny):
    photos, captions = photos_and_captions(12)
    aligned = align(tiny, photos, captions)
    result = Scorer(aligned).score(photos, captions, [[captions[0]]] * 12)
    np.testing.assert_allclose(result.a_clip_score, np.maximum(result.cosine, 0))
    x, r = np.maximum(result.cosine, 0), np.maximum(result.reference_cosine, 0)
    np.testing.assert_allclose(result.ref_a_clip_score, 2 * x * r / np.maximum(x + r, 1e-30), rtol=1e-5)
    assert {"aCLIPScore", "RefaCLIPScore"} <= set(result.columns())
    assert result.provenance["alignment"]["method"] == "procrustes"
    plain = Scorer(tiny).score(photos, captions, [[captions[0]]] * 12)
    assert plain.a_clip_score is None
    assert "aCLIPScore" not in plain.columns()
    assert Scorer(aligned).text_similarity("dog", "cat").a_clip_score is None


def test_ties_count_against_recall():
    rows = np.ones((3, 2), np.float32)
    assert recall_at_1(rows, rows, np.arange(3)) == 0


@pytest.mark.parametrize("method", ["ridge", "cca"])
def test_one_photo_held_out_chooses_nothing(method):
    rng = np.random.default_rng(0)
    rows = unit_norm(rng.normal(size=(10, 6)).astype(np.float32))
    few, enough = (Pairs(rows[:n], rows[:n] @ np.eye(6, 4), np.arange(n)) for n in (9, 10))
    assert "chosen_by" not in fit_alignment(method, few, False).settings
    assert fit_alignment(method, few, False).settings["penalty"] in (0.1, 4.0)
    assert "chosen_by" in fit_alignment(method, enough, False).settings
