"""What is removed: the rules, their defaults, and what each says of one pair by itself."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cliplet.curate.captions import caption_facts
from cliplet.curate.languages import known_language
from cliplet.errors import InputError

RULES = {
    "unreadable": "the photo or caption cannot be read",
    "threshold": "match, score or cosine below the threshold",
    "share": "not in the top share",
    "short": "the caption is too short",
    "name": "the caption is a file's name, an address or an ID",
    "empty": "the caption says nothing about any photo",
    "language": "the caption is not in the language",
    "repeated": "the caption repeats over too many photos",
    "size": "the photo is too small or too long",
    "duplicate": "a copy of a photo that is kept",
    "near": "nearly a photo that is kept",
}
"""Every rule by its name, and what it removes."""

Duplicates = Literal["photos", "pairs", "keep"]


class Reason(NamedTuple):
    """Why a pair is removed."""

    rule: str
    """A name in :data:`RULES`."""
    why: str
    """In words."""
    of: str | None = None
    """The pair that is kept in its place, by name."""
    row: int | None = None
    """Its row, counted through all parts."""


@dataclass(frozen=True)
class Rules:
    """What to remove."""

    min_match: float | None = None
    """Match below which a pair is removed, 0 to 1; None: no threshold."""
    min_score: float | None = None
    """Score below which a pair is removed; None: no threshold."""
    min_cosine: float | None = None
    """Cosine below which a pair is removed; None: no threshold."""
    top_share: float | None = None
    """Share of all pairs with a score that is kept, those of the highest cosine, 0 to 1; None: all."""
    min_words: int = 3
    """Words that a caption has at least."""
    max_repeats: int = 20
    """Photos that one caption may stand beside; with more all its pairs are removed. 0: any number."""
    language: str | None = None
    """Language that captions are in, such as en; None: not looked at."""
    min_side: int = 0
    """Pixels of a photo's short side, at least."""
    max_aspect: float = 0.0
    """Long side through short side, at most; 0: any."""
    duplicates: Duplicates = "photos"
    """photos: of copies of a photo one is kept, with its captions; pairs: copies go where the caption is the same too;
    keep: copies stay."""
    near_duplicates: bool = True
    """Whether a photo that is nearly another's copy (another size, compression or crop) counts as one."""
    near_cosine: float = 0.9
    """Cosine of the embeddings of near duplicates, at least."""
    near_bits: int = 80
    """Bits of 256 in which difference hashes of near duplicates differ, at most; unrelated photos differ in about
    128."""
    skip: tuple[str, ...] = ()
    """Names of rules that remove nothing."""

    def __post_init__(self) -> None:
        for name in ("min_match", "top_share", "near_cosine"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"--{name.replace('_', '-')} {value:g} must be between 0 and 1")
        if self.top_share == 0:
            raise InputError("--top-share 0 would keep nothing: give a share above 0")
        if self.language is not None:
            object.__setattr__(self, "language", known_language(self.language))
        if self.duplicates not in ("photos", "pairs", "keep"):
            raise InputError(f"--duplicates {self.duplicates}: give photos, pairs or keep")
        for name in self.skip:
            if name not in RULES or name == "unreadable":
                raise InputError(f"--skip {name}: give one of {', '.join(list(RULES)[1:])}")

    def applies(self, rule: str) -> bool:
        """Whether a rule may remove something."""
        return rule not in self.skip

    def facts(self) -> dict[str, Any]:
        """For the summary, and to know whether a decision was made by the same rules."""
        return dataclasses.asdict(self)


COLUMNS = ("reason", "caption", "match", "score", "cosine", "words", "name", "empty", "width", "height")
"""What :func:`own_reasons` reads of a measured pair."""


def own_reasons(row: Mapping[str, Any], rules: Rules) -> list[Reason]:
    """Why a pair is removed for what it is by itself: all reasons, none for a good pair."""
    if row["reason"] is not None:
        return [Reason("unreadable", row["reason"])]
    found = (*_thresholds(row, rules), *_caption(row, rules), *_size(row, rules))
    return [reason for reason in found if rules.applies(reason.rule)]


def _thresholds(row: Mapping[str, Any], rules: Rules) -> Iterator[Reason]:
    for what in ("match", "score", "cosine"):
        least, value = getattr(rules, f"min_{what}"), row[what]
        if least is not None and value is not None and value < least:
            yield Reason("threshold", f"{what} {value:.3f} is below {least:g}")


def _caption(row: Mapping[str, Any], rules: Rules) -> Iterator[Reason]:
    if row["name"] is not None:
        yield Reason("name", row["name"])
    if row["empty"] is not None:
        yield Reason("empty", row["empty"])
    if row["words"] < rules.min_words:
        n = row["words"]
        yield Reason("short", f"it has {n or 'no'} word{'s' * (n != 1)}, fewer than {rules.min_words}")
    if rules.language is not None:
        foreign = caption_facts(row["caption"], rules.language)[3]
        if foreign is not None:
            yield Reason("language", foreign)


def _size(row: Mapping[str, Any], rules: Rules) -> Iterator[Reason]:
    width, height = row["width"], row["height"]
    short, long = min(width, height), max(width, height)
    if short < rules.min_side:
        yield Reason("size", f"{width} x {height} pixels, a short side below {rules.min_side}")
    if rules.max_aspect and long > rules.max_aspect * short:
        yield Reason(
            "size", f"{width} x {height} pixels, longer than {rules.max_aspect:g} times its short side"
        )
