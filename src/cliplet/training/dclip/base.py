"""The model that a DCLIP run begins with: opened by its name, or made from the training data by a class of your own."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Protocol

from cliplet.data.plugins import is_own, resolve
from cliplet.errors import InputError
from cliplet.files import whole
from cliplet.models.config import from_dict, to_dict
from cliplet.training.config import Schedule
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.trainable import TrainableClip, open_trainable
from cliplet.training.loop import Batches
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.processes import first_alone, of_first, rank
from cliplet.training.task import Task

MADE_OF = "made_of.txt"
"""In the folder of a base model that was made: a fingerprint of the training data."""
LIBRARIES = ("open_clip", "hf", "onnx", "torch")
"""What stands before the colon of names that are no module's."""


class Fit(Protocol):
    """Trains one part of a run, see :func:`~cliplet.training.fit.fit_part`."""

    def __call__(self, folder: Path, task: Task, stage: Schedule, data: Batches) -> None:
        """From the folder's checkpoint, if there is one, to the best weights, which the task has afterwards."""


class BaseMaker(Protocol):
    """What ``base = "module:attribute"`` names: a frozen dataclass whose fields are ``base_options``."""

    def make(self, pairs: PairSet, folder: Path, kept: Path, fit: Fit) -> None:
        """Write the base model from training photos and captions.

        Args:
            pairs: the training pairs.
            folder: for a model folder with PyTorch weights, not there yet. Beside its files ``prototypes.npy`` may hold
                :attr:`~cliplet.training.dclip.trainable.TrainableClip.prototypes`.
            kept: for what other options of this base may share; names of files must say what is in them.
            fit: trains a part where one has to.
        """


def features_folder(config: DclipConfig) -> Path:
    """Where a run keeps what it computes once."""
    return Path(config.features or Path(config.out) / "features")


def base_maker(config: DclipConfig) -> Any:
    """The recipe's :class:`BaseMaker` with its options; None for a base that is opened by its name.

    Raises:
        InputError: there is no such module or attribute, or an option is wrong.
    """
    own = is_own(config.base) and config.base.partition(":")[0] not in LIBRARIES
    if own and not Path(config.base).exists():
        kind: Any = resolve(config.base, "base")
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "make")):
            raise InputError(f"base {config.base!r} is no dataclass with a method make (docs/retrieval.md)")
        return from_dict(kind, config.base_options, "base_options.")
    if config.base_options:
        raise InputError(
            f"base_options need a base of the form module:attribute, not {config.base}; leave them out"
        )
    return None


def base_name(config: DclipConfig) -> str:
    """What :func:`open_trainable` opens for this recipe: the base model's name, or the folder it is made in."""
    maker = base_maker(config)
    if maker is None:
        return config.base
    options = json.dumps(to_dict(maker), sort_keys=True)
    return str(
        features_folder(config) / f"{config.base.rpartition(':')[2]}-{fingerprint([config.base, options])}"
    )


def open_base(config: DclipConfig, pairs: PairSet, fit: Fit) -> TrainableClip:
    """The model that students of this recipe start from, made first where it is made.

    Args:
        config: the recipe, as a variant runs it.
        pairs: training photos and captions.
        fit: trains.

    Raises:
        InputError: it was made, from other training data; or what :func:`base_maker` raises.
        ModelError: there is no such model.
    """
    maker, name = base_maker(config), base_name(config)
    if maker is not None:
        folder, made_of = Path(name), fingerprint([*pairs.names, *pairs.captions])
        if of_first(not folder.exists()):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # they train together, so all make it; that of the first one stays
            own = folder.with_name(f"{folder.name}.{rank()}") if rank() else folder
            with whole(own) as part:
                maker.make(pairs, part, features_folder(config), fit)
                (part / MADE_OF).write_text(made_of)
            with first_alone():
                if own != folder:
                    shutil.rmtree(own)
        elif (folder / MADE_OF).read_text() != made_of:
            raise InputError(f"{folder} was made from other training data; name another features folder")
    return open_trainable(name)
