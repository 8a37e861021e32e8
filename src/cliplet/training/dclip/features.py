"""What DCLIP computes once and keeps: views, regions, spans, the base model's embeddings. Each resumes after a kill."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.data.spans import noun_phrases
from cliplet.encoders.base import unit_norm
from cliplet.encoders.batching import BatchedEncoder
from cliplet.errors import ClipletError, InputError
from cliplet.export.frozen import frozen
from cliplet.models.fingerprint import state_fingerprint
from cliplet.regions.registry import make_proposer
from cliplet.regions.store import RegionSettings, StoredRegions, compute_regions
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.tunable import Tunable, TunableDual, crop_embedder
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.views import photo_view

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Embeddings of the spans of all captions, one row a span."""

    rows: Halves
    """``[S, d]``, unit norm."""
    starts: Ints
    """``[captions + 1]``: caption ``i`` has rows ``starts[i]`` to ``starts[i + 1]``, at least one."""

    def padded(self, captions: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """Spans of some captions ``[B, M, d]`` and which rows are spans ``[B, M]``."""
        counts = self.starts[captions + 1] - self.starts[captions]
        out = np.zeros((len(captions), int(counts.max()), self.rows.shape[1]), dtype=np.float32)
        for i, caption in enumerate(captions):
            out[i, : counts[i]] = self.rows[self.starts[caption] : self.starts[caption + 1]]
        return out, np.arange(out.shape[1])[None] < counts[:, None]


def kept_rows(
    file: Path, count: int, compute: Callable[[int, int], NDArray[Any]], step: int, what: str
) -> Halves:
    """Rows computed once, ``step`` at a time, as fp16 in ``file``; an interrupted computation goes on.

    Args:
        file: ``.npy``, whose name changes whenever a row would.
        count: rows.
        compute: gives rows ``start`` to ``stop``, any shape after the first axis.
        step: rows between two savings of the state.
        what: for the progress line.
    """
    part, state = file.with_suffix(".part"), file.with_suffix(".json")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        done = int(json.loads(state.read_text())["done"]) if part.exists() and state.exists() else 0
        rows = np.lib.format.open_memmap(part, mode="r+") if done else None
        bar = Progress(what, count, start=done)
        for start in range(done, count, step):
            stop = min(count, start + step)
            block = compute(start, stop)
            if rows is None:
                rows = np.lib.format.open_memmap(part, "w+", np.float16, (count, *block.shape[1:]))
            rows[start:stop] = block
            rows.flush()
            temporary = state.with_suffix(".tmp")
            temporary.write_text(json.dumps({"done": stop}))
            os.replace(temporary, state)
            bar.update(stop)
        if rows is None:
            raise InputError(f"{what}: there is nothing to compute")
        del rows
        os.replace(part, file)
        state.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def fast_copy(model: Tunable, folder: Path, pairs: PairSet) -> BatchedEncoder | None:
    """The frozen base model on ONNX Runtime, four times faster on a CPU; None where it cannot be exported."""
    if not isinstance(model, TunableDual):
        return None
    from cliplet.encoders.onnx import OnnxEncoder
    from cliplet.training.views import photo_source

    place = folder / f"onnx-{model.encoder.card.fingerprint}"
    try:
        if not (place / "card.json").is_file():
            from cliplet.export import export

            photos = [photo_source(p) for p in pairs.photos[:8]]
            export(model.encoder, place, "fp32", photos=photos, captions=pairs.captions[:16])
        return OnnxEncoder(place)
    except (ImportError, ClipletError):  # an extra is missing, or a tower that has no export
        return None


class Features:
    """All that is kept of one set of pairs for one base model.

    Args:
        model: the base model, frozen while features are made.
        pairs: photos and captions.
        folder: where to keep them.
    """

    def __init__(self, model: Tunable, pairs: PairSet, folder: Path) -> None:
        self.model, self.pairs, self.folder = model, pairs, folder
        self.key = fingerprint([model.encoder.card.fingerprint])
        self.photos_key, self.captions_key = fingerprint(pairs.photos), fingerprint(pairs.captions)
        folder.mkdir(parents=True, exist_ok=True)

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

        file = self.folder / f"texts-{self.key}-{self.captions_key}.npy"
        return unit_norm(kept_rows(file, len(captions), compute, 2048, "captions"))

    def text_states(self) -> Halves:
        """States before the text tower's last projection ``[captions, w]``."""
        captions = self.pairs.captions
        file = self.folder / f"states-{self.key}-{self.captions_key}.npy"
        return kept_rows(
            file, len(captions), lambda a, b: self.model.pooled_text(captions[a:b]), 2048, "caption states"
        )

    def spans(self, kind: str, padding: bool) -> Spans:
        """Spans of every caption: ``tokens`` or ``phrases``; with ``padding`` the places after a text count."""
        captions = self.pairs.captions
        name = f"{kind}{'-padded' if padding else ''}-{self.key}-{self.captions_key}"
        if kind == "phrases":
            phrases = [[s.text for s in noun_phrases(c)] or [c] for c in captions]
            starts = np.concatenate([[0], np.cumsum([len(p) for p in phrases])]).astype(np.int64)
            distinct = list(dict.fromkeys(p for several in phrases for p in several))
            place = {p: i for i, p in enumerate(distinct)}
            rows = kept_rows(
                self.folder / f"{name}.npy", len(distinct),
                lambda a, b: self.model.encoder.encode_texts(distinct[a:b]), 2048, "noun phrases",
            )  # fmt: skip
            return Spans(np.asarray(rows)[[place[p] for several in phrases for p in several]], starts)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        blocks, counts = [], []
        bar = Progress("token states", len(captions))
        for start in range(0, len(captions), 1024):
            file = folder / f"{start:08d}.npz"
            if not file.exists():
                self._write_states(file, captions[start : start + 1024], padding)
            with np.load(file, allow_pickle=False) as loaded:
                blocks.append(loaded["rows"])
                counts.append(loaded["counts"])
            bar.update(min(start + 1024, len(captions)))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
        return Spans(np.concatenate(blocks), starts)

    def _write_states(self, file: Path, captions: Sequence[str], padding: bool) -> None:
        """Token states of some captions; captions of like length are computed together."""
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(captions)
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            for i, states in zip(
                rows, self.model.token_states([captions[i] for i in rows], padding)[1], strict=True
            ):
                found[i] = unit_norm(states.numpy())
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            counts = np.array([len(f) for f in found], dtype=np.int64)
            np.savez(stream, rows=np.concatenate(found).astype(np.float16), counts=counts)
        os.replace(part, file)

    def regions(self, settings: RegionSettings, fast: BatchedEncoder | None) -> StoredRegions:
        """Regions of every photo with their crops' embeddings."""
        proposer = make_proposer(settings.proposer, settings.score, settings.iou)
        bar = Progress(f"regions, {settings.proposer.rsplit('/', 1)[-1]}", len(self.pairs.photos))
        return compute_regions(
            self.folder, self.pairs.photos, self.pairs.names, proposer, settings,
            crop_embedder(self.model, fast, settings.raw_crops), self.model.encoder.card.fingerprint,
            progress=bar.done,
        )  # fmt: skip

    def views(self, augment: AugmentConfig, seed: int, learning: Sequence[str]) -> list[Halves] | None:
        """Each view of all photos as the image tower's first learning stage sees it, ``[photos, C, h, w]``.

        None where the whole tower learns and nothing can be kept.
        """
        early, first = self.model.early(learning)
        if early is None:
            return None
        place = (
            self.folder / f"maps{first}-{state_fingerprint(early)}"
        )  # models that differ later on share them
        run = frozen(early, self.model.encoder.card.image.size, place.with_suffix(".onnx"))
        found = []
        for view in range(augment.views):
            crop = fingerprint([dataclasses.replace(augment, views=0), seed]) if view else "whole"
            file = place.with_name(f"{place.name}-{self.photos_key}-{crop}-{view}.npy")

            def compute(start: int, stop: int, view: int = view) -> NDArray[Any]:
                images = view_images(self.pairs, augment, seed, range(start, stop), view)
                return run(self.model.pixels(images).numpy())

            found.append(
                kept_rows(file, len(self.pairs.photos), compute, 16, f"view {view + 1} of {augment.views}")
            )
        return found


def view_images(
    pairs: PairSet, augment: AugmentConfig, seed: int, photos: Sequence[int] | range, view: int
) -> list[Any]:
    """Views of some photos.

    Raises:
        InputError: a photo cannot be read.
    """
    return [photo_view(pairs.photos[i], augment, seed, i, view) for i in photos]
