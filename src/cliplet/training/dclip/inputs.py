"""Photos and captions of a set as the part of a model that learns reads them; what stays before it is computed once."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.export.frozen import frozen
from cliplet.models.fingerprint import state_fingerprint
from cliplet.training.computed import computed
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.low_rank import is_matrix
from cliplet.training.dclip.trainable import TrainableClip
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.processes import rank, world
from cliplet.training.views import view_images

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Kept = NDArray[np.float16]
"""Rows on disk."""


class Learner:
    """A model of which some parameters learn.

    Args:
        clip: the model.
        patterns: which parameters, as in ``student.train``.
        matrices: of these only the matrices, for low-rank adapters.

    Raises:
        InputError: a pattern matches nothing, or no matrix where these are wanted.
    """

    def __init__(self, clip: TrainableClip, patterns: Sequence[str], matrices: bool = False) -> None:
        self.clip = clip
        self.names = clip.named(patterns)
        if matrices:
            own = dict(clip.model.named_parameters())
            self.names = [name for name in self.names if is_matrix(own[name])]
            if not self.names:
                raise InputError(
                    f"student.low_rank needs matrices; student.train={list(patterns)} names none, name such as those "
                    f"of released ({', '.join(clip.released)})"
                )
        self.early, self.first = clip.early(self.names)
        text = {n for n in self.names if not n.startswith(clip.image_prefix)}
        self.text_mode = "frozen" if not text else "head" if text <= set(clip.head) else "all"
        """What of captions is kept: embeddings, states before the last projection, or nothing."""

    def encode_images(self, batch: dict[str, Tensor], dropout: float = 0.0, quick: bool = False) -> Tensor:
        """Embeddings of what :meth:`Photos.batch` gave ``[B, d]``, unnormalised."""
        if "maps" in batch:
            return self.clip.encode_late(batch["maps"].float(), self.first, dropout, quick).float()
        return self.clip.encode_image(batch["pixels"]).float()

    def encode_regions(
        self, batch: Mapping[str, Tensor], owner: Tensor, boxes: Tensor, quick: bool = False
    ) -> Tensor:
        """Embeddings of boxes on the photos that :meth:`Photos.batch` gave ``[N, d]``, unnormalised.

        Args:
            batch: the photos.
            owner: which of them each box is on ``[N]``.
            boxes: ``[N, 4]``: left, top, right, bottom as shares of the sides of the tower's input.
            quick: products may be rounded as bf16 does.

        Raises:
            InputError: this image tower has no maps.
        """
        return self.clip.region_features(batch, owner, boxes, self.first, quick)

    def encode_texts(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings of what :meth:`Captions.batch` gave ``[B, d]``, unnormalised."""
        if self.text_mode == "frozen":
            return batch["base_text"]
        if self.text_mode == "head":
            return self.clip.project_text(batch["text_states"].float()).float()
        return self.clip.encode_text(batch["input_ids"], batch["attention_mask"]).float()


class Photos:
    """Views of some photos, from the first stage that learns on.

    Args:
        learner: the model.
        photos: where to read them.
        augment: the views.
        kept: each view's maps ``[photos, C, h, w]`` or pooled features ``[photos, D]``; None reads the photos anew.
    """

    def __init__(
        self, learner: Learner, photos: Sequence[Any], augment: AugmentConfig, kept: list[Kept] | None
    ) -> None:
        self.learner, self.photos, self.augment, self.kept = learner, photos, augment, kept
        self.key = fingerprint(photos)

    @classmethod
    def compute(
        cls, learner: Learner, photos: Sequence[Any], folder: Path, augment: AugmentConfig = AugmentConfig()  # noqa: B008
    ) -> "Photos":  # fmt: skip
        """With the maps of each view, computed once where no stage before them learns.

        Raises:
            InputError: a photo cannot be read.
        """
        found = cls(learner, photos, augment, None)
        if learner.early is None:
            return found
        # models that differ later on share them
        place = folder / f"maps{learner.first}-{state_fingerprint(learner.early)}"
        run = frozen(learner.early, learner.clip.encoder.card.image.size, place.with_suffix(".onnx"))

        def maps(start: int, stop: int, view: int) -> NDArray[Any]:
            images = view_images(photos, augment, 0, range(start, stop), view)
            return run(learner.clip.pixels(images).numpy())

        found.kept = []
        for view in range(augment.views):
            crop = fingerprint([dataclasses.replace(augment, views=0), 0]) if view else "whole"
            file, what = f"{place.name}-{found.key}-{crop}-{view}.npy", f"view {view + 1} of {augment.views}"
            rows = computed(folder / file, len(photos), partial(maps, view=view), 16, np.float16, what)
            found.kept.append(rows)
        return found

    def batch(self, rows: Ints, views: Ints) -> dict[str, Tensor]:
        """``maps`` or ``pixels`` of one view of some photos."""
        pairs = list(zip(rows.tolist(), views.tolist(), strict=True))
        if self.kept is not None:
            return {"maps": torch.from_numpy(np.stack([self.kept[v][p] for p, v in pairs]))}
        images = [view_images(self.photos, self.augment, 0, [p], v)[0] for p, v in pairs]
        return {"pixels": self.learner.clip.pixels(images)}

    @torch.inference_mode()
    def embed(self, start: int, stop: int, view: int = 0, quick: bool = False) -> Floats:
        """Embeddings of one view of photos ``start`` to ``stop`` by the present weights ``[n, d]``, unit norm."""
        clip, blocks = self.learner.clip, []
        if self.kept is None:
            seen = self.photos[start:stop] if not view else view_images(
                self.photos, self.augment, 0, range(start, stop), view
            )  # fmt: skip
            return clip.encoder.encode_images(seen)
        for first in range(start, stop, 64):
            maps = torch.from_numpy(np.array(self.kept[view][first : min(first + 64, stop)])).to(clip.device)
            blocks.append(self.learner.encode_images({"maps": maps}, quick=quick).cpu().numpy())
        return unit_norm(np.concatenate(blocks))

    def base(self, model: str, folder: Path) -> list[Floats]:
        """The base model's embeddings of each view ``[photos, d]``, unit norm; it must have its own weights when first
        asked.

        Args:
            model: what names the base model in files.
            folder: where to keep them.
        """
        crops = fingerprint([dataclasses.replace(self.augment, views=0), self.kept is None])
        return [
            unit_norm(
                computed(
                    folder / f"images-{model}-{self.key}-{crops}-{view}.npy", len(self.photos),
                    partial(self.embed, view=view, quick=True), 64, np.float16, f"base model, view {view + 1}",
                )
            )
            for view in range(self.augment.views)
        ]  # fmt: skip

    def embeddings(self) -> Floats:
        """Embeddings of all photos as they are by the present weights ``[photos, d]``, unit norm."""
        return self.embed(0, len(self.photos) if self.kept is None else len(self.kept[0]))


