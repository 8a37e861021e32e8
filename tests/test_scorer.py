"""The Python API: scores, presets, repeats, references, bad rows."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import cliplet
from cliplet.data.images import open_image
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.metrics.clipscore import clip_score, ref_clip_score, ref_mix_score
from cliplet.reports.score import write_score_report
from cliplet.scoring.file import score_file
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"), prefix="a photo of ")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(3)
    paths = []
    for i in range(5):
        path = tmp_path / f"photo{i}.png"
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


CAPTIONS = ["a red dog runs", "two cat", "the man on the beach", "black and white car", "woman"]


def test_scores_are_the_definition_applied_to_the_encoders_vectors(model, photos):
    encoder = OnnxEncoder(model)
    image, text = encoder.encode_images(photos), encoder.encode_texts(["a photo of " + c for c in CAPTIONS])
    expected = 2.5 * np.maximum((image * text).sum(1), 0)
    result = cliplet.Scorer(model).score(photos, CAPTIONS)
    np.testing.assert_allclose(result.score, expected, atol=1e-6)
    assert result.mean == pytest.approx(expected.mean(), abs=1e-6)
    assert (expected > 0).any(), "a test on zeros alone would prove nothing"


def test_presets_differ_by_prefix_clamp_and_factor(model, photos):
    encoder = OnnxEncoder(model)
    cosine = (encoder.encode_images(photos) * encoder.encode_texts(CAPTIONS)).sum(1)
    np.testing.assert_allclose(
        cliplet.Scorer(model, "cosine").score(photos, CAPTIONS).score, cosine, atol=1e-6
    )
    scaled = cliplet.Scorer(model, "torchmetrics").score(photos, CAPTIONS)
    np.testing.assert_allclose(scaled.score, 100 * cosine, atol=1e-4)
    assert scaled.mean == pytest.approx(max(100 * float(cosine.mean()), 0), abs=1e-4)
    assert scaled.provenance["prompt_prefix"] == ""
    assert cliplet.Scorer(model).score(photos, CAPTIONS).provenance["prompt_prefix"] == "a photo of "


def test_an_unknown_preset_is_named(model):
    with pytest.raises(cliplet.InputError, match="'clip'.*paper, torchmetrics, cosine"):
        cliplet.Scorer(model, "clip")


def test_every_kind_of_image_input_gives_the_same_score(model, photos):
    path = photos[0]
    kinds = [
        str(path),
        path,
        path.read_bytes(),
        bytearray(path.read_bytes()),
        Image.open(path),
        np.asarray(open_image(path)),
    ]
    scores = cliplet.Scorer(model, "cosine").score(kinds, ["a dog"] * len(kinds))
    assert scores.failures == [None] * len(kinds)
    np.testing.assert_allclose(scores.score, scores.score[0], atol=1e-6)


def test_one_image_takes_many_captions(model, photos):
    result = cliplet.Scorer(model).score(photos[0], CAPTIONS)
    np.testing.assert_allclose(result.score, cliplet.Scorer(model).score([photos[0]] * 5, CAPTIONS).score)
    assert cliplet.score(photos[0], CAPTIONS[0], model=model) == pytest.approx(float(result.score[0]))


def test_references_take_the_best_and_both_formulas_hold(model, photos):
    references = [["a dog", "a red dog"], [], ["the man"], None, ["woman", "woman"]]
    result = cliplet.Scorer(model).score(photos, CAPTIONS, references)
    encoder = OnnxEncoder(model)
    caption = encoder.encode_texts(["a photo of a red dog runs"])[0]
    best = max(encoder.encode_texts(["a photo of a dog", "a photo of a red dog"]) @ caption)
    assert result.reference_cosine[0] == pytest.approx(best, abs=1e-6)
    assert np.isnan(result.reference_cosine[[1, 3]]).all()
    assert result.provenance["without_references"] == 2
    np.testing.assert_allclose(result.ref_clip_score[0], ref_clip_score(result.cosine[0], best), rtol=1e-5)
    np.testing.assert_allclose(result.ref_mix_score[0], ref_mix_score(result.cosine[0], best, 1.0), rtol=1e-5)


def test_formulas_by_hand():
    assert clip_score([0.3, -0.1]).tolist() == pytest.approx([0.75, 0.0])
    assert float(ref_clip_score(0.2, 0.5)) == pytest.approx(0.5)  # HM(0.5, 0.5)
    assert float(ref_clip_score(0.4, 0.25)) == pytest.approx(2 * 1.0 * 0.25 / 1.25)
    assert float(ref_clip_score(-1.0, -1.0)) == 0.0
    assert float(ref_mix_score(0.2, 0.5, 2.0, w=1.0)) == pytest.approx((0.2 + 2 * 0.5) / 3)


def test_bad_rows_carry_their_reason_and_harm_no_other(model, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    images = [
        photos[0],
        tmp_path / "none.jpg",
        photos[1],
        tmp_path / "empty.jpg",
        photos[2],
        photos[3],
        photos[4],
    ]
    captions = ["a dog", "a cat", 7, "a man", "", "bad \ud800 half", "a woman"]
    result = cliplet.Scorer(model).score(images, captions)
    reasons = [r or "" for r in result.failures]
    assert [bool(r) for r in reasons] == [False, True, True, True, True, True, False]
    assert "no such file" in reasons[1]
    assert "not a string but 7" in reasons[2]
    assert "is empty (0 bytes)" in reasons[3]
    assert reasons[4] == "the caption is empty"
    assert "UTF-8" in reasons[5]
    assert np.isnan(result.score[1:6]).all()
    alone = cliplet.Scorer(model).score([photos[0], photos[4]], ["a dog", "a woman"])
    np.testing.assert_allclose(result.score[[0, 6]], alone.score)
    assert result.mean == pytest.approx(alone.mean)
    assert result.provenance["failed"] == 5
    with pytest.raises(cliplet.InputError, match="no such file"):
        cliplet.score(tmp_path / "none.jpg", "a cat", model=model)


class Nan:
    """An encoder whose second image, and whose captions with "broken" in them, come out as NaN."""

    card = cliplet.ModelCard(name="nan", embedding_dim=3)

    def encode_images(self, images):
        vectors = np.tile(np.float32([1, 0, 0]), (len(images), 1))
        vectors[1:2] = np.nan
        return vectors

    def encode_texts(self, texts):
        return np.stack([np.float32([np.nan, 1, 0] if "broken" in t else [0.6, 0.8, 0]) for t in texts])


def test_nan_from_a_model_is_a_failure_with_a_reason(photos):
    captions = ["a dog", "a cat", "a broken one", "a man"]
    result = cliplet.Scorer(Nan()).score(photos[:4], captions, [["a"], ["b"], ["c"], ["broken", "d"]])
    assert result.failures == [
        None,
        "the model gave NaN for this image",
        "the model gave NaN for this caption",
        None,
    ]
    assert np.isnan(result.score[[1, 2]]).all()
    np.testing.assert_allclose(result.score[[0, 3]], 2.5 * 0.6, rtol=1e-6)
    np.testing.assert_allclose(result.reference_cosine[[0, 3]], 1, rtol=1e-6)
    assert result.notes == ["the model gave NaN for 1 references, which were left out"]
    with pytest.raises(cliplet.InputError, match="gave NaN for this caption"):
        cliplet.score(photos[0], "a broken one", model=Nan())


def test_nan_from_a_model_is_null_in_every_output(photos, tmp_path):
    captions = {
        p.name: c for p, c in zip(photos, ["a dog", "a cat", "a broken one", "a man", ""], strict=True)
    }
    (tmp_path / "c.json").write_text(json.dumps(captions))
    scorer = cliplet.Scorer(Nan())
    table = score_file(tmp_path / "c.json", photos[0].parent, scorer, tmp_path / "c.json", ["bleu"])
    assert [bool(row["reason"]) for row in table.rows] == [False, True, True, False, True]
    write_score_report(table, tmp_path)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    rows = [
        json.loads(line, parse_constant=refuse) for line in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]
    assert rows[1]["clip_score"] is None
    assert rows[1]["reason"] == "the model gave NaN for this image"
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)


def test_a_model_that_gives_another_number_of_embeddings_is_refused(photos):
    class Short(Nan):
        def encode_texts(self, texts):
            return super().encode_texts(texts)[:-1]

    with pytest.raises(cliplet.ModelError, match=r"nan gave embeddings of shape \(1, 3\) for 2 texts"):
        cliplet.Scorer(Short()).score(photos[0], ["a dog", "a cat"])


def test_every_row_may_fail_without_an_error_but_one_score_may_not(model):
    result = cliplet.Scorer(model).score([object(), object()], ["a dog", "a cat"])
    assert all("an image must be a path" in reason for reason in result.failures)
    with pytest.raises(cliplet.InputError, match="an image must be a path"):
        cliplet.score(object(), "a dog", model=model)


def test_dark_16_bit_photos_are_noted(model):
    dark = np.full((20, 20), 900, np.uint16)
    result = cliplet.Scorer(model).score([dark, dark, dark.copy()], ["a dog", "a cat", "a man"])
    assert len(result.notes) == 1
    assert result.notes[0].startswith("2 photos: 16-bit values below 4,096")


def test_a_note_is_heard_again_where_embeddings_are_kept(model, tmp_path):
    dark = tmp_path / "dark.png"
    Image.fromarray(np.full((20, 20), 900, np.uint16)).save(dark)
    for _ in range(2):
        result = cliplet.Scorer(model, cache=tmp_path / "cache").score([dark], ["a dog"])
        assert result.notes[0].startswith("1 photo: 16-bit values below 4,096")


def test_texts_and_images_are_compared_with_each_other(model, photos, tmp_path):
    scorer, encoder = cliplet.Scorer(model), OnnxEncoder(model)
    texts = encoder.encode_texts(["a photo of " + c for c in CAPTIONS])
    alike = scorer.text_similarity(CAPTIONS, CAPTIONS[::-1])
    np.testing.assert_allclose(alike.score, (texts * texts[::-1]).sum(1), atol=1e-6)
    assert alike.preset.name == "cosine"
    one = scorer.text_similarity(CAPTIONS[0], iter(CAPTIONS))
    np.testing.assert_allclose(one.cosine, texts @ texts[0], atol=1e-6)
    scored = scorer.score(photos, CAPTIONS, CAPTIONS[::-1])
    np.testing.assert_allclose(alike.cosine, scored.reference_cosine, atol=1e-6)
    bad = scorer.text_similarity(["", "a dog"], ["a dog", None])
    assert bad.failures == ["the caption is empty", "the caption is not a string but None"]
    images = encoder.encode_images(photos)
    found = scorer.image_similarity(photos, (p.read_bytes() for p in photos[::-1]))
    np.testing.assert_allclose(found.score, (images * images[::-1]).sum(1), atol=1e-6)
    many = scorer.image_similarity(photos[0], [*photos[:4], tmp_path / "none.png"])
    np.testing.assert_allclose(many.score[:4], images[:4] @ images[0], atol=1e-6)
    assert "no such file" in many.failures[4]
    assert float(scorer.image_similarity(photos[0], photos[0]).score[0]) == pytest.approx(1, abs=1e-6)
    for wrong in (
        lambda: scorer.text_similarity(["a"], ["b", "c"]),
        lambda: scorer.image_similarity(photos, photos[:2]),
    ):
        with pytest.raises(cliplet.InputError, match="1 texts but 2|2 images but 5"):
            wrong()
    with pytest.raises(cliplet.InputError, match="a list beside them"):
        scorer.image_similarity(iter(photos), iter(photos))


def test_running_totals_are_the_means_of_all_rows(model, photos, tmp_path):
    scorer = cliplet.Scorer(model)
    references = [["a dog"], None, ["the man", "a man"], ["a car"], None]
    whole = scorer.score([*photos, tmp_path / "none.png"], [*CAPTIONS, "a dog"], [*references, ["a dog"]])
    assert np.isnan(scorer.compute()["CLIPScore"])
    assert scorer.compute()["rows"] == 0
    assert scorer.update(photos[:2], CAPTIONS[:2], references[:2]).failures == [None, None]
    scorer.update(photos[2:], CAPTIONS[2:], references[2:])
    scorer.update(tmp_path / "none.png", "a dog", "a dog")
    found = scorer.compute()
    assert (found["rows"], found["failed"]) == (6, 1)
    assert found["CLIPScore"] == pytest.approx(whole.mean, abs=1e-6)
    for name, values in whole.columns().items():
        assert found[name] == pytest.approx(np.nanmean(values), abs=1e-6)
    scorer.reset()
    assert scorer.compute()["rows"] == 0
    negative = cliplet.Scorer(model, "torchmetrics")
    negative.update(photos, CAPTIONS)
    assert negative.compute()["100*cos"] == pytest.approx(negative.score(photos, CAPTIONS).mean, abs=1e-4)


TWO_PROCESSES = """
import json, os, sys
import torch
import cliplet

