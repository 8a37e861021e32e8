"""What is said of each class: its name, synonyms, attributes, analogues, sentences, and texts against other classes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from cliplet.data.plugins import is_own, resolve
from cliplet.data.tables import read_json
from cliplet.data.text import caption_problem, read_names, shown
from cliplet.errors import InputError

KINDS = ("synonyms", "attributes", "analogues", "sentences")
"""Kinds of texts that a class may have beside its name, as a file of texts names them; ``against`` is the fifth."""


@dataclass(frozen=True)
class ClassTexts:
    """A class and what is said of it."""

    name: str
    """What it is called, in the results and in its prompts."""
    synonyms: tuple[str, ...] = ()
    """Other names; they fill the same prompts."""
    attributes: tuple[str, ...] = ()
    """What it has ("two wings and a tail"): they become "NAME with ATTRIBUTE"."""
    analogues: tuple[str, ...] = ()
    """What looks like it ("helicopter"): they become "NAME similar to ANALOGUE"."""
    sentences: tuple[str, ...] = ()
    """Whole texts, taken as they stand."""
    against: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of another class: whole texts of this class that do not fit that one."""

    def texts(self) -> list[tuple[str, str]]:
        """(kind, whole text) of attributes, analogues and sentences."""
        return [
            *(("attributes", f"{self.name} with {text}") for text in self.attributes),
            *(("analogues", f"{self.name} similar to {text}") for text in self.analogues),
            *(("sentences", text) for text in self.sentences),
        ]

    def as_json(self) -> dict[str, Any]:
        """Its texts by kind, without empty kinds, as a file of texts holds them."""
        found: dict[str, Any] = {kind: list(getattr(self, kind)) for kind in KINDS if getattr(self, kind)}
        if self.against:
            found["against"] = {name: list(texts) for name, texts in self.against.items()}
        return found


def tidy_class_name(name: str) -> str:
    """A class name from a folder or file: ``n01484850_great_white_shark`` becomes ``great white shark``."""
    return re.sub(r"[_\s]+", " ", re.sub(r"^n\d{8}[_\s-]+", "", name)).strip()


def key_of(name: str) -> str:
    """What two spellings of one class name have in common: no case, no underscores, single spaces."""
    return tidy_class_name(name).casefold()


