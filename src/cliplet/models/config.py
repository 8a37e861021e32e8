"""What a model is made of: frozen dataclasses, read from and written to plain dictionaries (JSON, TOML)."""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from cliplet.errors import InputError

T = TypeVar("T")

SentenceModel = Literal["minilm-l3", "minilm-l6", "mpnet"]
"""Sentence encoders that install with pip, see :func:`~cliplet.models.pretrained.sentence_model`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer whose blocks are stored once and executed ``repeats`` times in a row."""

    width: int = 768
    """Channels of every token."""
    heads: int = 12
    """Attention heads; must divide the width."""
    blocks: int = 2
    """Stored blocks; the executed depth is ``blocks * repeats``."""
    repeats: int = 2
    """Times that each stored block is executed in a row (A A B B ...); 1 is a plain transformer."""
    mixers: bool = True
    """Private head mixers before and after the softmax of every repeat."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP over the width."""
    qkv_bias: bool = True
    """Bias in the query, key and value projections."""
    norm: Literal["pre", "post"] = "pre"
    """LayerNorm before each branch, as published, or after each sum, as in BERT (to inherit its layers)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Between the products of the MLP: the exact GELU, or a ReLU and no bias in front of it, which computes sooner in
    8 bits."""
    attention: Literal["standard", "differential"] = "standard"
    """``differential``: the difference of two softmax maps, the second times a learnt lambda (DiffCLIP, arXiv
    2503.06626); needs ``mixers = false``, and starts from random weights."""
    differential: Literal["coded", "written"] = "coded"
    """Which of the two published forms. ``coded``: neighbouring heads are paired, so ``heads`` maps give half as many
    differences, whose values are twice as wide, each through an RMSNorm and times 1 - lambda0. ``written``: each head's
    queries and keys are cut in halves, with neither."""
    lambda_start: Literal["fixed", "depth"] = "fixed"
    """lambda0, where lambda starts: 0.8 in all layers, or 0.8 - 0.6 exp(-0.3 l) in layer l = 0, 1, ..."""
    head_norm: bool = False
    """Of standard attention: each head's output through an RMSNorm and times 1 - lambda0, as in the ``coded`` form; the
    control that tells this from the difference."""
    GONE: ClassVar[dict[str, Any]] = {"gates": False}
    """Settings of earlier ``model.json`` files, which are read where they have this value."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"heads={self.heads} does not divide width={self.width}; choose heads that do")
        for name in ("width", "heads", "blocks", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        self._check_attention()

    def _check_attention(self) -> None:
        """Raise an InputError where the settings of attention do not go together."""
        differential = self.attention == "differential"
        if self.mixers and (differential or self.head_norm):
            what = 'attention="differential"' if differential else "head_norm"
            raise InputError(f"{what} has no head mixers: set mixers=false")
        if differential and self.head_norm:
            raise InputError(
                "head_norm is of standard attention; the coded form of differential attention has it, the written form "
                "has none"
            )
        if differential and self.differential == "coded" and self.heads % 2:
            raise InputError(f"differential attention pairs heads: heads={self.heads} must be even")
        if differential and self.differential == "written" and self.width // self.heads % 2:
            raise InputError(
                f"differential attention cuts heads in halves: width / heads = {self.width // self.heads} must be even"
            )

    @property
    def depth(self) -> int:
        """Executed layers."""
        return self.blocks * self.repeats

    @property
    def map_heads(self) -> int:
        """Softmax maps of a layer."""
        return (
            self.heads * 2
            if self.attention == "differential" and self.differential == "written"
            else self.heads
        )

    @property
    def value_heads(self) -> int:
        """Heads of the values: half the maps where two of them make a difference."""
        return self.map_heads // 2 if self.attention == "differential" else self.heads

    @property
    def attention_in_words(self) -> str:
        """For cards; empty for standard attention as published."""
        start = "lambda0 0.8" if self.lambda_start == "fixed" else "lambda0 by depth"
        if self.attention == "differential":
            return f"differential attention as {self.differential}, {start}"
        return (
            f"standard attention, each head through an RMSNorm times 1 - lambda0 ({start})"
            if self.head_norm
            else ""
        )


@dataclass(frozen=True)
class VisionConfig(TransformerConfig):
    """A multiplexed vision transformer; the defaults are the published L-CLIP image student."""

    kind: Literal["multiplexed"] = "multiplexed"
    """Which image tower: this one."""
    heads: int = 24
    """Attention heads; must divide the width."""
    blocks: int = 3
    """Stored blocks; the executed depth is ``blocks * repeats``."""
    mlp_transform: bool = False
    """MiniViT's private depth-wise 7x7 convolution before the shared MLP of every repeat."""
    image_size: int = 224
    """Side of the square input in pixels."""
    patch_size: int = 32
    """Side of a patch in pixels; must divide the image size."""
    embedding_dim: int = 512
    """Dimensions of the shared space."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Mean that is taken from RGB in 0..1."""
    std: tuple[float, float, float] = CLIP_STD
    """Standard deviation that RGB is then divided by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise InputError(f"patch_size={self.patch_size} does not divide image_size={self.image_size}")


@dataclass(frozen=True)
class TimmConfig:
    """An image tower from timm with a linear projection into the shared space."""

    kind: Literal["timm"] = "timm"
    """Which image tower: this one."""
    name: str = "tf_efficientnet_lite0"
    """timm's model name."""
    embedding_dim: int = 512
    """Dimensions of the shared space."""
    image_size: int = 224
    """Side of the square input in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is taken from RGB in 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that RGB is then divided by."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``timm.create_model``."""


