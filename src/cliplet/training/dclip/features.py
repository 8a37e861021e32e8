"""What DCLIP computes once and keeps: views, regions, spans, the base model's embeddings. Each resumes after a kill."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.data.ragged import Arrays, Ragged, kept_blocks
from cliplet.data.spans import noun_phrases
from cliplet.encoders.base import unit_norm
from cliplet.encoders.batching import BatchedEncoder
from cliplet.export.frozen import frozen
from cliplet.models.fingerprint import state_fingerprint
from cliplet.regions.registry import make_proposer
from cliplet.regions.store import RegionSettings, StoredRegions, compute_regions
from cliplet.training.computed import computed
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.trainable import TrainableClip, crop_embedder
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.views import view_images

Floats = NDArray[np.float32]
Kept = NDArray[np.float16]
"""Rows on disk."""


class Features:
    """All that is kept of one set of pairs for one base model.

    Args:
        model: the base model, frozen while features are made.
        pairs: photos and captions.
        folder: where to keep them.
    """

    def __init__(self, model: TrainableClip, pairs: PairSet, folder: Path) -> None:
        self.model, self.pairs, self.folder = model, pairs, folder
        self.key = fingerprint([model.encoder.card.fingerprint])
        self.photos_key, self.captions_key = fingerprint(pairs.photos), fingerprint(pairs.captions)

    def _of_captions(self, kind: str, compute: Any, what: str) -> Kept:
        file = self.folder / f"{kind}-{self.key}-{self.captions_key}.npy"
        return computed(file, len(self.pairs.captions), compute, 2048, np.float16, what)

    def texts(self) -> Floats:
        """The base model's embeddings of the captions ``[captions, d]``, unit norm."""
        captions = self.pairs.captions
        states = self.folder / f"states-{self.key}-{self.captions_key}.npy"
        kept = np.load(states, mmap_mode="r") if states.exists() else None

        def compute(start: int, stop: int) -> Floats:
            if kept is None:
                return self.model.encoder.encode_texts(captions[start:stop])
            with torch.inference_mode():  # only the projection is missing
                rows = torch.from_numpy(kept[start:stop].astype(np.float32)).to(self.model.device)
                return unit_norm(self.model.project_text(rows).cpu().numpy())

        return unit_norm(self._of_captions("texts", compute, "captions"))

    def text_states(self) -> Kept:
        """States before the text tower's last projection ``[captions, w]``."""
        captions = self.pairs.captions
        return self._of_captions(
            "states", lambda a, b: self.model.pooled_text(captions[a:b]), "caption states"
        )

    def spans(self, kind: str, padding: bool) -> Ragged:
        """Embeddings of every caption's spans, at least one each, unit norm.

        ``tokens`` or ``phrases``; with ``padding`` the positions after a text count.
        """
        captions = self.pairs.captions
        name = f"{kind}{'-padded' if padding else ''}-{self.key}-{self.captions_key}"
        if kind == "phrases":
            phrases = [[s.text for s in noun_phrases(c)] or [c] for c in captions]
            distinct = list(dict.fromkeys(p for several in phrases for p in several))
            number = {p: i for i, p in enumerate(distinct)}
            rows = computed(
                self.folder / f"{name}.npy", len(distinct),
                lambda a, b: self.model.encoder.encode_texts(distinct[a:b]), 2048, np.float16, "noun phrases",
            )  # fmt: skip
            order = [number[p] for several in phrases for p in several]
            return Ragged.of(np.asarray(rows)[order], np.array([len(p) for p in phrases]))
        blocks = list(
            kept_blocks(
                self.folder / name, len(captions), 1024,
                lambda a, b: self._token_states(captions[a:b], padding), Progress("token states", len(captions)).done,
            )
        )  # fmt: skip
        rows, counts = (np.concatenate([b[k] for b in blocks]) for k in ("rows", "counts"))
        return Ragged.of(rows, counts)

    def _token_states(self, captions: Sequence[str], padding: bool) -> Arrays:
        """Token states of some captions; captions of like length are computed together."""
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(captions)
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            _, states = self.model.token_states([captions[i] for i in rows], padding)
            for i, own in zip(rows, states, strict=True):
                found[i] = unit_norm(own.numpy())
        counts = np.array([len(f) for f in found], dtype=np.int64)
        return {"rows": np.concatenate(found).astype(np.float16), "counts": counts}

    def regions(self, settings: RegionSettings, encoder: BatchedEncoder) -> StoredRegions:
        """Regions of every photo with their crops' embeddings by ``encoder``, the base model."""
        proposer = make_proposer(settings.proposer, settings.score, settings.iou)
        bar = Progress(f"regions, {settings.proposer.rsplit('/', 1)[-1]}", len(self.pairs.photos))
        return compute_regions(
            self.folder, self.pairs.photos, self.pairs.names, proposer, settings,
            crop_embedder(self.model, encoder, settings.raw_crops), self.model.encoder.card.fingerprint,
            progress=bar.done,
        )  # fmt: skip

    def views(self, augment: AugmentConfig, seed: int, learning: Sequence[str]) -> list[Kept] | None:
        """Each view of all photos as the image tower's first learning stage sees it, ``[photos, C, h, w]``.

        None where the whole tower learns and nothing can be kept.
        """
        early, first = self.model.early(learning)
        if early is None:
            return None
        # models that differ later on share them
        place = self.folder / f"maps{first}-{state_fingerprint(early)}"
        run = frozen(early, self.model.encoder.card.image.size, place.with_suffix(".onnx"))

        def compute(start: int, stop: int, view: int) -> NDArray[Any]:
            images = view_images(self.pairs.photos, augment, seed, range(start, stop), view)
            return run(self.model.pixels(images).numpy())

        found = []
        for view in range(augment.views):
            crop = fingerprint([dataclasses.replace(augment, views=0), seed]) if view else "whole"
            file = place.with_name(f"{place.name}-{self.photos_key}-{crop}-{view}.npy")
            rows, what = len(self.pairs.photos), f"view {view + 1} of {augment.views}"
            found.append(computed(file, rows, partial(compute, view=view), 16, np.float16, what))
        return found
