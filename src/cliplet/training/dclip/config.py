"""Settings of a DCLIP recipe: a CLIP tuned for retrieval with a teacher that sees regions."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.config import CrossModalConfig, from_dict, to_dict
from cliplet.regions.store import RegionSettings
from cliplet.training.config import AugmentConfig, DataConfig, Schedule
from cliplet.training.recipe_file import apply_changes, read_settings
from cliplet.training.rewriting import RewriteSettings

if TYPE_CHECKING:
    from cliplet.training.objectives import Chosen

MAY_VARY = (
    "base", "base_options", "spans", "regions", "augment", "teacher", "student", "teacher_stage", "student_stage",
    "objectives", "rewrites",
)  # fmt: skip
"""Settings that a variant may change; the others, such as data and seeds, are those of the whole run."""
RENAMED = {
    "draws": "resamples",
    "student.weights.naming": "student.weights.anchoring",
    "student.weights.stay": "student.weights.l2_sp",
}
"""Settings of earlier recipes that are read under their new name."""
GONE = {
    "controls": 'write [[variants]], each with a name and set = ["key=value", ...] (docs/retrieval.md shows them); '
    "only = [...] names those to train",
    "control": "write [[variants]], or only = [...] with the names of those to train",
    "grid": 'write a variant with set = ["regions.proposer=grid:2"]',
    "naming": "base_options.anchoring is its name in recipes/dclip_flickr8k",
    "text_teachers": "base_options.text_teachers is its name in recipes/dclip_flickr8k",
    "text_stage": "base_options.text_stage is its name in recipes/dclip_flickr8k",
}
"""Settings of earlier recipes that are no more, and what to write."""


@dataclass(frozen=True)
class TestConfig(DataConfig):
    """Photos with captions that are measured at the end and take no part in training or in any choice."""

    __test__ = False  # not a class of tests

    name: str = "test"
    """What the set is called in tables."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Labelled photos on which zero-shot accuracy is measured before and after."""

    photos: str = ""
    """Folder or tar of photos, or a table with image and label columns; nothing measures no accuracy."""
    labels: Literal["auto", "folder", "name"] = "auto"
    """Where a photo's class stands: its folder, its file name, or whichever there is."""
    class_names: str = ""
    """File with the class names, one a line; else the labels are the names."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Prompts, ``{}`` for the class."""

    def __post_init__(self) -> None:
        if not self.templates or not all("{}" in t for t in self.templates):
            raise InputError(
                f"zeroshot.templates={list(self.templates)} must be prompts with {{}} for the class"
            )


@dataclass(frozen=True)
class TeacherSettings(CrossModalConfig):
    """The cross-modal teacher and its training."""

    temperature: float = 0.05
    """Of the InfoNCE against the caption embedding."""
    target: Literal["same", "other"] = "same"
    """The caption whose embedding the teacher must find: the one whose spans it reads, as published, or another one of
    the same photo, so that it cannot simply repeat what it was told."""


@dataclass(frozen=True)
class StudentWeights:
    """Weight of each loss of the student; 0 leaves it out."""

    image: float = 1.0
    """Cosine between the photo's embedding and the teacher's."""
    text: float = 1.0
    """Cosine between the caption's embedding and the base model's; nothing where the text tower is frozen."""
    contrastive: float = 1.0
    """InfoNCE between photos and captions of the batch."""
    relation: float = 0.0
    """How alike the teacher finds the batch's pairs, as soft labels of photos and captions beside the hard ones of
    ``contrastive``: a caption of a photo that shows nearly the same is no full negative."""
    anchor: float = 0.0
    """Cosine between the photo's embedding and the base model's of the same view."""
    prompts: float = 0.0
    """Divergence of the classes that the student sees in a photo from those that the base model sees."""
    anchoring: float = 0.0
    """Class-name anchoring: cross-entropy of the ``prototypes`` to their classes' names, so that a typical photo of a
    class stays nearest to its name. With ``prompt_scale``."""
    l2_sp: float = 0.0
    """Squared distance of the learning weights from the base model's, over the base model's squared length (L2-SP, Li
    et al. 2018): what the training photos do not show stays as it was."""

    @property
    def names(self) -> bool:
        """Whether a loss needs the classes' names."""
        return bool(self.prompts or self.anchoring)

    @property
    def keeps(self) -> bool:
        """Whether a loss needs what the base model sees."""
        return bool(self.anchor or self.names)

    @property
    def teacher(self) -> bool:
        """Whether a loss needs the teacher's target."""
        return bool(self.image or self.relation)