@dataclass(frozen=True)
class TwinConfig:
    """An EfficientNet of timm whose last stages are there twice: as the classifier had them, and as they learnt on."""

    kind: Literal["twin"] = "twin"
    """Which image tower: this one."""
    name: str = "tf_efficientnet_lite2"
    """timm's model name, one of the EfficientNets."""
    embedding_dim: int = 512
    """Dimensions of the shared space."""
    first_stage: int = 5
    """First of the stages (from 0) that is there twice."""
    first_block: int = 0
    """First block of that stage (from 0) that is."""
    classes: int = 1000
    """Classes of the classifier."""
    detector: int = 0
    """Side of the square to which pixels are enlarged for YOLOX-Nano, whose findings the projection reads too, a
    multiple of 32; 0: no detector takes part."""
    image_size: int = 224
    """Side of the square input in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is taken from RGB in 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that RGB is then divided by."""

    def __post_init__(self) -> None:
        if self.first_stage < 1 or self.classes < 1 or self.first_block < 0:
            raise InputError(
                "a twin tower needs first_stage and classes of at least 1 and first_block of at least 0"
            )
        if self.detector < 0 or self.detector % 32:
            raise InputError(f"detector={self.detector} must be a multiple of 32; 0 for none")


@dataclass(frozen=True)
class TextConfig(TransformerConfig):
    """A multiplexed text transformer; the defaults are the published L-CLIP text student."""

    kind: Literal["multiplexed"] = "multiplexed"
    """Which text tower: this one."""
    qkv_bias: bool = False
    """Bias in the query, key and value projections."""
    vocab_size: int = 49408
    """Tokens of the tokeniser."""
    context_length: int = 77
    """Longest text in tokens."""
    embedding_rank: int = 256
    """Rank of the factorised word embedding; 0 keeps the full matrix."""
    mask: Literal["none", "padding", "causal"] = "none"
    """``none``: padding takes part, as published; ``padding``: it does not; ``causal``: a token sees its past."""
    pooling: Literal["eot", "cls", "mean"] = "eot"
    """Which token stands for the text: the last one, the first one, or the mean of all."""
    pad_token_id: int = 0
    """Token that fills up the text; it matters only where ``mask`` is ``none``."""
    embedding_dim: int = 512
    """Dimensions of the shared space."""


@dataclass(frozen=True)
class TransformersTextConfig:
    """A text tower from Transformers with a linear projection into the shared space."""

    kind: Literal["transformers"] = "transformers"
    """Which text tower: this one."""
    config: dict[str, Any] = field(default_factory=lambda: {"model_type": "bert"})
    """The library's configuration with its ``model_type``."""
    context_length: int = 77
    """Longest text in tokens."""
    pooling: Literal["eot", "cls", "mean"] = "mean"
    """Which token stands for the text: the last one, the first one, or the mean of all."""
    embedding_dim: int = 512
    """Dimensions of the shared space."""


ImageTowerConfig = VisionConfig | TimmConfig | TwinConfig
TextTowerConfig = TextConfig | TransformersTextConfig


