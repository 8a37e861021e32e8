"""The models that a DCLIP run begins with: the base model, and the base model whose text tower has been taught."""

from collections.abc import Callable
from pathlib import Path

import torch

from cliplet.models.config import to_dict
from cliplet.training.dclip.config import BASE_NAMING, BUILT, DclipConfig
from cliplet.training.dclip.fit import Fitter
from cliplet.training.dclip.tunable import Tunable, open_tunable
from cliplet.training.loop import Batches
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.task import Task


def features_folder(config: DclipConfig) -> Path:
    """Where a run keeps what it computes once."""
    return Path(config.features or Path(config.out) / "features")


def start_name(config: DclipConfig) -> str:
    """What :func:`open_tunable` opens for this recipe: the base model's name, or the folder it is made in."""
    if config.base not in BUILT:
        return config.base
    name = config.base if config.naming == BASE_NAMING else f"{config.base}-naming{config.naming:g}"
    if config.text_teachers:
        name += "-taught-" + fingerprint([config.text_teachers, to_dict(config.text_stage)])
    return str(features_folder(config) / name)


def open_start(config: DclipConfig, pairs: PairSet, fit: Fitter) -> Tunable:
    """The model that students of this recipe start from, made first where it is made from parts.

    Args:
        config: the recipe, or what :func:`~cliplet.training.dclip.config.controlled` made of it.
        pairs: training photos and captions.
        fit: trains the text tower where ``text_teachers`` are named.
    """
    name = start_name(config)
    if config.base in BUILT:
        from cliplet.training.dclip.lite_base import TextLesson, build_lite_base

        folder = Path(name)
        lesson = None
        if config.text_teachers:
            lesson = TextLesson(
                config.text_teachers, config.text_stage.batch_size, _teaching(config, folder, fit)
            )
        build_lite_base(int(config.base[4]), pairs, folder, lesson, config.naming)
    return open_tunable(name)


def _teaching(config: DclipConfig, folder: Path, fit: Fitter) -> Callable[..., None]:
    def learn(student: Task, batches: Batches) -> None:
        taught = fingerprint([config.base, config.text_teachers, to_dict(config.text_stage)])
        place = folder.with_name(f"taught-text-{taught}")
        torch.manual_seed(0)  # recipes with other seeds share the tower
        fit(place, student, config.text_stage, batches, dict)

    return learn
