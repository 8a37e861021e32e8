"""Further wordings of training captions: by rules, by other people, by a language model of your own.

A text tower that sees a photo's caption in several wordings learns what wording does not matter (LaCLIP, arXiv
2305.20088). The rewrites join their photo's captions in training alone; in every step one text is drawn of all. What a
teacher says of a caption holds for its rewrites.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.plugins import is_own, own_name, resolve
from cliplet.data.rewrites import FAITHFUL, RULES, eda, rewrite
from cliplet.data.text import caption_problem, shown, text_lines
from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.training.computed import alone, computed
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.processes import say

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Texts = list[list[str]]
"""Rewrites of each caption."""
BUILT_IN = ("rules", "retrieved", "eda")
"""Sources by name."""
BLOCK = 64
"""Captions that a function of your own is given at once."""
SAMPLE = 2000
"""Captions from which ``--dry-run`` reckons how many rewrites there will be."""


@dataclass(frozen=True)
class RewriteSettings:
    """Further wordings of the training captions, for the student alone."""

    sources: tuple[str, ...] = ()
    """Where they come from: ``rules`` that keep the meaning (English), ``retrieved`` captions of other training photos
    that say nearly the same, ``eda`` (words left out and swapped at random, a control), a file of lines
    ``{"caption": ..., "rewrites": [...]}``, or ``module:attribute`` of your own function, which takes a list of
    captions and gives a list of rewrites for each, say from a language model."""
    rules: tuple[str, ...] = FAITHFUL
    """The rules of ``rules``; ``shorter``, which leaves out where something is, is none of them unless named."""
    per_caption: int = 4
    """At most so many rewrites of a caption from each source."""
    captions: int = 0
    """Use the first so many captions of each photo, and their rewrites; 0 uses all. The base model and the cross-modal
    teacher are made from all captions."""
    encoder: str = ""
    """What ``retrieved`` compares captions by: a sentence encoder, such as ``st:minilm-l6``; the base model's text
    tower when left out."""
    cosine: float = 0.9
    """Least cosine of a ``retrieved`` caption. A CLIP's own text tower puts most captions closer than a sentence
    encoder does: raise it there."""
    seed: int = 0
    """Of what is chosen where there is more than ``per_caption``."""

    def __post_init__(self) -> None:
        if self.per_caption < 1:
            raise InputError(f"rewrites.per_caption={self.per_caption} must be at least 1")
        if self.captions < 0:
            raise InputError(f"rewrites.captions={self.captions} must be at least 1, or 0 for all")
        if not -1 <= self.cosine <= 1:
            raise InputError(f"rewrites.cosine={self.cosine} must be in -1..1")
        for name in self.rules:
            if name not in RULES:
                raise InputError(f"rewrites.rules: unknown rule {name!r}; there are {', '.join(RULES)}")
        for name in self.sources:
            if name not in BUILT_IN and not is_own(name) and not name.endswith(".jsonl"):
                raise InputError(
                    f"rewrites.sources: {name!r} is none of {', '.join(BUILT_IN)}, a file that ends in .jsonl, or "
                    "module:attribute of a function"
                )

    @property
    def on(self) -> bool:
        """Whether the student's captions differ from the training captions."""
        return bool(self.sources or self.captions)

    def check(self) -> None:
        """Look for files and functions before long work.

        Raises:
            InputError: one is missing.
        """
        for name in self.sources:
            if name.endswith(".jsonl") and not Path(name).is_file():
                raise InputError(f"rewrites.sources: there is no file {name}")
            if name not in BUILT_IN and not name.endswith(".jsonl"):
                _function(name)


