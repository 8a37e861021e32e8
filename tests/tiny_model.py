"""A model folder small enough to build in a test: mean colours of image patches, sums of word vectors."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec

DIM = 16
SIZE = 32
CONTEXT = 12
WORDS = "a dog cat man woman red blue green black white runs sits on the beach grass car of and . photo two".split()  # noqa: SIM905


def build_tiny_model(folder: Path, seed: int = 0, prefix: str = "", context: int = CONTEXT) -> Path:
    """Write a complete model folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    _save_image_tower(folder / "image.onnx", rng.normal(size=(3 * 16, DIM)).astype(np.float32))
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    _save_text_tower(folder / "text.onnx", rng.normal(size=(len(vocabulary), DIM)).astype(np.float32))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        "[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    ModelCard(
        name=f"tiny-{seed}",
        embedding_dim=DIM,
        image=ImageSpec(SIZE, "squash"),
        text=TextSpec(context, prefix),
        score=ScoreSpec(w=2.5, reference_weight=1.0),
    ).save(folder)
    return folder


def _save(nodes: list, inputs: list, initializers: dict[str, np.ndarray], path: Path) -> None:
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])
    weights = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "tower", inputs, [output], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _save_image_tower(path: Path, weight: np.ndarray) -> None:
    node = helper.make_node
    _save(
        [
            node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            node("Sub", ["float", "mean"], ["centred"]),
            node("Transpose", ["centred"], ["chw"], perm=[0, 3, 1, 2]),
            node("AveragePool", ["chw"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            node("Flatten", ["pooled"], ["flat"]),
            node("MatMul", ["flat", "weight"], ["projected"]),
            node("LpNormalization", ["projected"], ["embedding"], axis=1, p=2),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        {"weight": weight, "mean": np.float32(110)},
        path,
    )


def _save_text_tower(path: Path, table: np.ndarray) -> None:
    node = helper.make_node
    ids = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"])
        for n in ("input_ids", "attention_mask")
    ]
    _save(
        [
            node("Gather", ["table", "input_ids"], ["vectors"]),
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask", "last"], ["wide"]),
            node("Mul", ["vectors", "wide"], ["masked"]),
            node("ReduceSum", ["masked", "second"], ["summed"], keepdims=0),
            node("LpNormalization", ["summed"], ["embedding"], axis=1, p=2),
        ],
        ids,
        {"table": table, "last": np.array([2]), "second": np.array([1])},
        path,
    )