@dataclass(frozen=True)
class CrossModalConfig:
    """DCLIP's cross-modal teacher; the defaults are as released, except that padding is masked."""

    layers: int = 1
    """Bidirectional cross-attention layers."""
    heads: int = 8
    """Heads of each attention; must divide the embedding's width."""
    pool_temperature: float = 2.0
    """Of the softmax that pools by similarity to the mean; large values give the plain mean."""
    fusion: Literal["fixed", "learned"] = "fixed"
    """``fixed``: half text, half image; ``learned``: a gate decides the share for each pair, half at the start."""
    mask: bool = True
    """Leave padding out of the attentions and the pooling; the released code does not."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.pool_temperature <= 0:
            raise InputError("the teacher needs at least one layer and a temperature above 0")

    def check(self, dim: int) -> None:
        """Raise an InputError where the heads do not divide the width."""
        if dim % self.heads:
            raise InputError(f"teacher heads={self.heads} does not divide dim={dim}; choose heads that do")


@dataclass(frozen=True)
class DualConfig:
    """An image tower and a text tower that share one space."""

    image: ImageTowerConfig = field(default_factory=VisionConfig)
    """The image tower, told by its ``kind``: ``multiplexed``, ``timm`` or ``twin``."""
    text: TextTowerConfig = field(default_factory=TextConfig)
    """The text tower, told by its ``kind``: ``multiplexed`` or ``transformers``."""

    def __post_init__(self) -> None:
        if self.image.embedding_dim != self.text.embedding_dim:
            raise InputError(
                f"image.embedding_dim={self.image.embedding_dim} and text.embedding_dim="
                f"{self.text.embedding_dim} differ; both towers must end in the same space"
            )


PRESETS: dict[str, DualConfig] = {
    "lclip": DualConfig(),
    "tiny": DualConfig(
        image=VisionConfig(width=32, heads=4, blocks=1, image_size=64, embedding_dim=16),
        text=TextConfig(
            width=32, heads=4, blocks=1, embedding_rank=8, mask="padding", context_length=32, embedding_dim=16
        ),
    ),
}
"""Sizes by name: ``lclip`` is the published one, ``tiny`` serves tests."""


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists, ready for JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value

    result = plain(config)
    assert isinstance(result, dict)
    return result


def from_dict(cls: type[T], values: dict[str, Any], where: str = "", base: T | None = None) -> T:
    """Build the dataclass ``cls`` from a dictionary, checking names and types.

    Args:
        cls: a dataclass, possibly with dataclass fields.
        values: as read from TOML or JSON; missing fields keep their defaults.
        where: prefix that error messages put before a field's name.
        base: what missing fields are taken from instead of their defaults.

    Raises:
        InputError: a name is unknown (the nearest known one is offered) or a value has another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    gone = getattr(cls, "GONE", {})
    values = {k: v for k, v in values.items() if k not in gone or v != gone[k]}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(fields)}"
            raise InputError(f"unknown setting {where}{name}; {hint}")
    given = {
        name: _convert(
            hints[name], value, where + name, getattr(base, name) if base else _default(fields[name])
        )
        for name, value in values.items()
    }
    return cls(**given) if base is None else dataclasses.replace(base, **given)  # type: ignore[type-var]


def _default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default, None where it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if callable(field.default_factory) else None


def _convert(kind: Any, value: Any, where: str, base: Any = None) -> Any:
    """``value`` as the annotated type ``kind`` wants it; of a table, what it does not say is taken from ``base``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if dataclasses.is_dataclass(kind):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, dict):
            raise InputError(f"{where} must be a table of settings, not {value!r}")
        return from_dict(kind, value, where + ".", base if type(base) is kind else None)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}={value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is ... else list(args)
        if len(inner) != len(value):
            raise InputError(f"{where} must have {len(inner)} entries, not {len(value)}")
        return tuple(
            _convert(t, v, f"{where}[{i}]") for i, (t, v) in enumerate(zip(inner, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or kind
    if wanted is Any or (isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool)):
        return value
    raise InputError(f"{where}={value!r} must be {getattr(kind, '__name__', kind)}")


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    """A union is either ``X | None`` or a choice of dataclasses told apart by their ``kind``."""
    if value is None and type(None) in args:
        return None
    args = tuple(a for a in args if a is not type(None))
    if len(args) == 1:
        return _convert(args[0], value, where)
    choices: dict[str, Any] = {a.kind: a for a in args if hasattr(a, "kind")}
    if not choices or dataclasses.is_dataclass(value):
        return value
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a table of settings, not {value!r}")
    kind = value.get("kind", next(iter(choices)))
    if kind not in choices:
        raise InputError(f"{where}.kind={kind!r} is not one of {', '.join(choices)}")
    return from_dict(choices[kind], value, where + ".")