@dataclass
class Rewriting:
    """What rewriting works with.

    Args:
        settings: the recipe's.
        out: the run's folder: what a function gave is kept there, and what was left out is listed.
        folder: of what is computed once.
        base: gives the base model's embeddings of all captions of the training pairs ``[captions, d]``, unit norm.
    """

    settings: RewriteSettings
    out: Path
    folder: Path
    base: Callable[[], Floats]
    skipped: list[str] = field(default_factory=list)

    def __call__(self, pairs: PairSet) -> tuple[PairSet, Ints]:
        """The pairs that the student learns from.

        Args:
            pairs: training pairs.

        Returns:
            The captions in use, and after them the rewrites, source by source; and for each of them the row of
            ``pairs.captions`` that it is or says anew ``[captions]``.

        Raises:
            InputError: a source is missing or gives nothing usable.
        """
        if not self.settings.on:
            return pairs, np.arange(len(pairs.captions))
        rows = used_captions(pairs, self.settings.captions)
        texts, source = [pairs.captions[i] for i in rows], [rows]
        known = _Known(pairs)
        for name in self.settings.sources:
            found, before = self._rewrites(name, pairs, rows), len(texts)
            for row, own in zip(rows.tolist(), found, strict=True):
                fresh = known.fresh(row, own, self.settings.per_caption)
                texts += fresh
                source.append(np.full(len(fresh), row, dtype=np.int64))
            say(f"rewrites, {name}: {len(texts) - before:,} of {len(rows):,} captions")
        if self.skipped:
            file = self.out / "rewrites-skipped.txt"
            write_atomically(file, "".join(line + "\n" for line in self.skipped))
            say(f"{len(self.skipped)} rewrites or lines left out; see {file}")
        every = np.concatenate(source).astype(np.int64)
        return PairSet(pairs.names, pairs.photos, texts, pairs.photo_of[every], pairs.skipped), every

    def _rewrites(self, name: str, pairs: PairSet, rows: Ints) -> Texts:
        texts = [pairs.captions[i] for i in rows]
        one = self.settings
        if name in ("rules", "eda"):
            return [_by_rule(name, text, one) for text in texts]
        if name == "retrieved":
            return near_captions(self._embedded(pairs, rows), pairs, rows, one.cosine, one.per_caption)
        by_caption = self._read(Path(name)) if name.endswith(".jsonl") else self._asked(name, texts)
        found = [by_caption.get(_plain(text), []) for text in texts]
        if not any(found):
            raise InputError(
                f"rewrites.sources: {name} has a rewrite of none of the {len(texts)} training captions; its captions "
                "must be those of the training data, letter for letter"
            )
        rng = np.random.default_rng([one.seed, 11])
        return [
            [own[i] for i in rng.permutation(len(own))] if len(own) > one.per_caption else own
            for own in found
        ]

    def _embedded(self, pairs: PairSet, rows: Ints) -> Floats:
        if not self.settings.encoder:
            return self.base()[rows]
        from cliplet.encoders.registry import load

        encoder = load(self.settings.encoder)
        key = fingerprint([encoder.card.fingerprint, *pairs.captions])
        kept = computed(
            self.folder / f"sentences-{key}.npy", len(pairs.captions),
            lambda a, b: encoder.encode_texts(pairs.captions[a:b]), 2048, np.float16, "captions, for retrieval",
        )  # fmt: skip
        return np.asarray(kept[rows], dtype=np.float32)

    def _read(self, file: Path) -> dict[str, list[str]]:
        """A file's rewrites by caption; lines that are wrong join ``skipped``."""
        found: dict[str, list[str]] = {}
        for number, line in text_lines(file):
            where = f"{file}, line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                self.skipped.append(f"{where}: no JSON ({error})")
                continue
            if not isinstance(value, dict) or not isinstance(value.get("caption"), str):
                self.skipped.append(f'{where}: no object with "caption" and "rewrites"')
                continue
            found.setdefault(_plain(value["caption"]), []).extend(self._good(value.get("rewrites"), where))
        return found

    def _good(self, value: Any, where: str) -> list[str]:
        """The usable ones of some rewrites; the others join ``skipped``."""
        if not isinstance(value, list | tuple):
            self.skipped.append(f"{where}: the rewrites are no list but {shown(value)}")
            return []
        good = []
        for text in value:
            problem = caption_problem(text) or ("it has one word only" if len(text.split()) < 2 else None)
            if problem:
                self.skipped.append(f"{where}: {shown(text)}: {problem}")
            else:
                good.append(" ".join(text.split()))
        return good

    def _asked(self, name: str, texts: Sequence[str]) -> dict[str, list[str]]:
        """What a function gives, block by block into a file of the run, so that a run that goes on sees the same."""
        function = _function(name)
        file = self.out / f"rewrites-{own_name(name)}-{fingerprint([name])[:8]}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file.with_suffix(".lock"), f"rewrites by {name}"):
            known = dict(_kept(file))
            missing = [text for text in dict.fromkeys(texts) if text not in known]
            bar = Progress(f"rewrites by {name}", len(missing), silent=not missing)
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                given = _call(function, name, block)
                known |= dict(zip(block, given, strict=True))
                with file.open("a", encoding="utf-8") as stream:
                    for text, own in zip(block, given, strict=True):
                        stream.write(_line(name, text, own))
                bar.update(start + len(block))
        return {_plain(t): self._good(known[t], f"{name}, {shown(t)}") for t in dict.fromkeys(texts)}


def used_captions(pairs: PairSet, count: int) -> Ints:
    """Rows of the first ``count`` captions of each photo, of all with 0, in order."""
    if not count:
        return np.arange(len(pairs.captions))
    return np.sort(np.concatenate([rows[:count] for rows in pairs.captions_of()])).astype(np.int64)