class Captions:
    """Some captions, from the first parameter that learns on.

    Args:
        learner: the model.
        captions: the captions.
        folder: where to keep what is computed once.
    """

    def __init__(self, learner: Learner, captions: Sequence[str], folder: Path) -> None:
        self.learner, self.captions, self.folder = learner, captions, folder
        self.model = fingerprint([learner.clip.encoder.card.fingerprint])
        """What names the base model in files."""
        self.name = f"{self.model}-{fingerprint(captions)}.npy"

    def _computed(self, kind: str, compute: Any, what: str) -> Kept:
        return computed(
            self.folder / f"{kind}-{self.name}", len(self.captions), compute, 2048, np.float16, what
        )

    @cached_property
    def states(self) -> Kept:
        """States before the text tower's last projection ``[captions, w]``."""
        pooled = self.learner.clip.pooled_text
        return self._computed("states", lambda a, b: pooled(self.captions[a:b]), "caption states")

    @cached_property
    def base(self) -> Floats:
        """The base model's embeddings ``[captions, d]``, unit norm; it must have its own weights when first asked."""
        clip, file = self.learner.clip, self.folder / f"states-{self.name}"
        kept = np.load(file, mmap_mode="r", allow_pickle=False) if file.exists() else None

        def compute(start: int, stop: int) -> Floats:
            if kept is None:
                return clip.encoder.encode_texts(self.captions[start:stop])
            with torch.inference_mode():  # only the projection is missing
                rows = torch.from_numpy(kept[start:stop].astype(np.float32)).to(clip.device)
                return unit_norm(clip.project_text(rows).cpu().numpy())

        return unit_norm(self._computed("texts", compute, "captions"))

    def batch(self, rows: Ints) -> dict[str, Tensor]:
        """What the model reads of some captions: ``text_states``, or ``input_ids`` and ``attention_mask``."""
        if self.learner.text_mode == "head":
            return {"text_states": torch.from_numpy(np.asarray(self.states[rows]))}
        if self.learner.text_mode == "all":
            return self.learner.clip.tokens([self.captions[i] for i in rows])
        return {}

    def columns(self, rows: Ints) -> dict[str, Tensor]:
        """What :meth:`Learner.encode_texts` takes of some captions, ``base_text`` where the text tower is frozen."""
        if self.learner.text_mode == "frozen":
            return {"base_text": torch.from_numpy(self.base[rows])}
        return self.batch(rows)

    @torch.inference_mode()
    def embeddings(self) -> Floats:
        """Embeddings by the present weights ``[captions, d]``, unit norm."""
        clip = self.learner.clip
        if self.learner.text_mode == "frozen":
            return self.base
        if self.learner.text_mode == "all":
            return clip.encoder.encode_texts(self.captions)
        blocks = []
        for start in range(0, len(self.captions), 4096):
            rows = np.array(self.states[start : start + 4096], dtype=np.float32)
            blocks.append(clip.project_text(torch.from_numpy(rows).to(clip.device)).cpu().numpy())
        return unit_norm(np.concatenate(blocks))


class PhotoBatches:
    """Batches of photos with captions, in an order that depends on seed and epoch alone; subclasses fill them.

    Of several processes each has its own part of every batch of ``size`` photos times their number.

    Args:
        pairs: training pairs.
        size: photos a batch, in each process.
        seed: of order and choices.
    """

    def __init__(self, pairs: PairSet, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.captions_of = pairs.captions_of()
        self.photos = np.array([i for i, rows in enumerate(self.captions_of) if len(rows)], dtype=np.int64)
        self.rank, self.world = rank(), world()
        self.batches = len(self.photos) // (size * self.world)

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on, each made in a thread while the one before is learnt."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.photos)
        own = [self.rank] if self.rank else []  # the first process draws as a single one does

        def made(number: int) -> dict[str, Tensor]:
            rng = np.random.default_rng([self.seed, epoch, number, *own])
            together = order[number * self.world * self.size : (number + 1) * self.world * self.size]
            start = self.rank * self.size
            return self.batch(together[start : start + self.size], rng, together)

        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[dict[str, Tensor]]] = deque()
            try:
                for number in range(first, self.batches):
                    ahead.append(pool.submit(made, number))
                    if len(ahead) > 1:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(
        self, photos: Ints, rng: np.random.Generator, together: Ints | None = None
    ) -> dict[str, Tensor]:
        """What the task reads of some photos.

        Args:
            photos: those of this process ``[B]``.
            rng: for what is drawn.
            together: the photos of all processes; these alone when left out.
        """
        raise NotImplementedError
