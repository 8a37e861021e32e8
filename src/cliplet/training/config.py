"""Distillation recipes: frozen dataclasses, read from TOML, changed by ``key=value``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.config import DualConfig, from_dict
from cliplet.training.recipe_file import read_settings

if TYPE_CHECKING:
    from cliplet.training.losses import Loss


@dataclass(frozen=True)
class DataConfig:
    """Photos and their captions; either may be left out where a stage trains one tower alone."""

    captions: tuple[str, ...] = ()
    """Captions files: JSON, JSONL, CSV, COCO, Karpathy, Flickr8k token file, Parquet, or WebDataset shards
    (``shard-{000..099}.tar`` and ``*`` are expanded); without photos also text with one caption a line."""
    photos: tuple[str, ...] = ()
    """Folders or tars of photos; the captions' own shards when left out."""
    names: str = ""
    """File with one photo name a line: only these photos (a split)."""


@dataclass(frozen=True)
class AugmentConfig:
    """Views of a training photo; the teacher sees the very same views."""

    views: int = 1
    """Views a photo: the photo itself, and this many less one crops."""
    smallest_crop: float = 0.6
    """Least share of the photo's area in a crop."""
    flip: bool = True
    """Mirror half of the crops."""
    colour: float = 0.0
    """Brightness, contrast and saturation of the crops change by a factor of up to 1 plus or minus this."""


@dataclass(frozen=True)
class TeacherConfig:
    """Who teaches."""

    names: tuple[str, ...] = ()
    """Models as ``cliplet.load`` names them: ``open_clip:ViT-B-32/openai``, ``hf:owner/name``, a model folder;
    ``packaged`` for the one that comes with cliplet."""
    combine: Literal["concat", "average"] = "concat"
    """Several teachers: put their unit embeddings end to end, so that the cosine is the mean of theirs, or average
    the embeddings (same width needed)."""
    weights: tuple[float, ...] = ()
    """Weight of each teacher; equal when left out."""
    normalise: bool = False
    """Bring the embeddings of a single teacher to length 1. The published L1 compares them as they are."""
    prompt_prefix: str = ""
    """Text put before every caption for the teacher."""
    cache: str = ""
    """Folder of computed embeddings, which several runs may share; ``teacher`` in the run's folder when left out."""
    device: str = "cpu"
    """Where the teachers compute, as ``cliplet.load`` takes it: ``auto``, ``cpu``, ``cuda:1``, ``mps``..."""
    precision: Literal["", "fp32", "bf16", "fp16", "int8"] = ""
    """In which precision, likewise; each teacher's usual one when left out."""


@dataclass(frozen=True)
class InheritConfig:
    """What the student takes over from the first teacher before training (multiplexed towers only)."""

    image_parts: tuple[str, ...] = ()
    """Any of ``patch``, ``class_token``, ``positions``, ``norm``, ``head``."""
    image_layers: tuple[int, ...] = ()
    """The teacher's layer for each stored block."""
    text_parts: tuple[str, ...] = ()
    """Any of ``embedding``, ``positions``, ``norm``, ``head``."""
    text_layers: tuple[int, ...] = ()
    """The teacher's layer for each stored block."""
    freeze: bool = False
    """Keep the inherited parts (not layers) as they are."""


