"""What a DCLIP run checks before it begins: its folder, and which photos it may learn from."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.models.config import from_dict, to_dict
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.overlap import without_overlap
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, read_pairs
from cliplet.training.run_folder import claim_folder
from cliplet.training.views import photo_source

FREE = (
    "controls", "control", "seeds", "soup", "tests", "zeroshot", "draws", "cpu", "save_every", "out", "export", "name",
    "license",
)  # fmt: skip
"""Settings that may change between two calls with the same folder."""


def training_pairs(config: DclipConfig, others: Sequence[PairSet], out: Path) -> PairSet:
    """Training pairs whose photo can be read and is in no other set; ``skipped.txt`` lists the others.

    Raises:
        InputError: nothing is left to learn from.
    """
    others = list(others)
    if config.exclude.captions or config.exclude.photos:
        others.append(read_pairs(config.exclude))
    train, left_out = without_overlap(readable(read_pairs(config.train)), others, config.exclude_alike)
    if train.skipped:
        text = "".join(line.encode("utf-8", "replace").decode() + "\n" for line in train.skipped)
        (out / "skipped.txt").write_text(text, encoding="utf-8")
        print(
            f"{len(train.skipped)} photos or captions left out, {len(left_out)} of them because they are in dev, tests "
            f"or exclude; see {out / 'skipped.txt'}",
            file=sys.stderr,
        )
    if not any(len(rows) for rows in train.captions_of()):
        raise InputError("no training photo has a caption")
    return train


def readable(pairs: PairSet) -> PairSet:
    """The pairs whose photo can be decoded; the others join ``skipped``."""
    bad: dict[int, str] = {}
    bar = Progress("reading photos", len(pairs.photos))
    for i, photo in enumerate(pairs.photos):
        try:
            load_rgb(photo_source(photo), at_least=64)
        except InputError as error:
            bad[i] = f"{pairs.names[i]}: {error}"
        bar.update(i + 1)
    if not bad:
        return pairs
    stays = np.array([i not in bad for i in range(len(pairs.photos))], dtype=bool)
    number = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)
    used = number[pairs.photo_of] >= 0
    return PairSet(
        [n for n, s in zip(pairs.names, stays, strict=True) if s],
        [p for p, s in zip(pairs.photos, stays, strict=True) if s],
        [c for c, u in zip(pairs.captions, used, strict=True) if u],
        number[pairs.photo_of][used],
        [*pairs.skipped, *bad.values()],
    )


def claim(out: Path, config: DclipConfig, restart: bool) -> None:
    """Take the run's folder, or say that it holds another run."""
    for what, path in (
        ("zeroshot.photos", config.zeroshot.photos),
        ("zeroshot.class_names", config.zeroshot.class_names),
    ):
        if path and not Path(path).exists():
            raise InputError(f"{what}: there is no {path}")
    wanted = to_dict(config)

    def averaged_alike(known: dict[str, Any]) -> dict[str, Any]:  # averaging comes after training
        known = to_dict(from_dict(DclipConfig, known))  # settings newer than the run have their defaults
        return {**known, "student": {**known.get("student", {}), "average": wanted["student"]["average"]}}

    claim_folder(out, wanted, FREE, restart, averaged_alike)