rank, store, model, *photos = sys.argv[1:]
captions = ["a red dog runs", "two cat", "the man on the beach", "black and white car", "woman"]
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=int(rank), world_size=2)
scorer = cliplet.Scorer(model)
weight = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
for epoch in range(2):
    scorer.reset()
    for step in range(int(rank), len(photos), 2):  # one process has a row more
        weight(torch.ones(1, 1)).sum().backward() if step < 4 else None
        scorer.update(photos[step], captions[step], "a dog" if rank == "1" else None)
    found = scorer.compute()
assert scorer.compute() == found, "what was gathered must not be kept"
print("FOUND", json.dumps(found), flush=True)
torch.distributed.barrier()
os._exit(0)  # an ordinary exit aborts now and then, in a thread of PyTorch's that is still running
"""


@pytest.mark.timeout(240)
def test_processes_of_torch_distributed_get_the_mean_of_all_their_rows(model, photos, tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, "-c", TWO_PROCESSES]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(model), *map(str, photos)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    found = [json.loads(out.partition("FOUND")[2]) for out, _ in outputs]
    assert found[0] == found[1]
    whole = cliplet.Scorer(model).score(photos, CAPTIONS, [None, "a dog", None, "a dog", None])
    assert found[0]["rows"] == 5
    assert found[0]["CLIPScore"] == pytest.approx(whole.mean, abs=1e-6)
    assert found[0]["RefCLIPScore"] == pytest.approx(np.nanmean(whole.ref_clip_score), abs=1e-6)


def test_a_scorer_and_its_result_can_be_pickled(photos):
    scorer = cliplet.Scorer(Pickled())
    result = scorer.update(photos, CAPTIONS)
    again = pickle.loads(pickle.dumps(scorer))
    assert again.compute() == scorer.compute()
    np.testing.assert_array_equal(again.score(photos, CAPTIONS).score, result.score)
    assert pickle.loads(pickle.dumps(result)).failures == result.failures


class Pickled(Nan):
    """Of this module, so that pickle finds it."""

    def encode_images(self, images):
        return np.tile(np.float32([1, 0, 0]), (len(images), 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_one_call_works_in_a_forked_child(model, photos):
    expected = cliplet.score(photos[0], CAPTIONS[0], model=model)  # the parent has a scorer of its own
    child = os.fork()
    if not child:
        ended = 1
        try:
            signal.alarm(60)
            ended = 0 if cliplet.score(photos[0], CAPTIONS[0], model=model) == expected else 2
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_to_score_is_nan_not_an_error(model):
    result = cliplet.Scorer(model).score([], [])
    assert result.score.shape == (0,)
    assert np.isnan(result.mean)


def test_lengths_must_match(model, photos):
    with pytest.raises(cliplet.InputError, match="5 images but 1 captions"):
        cliplet.Scorer(model).score(photos, ["a dog"])
    with pytest.raises(cliplet.InputError, match="1 lists of references but 5 captions"):
        cliplet.Scorer(model).score(photos, CAPTIONS, [["a"]])


def test_repeats_are_encoded_once(model, photos):
    calls = {"images": 0, "texts": 0}

    class Counting(OnnxEncoder):
        def embed_images(self, prepared):
            calls["images"] += len(prepared)
            return super().embed_images(prepared)

        def embed_tokens(self, tokens):
            calls["texts"] += len(tokens)
            return super().embed_tokens(tokens)

    n = 3000  # several chunks
    images, captions = [photos[i % 5] for i in range(n)], [CAPTIONS[i % 5] for i in range(n)]
    result = cliplet.Scorer(Counting(model)).score(images, captions)
    assert calls == {"images": 5, "texts": 5}
    np.testing.assert_allclose(result.score[:5], result.score[-5:])


def test_truncation_is_counted_and_keeps_the_end_token(model, photos):
    long = " ".join(["dog"] * 40)
    result = cliplet.Scorer(model).score(photos[:2], ["a dog", long])
    assert result.truncated.tolist() == [False, True]
    assert result.provenance["truncated"] == 1
    tokens, _ = OnnxEncoder(model).tokenize([long])
    assert len(tokens[0]) == 12
    assert tokens[0][-1] == 3, "the last token is [SEP]"


def test_a_plain_object_with_the_protocol_is_enough(photos, tmp_path):
    class Mine:
        card = cliplet.ModelCard(name="mine", embedding_dim=3)

        def encode_images(self, images):
            return np.tile(np.float32([1, 0, 0]), (len(images), 1))

        def encode_texts(self, texts):
            return np.tile(np.float32([0.6, 0.8, 0]), (len(texts), 1))

    result = cliplet.Scorer(Mine()).score([*photos, tmp_path / "none.png"], [*CAPTIONS, "a dog"])
    np.testing.assert_allclose(result.score[:5], 2.5 * 0.6, rtol=1e-6)
    assert "no such file" in result.failures[5]


def test_a_scorer_can_be_used_from_several_threads(model, photos):
    scorer = cliplet.Scorer(model)
    expected = scorer.score(photos, CAPTIONS).score
    wrong = []

    def work():
        for _ in range(5):
            if not np.allclose(scorer.score(photos, CAPTIONS).score, expected, atol=1e-6):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_photos_may_be_streams_of_bytes_of_any_format(model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    encoded = []
    for format_ in ("PNG", "BMP", "TIFF"):
        stream = io.BytesIO()
        image.save(stream, format_)
        encoded.append(stream.getvalue())
    scores = cliplet.Scorer(model, "cosine").score(encoded, ["a dog"] * 3).score
    np.testing.assert_allclose(scores, scores[0], atol=1e-6)
