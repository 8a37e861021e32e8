"""The teacher's embeddings of photos and captions: computed once, kept on disk, shared by runs that need the same."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliplet.training.computed import computed
from cliplet.training.config import AugmentConfig
from cliplet.training.distill.teacher import Floats, Teacher
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.views import view_sources


@dataclass
class Targets:
    """The teacher's embeddings of a set."""

    images: list[Floats]
    """For each view ``[photos, d]``; NaN rows for bad photos; empty where not needed."""
    texts: Floats | None
    """``[captions, d]``, or None where not needed."""
    bad: dict[int, str] = field(default_factory=dict)
    """Photos without an embedding, with reasons."""


class TargetFiles:
    """A folder of a teacher's embeddings; the names of its files hold all that the numbers depend on.

    Args:
        folder: where.
        teacher: who teaches.
        augment: views of photos.
        seed: of the views.
        silent: show no progress.
    """

    def __init__(
        self, folder: Path, teacher: Teacher, augment: AugmentConfig, seed: int, silent: bool = False
    ) -> None:
        self.folder, self.teacher, self.augment, self.seed, self.silent = (
            folder,
            teacher,
            augment,
            seed,
            silent,
        )

    def of(self, pairs: PairSet, views: int, texts: bool) -> Targets:
        """The embeddings of a set.

        Args:
            pairs: photos and captions.
            views: views of each photo; 0 leaves the photos out.
            texts: whether captions are needed too.
        """
        found = Targets([], None)
        if pairs.photos:
            found.images = [self._view(pairs, view, views, found.bad) for view in range(views)]
        if texts and pairs.captions:
            found.texts = computed(
                self.folder / f"texts-{self._key}-{fingerprint(pairs.captions)}.npy", len(pairs.captions),
                lambda a, b: self.teacher.texts(pairs.captions[a:b]), 512, what="teacher, captions",
                silent=self.silent,
            )  # fmt: skip
        return found

    @property
    def _key(self) -> str:
        return fingerprint([self.teacher.fingerprint])

    def _view(self, pairs: PairSet, view: int, views: int, bad: dict[int, str]) -> NDArray[np.float32]:
        crop = fingerprint([self.augment, self.seed]) if view else "whole"
        file = self.folder / f"images-{self._key}-{fingerprint(pairs.photos)}-{crop}-{view}.npy"
        reasons_file = file.with_suffix(".bad.jsonl")

        def encode(start: int, stop: int) -> Floats:
            sources = view_sources(pairs.photos, self.augment, self.seed, range(start, stop), view)
            rows, reasons = self.teacher.images(sources)
            if reasons:
                with reasons_file.open("a", encoding="utf-8") as stream:
                    stream.writelines(json.dumps([start + i, reason]) + "\n" for i, reason in reasons.items())
            return rows

        rows = computed(
            file, len(pairs.photos), encode, 128, what=f"teacher, photos, view {view + 1} of {views}",
            silent=self.silent,
        )  # fmt: skip
        if reasons_file.exists():
            bad.update(map(json.loads, reasons_file.read_text(encoding="utf-8").splitlines()))
        for photo in np.flatnonzero(np.isnan(rows[:, 0])):
            bad.setdefault(int(photo), "the teacher could not read it")
        return rows
