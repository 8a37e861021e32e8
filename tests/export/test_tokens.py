"""A transformer's products in integers with a scale for each token: faithful, exact everywhere, whatever the batch."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cliplet.cli.export import export as export_command
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load
from cliplet.encoders.saturation import integer_products
from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError, ModelError
from cliplet.export import export
from cliplet.export.attention import plain_attention
from cliplet.export.graph import trace, write
from cliplet.export.inputs import plain_captions
from cliplet.export.rounding import MULTIPLIED, quantise, round_in_parts, round_matrix, round_together
from cliplet.export.tokens import is_transformer, tokens_in_integers
from cliplet.export.towers import TokenTower
from tests.parity import local_models
from tests.training import make

PHOTOS = [make.drawing(c, s, 1) for c in make.COLOURS for s in make.SHAPES]
CAPTIONS = ["a red bar", "the big blue square on grey", "a corner", "", "word " * 200]


@pytest.fixture
def clip(torchvision):
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    )
    local_models.random_weights(model)
    transform = open_clip.image_transform(64, is_train=False)
    return OpenClipEncoder(model, transform, open_clip.get_tokenizer("ViT-B-32"))


def optimised(graph, into):
    """What ONNX Runtime makes of a graph when it loads it: the operations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(into)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(into).graph.node]


