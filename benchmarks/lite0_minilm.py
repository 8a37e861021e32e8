"""``lite0-minilm``: two encoders that never met, joined by a ridge; an encoder with a gap between photos and texts.

Image side: pooled features of EfficientNet-Lite0 (ImageNet weights), standardised. Text side: all-MiniLM-L6-v2. A
ridge (lambda 5e3, as for the whole train split scaled to 1,500 photos: 1.25e3) maps features to the centred mean of a
photo's five caption embeddings. Both sides are frozen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.book import read_book
from cliplet.data.images import load_rgb
from cliplet.data.photos import PhotoTar
from cliplet.encoders.base import BaseEncoder, Embeddings, adapt, unit_norm
from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec

PAIRS = 1_500
RIDGE = 1.25e3


class Lite0MiniLM:
    """The joined encoder."""

    def __init__(self, work: Path | None) -> None:
        import torch

        from cliplet.models.pretrained import efficientnet_lite, sentence_model

        self.torch, self.work = torch, work
        self.net = efficientnet_lite(0).to(memory_format=torch.channels_last)
        self.sentences = sentence_model("all-MiniLM-L6-v2")
        self.card = ModelCard(
            f"lite0-minilm-{PAIRS}", 384, ImageSpec(224, "squash"), TextSpec(64, ""),
            fingerprint_of=lambda: f"lite0-minilm-{PAIRS}",
        )  # fmt: skip

    def features(self, photos: Sequence[Any]) -> np.ndarray:
        """Pooled features [n, 1280]."""
        blocks = []
        for start in range(0, len(photos), 32):
            images = [load_rgb(p).resize((224, 224), 3) for p in photos[start : start + 32]]
            pixels = self.torch.from_numpy(
                np.stack([np.asarray(i, dtype=np.float32) for i in images]) / 127.5 - 1
            )
            with self.torch.inference_mode():
                maps = self.net.forward_features(
                    pixels.permute(0, 3, 1, 2).contiguous(memory_format=self.torch.channels_last)
                )
                blocks.append(self.net.forward_head(maps, pre_logits=True).numpy())
        return np.concatenate(blocks)

    def join(self, features: np.ndarray, targets: np.ndarray, centre: np.ndarray) -> None:
        """Fit the ridge from features to centred caption vectors."""
        self.mean, self.spread = features.mean(axis=0), features.std(axis=0) + 1e-6
        x = (features - self.mean) / self.spread
        self.map = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ targets)
        self.centre = centre

    def encode_images(self, images: Sequence[Any]) -> Embeddings:
        """Photos in the text space."""
        return unit_norm((self.features(images) - self.mean) / self.spread @ self.map)

    def text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit sentence vectors, not centred."""
        from cliplet.models.pretrained import sentence_embeddings

        return unit_norm(sentence_embeddings(self.sentences, list(texts), quick=False))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts, centred by the mean caption."""
        return unit_norm(self.text(texts) - self.centre)


def lite0_minilm(data: Path, work: Path | None) -> BaseEncoder:
    """The encoder, its map fitted to 1,500 photos of Flickr8k's train split and their captions."""
    made = Lite0MiniLM(work)
    tar = PhotoTar(data / "flickr8k/images_train.tar")
    names = sorted(np.random.default_rng(0).permutation(tar.names())[:PAIRS].tolist())
    kept = work and work / f"lite0_features_{PAIRS}.npy"
    features = np.load(kept) if kept and kept.is_file() else made.features([tar.get(n) for n in names])
    if kept:
        np.save(kept, features)
    book = read_book([data / "flickr8k/Flickr8k.token.txt"])
    captions = [book.images[name] for name in names]
    texts = work and work / f"lite0_captions_{PAIRS}.npy"
    vectors = np.load(texts) if texts and texts.is_file() else made.text([c for own in captions for c in own])
    if texts:
        np.save(texts, vectors)
    centre = vectors.mean(axis=0)
    ends = np.cumsum([0, *map(len, captions)])
    means = np.add.reduceat(vectors, ends[:-1], axis=0) / np.diff(ends)[:, None]
    made.join(features, means - centre, centre)
    return adapt(made)