# ---------------------------------------------------------------- labels
def read_labels(path: str | Path) -> tuple[list[ClassTexts], list[str]]:
    """Classes of a file, and notes on what was merged or left out.

    A text file has a class a line: the name, then its synonyms, parted by commas or ``|`` (``cat, kitty | feline``). A
    ``.json`` file is a list whose items are names (taken as they stand, commas too) or lists of a name and synonyms,
    or an object of name to synonyms.

    Raises:
        InputError: the file cannot be read, is empty, or a line has no name.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        rows = _json_labels(path)
    else:
        rows = [
            (f"class {number}", [part.strip() for part in re.split(r"[,|]", line)])
            for number, line in enumerate(read_names(path, "class names"), 1)
        ]
    return make_classes([names for _, names in rows], [f"{path}, {where}" for where, _ in rows])


def _json_labels(path: Path) -> list[tuple[str, list[str]]]:
    content = read_json(path)
    if isinstance(content, dict):
        content = [
            [name, *(given if isinstance(given, list) else [given])] for name, given in content.items()
        ]
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: expected a list of class names, or an object of name to synonyms")
    return [
        (f"class {number}", item if isinstance(item, list) else [item])
        for number, item in enumerate(content, 1)
    ]


def make_classes(
    names: Sequence[str | Sequence[str]], places: Sequence[str] | None = None
) -> tuple[list[ClassTexts], list[str]]:
    """Classes from names, or lists of a name and its synonyms, and notes.

    Two classes of one name (in any case, with spaces or underscores) are merged: the first keeps its place, the
    synonyms are joined. A synonym that is another class's name, or that two classes share, is left out: it would speak
    for both.

    Args:
        names: the classes in order.
        places: where each stands, for messages.

    Raises:
        InputError: no class, or one without a name.
    """
    if isinstance(names, str):
        raise InputError(f"class names must be a list, not the text {shown(names)}")
    rows = [list(name) if isinstance(name, (list, tuple)) else [name] for name in names]
    if not rows:
        raise InputError("there are no classes: give at least one name")
    merged: dict[str, dict[str, str]] = {}
    notes = []
    for number, row in enumerate(rows):
        where = places[number] if places else f"class {number + 1}"
        tidy = [_named(name, where) for name in row if not (isinstance(name, str) and not name.strip())]
        if not tidy or not str(row[0]).strip():
            raise InputError(f"{where}: the class has no name")
        key = key_of(tidy[0])
        if key in merged:
            notes.append(f"{where}: {tidy[0]!r} stands there twice; merged with the first")
        merged.setdefault(key, {}).update({key_of(n): n for n in tidy if key_of(n) not in merged[key]})
    used = Counter(chain.from_iterable(own for own in merged.values()))
    classes = []
    for key, own in merged.items():
        shared = [n for k, n in own.items() if k != key and (k in merged or used[k] > 1)]
        notes += [f"{own[key]!r}: the synonym {n!r} is also said of another class; left out" for n in shared]
        kept = tuple(n for k, n in own.items() if k != key and n not in shared)
        classes.append(ClassTexts(own[key], kept))
    return classes, notes


def _named(name: object, where: str) -> str:
    problem = caption_problem(name)
    if problem is not None:
        raise InputError(f"{where}: a class name must be a text: {problem.replace('the caption', 'it')}")
    return tidy_class_name(str(name))


def check_classes(classes: Sequence[ClassTexts]) -> list[ClassTexts]:
    """See that classes that are taken as they are can be; raises InputError."""
    names = {own.name for own in classes}
    for number, own in enumerate(classes, 1):
        where = f"class {number}"
        _named(own.name, where)
        for kind in KINDS:
            _text_list(getattr(own, kind), f"{where}, {kind}")
        for other, texts in own.against.items():
            if other not in names or other == own.name:
                raise InputError(f"{where}, against: {other!r} is no other class")
            _text_list(texts, f"{where}, against {other!r}")
    return list(classes)


# ---------------------------------------------------------------- texts
def add_texts(
    classes: Sequence[ClassTexts], source: str | Path | Mapping[str, Any], notes: list[str] | None = None
) -> list[ClassTexts]:
    """The classes with more texts.

    A new synonym that is another class's name or synonym is left out: it would speak for both.

    Args:
        classes: the classes.
        source: a mapping from class name to texts; a ``.json`` file of one; or ``module:attribute``, a function from
            the list of class names to such a mapping. A class's texts are a list of whole sentences, or an object with
            any of ``synonyms``, ``attributes``, ``analogues``, ``sentences`` (lists of texts) and ``against`` (an
            object of another class's name to a list of texts). Classes that it does not name keep what they have.
        notes: what was left out is appended to it.

    Raises:
        InputError: no such file or function, a class that is not among the classes, or texts of another form.
    """
    given, where = _given_texts(source, [c.name for c in classes])
    place = {key_of(c.name): i for i, c in enumerate(classes)}
    found = list(classes)
    for name, texts in given.items():
        if key_of(str(name)) not in place:
            raise InputError(f"{where}: {name!r} is not among the {len(classes)} classes")
        at = place[key_of(str(name))]
        found[at] = _with_texts(found[at], texts, f"{where}, {name!r}", classes, place)
    return _apart(found, [] if notes is None else notes)


def _apart(classes: list[ClassTexts], notes: list[str]) -> list[ClassTexts]:
    """The classes without synonyms that are also said of another one."""
    of = [{key_of(name) for name in (own.name, *own.synonyms)} for own in classes]
    used = Counter(chain.from_iterable(of))
    found = []
    for own in classes:
        mine = key_of(own.name)
        shared = [s for s in own.synonyms if key_of(s) != mine and used[key_of(s)] > 1]
        notes += [f"{own.name!r}: the synonym {s!r} is also said of another class; left out" for s in shared]
        kept = tuple(s for s in own.synonyms if key_of(s) != mine and s not in shared)
        found.append(own if kept == own.synonyms else dataclasses.replace(own, synonyms=kept))
    return found


def _given_texts(source: str | Path | Mapping[str, Any], names: list[str]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, "texts"
    text = str(source)
    if not Path(text).exists() and is_own(text):
        function = resolve(text, "texts")
        if not callable(function):
            raise InputError(
                f"texts {text!r} is a {type(function).__name__}: a function of class names is needed"
            )
        try:
            content = function(names)
        except Exception as error:
            raise InputError(f"texts {text!r} failed: {type(error).__name__}: {error}") from error
    else:
        content = read_json(Path(text))
    if not isinstance(content, Mapping):
        raise InputError(f"{text}: expected an object of class name to texts, not {shown(content)}")
    return content, text


def _with_texts(
    own: ClassTexts, texts: Any, where: str, classes: Sequence[ClassTexts], place: Mapping[str, int]
) -> ClassTexts:
    if isinstance(texts, (list, tuple)):
        texts = {"sentences": texts}
    if not isinstance(texts, Mapping):
        raise InputError(f"{where}: expected a list of sentences, or an object of texts by kind")
    unknown = [kind for kind in texts if kind not in (*KINDS, "against")]
    if unknown:
        raise InputError(
            f"{where}: unknown kind {unknown[0]!r}; the kinds are {', '.join(KINDS)} and against"
        )
    changes: dict[str, Any] = {
        kind: _joined(getattr(own, kind), _text_list(texts[kind], f"{where}, {kind}"))
        for kind in KINDS
        if kind in texts
    }
    if "against" in texts:
        if not isinstance(texts["against"], Mapping):
            raise InputError(f"{where}, against: expected an object of class name to texts")
        against = dict(own.against)
        for name, rows in texts["against"].items():
            if key_of(str(name)) not in place or key_of(str(name)) == key_of(own.name):
                raise InputError(f"{where}, against: {name!r} is no other class")
            other = classes[place[key_of(str(name))]].name
            against[other] = _joined(against.get(other, ()), _text_list(rows, f"{where}, against {name!r}"))
        changes["against"] = against
    return dataclasses.replace(own, **changes)


def _joined(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*old, *new]))


def _text_list(texts: Any, where: str) -> list[str]:
    if not isinstance(texts, (list, tuple)):
        raise InputError(f"{where}: expected a list of texts, not {shown(texts)}")
    for text in texts:
        if (problem := caption_problem(text)) is not None:
            raise InputError(f"{where}: {problem.replace('the caption', 'a text')}")
    return [text.strip() for text in texts]
