"""Settings of the packaged model's recipe, and what ``cliplet distill`` calls."""

from dataclasses import dataclass, field

from cliplet.errors import InputError
from cliplet.models.config import SentenceModel
from cliplet.training.config import AugmentConfig, DataConfig, Schedule
from cliplet.training.recipes import Recipe, Rows


@dataclass(frozen=True)
class Settings:
    """Settings of the packaged model's recipe."""

    name: str = "lclip-everyday"
    """Name of the model."""
    out: str = "runs/lclip_everyday"
    """Folder of the run; a run that was interrupted goes on from there."""
    seed: int = 0
    """Of weights, order and crops."""
    processes: int = 2
    """2: photos and captions are seen at once, then both towers learn at once, each with half of the cores; 1: one
    after the other."""
    train: DataConfig = field(default_factory=DataConfig)
    """Photos and captions to learn from."""
    dev: DataConfig = field(default_factory=DataConfig)
    """Photos and captions that choose the best epoch."""
    bare: DataConfig = field(default_factory=DataConfig)
    """Photos without captions; none when left out."""
    bare_left_out: int = 0
    """The last of these photos by name that are kept out, to measure on."""
    bare_weight: float = 0.5
    """Weight of a bare photo in every loss, beside 1 for a photo with captions."""
    retrieved: int = 3
    """Captions of other photos among a bare photo's pseudo-captions."""
    classes_left_out: int = 100
    """ImageNet classes, by seed, whose names are not taught, to measure on."""
    short_texts: bool = True
    """Whether the text tower learns bare nouns, plurals, phrases and class names too."""
    more_captions: tuple[str, ...] = ()
    """Files of captions without photos, for the text tower."""
    sentence_models: tuple[SentenceModel, ...] = ("minilm-l3", "minilm-l6", "mpnet")
    """The teacher's sentence encoders."""
    ensemble: tuple[int, ...] = (0, 2)
    """The teacher's EfficientNet-Lites."""
    detector: str = ""
    """A YOLOX detector (ONNX) whose features join the ensemble's; none when left out."""
    detector_layers: tuple[str, ...] = ()
    """Inner tensors of the detector whose mean and maximum over the photo are features too."""
    detector_inside: int = 0
    """Side of the square at which the detector, which must be YOLOX-Nano, takes part in the image tower itself, a
    multiple of 32; 0: it is a teacher alone."""
    ensemble_share: float = 0.45
    """Weight of the ensemble's prediction in a photo's target."""
    space: int = 512
    """Directions of the caption space; the text tower learns all of them."""
    dim: int = 256
    """Width of each half of the embedding."""
    layers: tuple[int, ...] = (0, 1, 2)
    """MiniLM-L3's layer for each stored block of the text tower."""
    repeats: int = 1
    """Times that each stored block is executed, with private LayerNorms and head mixers (weight multiplexing)."""
    trunk: int = 2
    """The image tower's EfficientNet-Lite."""
    vocabulary: int = 10_000
    """Word pieces of the text tower."""
    rank: int = 184
    """Rank of the factorised word embedding."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(views=4, colour=0.25))
    """Kept views of each training photo; all are mirrored in half of the batches as well."""
    first_stage: int = 5
    """First of EfficientNet's stages (counted from 0) that learns, 1 to 6."""
    first_block: int = 0
    """First block of that stage (counted from 0) that learns."""
    soft: tuple[float, ...] = (0.25, 0.5)
    """Weight of similar captions among those that a photo should match. An image tower is trained for each value, and
    their weights are averaged (a model soup, Wortsman et al. 2022), which is better than either."""
    text_stage: Schedule = field(default_factory=Schedule)
    """Training of the text tower alone; a batch counts captions."""
    image_stage: Schedule = field(default_factory=Schedule)
    """Training of the image tower's last stages; a batch counts photos."""
    relu_stage: Schedule = field(default_factory=lambda: Schedule(epochs=0))
    """Training of the text tower with ReLUs; without epochs the tower stays as it is. A batch counts captions."""
    everyday_share: float = 0.3
    """Share of the everyday name ("a dog") in the target of a class's name."""
    near_names: float = 0.0
    """Weight of the loss that tells what the detector found from the names of like things, such as a cat from dogs and
    bears; 0 leaves it out."""
    anchoring: float = 10.0
    """Class-name anchoring: weight of ImageNet's classes in the image tower's head at the end. A photo with a class's
    typical features is brought near the class's name, so that what these photos do not show is not forgotten. 0 leaves
    it out."""
    meaning: float = 0.5
    """Share of the meaning half in the final cosine."""
    w: float = 2.5
    """The card's scale of scores."""
    reference_weight: float = 1.0
    """The card's weight of references."""

    def __post_init__(self) -> None:
        if not 1 <= self.first_stage <= 6:
            raise InputError(f"first_stage={self.first_stage} must be 1 to 6")
        if self.first_block < 0:
            raise InputError(f"first_block={self.first_block} must be at least 0")
        if self.processes not in (1, 2):
            raise InputError(f"processes={self.processes} must be 1 or 2")
        if self.bare.photos and self.retrieved < 1:
            raise InputError("retrieved must be at least 1 with bare photos; each needs a pseudo-caption")
        if not self.detector and (self.detector_layers or self.detector_inside or self.near_names):
            raise InputError(
                "detector_layers, detector_inside and near_names are given without a detector; set detector to its "
                "ONNX file, or detector_layers=[] detector_inside=0 near_names=0 to do without"
            )


AT_THE_END = ("name", "anchoring", "everyday_share", "meaning", "w", "reference_weight")
"""Settings of the last step alone, which may change when a run is finished again."""


def run(settings: Settings, restart: bool) -> str:
    """Train the model; the answer names its folder."""
    from .run import Run

    folder = Run(settings, restart).run()
    return f"{folder}: the model; try it with  cliplet score PHOTO CAPTION --model {folder}"


def describe(settings: Settings) -> Rows:
    """What a run will compute."""
    from .describe import describe as rows

    return rows(settings)


RECIPE = Recipe(Settings, run, describe)
"""``kind = ".recipe:RECIPE"``."""