def near_captions(embedded: Floats, pairs: PairSet, rows: Ints, least: float, most: int) -> Texts:
    """Captions of other photos that say nearly the same, the nearest first.

    Args:
        embedded: of the captions of ``rows`` ``[n, d]``, unit norm.
        pairs: training pairs.
        rows: the captions in use ``[n]``.
        least: cosine.
        most: how many for each caption.

    Returns:
        For each caption up to ``most`` texts, distinct, none of them a caption of its own photo.
    """
    photo, found = pairs.photo_of[rows], []
    texts = [pairs.captions[i] for i in rows]
    own = [{_plain(pairs.captions[i]) for i in c} for c in pairs.captions_of()]
    for start in range(0, len(rows), 512):
        cosine = embedded[start : start + 512] @ embedded.T
        for i, line in enumerate(cosine, start):
            near = np.flatnonzero((line >= least) & (photo != photo[i]))
            chosen: dict[str, str] = {}
            for j in near[np.argsort(-line[near], kind="stable")]:
                text = _plain(texts[j])
                if text not in own[photo[i]]:
                    chosen.setdefault(text, texts[j])
                if len(chosen) == most:
                    break
            found.append(list(chosen.values()))
    return found


def offers(settings: RewriteSettings, train: PairSet) -> list[tuple[str, str]]:
    """How many rewrites each source gives, for ``--dry-run``; nothing is computed by a model or asked of a function.

    Args:
        settings: the recipe's.
        train: training pairs.
    """
    rows = used_captions(train, settings.captions)
    sample = rows if len(rows) <= SAMPLE else np.random.default_rng(0).choice(rows, SAMPLE, replace=False)
    found = [("captions in use", f"{len(rows):,} of {len(train.captions):,}")]
    for name in settings.sources:
        try:
            found.append((f"rewrites, {name}", _offered(name, settings, train, rows, sample)))
        except InputError as error:
            found.append((f"rewrites, {name}", str(error)))
    return found


def _offered(name: str, settings: RewriteSettings, train: PairSet, rows: Ints, sample: Ints) -> str:
    if name == "retrieved":
        by = settings.encoder or "the base model"
        return f"looked for when training begins: captions of other photos with cosine >= {settings.cosine:g} by {by}"
    if name in ("rules", "eda"):
        known = _Known(train)
        given = [
            len(known.fresh(i, _by_rule(name, train.captions[i], settings), settings.per_caption))
            for i in sample
        ]
    elif name.endswith(".jsonl"):
        settings.check()
        by_caption = Rewriting(settings, Path(), Path(), lambda: np.zeros((0, 0), np.float32))._read(
            Path(name)
        )
        given = [
            min(len(by_caption.get(_plain(train.captions[i]), [])), settings.per_caption) for i in sample
        ]
    else:
        _function(name)
        return f"asked for when training begins, of {len(rows):,} captions"
    share = len(rows) / max(1, len(sample))
    about = "" if share == 1 else "about "
    return (
        f"{about}{round(sum(given) * share):,} rewrites of {round(sum(map(bool, given)) * share):,} captions, at most "
        f"{settings.per_caption} each"
    )


class _Known:
    """The texts that a photo has."""

    def __init__(self, pairs: PairSet) -> None:
        self.photo_of = pairs.photo_of
        self.texts = [{_plain(pairs.captions[i]) for i in rows} for rows in pairs.captions_of()]

    def fresh(self, row: int, texts: Iterable[str], most: int) -> list[str]:
        """The first ``most`` of the texts that the caption's photo does not have yet; now it has them."""
        known = self.texts[self.photo_of[row]]
        new: list[str] = []
        for text in texts:
            if len(new) < most and _plain(text) not in known:
                known.add(_plain(text))
                new.append(text)
        return new


def _by_rule(name: str, text: str, settings: RewriteSettings) -> list[str]:
    if caption_problem(text):
        return []
    if name == "rules":
        return rewrite(text, settings.seed, rules=settings.rules)
    return eda(text, settings.seed, settings.per_caption)


def _plain(text: str) -> str:
    """A text as it is compared: case, spaces and the full stop do not count."""
    return " ".join(text.split()).rstrip(" .").casefold()


def _function(name: str) -> Callable[[list[str]], Any]:
    found: Any = resolve(name, "source of rewrites")
    if not callable(found):
        raise InputError(
            f"rewrites.sources: {name} is of type {type(found).__name__}: it must be a function of a list of captions"
        )
    return found  # type: ignore[no-any-return]


def _call(function: Callable[[list[str]], Any], name: str, block: list[str]) -> list[Any]:
    try:
        given = list(function(list(block)))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"rewrites.sources: {name} failed: {type(error).__name__}: {error}; what it gave before is kept, so "
            "start the run again when it works"
        ) from error
    if len(given) != len(block):
        raise InputError(
            f"rewrites.sources: {name} gave {len(given)} items for {len(block)} captions: it must give a list of "
            "rewrites for each"
        )
    return [list(own) if isinstance(own, tuple) else own for own in given]


def _line(name: str, text: str, own: Any) -> str:
    try:
        return json.dumps({"caption": text, "rewrites": own}) + "\n"
    except TypeError as error:
        raise InputError(f"rewrites.sources: {name} gave {shown(own)}, which is no list of texts") from error


def _kept(file: Path) -> Iterator[tuple[str, Any]]:
    """What an earlier call kept; a line that was cut off is asked for again."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            value = json.loads(line)
            yield value["caption"], value["rewrites"]
        except (ValueError, KeyError, TypeError):
            continue
