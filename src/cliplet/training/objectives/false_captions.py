"""False captions of the training pairs: one word swapped for a wrong one, or another photo's caption."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import KINDS, Kind, Words, hard_negatives, rules
from cliplet.files import write_atomically
from cliplet.training.pairs import PairSet, fingerprint

Source = Literal["words", "random"]
"""Swapped words, or captions of other photos."""


@dataclass(frozen=True)
class FalseCaption:
    """A caption that a training photo does not show, made from one of its own."""

    caption: int
    """The true caption's row in ``pairs.captions``."""
    text: str
    """The false caption."""
    kind: str
    """What kind of word was swapped; ``random`` for another photo's caption."""
    before: str
    """The word that was there; nothing for another photo's caption."""
    after: str
    """The word put in its place."""


@dataclass(frozen=True)
class FalseCaptionSettings:
    """How false captions are made."""

    kinds: tuple[str, ...] = KINDS
    """Kinds of words that are swapped."""
    words: Words = "train"
    """Word pairs that are swapped: ``train`` leaves those of ``cliplet evaluate pairs --from-captions --words test``
    unseen."""
    words_seed: int = 0
    """Seed of the split of the word pairs; that of ``--words-seed``."""
    fluent: bool = True
    """Take words with which the false caption sounds like the true one, and leave out odd ones."""
    balanced: bool = False
    """Also leave out so many that no guesser can tell them without the photo."""
    per_caption: int = 1
    """False captions of each kind that are kept for a caption; a step draws one of them."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds={list(self.kinds)}: use some of {', '.join(KINDS)}")
        if self.per_caption < 1:
            raise InputError(f"per_caption={self.per_caption} must be at least 1")


def false_captions(
    pairs: PairSet,
    kinds: Sequence[str] = KINDS,
    words: Words = "train",
    seed: int = 0,
    fluent: bool = True,
    per_caption: int = 1,
    words_seed: int = 0,
    balanced: bool = False,
) -> list[FalseCaption]:
    """False captions of the training captions, in the order of these; see
    :func:`cliplet.evaluation.hard_negatives.hard_negatives`.

    Args:
        pairs: photos and captions; captions without a photo get none.
        kinds: of words.
        words: which word pairs.
        seed: of the words that are put in.
        fluent: those that sound like the true ones.
        per_caption: of each kind.
        words_seed: seed of the split of the word pairs.
        balanced: as many as no guesser without the photo can tell.
    """
    again = Counter(pairs.names)
    own: dict[str, list[str]] = {}
    rows: dict[tuple[str, str], list[int]] = {}
    for photo, captions in enumerate(pairs.captions_of()):
        name = pairs.names[photo] if again[pairs.names[photo]] == 1 else f"{pairs.names[photo]}#{photo}"
        own[name] = list(dict.fromkeys(pairs.captions[row] for row in captions))
        for row in captions:
            rows.setdefault((name, pairs.captions[row]), []).append(int(row))
    chosen: list[Kind] = [kind for kind in KINDS if kind in kinds]
    made = hard_negatives(own, chosen, seed, words, words_seed, fluent, per_caption, balanced)
    found = [
        FalseCaption(row, one.false, one.category, one.before, one.after)
        for one in made
        for row in rows[one.image, one.true]
    ]
    return sorted(found, key=lambda one: one.caption)


def kept_false_captions(
    pairs: PairSet, settings: FalseCaptionSettings, seed: int, folder: Path
) -> list[FalseCaption]:
    """The same as settings say, made once and kept in a file.

    Args:
        pairs: photos and captions.
        settings: how.
        seed: of the words that are put in.
        folder: of the file; runs share it.
    """
    asked = [rules(), seed, *dataclasses.astuple(settings), *pairs.names, *pairs.captions, *pairs.photo_of]
    file = folder / f"false-captions-{fingerprint(asked)}.json"
    if file.exists():
        try:
            return [FalseCaption(*row) for row in json.loads(file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            pass  # damaged: made anew
    found = false_captions(
        pairs, settings.kinds, settings.words, seed, settings.fluent, settings.per_caption, settings.words_seed,
        settings.balanced,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps([dataclasses.astuple(one) for one in found], ensure_ascii=True))
    return found


def random_captions(pairs: PairSet, false: Sequence[FalseCaption], seed: int) -> list[FalseCaption]:
    """For each false caption one of another photo in its place, which is no caption of its own photo.

    Where all photos have the same captions there is none.

    Args:
        pairs: photos and captions.
        false: false captions, of which the rows are taken.
        seed: of the choice.
    """
    own = [{pairs.captions[row] for row in rows} for rows in pairs.captions_of()]
    rng = np.random.default_rng([seed, 11])
    found = []
    for one in false:
        for row in rng.integers(len(pairs.captions), size=20):
            if pairs.captions[row] not in own[pairs.photo_of[one.caption]]:
                found.append(FalseCaption(one.caption, pairs.captions[row], "random", "", ""))
                break
    return found


def counts_by_kind(false: Sequence[FalseCaption]) -> Counter[str]:
    """How many of each kind."""
    return Counter(one.kind for one in false)
