"""Exported folders: faithful, small, whole; for our models and those of two libraries."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from cliplet.cli.export import export as export_command
from cliplet.data.photos import PhotoTar
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load
from cliplet.encoders.torch import TorchEncoder
from cliplet.errors import InputError, ModelError
from cliplet.export import export
from cliplet.export.inputs import compared_captions
from cliplet.export.rounding import quantise
from cliplet.export.tokenizers import clip_bpe_tokenizer
from cliplet.models.config import DualConfig, TimmConfig
from tests.parity import local_models
from tests.shared_data import shared_data
from tests.training import make

PHOTOS = [make.drawing(c, s, 1) for c in make.COLOURS for s in make.SHAPES]
CAPTIONS = ["a red bar", "the big blue square on grey", "a corner", ""]


@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
def test_fp32_equals_the_towers(tmp_path, mask):
    config = dataclasses.replace(make.CONFIG, text=dataclasses.replace(make.CONFIG.text, mask=mask))
    source = make.encoder(config)
    report = export(source, tmp_path / "out", "fp32", photos=PHOTOS, captions=CAPTIONS)
    assert report.image_max_difference < 1e-5
    assert report.text_max_difference < 1e-5
    assert report.rank_correlation > 0.9999
    again = OnnxEncoder(tmp_path / "out")
    alone = np.concatenate([again.encode_texts([c]) for c in CAPTIONS])
    np.testing.assert_allclose(alone, source.encode_texts(CAPTIONS), atol=1e-5)


@pytest.mark.parametrize(("precision", "limit", "share"), [("fp16", 1e-3, 0.75), ("int8", 2e-2, 0.62)])
def test_smaller_weights_keep_the_scores(tmp_path, precision, limit, share):
    config = dataclasses.replace(
        make.CONFIG,
        image=dataclasses.replace(make.CONFIG.image, width=64),
        text=dataclasses.replace(make.CONFIG.text, width=64),
    )
    whole = export(make.encoder(config), tmp_path / "fp32", "fp32", photos=PHOTOS, captions=CAPTIONS)
    report = export(make.encoder(config), tmp_path / "out", precision, photos=PHOTOS, captions=CAPTIONS)
    assert 1e-6 < report.score_max_difference < limit
    assert report.rank_correlation > 0.99
    assert report.bytes_after < share * whole.bytes_after
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert written["score_max_difference"] == report.score_max_difference
    assert "rank correlation" in (tmp_path / "out" / "parity.md").read_text()
    assert OnnxEncoder(tmp_path / "out").card.precision == f"{precision} weights, fp32 compute"


def test_a_plain_onnxruntime_program_can_use_the_folder(tmp_path, capfd):
    source = make.encoder()
    export(source, tmp_path / "out", "int8", calibration_captions=LIKE_TRAINING)
    capfd.readouterr()
    image = onnxruntime.InferenceSession(tmp_path / "out" / "image.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (embedding,) = image.run(None, {"pixels": pixels})
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    assert (embedding * source.encode_images(list(pixels))).sum(axis=1).min() > 0.99
    text = onnxruntime.InferenceSession(tmp_path / "out" / "text.onnx", providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == "", "loading says nothing"
    ids = np.array([[2, 5, 3, 0], [2, 5, 6, 3]])
    (short,) = text.run(None, {"input_ids": ids[:1, :3], "attention_mask": np.ones((1, 3), dtype=np.int64)})
    (both,) = text.run(None, {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    np.testing.assert_allclose(both[0], short[0], atol=1e-6)


def test_int8_weights_are_stored_once_and_expanded_by_folded_nodes(tmp_path):
    export(make.encoder(), tmp_path / "out", "int8")
    graph = onnx.load(tmp_path / "out" / "text.onnx").graph
    int8 = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
    sizes = sorted(int(np.prod(t.dims)) for t in int8.values())
    # q, k, v, proj and the two MLP matrices once although two repeats use them; the small table and head stay fp32
    assert sizes == [*[32 * 32] * 4, 32 * 128, 128 * 32]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(tmp_path / "out" / "text.onnx", options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    assert not [t for t in optimised.initializer if t.data_type == onnx.TensorProto.INT8]


def test_a_large_embedding_stays_int8_in_memory(tmp_path):
    text = dataclasses.replace(make.CONFIG.text, vocab_size=500)
    source = make.encoder(dataclasses.replace(make.CONFIG, text=text))
    report = export(source, tmp_path / "out", "int8", photos=PHOTOS, captions=CAPTIONS)
    assert report.text_min_cosine > 0.999
    graph = onnx.load(tmp_path / "out" / "text.onnx").graph
    table = next(t.name for t in graph.initializer if list(t.dims) == [500, 8])
    assert [n.op_type for n in graph.node if table in n.input] == ["Gather"]


def test_quantise_rounds_each_channel_within_half_a_step():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (6, 50)).astype(np.float32) * np.array([[1], [10], [0.1], [1], [0], [5]])
    integers, scales = quantise(values, 0)
    assert scales.shape == (6, 1)
    assert np.abs(integers * scales - values).max(axis=1)[1] < 10 / 127
    assert (integers[4] == 0).all()
    columns, column_scales = quantise(values.T, 1)
    np.testing.assert_array_equal(columns.T, integers)
    np.testing.assert_array_equal(column_scales.T, scales)


def test_convolutional_image_tower(tmp_path, torchvision):
    pytest.importorskip("timm")
    config = DualConfig(
        image=TimmConfig(name="tf_efficientnet_lite0", embedding_dim=16, image_size=32), text=make.CONFIG.text
    )
    report = export(make.encoder(config), tmp_path / "out", "int8", photos=PHOTOS, captions=CAPTIONS)
    assert report.bytes_after < 0.3 * report.bytes_before
    assert report.image_min_cosine > 0.95


def test_calibrated_convolutions_compute_in_eight_bits(tmp_path, torchvision):
    pytest.importorskip("timm")
    config = DualConfig(
        image=TimmConfig(name="tf_efficientnet_lite0", embedding_dim=16, image_size=32), text=make.CONFIG.text
    )
    source = make.encoder(config)
    source.encode_images(PHOTOS)
    report = export(source, tmp_path / "out", "int8", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS)
    graph = onnx.load(tmp_path / "out" / "image.onnx").graph
    integers = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
    widened = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in integers}
    used = {name for n in graph.node for name in n.input} | {"embedding"}
    assert all(used.intersection(n.output) for n in graph.node), "ONNX Runtime would warn of what nobody uses"
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convolutions) > 40
    assert all(n.input[1] in widened for n in convolutions)
    assert report.image_min_cosine > 0.9
    assert report.integer_products == f"cannot saturate ({len(convolutions)} products)"
    assert report.integer_products in report.markdown()
    encoder = OnnxEncoder(tmp_path / "out")
    assert "w8a8" in encoder.card.precision
    assert not encoder.card.bad_at
    together = encoder.encode_images(PHOTOS)
    alone = np.concatenate([encoder.encode_images([photo]) for photo in PHOTOS])
    np.testing.assert_allclose(together, alone, atol=1e-6)  # a photo's result does not depend on its batch


def optimised(graph, into):
    """What ONNX Runtime makes of a graph when it loads it: the operations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(into)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(into).graph.node]