@dataclass(frozen=True)
class LowRankSettings:
    """Low-rank adapters (LoRA, Hu et al. 2022) in place of the whole matrices, for a base model too large for these."""

    rank: int = 0
    """Rank of each adapter, such as 8; 0 lets the parameters themselves learn."""
    alpha: float = 16.0
    """Weight of the adapters, times the rank. They need a learning rate about ten times higher than whole matrices."""

    def __post_init__(self) -> None:
        if self.rank < 0 or not self.alpha > 0:
            raise InputError(
                f"student.low_rank has rank={self.rank} and alpha={self.alpha}: give a rank of at least 0 and an alpha "
                "above 0"
            )


@dataclass(frozen=True)
class StudentSettings:
    """What of the base model learns, and from what."""

    train: tuple[str, ...] = ("released",)
    """Parameters that learn, as patterns with ``*`` of the model's parameter names; ``released`` stands for the image
    tower's attention projections and its last projection."""
    low_rank: LowRankSettings = field(default_factory=LowRankSettings)
    """With a ``rank``, only adapters of the matrices that ``train`` names learn; all else stays as it is. They are
    added to the matrices when the model is measured and saved, so the result is a model like the base."""
    weights: StudentWeights = field(default_factory=StudentWeights)
    """Loss weights."""
    temperature: float = 0.05
    """Of the InfoNCE and of ``relation``."""
    relation_temperature: float = 0.1
    """Of the teacher's side of ``relation``: the softmax of the cosines between the batch's targets."""
    teacher: Literal["cross_modal", "text"] = "cross_modal"
    """Who says what a photo shall learn: the cross-modal teacher, as published, or the base model's text tower, whose
    target is its embedding of the caption."""
    target: Literal["caption", "photo"] = "caption"
    """The teacher's embedding of the photo with the batch's caption, as published, or its mean over the photo's
    captions."""
    prompt_scale: float = 50.0
    """Logit scale of the classes in ``prompts``."""
    prompt_names: str = ""
    """File with class names, one a line, for ``prompts``; the 1,000 ImageNet classes when left out."""
    prompt_classes: int = 256
    """Classes drawn for each batch where more of the text tower than its last projection learns; 0 takes all."""
    dropout: float = 0.0
    """Share of the pooled image features left out in training (timm towers only)."""
    anchors: DataConfig = field(default_factory=DataConfig)
    """Further photos, which need no captions, for ``anchor`` and ``prompts``: what the model knew of them stays. Any
    varied photos do, such as some of the pictures that the base model was made for."""
    prototypes: bool = False
    """Count the base model's class prototypes as such photos: its pooled features of a typical photo of each ImageNet
    class, where it has them (that of recipes/dclip_flickr8k has). Only ``image.head.*`` learns from them."""
    context_length: int = 0
    """Tokens that the text tower reads, where that shall be more than the base model's: its learnt positions are
    stretched (77 to 248 as Long-CLIP does), so texts beyond the first 20 tokens change a little before any training; 0
    leaves them."""
    average: float = 1.0
    """WiSE-FT: share of the tuned weights in the result, the rest are the base model's. 1 is plain tuning."""


@dataclass(frozen=True)
class Variant:
    """The recipe with some changes: an ablation, or a baseline."""

    name: str = ""
    """What it is called in the table; its folders are called ``NAME-seedN``."""
    set: tuple[str, ...] = ()
    """Changes, each as ``key=value``; none for the recipe as it is."""


def _teacher_stage() -> Schedule:
    return Schedule(name="teacher", epochs=5, batch_size=32, lr=1e-5, weight_decay=0.0, warmup=0.0, clip=0.0)


def _student_stage() -> Schedule:
    return Schedule(
        name="student",
        epochs=2,
        batch_size=32,
        accumulate=4,
        lr=1e-6,
        weight_decay=0.01,
        warmup=0.0,
        clip=0.5,
    )


def _objectives_help() -> dict[str, tuple[str, type]]:
    """What ``--settings`` lists below ``objectives``."""
    from cliplet.training.objectives import OBJECTIVES

    return {name: (kind.help, kind.settings_type) for name, kind in OBJECTIVES.items()}


