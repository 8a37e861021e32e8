"""Settings of the bench, and what ``cliplet distill`` calls."""

from dataclasses import dataclass, field
from typing import Any

from cliplet.errors import InputError, MissingExtraError
from cliplet.training.config import DataConfig
from cliplet.training.recipes import Recipe, Rows

PLAIN = "contrastive"
"""The arm that all are compared with."""


@dataclass(frozen=True)
class Domain:
    """A collection of photos with captions."""

    name: str = ""
    """Its name."""
    train: DataConfig = field(default_factory=DataConfig)
    """Photos and captions; a tenth of the photos is kept back to choose on."""
    test: DataConfig = field(default_factory=DataConfig)
    """What the table reports."""
    few: int = 600
    """Photos whose captions are used in the setting ``NAME-few``; the others are bare there."""
    batch_size: int = 128
    """Photos a step."""
    class_names: str = ""
    """JSON of ``{prefix of a photo's name: class name}``; none where the photos have no class."""


@dataclass(frozen=True)
class Arm:
    """One way to tune."""

    name: str = ""
    """Its name in the table."""
    set: tuple[str, ...] = ()
    """Changes of ``[tuning]``, each as ``key=value``; ``{run}`` and ``{seed}`` are the folder and the seed of the
    setting, for arms that need an earlier one's model."""
    asks: str = ""
    """What the row answers; shown by ``--dry-run``."""
    against: str = PLAIN
    """The arm that it is compared with: what it adds to, or the one whose control it is."""
    only: tuple[str, ...] = ()
    """Settings in which it makes sense, by name, or ``few`` or ``all`` for those of every domain; all when left out."""

    def fits(self, setting: str) -> bool:
        """Whether it makes sense in a setting."""
        return not self.only or bool({setting, setting.rpartition("-")[2]} & set(self.only))


@dataclass(frozen=True)
class Settings:
    """Settings of the bench of objectives."""

    out: str = "runs/objectives"
    """Folder of the bench; it goes on where it stopped."""
    features: str = ""
    """Folder of what is computed once; ``features`` in ``out`` when left out."""
    domains: tuple[Domain, ...] = ()
    """The collections."""
    start_captions: str = ""
    """Captions file of another collection, which shapes the start's space of texts."""
    start_photos: str = ""
    """Photos of another collection, for the start's mean and deviation of features."""
    classes: str = ""
    """Labelled photos of ImageNet classes, the class in the file name."""
    detector: str = ""
    """YOLOX-Nano, for the boxes that are measured on."""
    words_seed: int = 0
    """Of the split of word pairs into those of training and those of the wrong-word test."""
    steps: int = 160
    """Optimiser steps of every arm."""
    judgements: str = ""
    """Folder of Flickr8k's judgements and captions."""
    judged: str = ""
    """Photos that people judged captions of."""
    report: bool = False
    """Also measure how the models of this call agree with people; for the report, when everything is chosen."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """Settings of the tuning that all arms share, as of ``kind = "tune"``."""
    arms: tuple[Arm, ...] = ()
    """What is compared."""
    settings: tuple[str, ...] = ()
    """Settings to run in this call, such as ``flickr8k-few``; all when left out."""
    only: tuple[str, ...] = ()
    """Arms to run in this call; all when left out."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of draw and training in this call."""
    resamples: int = 1000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if PLAIN not in names or len(set(names)) < len(names):
            raise InputError(f"arms are called {names}: each needs a name of its own, one of them {PLAIN}")
        for what, wanted, known in (
            ("only", self.only, names),
            ("settings", self.settings, self.known),
        ):
            for name in wanted:
                if name not in known:
                    raise InputError(f"{what}: there is no {name!r}; choose from {', '.join(known)}")
        for arm in self.arms:
            if arm.against not in names:
                raise InputError(f"arm {arm.name}: there is no arm {arm.against!r} to compare with")
        if self.steps < 1 or not self.seeds:
            raise InputError("steps must be at least 1, and seeds at least one number")

    @property
    def known(self) -> list[str]:
        """All settings, few captions first."""
        return [f"{d.name}-{size}" for size in ("few", "all") for d in self.domains]

    def chosen_arms(self, setting: str) -> list[Arm]:
        """The arms of this call in a setting."""
        wanted = [a for a in self.arms if not self.only or a.name in self.only]
        return [a for a in wanted if a.fits(setting)]


def run(settings: Settings, restart: bool) -> str:
    """Run what is missing; the answer is the tables."""
    try:
        from .run import run_bench
    except ImportError as error:
        raise MissingExtraError(f"this recipe ({error})", "train") from error
    return run_bench(settings, restart)


def describe(settings: Settings) -> Rows:
    """What the data offers each part, and what a run will compute."""
    from .run import describe as rows

    return rows(settings)


RECIPE = Recipe(Settings, run, describe)
"""``kind = ".recipe:RECIPE"``."""
