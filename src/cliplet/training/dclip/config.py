"""Settings of a DCLIP recipe: a CLIP tuned for retrieval with a teacher that sees regions."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from cliplet.errors import InputError
from cliplet.models.config import SentenceModel, from_dict
from cliplet.regions.store import RegionSettings
from cliplet.training.config import AugmentConfig, DataConfig, Schedule
from cliplet.training.recipe_file import read_settings

Control = Literal["dclip", "no_regions", "caption_target", "infonce", "no_distillation", "grid"]
BUILT = ("lite0-minilm", "lite1-minilm", "lite2-minilm")
"""Base models that are made from parts which install with pip."""
BASE_NAMING = 3.0
"""``naming`` of those base models."""


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


@dataclass(frozen=True)
class TeacherSettings:
    """The cross-modal teacher and its training."""

    layers: int = 1
    """Bidirectional cross-attention layers."""
    heads: int = 8
    """Heads of each attention; must divide the embedding's width."""
    pool_temperature: float = 2.0
    """Of the softmax that pools by similarity to the mean."""
    fusion: Literal["fixed", "learned"] = "fixed"
    """Half text and half image, or a learned share for each pair."""
    mask: bool = True
    """Leave padding out; the released code does not."""
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
    naming: float = 0.0
    """Cross-entropy of the ``prototypes`` to their classes' names: a typical photo of a class stays nearest to its
    name. With ``prompt_scale``."""
    stay: float = 0.0
    """Squared distance of the learning weights from the base model's, over the base model's squared length (L2-SP, Li
    et al. 2018): what the training photos do not show stays as it was."""


@dataclass(frozen=True)
class StudentSettings:
    """What of the base model learns, and from what."""

    train: tuple[str, ...] = ("released",)
    """Parameters that learn, as patterns with ``*`` of the model's parameter names; ``released`` stands for the image
    tower's attention projections and its last projection."""
    weights: StudentWeights = field(default_factory=StudentWeights)
    """Loss weights."""
    temperature: float = 0.05
    """Of the InfoNCE and of ``relation``."""
    relation_temperature: float = 0.1
    """Of the teacher's side of ``relation``: the softmax of the cosines between the batch's targets."""
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
    """Count the base model's ImageNet class prototypes as such photos (``lite0-minilm``): what its pooled features are
    for a typical photo of each class. Only ``image.head.*`` learns from them."""
    average: float = 1.0
    """WiSE-FT: share of the tuned weights in the result, the rest are the base model's. 1 is plain tuning."""


def _text_stage() -> Schedule:
    return Schedule(
        name="text", epochs=6, batch_size=256, lr=4e-4, weight_decay=0.01, warmup=0.06, clip=1.0, ema=0.99
    )


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


