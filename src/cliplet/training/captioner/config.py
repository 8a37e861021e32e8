"""Recipes of captioners: frozen dataclasses, read from TOML, changed by ``key=value``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cliplet.captioner.decoding import DecodeConfig
from cliplet.errors import InputError
from cliplet.models.captioner_config import CaptionerConfig
from cliplet.models.config import from_dict
from cliplet.rewards.build import find_reward
from cliplet.training.config import DataConfig, Schedule
from cliplet.training.recipe_file import read_settings


@dataclass(frozen=True)
class RewardWeight:
    """A part of the reward."""

    name: str
    """``lclipscore``, ``ref_lclipscore``, ``cider``, ``bleu``, ``meteor``, ``length``, ``repetition``, ``fluency``."""
    weight: float = 1.0
    """Its weight; 0 only measures it, for the log."""

    def __post_init__(self) -> None:
        find_reward(self.name)


@dataclass(frozen=True)
class CaptionStage(Schedule):
    """One stage of training."""

    kind: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """Learn the captions word by word, or sample captions and follow a reward."""
    name: str = ""
    """Name in logs and folders; the kind when left out."""
    epochs: int = 10
    """Evaluations on dev; in cross-entropy each is a pass over the photos, with all their captions."""
    updates: int = 0
    """Batches an epoch; 0 is one pass over the photos."""
    batch_size: int = 32
    """Photos a batch."""
    label_smoothing: float = 0.0
    """Of cross-entropy."""
    consensus: float = 0.0
    """Weigh each caption in cross-entropy by its CIDEr-D against its photo's other captions, to this power; 0 weighs
    all the same."""
    finetune: bool = False
    """Also train the image tower (slow on a CPU); otherwise its grids are computed once and kept."""
    rewards: tuple[RewardWeight, ...] = ()
    """What a self-critical stage follows."""
    normalise: bool = True
    """Divide each part of the reward by its running spread, so that the weights mean the same for all parts."""
    samples: int = 5
    """Captions drawn for each photo."""
    temperature: float = 1.0
    """The policy is the model with its logits divided by this, in drawing and in the loss; below 1 the samples stay
    near the captions that decoding finds, which learns faster from few of them."""
    grid_dropout: float = 0.0
    """Dropout of the projected grid, the same for all samples of a photo and for the loss. The model knows its training
    photos too well; this makes them as uncertain as new ones."""
    baseline: Literal["leave_one_out", "greedy"] = "leave_one_out"
    """What a sample's reward is compared with: the mean of the photo's other samples, or the greedy caption's."""
    kl: float = 0.0
    """Weight of the divergence from the model that the stage began with, per token."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        super().__post_init__()
        self.refuse_below("epochs", 1)
        self.refuse(self.temperature <= 0, "temperature", "above 0")
        if self.kind == "self_critical":
            if not any(part.weight for part in self.rewards):
                raise InputError(
                    "a self-critical stage needs rewards, such as [{name = 'cider', weight = 1.0}]"
                )
            if self.samples < (2 if self.baseline == "leave_one_out" else 1):
                raise InputError(f"samples={self.samples}: the leave-one-out baseline needs at least 2")


@dataclass(frozen=True)
class CaptionRecipe:
    """A whole captioner: photos with captions in, model folder out."""

    name: str = "captioner"
    """Name of the model."""
    out: str = "runs/captioner"
    """Folder of the run; a run that was interrupted goes on from there."""
    description: str = ""
    """One paragraph for the model's ``captioner.json``."""
    license: str = ""
    """Licence of the weights."""
    seed: int = 0
    """Of weights, order and samples."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of training."""
    cpu: bool = False
    """Train on the CPU although there is an accelerator."""
    model: CaptionerConfig = field(default_factory=CaptionerConfig)
    """Image tower and decoder."""
    tokenizer: str = "train"
    """``train`` (byte pairs from the training captions), or a tokenizer.json of an earlier run."""
    tokenizer_size: int = 4000
    """Tokens that ``train`` learns, at most."""
    train: DataConfig = field(default_factory=DataConfig)
    """Training photos with captions."""
    dev: DataConfig = field(default_factory=DataConfig)
    """Photos with captions that choose the best epoch by CIDEr-D."""
    dev_photos: int = 500
    """How many of them the evaluation after each epoch takes; 0 takes all."""
    views: int = 2
    """Kept views of a training photo: 1 is the photo itself, 2 also its mirror image, each one more a crop of it (where
    the image tower learns too, there are only the first two)."""
    cache: str = ""
    """Folder of grid features and embeddings, which several runs may share; ``cache`` in the run's folder when left
    out."""
    start: str = ""
    """Folder of an earlier run's weights (such as ``runs/captioner/0-cross_entropy/best``) to start from."""
    reward_model: str = ""
    """Model of ``lclipscore`` and ``ref_lclipscore``, as ``cliplet.load`` names it; the packaged one when left out."""
    stages: tuple[CaptionStage, ...] = (CaptionStage(),)
    """In order; each starts from the best weights of the one before."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How the finished model decodes when nothing else is asked for."""
    export: Literal["fp32", "fp16", "int8"] = "fp16"
    """How the ONNX folder stores its weights."""
    save_every: int = 200
    """Batches between checkpoints; the end of an epoch is always one."""
    log_every: int = 1
    """Batches between lines of the log."""
    tensorboard: bool = False
    """Also log for TensorBoard."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("the recipe has no stages; give at least one")
        if self.views < 1:
            raise InputError(f"views={self.views} must be at least 1")
        if self.start and any(s.finetune for s in self.stages):
            raise InputError("start holds a decoder's weights only, which does not go with finetune = true")
        tuned = [s.finetune for s in self.stages]
        if any(tuned) and not all(tuned[tuned.index(True) :]):
            raise InputError(
                "once a stage trains the image tower, later stages must do so too: set finetune = true"
            )


def load_caption_recipe(path: str | Path, overrides: Sequence[str] = ()) -> CaptionRecipe:
    """Read a recipe and apply ``key=value`` changes, such as ``stages.0.lr=1e-3``.

    Raises:
        InputError: the file or a setting is wrong; the message names it.
    """
    return from_dict(CaptionRecipe, read_settings(path, overrides, "captioner"))
