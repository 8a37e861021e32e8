"""Batches of a stage: photos, captions and the teacher's embeddings of the very same views."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.encoders.torch import TorchEncoder, pad_tokens
from cliplet.errors import InputError
from cliplet.training.config import AugmentConfig, DistillStage
from cliplet.training.distill.targets import Targets
from cliplet.training.pairs import PairSet, chosen, epoch_batches
from cliplet.training.views import photo_view


class StageBatches:
    """Makes the batches of one stage; the same ones for the same seed, epoch and position.

    An item is a photo with one of its captions, another one each epoch; where the text tower learns alone, an item
    is a caption.
    """

    def __init__(
        self,
        stage: DistillStage,
        pairs: PairSet,
        targets: Targets,
        encoder: TorchEncoder,
        augment: AugmentConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        self.stage, self.pairs, self.targets, self.encoder = stage, pairs, targets, encoder
        self.augment, self.seed, self.rank, self.world, self.workers = augment, seed, rank, world, workers
        self.with_image = "image" in stage.towers or stage.pairs
        self.with_text = "text" in stage.towers or stage.pairs
        self.by_caption = "image" not in stage.towers
        self.captions_of = pairs.captions_of() if self.with_text and not self.by_caption else []
        self.items = self._usable()
        self.batches = len(self._plan(0))

    def _usable(self) -> NDArray[np.int64]:
        """Photos (or captions) that have all that the stage needs."""
        pairs = self.pairs
        good = np.ones(len(pairs.photos), dtype=bool)
        for view in self.targets.images:
            good &= ~np.isnan(view[:, 0])
        if self.by_caption:
            usable = np.ones(len(pairs.captions), dtype=bool)
            if self.with_image:
                usable = (pairs.photo_of >= 0) & np.append(good, False)[pairs.photo_of]
        else:
            usable = good
            if self.with_text:
                usable = good & np.array([len(c) > 0 for c in self.captions_of], dtype=bool)
        found: NDArray[np.int64] = np.flatnonzero(usable)
        if not len(found):
            raise InputError(f"stage {self.stage.name} has no item with all that it needs")
        return found

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Positions of this process's batches."""
        return epoch_batches(len(self.items), self.stage.batch_size, self.seed, epoch, self.rank, self.world)

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on, decoded ahead in threads."""
        plan = self._plan(epoch)[first:]
        if not self.workers:
            for positions in plan:
                yield self.batch(self.items[positions], epoch)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: deque[Future[dict[str, Tensor]]] = deque()
            try:
                for positions in plan:
                    ahead.append(pool.submit(self.batch, self.items[positions], epoch))
                    if len(ahead) > self.workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(self, items: NDArray[np.int64], epoch: int) -> dict[str, Tensor]:
        """One batch."""
        captions, photos = items, items
        if self.by_caption:
            photos = self.pairs.photo_of[items] if self.with_image else items
        elif self.with_text:
            shares = chosen(self.seed, epoch, items, 0)
            own = [self.captions_of[p] for p in items]
            captions = np.array([c[int(s * len(c))] for c, s in zip(own, shares, strict=True)])
        result: dict[str, Tensor] = {}
        if self.with_image:
            result |= self._image_side(photos, epoch)
        if self.with_text:
            assert self.targets.texts is not None
            result["teacher_text"] = torch.from_numpy(np.asarray(self.targets.texts[captions]))
            if "text" in self.stage.towers:
                ids, mask = pad_tokens(self.encoder.tokenize([self.pairs.captions[c] for c in captions])[0])
                result["input_ids"], result["attention_mask"] = torch.from_numpy(ids), torch.from_numpy(mask)
        return result

    def _image_side(self, photos: NDArray[np.int64], epoch: int) -> dict[str, Tensor]:
        """The teacher's embeddings of one view a photo, and its pixels where the image tower learns."""
        count = len(self.targets.images)
        views = [int(s * count) for s in chosen(self.seed, epoch, photos, 1)]
        rows = np.stack([self.targets.images[v][p] for v, p in zip(views, photos, strict=True)])
        result = {"teacher_image": torch.from_numpy(rows)}
        if "image" in self.stage.towers:
            pixels = [
                self.encoder.prepare_image(self.view(int(p), v)) for v, p in zip(views, photos, strict=True)
            ]
            result["pixels"] = torch.from_numpy(self.encoder.normalise(np.stack(pixels)))
        return result

    def view(self, photo: int, view: int) -> Any:
        """A view of a photo, as the teacher saw it."""
        return photo_view(self.pairs.photos[photo], self.augment, self.seed, photo, view)