def test_a_calibrated_clip_computes_in_integers(tmp_path, clip):
    told = []
    report = export(
        clip, tmp_path / "out", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert told[-1] == ("text", 9, 9), "two layers of four products, and the projection"
    assert report.image_min_cosine > 0.998
    assert report.text_min_cosine > 0.995
    assert report.rank_correlation > 0.99
    assert report.kendall > 0.95
    assert report.integer_products == "cannot saturate (16 products)"
    for tower in ("image", "text"):
        graph = onnx.load(tmp_path / "out" / f"{tower}.onnx").graph
        assert not [n for n in graph.node if n.domain], "standard operations only"
        made = optimised(tmp_path / "out" / f"{tower}.onnx", tmp_path / "optimised.onnx")
        assert made.count("MatMulIntegerToFloat") == 8, "what reads one row a photo or caption stays in fp32"
        assert "DynamicQuantizeLinear" not in made, "which has one scale for a whole batch"
    encoder = OnnxEncoder(tmp_path / "out")
    assert encoder.card.precision.endswith("but for int8 products (w8a8, a scale for each token)")
    np.testing.assert_allclose(
        encoder.encode_images(PHOTOS), np.concatenate([encoder.encode_images([p]) for p in PHOTOS]), atol=1e-6
    )
    np.testing.assert_allclose(
        encoder.encode_texts(CAPTIONS),
        np.concatenate([encoder.encode_texts([c]) for c in CAPTIONS]),
        atol=1e-6,
    )


def test_each_part_more_brings_a_clip_nearer_to_fp32(tmp_path, clip):
    exact = export(clip, tmp_path / "exact", "fp32", photos=PHOTOS, captions=CAPTIONS)
    assert exact.image_min_cosine > 1 - 1e-6
    lost = []
    for parts in (1, 2, 3):
        folder = tmp_path / str(parts)
        report = export(
            clip, folder, "fp32", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS, parts=parts
        )
        assert ("in two parts" in OnnxEncoder(folder).card.precision) == (parts > 1)
        lost.append((1 - report.image_min_cosine, 1 - report.text_min_cosine))
        assert report.integer_products == f"cannot saturate ({16 * parts} products)"
        for tower in ("image", "text"):
            made = optimised(folder / f"{tower}.onnx", tmp_path / "optimised.onnx")
            assert made.count("MatMulIntegerToFloat") == 8 * parts
            graph = onnx.load(folder / f"{tower}.onnx").graph
            assert not [n for n in graph.node if n.domain], "standard operations only"
    assert all(two < one for one, two in zip(*lost[:2], strict=True))
    assert max(lost[2]) < 1e-5
    encoder = OnnxEncoder(tmp_path / "3")
    one_by_one = np.concatenate([encoder.encode_images([p]) for p in PHOTOS])
    np.testing.assert_allclose(encoder.encode_images(PHOTOS), one_by_one, atol=1e-6)


def test_parts_without_products_in_8_bits_are_refused(clip, tmp_path):
    with pytest.raises(InputError, match=r"parts=2 .*--calibrate"):
        export(clip, tmp_path / "out", "fp32", parts=2)
    assert not (tmp_path / "out").exists()


def test_a_matrix_in_two_parts_of_seven_bits():
    weight = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    weight[:, 3] = 0
    parts = round_in_parts(weight)
    assert all(integers.dtype == np.int8 and np.abs(integers).max() <= MULTIPLIED for integers, _ in parts)
    off = np.abs(sum(integers * steps for integers, steps in parts) - weight).max(axis=0)
    assert (off <= np.abs(weight).max(axis=0) / 15_876 + 1e-7).all()


def test_products_that_cannot_saturate_need_no_slower_ones_without_vnni(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("cliplet.encoders.sessions.integer_products_may_overflow", lambda: True)
    export(clip, tmp_path / "quick", calibration=PHOTOS)
    export(clip, tmp_path / "stored")
    asked = []
    for name in ("quick", "stored"):
        encoder = OnnxEncoder(tmp_path / name)
        encoder.load()
        options = encoder._text_session.opened.get_session_options()
        try:
            asked.append(options.get_session_config_entry("session.x64quantprecision"))
        except RuntimeError:
            asked.append("0")
    assert asked == ["0", "1"]


def test_captions_alone_calibrate_the_text_tower_alone(tmp_path, clip):
    export(clip, tmp_path / "out", calibration_captions=plain_captions()[:50])
    assert not integer_products(tmp_path / "out" / "image.onnx").count
    assert integer_products(tmp_path / "out" / "text.onnx").count == 8


def test_outliers_that_the_next_weights_undo_cost_nothing(tmp_path, clip):
    plain = export(clip, tmp_path / "plain", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS)
    with torch.no_grad():
        for blocks in (clip.model.visual.transformer.resblocks, clip.model.transformer.resblocks):
            for block in blocks:
                for norm, weight in (
                    (block.ln_1, block.attn.in_proj_weight),
                    (block.ln_2, block.mlp.c_fc.weight),
                ):
                    for parameter in (norm.weight, norm.bias):
                        parameter[3::16] *= 50
                    weight[:, 3::16] /= 50
                block.attn.in_proj_weight[128 + 5 :: 16] *= 50  # the values
                block.attn.in_proj_bias[128 + 5 :: 16] *= 50
                block.attn.out_proj.weight[:, 5::16] /= 50
    found = export(clip, tmp_path / "out", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS)
    assert found.image_min_cosine > 1 - 2 * (1 - plain.image_min_cosine)
    assert found.text_min_cosine > 1 - 2 * (1 - plain.text_min_cosine)


def test_captions_run_short_and_equal_open_clip_at_its_whole_context(tmp_path, clip):
    export(clip, tmp_path / "out", "fp32", photos=PHOTOS, captions=CAPTIONS)
    encoder = OnnxEncoder(tmp_path / "out")
    texts = CAPTIONS[:4]
    np.testing.assert_allclose(encoder.encode_texts(texts), clip.encode_texts(texts), atol=2e-6)
    graph = onnx.load(tmp_path / "out" / "text.onnx").graph
    assert not [n for n in graph.node if n.op_type == "Pad"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "text.onnx", providers=["CPUExecutionProvider"])
    rows = {}
    for length in (7, 20, 77):
        ids = np.zeros((1, length), dtype=np.int64)
        ids[0, :5] = [49406, 320, 736, 1615, 49407]
        (rows[length],) = session.run(None, {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)})
    np.testing.assert_allclose(rows[7], rows[77], atol=1e-6)
    np.testing.assert_allclose(rows[20], rows[77], atol=1e-6)


def test_a_text_tower_without_a_causal_mask_keeps_its_whole_context(tmp_path, torchvision):
    open_clip = pytest.importorskip("open_clip")
    from cliplet.encoders.open_clip import OpenClipEncoder

    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg={"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "", "image_size": 160},
        text_cfg={
            "context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True,
            "pool_type": "last", "proj_bias": True,
        },
    )  # fmt: skip
    local_models.random_weights(model)
    transform = open_clip.image_transform(160, is_train=False)
    source = OpenClipEncoder(model, transform, open_clip.get_tokenizer("ViT-B-32", context_length=32))
    whole = export(source, tmp_path / "whole", "fp32", photos=PHOTOS, captions=CAPTIONS)
    assert whole.text_max_difference < 1e-5
    assert whole.image_max_difference < 1e-5
    report = export(source, tmp_path / "out", photos=PHOTOS, captions=CAPTIONS, calibration=PHOTOS)
    assert report.text_min_cosine > 0.98
    assert report.image_min_cosine > 0.98
    assert integer_products(tmp_path / "out" / "image.onnx").count >= 8
    assert integer_products(tmp_path / "out" / "text.onnx").count == 8


class Chain(nn.Module):
    """Two products with nothing between them, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.first = nn.LayerNorm(64), nn.Linear(64, 48, bias=False)
        self.second = nn.Linear(48, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.norm(x))).mean(dim=1)


def test_products_one_behind_the_other(tmp_path):
    x = torch.randn(6, 9, 64) * torch.linspace(0.1, 30, 64)
    trace(Chain().eval(), {"x": x}, {"x": {0: "n", 1: "t"}}, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    tokens_in_integers(model, [{"x": x.numpy()}])
    onnx.checker.check_model(model)
    assert integer_products(model).count == 2
    found = [
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
        for graph in ((tmp_path / "a.onnx").read_bytes(), model.SerializeToString())
    ]
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("save", [local_models.save_clip, local_models.save_siglip])
def test_command_on_transformers_models(tmp_path, torchvision, save):
    pytest.importorskip("transformers")
    make.dataset(tmp_path / "data", count=8)
    photos = str(tmp_path / "data" / "photos")
    folder = tmp_path / "model"
    folder.mkdir()
    result = CliRunner().invoke(
        export_command,
        [str(save(folder)), str(tmp_path / "out"), "--calibrate", photos, "--photos", photos],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert [
        line for line in result.stdout.splitlines() if len(line) > 80 and "cliplet score" not in line
    ] == []
    assert "cannot saturate" in result.output
    source, made = load(folder), load(tmp_path / "out")
    for before, after in (
        (source.encode_texts(CAPTIONS), made.encode_texts(CAPTIONS)),
        (source.encode_images(PHOTOS), made.encode_images(PHOTOS)),
    ):
        assert (before * after).sum(axis=1).min() > 0.99
    exact = ["--calibrate", photos, "--parts", "3", "--fp32"]
    result = CliRunner().invoke(
        export_command, [str(folder), str(tmp_path / "near"), *exact], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    near = load(tmp_path / "near")
    assert (source.encode_texts(CAPTIONS) * near.encode_texts(CAPTIONS)).sum(axis=1).min() > 1 - 1e-5
    result = CliRunner().invoke(
        export_command, [str(folder), str(tmp_path / "stored")], catch_exceptions=False
    )
    assert "with  --calibrate PHOTOS" in result.output, "says what would make it faster"


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "floats", "bools"])
def test_plain_attention_equals_the_library(batch_first, mask):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    nn.init.normal_(module.in_proj_bias)
    x, y = torch.randn(5, 5, 32), torch.randn(5, 5, 32)
    causal = torch.ones(5, 5).triu(1).bool()
    masks = {None: None, "bools": causal, "floats": torch.zeros(5, 5).masked_fill(causal, -math.inf)}
    for inputs in ((x, x, x), (x, y, y)):
        expected, _ = module(*inputs, need_weights=False, attn_mask=masks[mask])
        with plain_attention():
            found, _ = module(*inputs, need_weights=False, attn_mask=masks[mask])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    with plain_attention():
        _, weights = module(x, x, x)
    assert weights is not None, "what it cannot do is left to the library"
    assert nn.MultiheadAttention.forward.__module__.startswith("torch")


def test_matrices_rounded_in_blocks_equal_those_rounded_input_by_input():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(900, 40)) @ rng.normal(size=(40, 300)) + 0.1 * rng.normal(size=(900, 300))
    weight = rng.normal(size=(300, 20)).astype(np.float32)
    _, scales = quantise(weight, 1, MULTIPLIED)
    products = inputs.T @ inputs / len(inputs)
    blocks = round_matrix(weight, scales[0], products)
    alone = round_together(weight.T[None], scales, products[None])[0].T
    assert (blocks == alone).mean() > 0.99  # sums in another order, so a few lie on the other side of a half
    nearest = np.clip(np.rint(weight / scales), -MULTIPLIED, MULTIPLIED)
    errors = [np.square(inputs @ (q * scales - weight)).mean() for q in (blocks, nearest)]
    assert errors[0] < 0.2 * errors[1]


class Convolutions(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean(dim=(2, 3))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))


def test_convolutions_are_no_transformer(tmp_path):
    x = torch.randn(2, 3, 16, 16)
    trace(Convolutions().eval(), {"x": x}, {"x": {0: "n"}}, tmp_path / "a.onnx")
    assert not is_transformer(onnx.load(tmp_path / "a.onnx"))


def test_a_trained_tower_keeps_its_cosines(tmp_path):
    pytest.importorskip("transformers")
    from cliplet.models.pretrained import sentence_model, sentence_tokenizer
    from cliplet.models.text import pool

    try:
        model = sentence_model("minilm-l3")
    except ModelError as error:
        pytest.skip(str(error))

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, "mean")

    tokenizer = sentence_tokenizer(model)
    captions = plain_captions()
    encoded = tokenizer.encode_batch(captions)
    ids = np.array([e.ids for e in encoded])
    mask = np.array([e.attention_mask for e in encoded])
    alike = mask.sum(axis=1) == np.bincount(mask.sum(axis=1)).argmax()
    length = int(mask[alike][0].sum())
    example = {"input_ids": ids[alike, :length], "attention_mask": mask[alike, :length]}
    traced = {name: torch.from_numpy(value[:2]) for name, value in example.items()}
    axes = {name: {0: "n", 1: "t"} for name in traced}
    found = []
    for name, examples in (("fp32", []), ("int8", [example])):
        path = tmp_path / f"{name}.onnx"
        write(TokenTower(Body(), 0, 0).eval(), traced, axes, path, name, examples, parts=1)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"input_ids": ids[::5], "attention_mask": mask[::5]})[0])
    assert 1 - (found[0] * found[1]).sum(axis=1).min() < 0.005
    assert str(integer_products(tmp_path / "int8.onnx")) == "cannot saturate (18 products)"


def product_graph(nodes, tensors, inputs=()):
    """A graph from ``x`` ``[n, t, 64]`` to ``y``."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, names, [out], name=out, **settings) for op, names, out, settings in nodes], "graph",
        [helper.make_tensor_value_info("x", kind, ["n", "t", 64]), *inputs],
        [helper.make_tensor_value_info("y", kind, ["n", "t", 64])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_channels_that_a_norm_moves_far_cost_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 16, 64)).astype(np.float32)
    weight = rng.normal(size=(64, 64)) / 8
    errors = []
    for far in (0, 20):
        tensors = {"g": np.ones(64), "b": far * rng.choice([-1, 1], 64), "w": weight}
        nodes = [("LayerNormalization", ["x", "g", "b"], "n", {}), ("MatMul", ["n", "w"], "y", {})]
        model = product_graph(nodes, tensors)
        run = open_session(model.SerializeToString(), threads=1, name="fp32").run
        wanted = run(None, {"x": x})[0]
        tokens_in_integers(model, [{"x": x}])
        kinds = [n.op_type for n in model.graph.node]
        assert "LayerNormalization" in kinds
        assert kinds.count("Add") == 1, "the bias; the norm itself moves the channels"
        found = open_session(model.SerializeToString(), threads=1, name="integers").run(None, {"x": x})[0]
        errors.append(np.abs(found - wanted).max())
    assert errors[1] < 1.5 * errors[0] < 0.2


