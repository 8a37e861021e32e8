"""The model card: what a model is, how it wants its inputs, how it was made and how well it does."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from cliplet.errors import InputError, ModelError

FORMAT = 1
CLIP_PROMPT_PREFIX = "A photo depicts "
"""The prefix of CLIPScore (Hessel et al. 2021, section 3), used for CLIP models that name none of their own."""


Resize = Literal["squash", "shortest", "shortest_floor"]


def _whole(name: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most}, not {value!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, not {value!r}")


@dataclass(frozen=True)
class ImageSpec:
    """How photos become the tower's input."""

    size: int = 224
    """Side of the square input, in pixels."""
    resize: Resize = "shortest"
    """``squash``: both sides to ``size``; ``shortest``: the short side to ``size``, then a centre crop. Half of an odd
    margin is rounded to the even number, as torchvision does; by ``shortest_floor`` downwards, as Transformers does."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Resampling filter of the resize."""

    def __post_init__(self) -> None:
        _whole("image.size", self.size, 4096)
        _one_of("image.resize", self.resize, get_args(Resize))
        _one_of("image.interpolation", self.interpolation, ("bicubic", "bilinear"))


@dataclass(frozen=True)
class TextSpec:
    """How captions become the tower's input."""

    context_length: int = 77
    """Longest token sequence, special tokens included; longer captions are cut before the end token."""
    prompt_prefix: str = CLIP_PROMPT_PREFIX
    """Text put before every caption under the ``paper`` preset."""

    def __post_init__(self) -> None:
        _whole("text.context_length", self.context_length, 65_536)
        if not isinstance(self.prompt_prefix, str):
            raise InputError(f"text.prompt_prefix must be a text, not {self.prompt_prefix!r}")


@dataclass(frozen=True)
class ScoreSpec:
    """The scale of the model's scores."""

    w: float = 2.5
    """Weight of CLIPScore: ``w * max(cos, 0)``; 2.5 for CLIP (Hessel et al. 2021)."""
    reference_weight: float = 1.0
    """Weight of the best reference cosine beside the image cosine in RefMixScore."""

    def __post_init__(self) -> None:
        for name in ("w", "reference_weight"):
            value = getattr(self, name)
            if not _finite(value):
                raise InputError(f"score.{name} must be a finite number, not {value!r}")


@dataclass(frozen=True)
class MatchSpec:
    """How a cosine becomes a *match*: the probability that the caption is the photo's own, in a stated mix.

    A line through knots; ``cliplet calibrate`` measures them. Without knots the model has no match.
    """

    cosines: tuple[float, ...] = ()
    """Cosines of the knots, growing."""
    probabilities: tuple[float, ...] = ()
    """The match at each knot, growing, 0 to 1."""
    about: str = ""
    """The collections and the mix that it was measured on."""

    def __post_init__(self) -> None:
        for name in ("cosines", "probabilities"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not all(map(_finite, values)):
                raise InputError(f"match.{name} must be a list of finite numbers, not {values!r}")
            if any(after <= before for before, after in pairwise(values)):
                raise InputError(f"match.{name} must grow from knot to knot")
            object.__setattr__(self, name, tuple(map(float, values)))
        if len(self.cosines) != len(self.probabilities) or len(self.cosines) == 1:
            raise InputError("match needs as many cosines as probabilities, and at least two of each")
        if self.probabilities and not 0 <= self.probabilities[0] < self.probabilities[-1] <= 1:
            raise InputError("match.probabilities must lie between 0 and 1")

    def __bool__(self) -> bool:
        """Whether it has been measured."""
        return bool(self.cosines)


@dataclass(frozen=True)
class AlignmentSpec:
    """That photos and texts were aligned by a fitted map (``cliplet align``); without a method they were not."""

    method: str = ""
    """``procrustes``, ``ridge``...; empty for a model without a map."""
    photos: int = 0
    """Photos that the map was fitted on."""
    captions: int = 0
    """Their captions."""

    def __bool__(self) -> bool:
        """Whether there is a map."""
        return bool(self.method)


@dataclass(frozen=True)
class ModelCard:
    """What :class:`~cliplet.encoders.base.Encoder` says of itself; ``card.json`` in a model folder."""

    name: str
    """Name shown in every output."""
    embedding_dim: int
    """Length of the embeddings."""
    image: ImageSpec = field(default_factory=ImageSpec)
    """Image preprocessing."""
    text: TextSpec = field(default_factory=TextSpec)
    """Text preprocessing."""
    score: ScoreSpec = field(default_factory=ScoreSpec)
    """Score scale."""
    match: MatchSpec = field(default_factory=MatchSpec)
    """How sure a cosine makes one that the caption is the photo's own."""
    alignment: AlignmentSpec = field(default_factory=AlignmentSpec)
    """The fitted map behind its towers, if it has one."""
    description: str = ""
    """One paragraph: what it is."""
    license: str = ""
    """Licence of the weights."""
    precision: str = "fp32"
    """Stored and computed precision."""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained on, how, by which command."""
    results: dict[str, Any] = field(default_factory=dict)
    """Measured results, each with the command that prints it."""
    good_at: list[str] = field(default_factory=list)
    """What to use it for."""
    bad_at: list[str] = field(default_factory=list)
    """What not to use it for."""
    fingerprint_of: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Computes the fingerprint of weights and preprocessing; called once, when somebody asks."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"name must be a text, not {self.name!r}")
        _whole("embedding_dim", self.embedding_dim, 65_536)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever the weights or the preprocessing change."""
        return self.fingerprint_of() if self.fingerprint_of else "unknown"

    def __getstate__(self) -> dict[str, Any]:
        """Pickled with its fingerprint: what computes it may hold a whole model."""
        return {**self.__dict__, "fingerprint_of": partial(str, self.fingerprint)}

    def to_dict(self) -> dict[str, Any]:
        """The content of ``card.json``."""
        named = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "fingerprint_of"
        }
        plain = {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in named.items()}  # type: ignore[arg-type]
        return {"format": FORMAT, **plain}

    def save(self, folder: str | Path) -> None:
        """Write ``card.json`` into ``folder``."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        (Path(folder) / "card.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, fingerprint_of: Callable[[], str] | None = None) -> "ModelCard":
        """Read ``card.json`` of a model folder.

        Raises:
            ModelError: the file is missing, is not JSON, lacks a field, or a field's value cannot be.
        """
        path = Path(folder) / "card.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{folder} is not a model folder: it has no card.json") from None
        except (ValueError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ModelError(
                f"{path} is not a card of format {FORMAT}; export the model again with this version"
            )
        try:
            return cls(
                **{
                    f.name: raw[f.name]
                    for f in dataclasses.fields(cls)
                    if f.name in raw and f.name not in _NESTED
                },
                **{name: spec(**_known(spec, raw.get(name, {}))) for name, spec in _NESTED.items()},
                fingerprint_of=fingerprint_of,
            )
        except TypeError as error:
            raise ModelError(f"{path} is incomplete: {error}") from error
        except InputError as error:
            raise ModelError(f"{path}: {error}; export the model again, or put it right by hand") from error


_NESTED: dict[str, Any] = {"image": ImageSpec, "text": TextSpec, "score": ScoreSpec, "match": MatchSpec,
                            "alignment": AlignmentSpec}  # fmt: skip


def _known(spec: Any, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(f"{values!r} stands where the fields of {spec.__name__} are expected")
    return {f.name: values[f.name] for f in dataclasses.fields(spec) if f.name in values}