@dataclass(frozen=True)
class DclipConfig:
    """A whole run: base model and pairs in, tuned model and a table with its controls out."""

    kind: Literal["dclip"] = "dclip"
    """Which kind of recipe: this one."""
    name: str = "dclip"
    """Name of the tuned model."""
    out: str = "runs/dclip"
    """Folder of the run; a run that was interrupted goes on from there."""
    features: str = ""
    """Folder of what is computed once (regions, views, captions, the base model where it is made), which several
    recipes may share; ``features`` in the run's folder when left out."""
    license: str = ""
    """Licence of the weights, for the model card."""
    base: str = "open_clip:ViT-B-32/openai"
    """The model to tune: ``open_clip:ARCHITECTURE/TAG``, a model folder with PyTorch weights, or ``lite0-minilm`` (to
    ``lite2-``), made from parts that install with pip."""
    seeds: tuple[int, ...] = (0,)
    """One run a seed, of the teacher's weights, order and views."""
    soup: bool = False
    """Also measure and write one model of the seeds' averaged weights, for each entry of ``controls``. They start
    alike, so their mean is a model too, mostly a better one (model soup, Wortsman et al. 2022)."""
    control: Control = "dclip"
    """What to train when ``controls`` is empty: ``dclip``, or a control in its place; also what the table compares the
    others with."""
    controls: tuple[Control, ...] = ()
    """Train all of these and compare them with the base model and with ``control`` in one table."""
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
    exclude_alike: bool = True
    """Compare photos by their looks as well (a 256-bit difference hash), which finds copies of another size or format;
    else by name and content alone."""
    zeroshot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Zero-shot accuracy."""
    regions: RegionSettings = field(default_factory=RegionSettings)
    """Where regions come from."""
    grid: str = "grid:2"
    """Regions of the control ``grid``."""
    spans: Literal["tokens", "phrases"] = "tokens"
    """Spans of a caption: its token states, as released, or its noun phrases."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Views of training photos for the student."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """The cross-modal teacher."""
    student: StudentSettings = field(default_factory=StudentSettings)
    """The student."""
    text_teachers: tuple[str, ...] = ()
    """Sentence encoders (``minilm-l3``, ``minilm-l6``, ``mpnet``) whose common space of captions the text tower learns
    before anything else, from training captions and the names of the ImageNet classes; the image tower's projection is
    then fitted to it anew. For ``lite0-minilm`` (to ``lite2-``) alone."""
    text_stage: Schedule = field(default_factory=_text_stage)
    """That training: epochs, batch_size (captions), lr, ..."""
    naming: float = BASE_NAMING
    """Weight of the ImageNet classes' names beside the photos in the fit that links the towers of ``lite0-minilm`` (to
    ``lite2-``) where students start. The base model itself has 3: with more it names classes better and retrieves
    worse, which tuning mends."""
    teacher_stage: Schedule = field(default_factory=_teacher_stage)
    """The teacher's training: epochs, batch_size, lr, ..."""
    student_stage: Schedule = field(default_factory=_student_stage)
    """The student's training."""
    export: Literal["none", "fp32", "fp16", "int8"] = "none"
    """Precision of the ONNX folder written at the end (our own towers only)."""
    draws: int = 1000
    """Bootstrap draws of the intervals."""
    evaluate_every: int = 1
    """Epochs between measurements on dev, which choose the weights to keep; the last epoch is always measured."""
    save_every: int = 200
    """Steps between checkpoints; the end of an epoch is always one."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds is empty; give at least one, such as seeds=[0]")
        if not 0 <= self.student.average <= 1:
            raise InputError(f"student.average={self.student.average} must be in 0..1")
        if not any(vars(self.student.weights).values()):
            raise InputError("the student has no loss; give at least one of student.weights a weight")
        student = self.student
        if student.weights.naming and (not student.prototypes or student.prompt_names):
            raise InputError(
                "student.weights.naming needs student.prototypes = true, and the ImageNet classes' names, so no "
                "student.prompt_names"
            )
        known = get_args(SentenceModel)
        unknown = [name for name in self.text_teachers if name not in known]
        if unknown:
            raise InputError(f"text_teachers: {unknown[0]!r} is none of {', '.join(known)}")
        for name, default in (("text_teachers", ()), ("naming", BASE_NAMING)):
            if getattr(self, name) != default and self.base not in BUILT:
                raise InputError(f"{name} needs a base of {', '.join(BUILT)}, not {self.base}; leave it out")


def load_dclip(path: str | Path, overrides: Sequence[str] = ()) -> DclipConfig:
    """Read a recipe and apply ``key=value`` changes.

    Raises:
        InputError: the file or a setting is wrong; the message names it.
    """
    return from_dict(DclipConfig, read_settings(path, overrides, "dclip"))


def controlled(config: DclipConfig, control: Control) -> DclipConfig:
    """The recipe as a control runs it: all else stays equal.

    - ``no_regions``: the photo learns the caption embedding from which the cross-modal teacher would start; no regions.
    - ``caption_target``: the photo learns the base model's embedding of the caption; no teacher of any kind.
    - ``infonce``: plain InfoNCE tuning of the base model: no teacher of any kind, no anchors, no averaging.
    - ``no_distillation``: the recipe without any teacher's target; anchors and averaging stay.
    - ``grid``: the recipe with tiles instead of the detector's boxes.

    Without ``text_teachers``, ``no_regions`` and ``caption_target`` are the same.
    """
    student, regions = config.student, config.regions
    if control == "infonce":
        only = StudentWeights(
            image=0.0, relation=0.0, text=0.0, contrastive=student.weights.contrastive or 1.0
        )
        student = dataclasses.replace(student, weights=only, average=1.0)
    elif control == "no_distillation":
        weights = dataclasses.replace(
            student.weights, image=0.0, relation=0.0, contrastive=student.weights.contrastive or 1.0
        )
        student = dataclasses.replace(student, weights=weights)
    elif control == "grid":
        regions = dataclasses.replace(regions, proposer=config.grid)
    teachers = config.text_teachers if control in ("dclip", "no_regions", "grid") else ()
    naming = BASE_NAMING if control == "infonce" else config.naming
    return dataclasses.replace(
        config,
        control=control,
        controls=(),
        student=student,
        regions=regions,
        text_teachers=teachers,
        naming=naming,
    )