@dataclass(frozen=True)
class Schedule:
    """What the training loop reads of a stage."""

    name: str = ""
    """Name in logs and folders."""
    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Items a step in each process."""
    accumulate: int = 1
    """Steps whose gradients are added before the weights change."""
    lr: float = 1e-3
    """Highest learning rate (AdamW)."""
    weight_decay: float = 0.01
    """Weight decay of matrices; vectors have none."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls afterwards."""
    clip: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is evaluated and saved; 0 for none."""

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 0),
            ("batch_size", 1),
            ("accumulate", 1),
            ("weight_decay", 0),
            ("clip", 0),
        ):
            self.refuse_below(name, least)
        self.refuse(not self.lr > 0, "lr", "above 0")
        self.refuse(not 0 <= self.warmup <= 1, "warmup", "in 0..1, a share of the steps")
        self.refuse(not 0 <= self.ema < 1, "ema", "at least 0 and below 1")

    def refuse_below(self, name: str, least: float) -> None:
        """Raise an InputError where a setting is less than ``least``."""
        self.refuse(not getattr(self, name) >= least, name, f"at least {least}")

    def refuse(self, wrong: bool, name: str, rule: str) -> None:
        """Raise an InputError about a setting where it is ``wrong``."""
        if wrong:
            stage = f" of stage {self.name}" if self.name else ""
            raise InputError(f"{name}={getattr(self, name)}{stage} must be {rule}")


def loss_help() -> dict[str, tuple[str, None]]:
    """What ``--settings`` lists below ``losses``."""
    from cliplet.training.losses import LOSSES

    return {name: (loss.help, None) for name, loss in LOSSES.items()}


@dataclass(frozen=True)
class DistillStage(Schedule):
    """One stage of distillation."""

    name: str = "both"
    """Name in logs and folders."""
    epochs: int = 10
    """Passes over the photos (over the captions where the text tower learns alone)."""
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    """Towers that learn. Where a loss compares both and one does not learn, the teacher's embedding stands in for
    it, which needs the same width."""
    losses: dict[str, float] = field(default_factory=dict, metadata={"entries": loss_help})
    """Weight of each loss; what is left out has none. Your own function is named as ``"module:attribute"``."""
    data: DataConfig | None = None
    """Data of this stage; the recipe's ``train`` when left out."""
    logit_scale: float = 14.0
    """Start of the logit scale; it is learnt and stays at most 100."""
    teacher_scale: float = 50.0
    """The teacher's logit scale in affinity mimicking."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_below("epochs", 1)
        if not self.towers:
            raise InputError(f"stage {self.name} trains no tower; give towers")
        object.__setattr__(self, "losses", {name: w for name, w in self.losses.items() if w})
        self.chosen_losses()

    def chosen_losses(self) -> "dict[str, Loss]":
        """The losses that have a weight.

        Raises:
            InputError: an unknown one.
            MissingExtraError: PyTorch is not installed.
        """
        try:
            from cliplet.training.losses import find_losses
        except ImportError as error:
            raise MissingExtraError("distillation", "train") from error
        return find_losses(self.losses)

    @property
    def pairs(self) -> bool:
        """Whether a loss compares photos with captions."""
        return any(loss.pairs for loss in self.chosen_losses().values())


@dataclass(frozen=True)
class DistillConfig:
    """A whole distillation: teacher and pairs in, model folder out."""

    name: str = "lclip"
    """Name of the model."""
    out: str = "runs/lclip"
    """Folder of the run; a run that was interrupted goes on from there."""
    description: str = ""
    """One paragraph for the model card."""
    license: str = ""
    """Licence of the weights, for the model card."""
    seed: int = 0
    """Of weights, order and crops."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the student's training."""
    cpu: bool = False
    """Train on the CPU although there is an accelerator."""
    model: DualConfig = field(default_factory=DualConfig)
    """Both towers. ``text.vocab_size`` 0 takes the tokeniser's."""
    tokenizer: str = "clip"
    """``clip`` (CLIP's, through open_clip), ``train`` (word pieces from the training captions), or a
    tokenizer.json."""
    tokenizer_size: int = 8000
    """Word pieces that ``train`` learns, at most."""
    resize: Literal["squash", "shortest"] = "shortest"
    """How the student's photos become square."""
    prompt_prefix: str = ""
    """Text that the model's card puts before every caption when scoring."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Who teaches."""
    inherit: InheritConfig = field(default_factory=InheritConfig)
    """What the student starts from."""
    train: DataConfig = field(default_factory=DataConfig)
    """Training data."""
    dev: DataConfig = field(default_factory=DataConfig)
    """Data that chooses the best epoch; the last is kept as well."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Views of training photos."""
    stages: tuple[DistillStage, ...] = ()
    """In order; each starts from the best weights of the one before."""
    export: Literal["none", "fp32", "fp16", "int8"] = "int8"
    """Precision of the ONNX folder written at the end."""
    workers: int = 0
    """Processes that decode photos; 0 decodes in the training process."""
    evaluate_every: int = 1
    """Epochs between evaluations on dev; the last epoch is always evaluated."""
    save_every: int = 200
    """Steps between checkpoints; the end of an epoch is always one."""
    log_every: int = 1
    """Steps between lines of the log."""
    tensorboard: bool = False
    """Also log for TensorBoard."""

    def __post_init__(self) -> None:
        for stage in self.stages:
            if not stage.losses:
                raise InputError(f"stage {stage.name} has no loss; give at least one a weight")
        towers = ((self.model.image, self.inherit.image_layers), (self.model.text, self.inherit.text_layers))
        for tower, layers in towers:
            words = getattr(tower, "attention_in_words", "")
            if layers and words:
                raise InputError(
                    f"a tower with {words} cannot inherit a teacher's layers: leave inherit.image_layers and "
                    "inherit.text_layers empty"
                )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> DistillConfig:
    """Read a recipe and apply ``key=value`` changes.

    Args:
        path: a TOML file. Relative paths in it are relative to the working directory.
        overrides: such as ``stages.0.lr=1e-3``, ``model.text.width=256``, ``stages.*.epochs=1``.

    Raises:
        InputError: the file or a setting is wrong; the message names it.
    """
    return from_dict(DistillConfig, read_settings(path, overrides))