LIKE_TRAINING = [
    f"{article} {size} {colour} bar"
    for article in ("a", "the")
    for size in ("big", "small")
    for colour in make.COLOURS
]


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": "padding"},
        {"mask": "padding", "activation": "relu"},
        {"mask": "padding", "activation": "relu", "norm": "post", "pooling": "mean", "qkv_bias": True},
        {"mask": "causal", "mixers": False, "repeats": 1},
        {"mask": "none", "pooling": "cls", "embedding_rank": 0},
    ],
)
def test_calibrated_products_compute_in_eight_bits(tmp_path, changes):
    text = dataclasses.replace(make.CONFIG.text, width=64, **changes)
    source = make.encoder(dataclasses.replace(make.CONFIG, text=text))
    captions = LIKE_TRAINING
    report = export(
        source, tmp_path / "out", "int8", photos=PHOTOS, captions=captions, calibration_captions=captions
    )
    graph = onnx.load(tmp_path / "out" / "text.onnx").graph
    integers = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert not [n for n in graph.node if n.domain], "only standard operations"
    widened = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in integers}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in widened]
    assert len(products) >= 6 * text.depth
    made = optimised(tmp_path / "out" / "text.onnx", tmp_path / "optimised.onnx")
    quick = text.depth if text.activation == "relu" else 0
    assert made.count("QLinearMatMul") == quick
    assert made.count("MatMulIntegerToFloat") == len(products) - quick, (
        "ONNX Runtime computes all in integers"
    )
    # a layer's q, k and v read one quantised input; before a ReLU's product stands the norm's, which is quantised once
    assert sum(n.op_type == "QuantizeLinear" for n in graph.node) <= len(products) - 2 * text.depth
    assert report.integer_products == f"cannot saturate ({len(products)} products)"
    assert report.text_min_cosine > 0.95
    encoder = OnnxEncoder(tmp_path / "out")
    assert encoder.card.precision.endswith("int8 products (w8a8)")
    together = encoder.encode_texts(captions)
    alone = np.concatenate([encoder.encode_texts([caption]) for caption in captions])
    np.testing.assert_allclose(together, alone, atol=1e-6)  # nor a caption's on the others of its batch