@dataclass(frozen=True)
class DclipConfig:
    """A whole run: base model and pairs in, a tuned model of each variant and a table that compares them out."""

    name: str = "dclip"
    """Name of the tuned model."""
    out: str = "runs/dclip"
    """Folder of the run; a run that was interrupted goes on from there."""
    features: str = ""
    """Folder of what is computed once (regions, views, captions, base models that are made), which several recipes
    may share; ``features`` in the run's folder when left out."""
    license: str = ""
    """Licence of the weights, for the model card."""
    base: str = "open_clip:ViT-B-32/openai"
    """The model to tune: ``open_clip:ARCHITECTURE/TAG``, ``hf:OWNER/NAME`` (CLIP and SigLIP of Transformers, also a
    folder in the hub's layout), a model folder with PyTorch weights, or ``module:attribute`` that makes one from the
    training data (:class:`~cliplet.training.dclip.base.BaseMaker`)."""
    base_options: dict[str, Any] = field(default_factory=dict)
    """Settings of a base of the form ``module:attribute``."""
    seeds: tuple[int, ...] = (0,)
    """One run a seed, of the teacher's weights, the order and the choice of views; the views are the same for all."""
    soup: bool = False
    """Also measure and write one model of the seeds' averaged weights, for each variant. They start alike, so their
    mean is a model too, mostly a better one (model soup, Wortsman et al. 2022)."""
    variants: tuple[Variant, ...] = (Variant("dclip"),)
    """What to train and compare, as ``[[variants]]``: each a name and its changes."""
    only: tuple[str, ...] = ()
    """Names of the variants to train in this call; all when left out."""
    main: str = ""
    """Name of the variant that the table compares the others with; the first when left out."""
    baseline: str = "base"
    """The row that decides whether ``main`` is worth its cost, ``base`` or a variant's name: bold in the table."""
    cpu: bool = False
    """Train on the CPU although there is an accelerator."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of training."""
    train: DataConfig = field(default_factory=DataConfig)
    """Training photos and captions. Photos that are also in ``dev``, ``tests`` or ``exclude`` are left out."""
    dev: DataConfig = field(default_factory=DataConfig)
    """Photos and captions that choose the best epoch."""
    tests: tuple[TestConfig, ...] = ()
    """Measured at the end."""
    exclude: DataConfig = field(default_factory=DataConfig)
    """Further photos that must not be trained on."""
    held_out: float = 0.0
    """Share of the training photos, or a number of photos above 1, that is kept back by ``draw`` as ``held-out``: it
    chooses the best epoch where there is no ``dev``, and is measured."""
    captioned: float = 1.0
    """Share of the remaining training photos, or a number of photos above 1, whose captions are trained on, by
    ``draw``; the others join ``bare``."""
    draw: int = 0
    """Seed of ``held_out`` and ``captioned``."""
    bare: DataConfig = field(default_factory=DataConfig)
    """Photos without captions, for the objectives that learn from them (captions are not read)."""
    objectives: dict[str, Any] = field(default_factory=dict, metadata={"entries": _objectives_help})
    """What the student learns from beside its ``student.weights``: a weight each, or a table of ``weight`` and
    settings. Your own is named as ``"module:attribute"``."""
    rewrites: RewriteSettings = field(default_factory=RewriteSettings)
    """Further wordings of the training captions, for the student."""
    equal_captions: bool = False
    """In measurements a caption fits every photo of its set that has it, for collections whose captions repeat."""
    exclude_alike: bool = True
    """Compare photos by their looks as well (a 256-bit difference hash), which finds copies of another size or format;
    else by name and content alone."""
    zeroshot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Zero-shot accuracy."""
    regions: RegionSettings = field(default_factory=RegionSettings)
    """Where regions come from."""
    spans: Literal["tokens", "phrases"] = "tokens"
    """Spans of a caption: its token states, as released, or its noun phrases."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Views of training photos for the student."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """The cross-modal teacher."""
    student: StudentSettings = field(default_factory=StudentSettings)
    """The student."""
    teacher_stage: Schedule = field(default_factory=_teacher_stage)
    """The teacher's training: epochs, batch_size, lr, ..."""
    student_stage: Schedule = field(default_factory=_student_stage)
    """The student's training."""
    export: Literal["none", "fp32", "fp16", "int8"] = "none"
    """Precision of the ONNX folder written at the end (our own towers only)."""
    resamples: int = 1000
    """Bootstrap resamples of the intervals."""
    evaluate_every: int = 1
    """Epochs between measurements on dev, which choose the weights to keep; the last epoch is always measured."""
    save_every: int = 200
    """Steps between checkpoints; the end of an epoch is always one."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds is empty; give at least one, such as seeds=[0]")
        for stage in (self.teacher_stage, self.student_stage):
            stage.refuse_below("epochs", 1)
        student = self.student
        if student.context_length < 0:
            raise InputError(f"student.context_length={student.context_length} must be at least 0")
        if not 0 <= student.average <= 1:
            raise InputError(f"student.average={student.average} must be in 0..1")
        if not any(vars(student.weights).values()) and not self.objectives:
            raise InputError(
                "the student has no loss; give at least one of student.weights or objectives a weight"
            )
        for name, least in (("held_out", 0), ("captioned", 0)):
            value = getattr(self, name)
            if not value >= least or (value > 1 and value != int(value)):
                raise InputError(f"{name}={value} must be a share in 0..1, or a number of photos above 1")
        if not self.captioned:
            raise InputError("captioned=0 leaves no pair to learn from")
        self.chosen_objectives()
        if student.weights.anchoring and (not student.prototypes or student.prompt_names):
            raise InputError(
                "student.weights.anchoring needs student.prototypes = true, and the ImageNet classes' names, so no "
                "student.prompt_names"
            )
        names = [v.name for v in self.variants]
        if not names or not all(names) or len(set(names)) < len(names) or "base" in names:
            raise InputError(
                f"variants are called {names}: give each a name of its own, and none the name base"
            )
        for setting, wanted in (("only", self.only), ("main", (self.main,)), ("baseline", (self.baseline,))):
            for name in wanted:
                if name and name not in names and (setting, name) != ("baseline", "base"):
                    raise InputError(f"{setting}: there is no variant {name!r}; there are {', '.join(names)}")

    def chosen_objectives(self) -> "dict[str, Chosen]":
        """The objectives that have a weight.

        Raises:
            InputError: an unknown name or setting.
            MissingExtraError: PyTorch is not installed.
        """
        if not self.objectives:
            return {}
        try:
            from cliplet.training.objectives import chosen_objectives
        except ImportError as error:
            raise MissingExtraError("tuning", "train") from error
        return chosen_objectives(self.objectives)

    @property
    def trained(self) -> tuple[Variant, ...]:
        """The variants that this call trains."""
        return tuple(v for v in self.variants if not self.only or v.name in self.only)


def load_dclip(path: str | Path, overrides: Sequence[str] = ()) -> DclipConfig:
    """Read a recipe and apply ``key=value`` changes.

    Raises:
        InputError: the file or a setting is wrong; the message names it.
    """
    return dclip_config(read_settings(path, overrides, "dclip", "tune"))


def dclip_config(settings: Mapping[str, Any]) -> DclipConfig:
    """The configuration from a recipe's settings.

    Raises:
        InputError: a setting, also one that a variant changes, is unknown, wrong, or of an earlier version that can no
            longer be read.
    """
    values: dict[str, Any] = deepcopy(dict(settings))
    values.pop("kind", None)
    for name, advice in GONE.items():
        if name in values:
            raise InputError(f"{name} is no setting of a recipe any more: {advice}")
    _rename(values)
    config = from_dict(DclipConfig, values)
    for variant in config.variants:
        variant_config(config, variant)
    return config


def variant_config(config: DclipConfig, variant: Variant) -> DclipConfig:
    """The recipe as a variant runs it: all else stays equal.

    Raises:
        InputError: a change is wrong, or of a setting that belongs to the whole run.
    """
    where = f"variant {variant.name}: "
    for change in variant.set:
        key = change.partition("=")[0].strip().split(".")[0]
        if key not in MAY_VARY:
            raise InputError(
                f"{where}{change} changes what all variants share; change one of {', '.join(MAY_VARY)}"
            )
    values = to_dict(config)
    try:
        apply_changes(values, variant.set)
        _rename(values)
        return from_dict(
            DclipConfig, {**values, "variants": (variant,), "only": (), "main": "", "baseline": "base"}
        )
    except InputError as error:
        raise InputError(f"{where}{error}") from error


def _rename(values: dict[str, Any]) -> None:
    """Give settings of earlier versions their present names."""
    for old, new in RENAMED.items():
        *tables, key = old.split(".")
        inner: Any = values
        for name in tables:
            inner = inner.get(name, {}) if isinstance(inner, dict) else {}
        if isinstance(inner, dict) and key in inner:
            inner[new.rpartition(".")[2]] = inner.pop(key)