def test_padding_is_not_fitted_to():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 16, 64)).astype(np.float32)
    mask = np.ones((40, 16), dtype=np.int64)
    mask[:, 7:] = 0
    told = onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["n", "t"])
    stored = []
    for padding in (0.0, 100.0):
        model = product_graph(
            [("MatMul", ["x", "w"], "y", {})], {"w": np.random.default_rng(1).normal(size=(64, 64))}, [told]
        )
        x[:, 7:] = padding * rng.normal(size=(40, 9, 64))
        tokens_in_integers(model, [{"x": x, "attention_mask": mask}])
        stored.append({t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer})
    assert stored[0].keys() == stored[1].keys()
    for name, value in stored[0].items():
        np.testing.assert_array_equal(value, stored[1][name], err_msg=name)


def test_one_large_channel_clips_no_value_that_the_examples_lacked():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype(np.float32) / 8
    model = product_graph([("MatMul", ["x", "w"], "y", {})], {"w": weight})

    def rows(count: int) -> np.ndarray:
        found = rng.normal(size=(count, 16, 64)).astype(np.float32)
        found[..., 5] += 60
        return found

    tokens_in_integers(model, [{"x": rows(32)}])
    given = rows(1)
    given[0, 0, 3] = -12
    got = open_session(model.SerializeToString(), threads=1, name="product").run(None, {"x": given})[0]
    assert np.abs(got - given @ weight).max() < 0.5