def test_the_mask_of_a_tower_is_made_once(tmp_path):
    text = dataclasses.replace(make.CONFIG.text, mask="padding", blocks=2)
    export(make.encoder(dataclasses.replace(make.CONFIG, text=text)), tmp_path / "out", "fp32")
    graph = onnx.load(tmp_path / "out" / "text.onnx").graph
    maker = {output: node for node in graph.node for output in node.output}
    softmaxes = [n for n in graph.node if n.op_type == "Softmax"]
    sums = [maker[n.input[0]] for n in softmaxes]
    assert len(sums) == text.depth
    assert {n.op_type for n in sums} == {"Add"}
    assert len(set.intersection(*({*n.input} for n in sums))) == 1


@pytest.mark.parametrize("count", [1, 5, 11])
def test_any_number_of_examples_calibrates(tmp_path, torchvision, count):
    pytest.importorskip("timm")
    config = DualConfig(
        image=TimmConfig(name="tf_efficientnet_lite0", embedding_dim=16, image_size=32), text=make.CONFIG.text
    )
    photos = [PHOTOS[i % len(PHOTOS)] for i in range(count)]
    captions = ["a red bar", *["the big blue square on grey"] * (count - 1)]
    export(make.encoder(config), tmp_path / "out", calibration=photos, calibration_captions=captions)
    assert "w8a8" in OnnxEncoder(tmp_path / "out").card.precision


