"""Settings of the recipe, and what ``cliplet distill`` calls."""

from dataclasses import dataclass, field
from typing import Literal

from cliplet.classification.multimodal import TEMPLATES
from cliplet.errors import InputError, MissingExtraError
from cliplet.models.config import SentenceModel
from cliplet.models.multimodal_config import MultimodalConfig
from cliplet.training.diffclip.pretrain import PretrainConfig
from cliplet.training.diffclip.tune import TuneConfig
from cliplet.training.recipes import Recipe, Rows

from .arms import ARMS


@dataclass(frozen=True)
class ModalityInputs:
    """How one modality of the data becomes tokens."""

    name: str
    """Its array in the file of samples: pixels ``[n, bands]`` or windows ``[n, side, side, bands]``."""
    groups: int = 1
    """Band groups of a pixel, each a token."""
    patch: int = 1
    """Side of the patches of a window, each a token."""
    components: int = 0
    """Principal components that are kept; 0 for all."""
    whitening: float = 0.0
    """0 leaves their variances, 1 makes them equal."""
    scale: float = 1.0
    """Root mean variance of a band."""


@dataclass(frozen=True)
class Settings:
    """Settings of DiffCLIP on pixels or windows of several modalities."""

    name: str = "diffclip-houston"
    """Name of the model."""
    out: str = "runs/diffclip_houston"
    """Folder of the run; a run that was interrupted goes on from there."""
    seed: int = 0
    """Of the parts; draws have seeds of their own."""
    samples: str = ""
    """An .npz file with an array a modality and ``label``, classes 0.. ``[n]``."""
    class_names: str = ""
    """A JSON list of the classes' names."""
    modalities: tuple[ModalityInputs, ...] = ()
    """The modalities."""
    shares: tuple[float, float] = (0.45, 0.15)
    """Shares of train and dev in each class; the rest is test."""
    blocks: int = 0
    """Runs of consecutive samples that each class is cut into, so that neighbours in the file mostly stay in one part;
    0 splits sample by sample."""
    report_on: Literal["test", "dev"] = "test"
    """The part that is measured. Settings are chosen with ``dev``, whose draws have other seeds."""
    shots: tuple[int, ...] = (5, 1, 2, 10, 20)
    """Labelled samples a class, in the order of work."""
    draws: int = 10
    """Draws of shots; the networks of a draw start from weights of its own."""
    arms: tuple[str, ...] = tuple(ARMS)
    """What is compared, by name; the first is the one that the others are set beside."""
    sentences: SentenceModel = "minilm-l6"
    """The frozen sentence encoder."""
    templates: tuple[str, ...] = TEMPLATES
    """Class sentences, {} for the name."""
    model: MultimodalConfig = field(default_factory=MultimodalConfig)
    """Sizes of the network."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Pretraining without labels."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Few-shot tuning."""
    plain_hidden: int = 256
    """Hidden units of each of the two layers of the plain network."""
    plain_tune: TuneConfig = field(default_factory=TuneConfig)
    """Its tuning."""

    def __post_init__(self) -> None:
        unknown = [a for a in self.arms if a not in ARMS]
        if unknown or not self.arms:
            raise InputError(f"arms {', '.join(unknown) or 'are none'}; choose from {', '.join(ARMS)}")
        if not self.shots or min(self.shots) < 1 or self.draws < 1:
            raise InputError("shots and draws must be at least 1")


def run(settings: Settings, restart: bool) -> str:
    """Run the grid; the answer is its table."""
    try:
        from .run import run_grid
    except ImportError as error:
        raise MissingExtraError(f"this recipe ({error})", "train") from error
    return run_grid(settings, restart)


def describe(settings: Settings) -> Rows:
    """What a run will compute."""
    from .describe import describe as rows

    return rows(settings)


RECIPE = Recipe(Settings, run, describe)
"""``kind = ".recipe:RECIPE"``."""