def test_export_replaces_a_model_folder_and_nothing_else(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not a model folder"):
        export(make.encoder(), tmp_path / "notes")
    export(make.encoder(), tmp_path / "out", "fp16", keep_weights=True)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    export(make.encoder(), tmp_path / "out", "int8")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_export_leaves_the_old_folder(tmp_path):
    export(make.encoder(), tmp_path / "out", "int8")
    before = (tmp_path / "out" / "image.onnx").read_bytes()
    with pytest.raises(InputError, match="no such file"):
        export(make.encoder(), tmp_path / "out", "fp32", photos=["/nowhere.jpg"])
    assert (tmp_path / "out" / "image.onnx").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_an_onnx_model_cannot_be_exported_again(tmp_path):
    export(make.encoder(), tmp_path / "out", "int8")
    with pytest.raises(ModelError, match="OnnxEncoder"):
        export(OnnxEncoder(tmp_path / "out"), tmp_path / "again")


def test_command(tmp_path):
    make.model_folder(tmp_path / "model")
    make.dataset(tmp_path / "data", count=8)
    result = CliRunner().invoke(
        export_command,
        [str(tmp_path / "model"), str(tmp_path / "out"), "--fp16", "--name", "mine",
         "--photos", str(tmp_path / "data" / "photos"), "--captions", str(tmp_path / "data" / "captions.jsonl")],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "8 photos and 16 captions" in result.output
    loaded = load(tmp_path / "out")
    assert loaded.card.name == "mine"
    source = TorchEncoder.from_folder(tmp_path / "model")
    np.testing.assert_allclose(loaded.encode_images(PHOTOS), source.encode_images(PHOTOS), atol=1e-3)
    result = CliRunner().invoke(
        export_command,
        [str(tmp_path / "model"), str(tmp_path / "quick"),
         "--calibrate-captions", str(tmp_path / "data" / "captions.jsonl")],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0
    assert load(tmp_path / "quick").card.precision.endswith("int8 products (w8a8)")


def test_open_clip_model(tmp_path, torchvision):
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    )
    local_models.random_weights(model)
    transform = open_clip.image_transform(64, is_train=False)
    source = OpenClipEncoder(model, transform, open_clip.get_tokenizer("ViT-B-32"))
    captions = [*CAPTIONS, "word " * 200]
    report = export(source, tmp_path / "out", "fp32", photos=PHOTOS, captions=captions)
    assert report.image_max_difference < 1e-5
    assert report.text_max_difference < 1e-5


def test_transformers_models(tmp_path, torchvision):
    pytest.importorskip("transformers")
    for save in (local_models.save_clip, local_models.save_siglip):
        folder = tmp_path / save.__name__
        folder.mkdir()
        result = CliRunner().invoke(
            export_command, [str(save(folder)), str(folder / "out"), "--fp32"], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        report = json.loads((folder / "out" / "parity.json").read_text())
        assert report["text_max_difference"] < 1e-5
        assert report["image_min_cosine"] > 0.999  # the library resizes with other rounding
        if save is local_models.save_clip:
            _odd_margins_are_cropped_alike(folder)


def _odd_margins_are_cropped_alike(folder):
    """Photos whose resized long side is an odd number of pixels beyond the crop, both ways."""
    size = load(folder).card.image.size
    rng = np.random.default_rng(0)
    photos = [
        np.kron(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), np.ones((2, 2, 1), np.uint8))
        for extra in (1, 15, 47, 48)
        for h, w in ((size, size + extra), (size + extra, size))
    ]
    ours, theirs = load(folder / "out").encode_images(photos), load(folder).encode_images(photos)
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 256}},
        {"crop_size": {"height": 200, "width": 200}},
        {"do_center_crop": False},
        {"resample": 1},
        {"do_normalize": False},
        {"rescale_factor": 0.5},
        {"do_rescale": False},
        {"size": {"height": 224, "width": 250}},
    ],
)
def test_a_processor_that_no_card_can_describe_is_refused(tmp_path, torchvision, changes):
    pytest.importorskip("transformers")
    folder = local_models.save_clip(tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **changes}))
    with pytest.raises(ModelError, match="cannot be exported: its library gives other pixels"):
        export(load(folder), tmp_path / "out", "fp32")


def test_clip_tokenizer_file_equals_open_clip(torchvision):
    open_clip = pytest.importorskip("open_clip")
    captions = compared_captions(shared_data("flickr8k/Flickr8k.token.txt"), 2000)
    captions += compared_captions(shared_data("coco-captions-val2017/captions_val2017.json"), 2000)
    captions += [
        "",
        "  two   spaces ",
        "it’s a “café” &amp; bar &lt;3",
        "don't WON'T",
        "3,141.59!!",
        "一只狗",
        "🐶🐶",
    ]
    theirs = open_clip.get_tokenizer("ViT-B-32")
    ours = clip_bpe_tokenizer(theirs).encode_batch(captions)
    for caption, encoding in zip(captions, ours, strict=True):
        assert encoding.ids == [theirs.sot_token_id, *theirs.encode(caption), theirs.eot_token_id], caption


def test_real_photos(tmp_path):
    tar = PhotoTar(shared_data("flickr8k/images_dev.tar"))
    photos = [tar.get(name).read_bytes() for name in tar.names()[:12]]
    captions = compared_captions(shared_data("flickr8k/Flickr8k.token.txt"), 12)
    report = export(make.encoder(), Path(tmp_path) / "out", "int8", photos=photos, captions=captions)
    assert report.real_photos
    assert report.rank_correlation > 0.99
