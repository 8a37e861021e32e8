"""A classifier as a folder: ``classifier.json`` (card, texts, settings) and ``vectors.npz`` (arrays); no pickles."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.bank import TextBank
from cliplet.classification.coder import Rule, TextHead
from cliplet.classification.fewshot import ShotHead
from cliplet.classification.texts import KINDS, ClassTexts
from cliplet.encoders.base import Embeddings
from cliplet.encoders.card import ModelCard
from cliplet.errors import InputError, ModelError
from cliplet.files import whole
from cliplet.versions import versions

FORMAT = 1
BANK = ("names", "name_class", "texts", "text_class", "text_kind", "pairs", "pair_classes")


@dataclass(frozen=True)
class State:
    """All that a classifier is, without its model."""

    model: str
    """The model's name."""
    fingerprint: str
    """The model's fingerprint."""
    model_source: str | None
    """By what name the model can be loaded; None: it was given as an object."""
    classes: list[ClassTexts]
    """The classes."""
    templates: tuple[str, ...]
    """Prompts of their names."""
    rule: Rule
    """How their texts count."""
    temperature: float
    """Of the confidence."""
    calibrated: bool
    """Whether it was fitted to labelled photos."""
    none_cut: float | None
    """Evidence below which a photo shows none of them."""
    several_cut: float | None
    """Evidence from which on a photo shows a class."""
    about: dict[str, Any]
    """How it was made."""
    notes: list[str]
    """What was merged or left out."""
    head: TextHead | ShotHead
    """What scores photos."""
    bank: TextBank
    """Vectors of the texts."""
    background: Embeddings
    """Vectors of the everyday sentences."""


PLAIN = (
    "model", "fingerprint", "model_source", "temperature", "calibrated", "none_cut", "several_cut", "about", "notes",
)  # fmt: skip


def save(state: State, folder: str | Path) -> None:
    """Write a classifier; what was there before is replaced, but no folder that holds something else.

    Raises:
        InputError: the folder cannot be written, or holds no classifier.
    """
    folder = Path(folder)
    check_place(folder)
    head = state.head
    text = head if isinstance(head, TextHead) else head.text
    content: dict[str, Any] = {
        "format": FORMAT,
        **{name: getattr(state, name) for name in PLAIN},
        "classes": [{"name": own.name, **own.as_json()} for own in state.classes],
        "templates": list(state.templates),
        "rule": vars(state.rule),
        "text": None if text is None else {"gate": text.gate, "temperature": text.temperature},
        "shots": None,
        "made_by": versions(),
    }
    if isinstance(head, ShotHead):
        content["shots"] = {n: getattr(head, n) for n in ("adapter", "settings", "text_scale", "temperature")}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(folder) as part:
            part.mkdir()
            np.savez(part / "vectors.npz", **_arrays(state, text))  # type: ignore[arg-type]
            lines = json.dumps(content, indent=2, ensure_ascii=False)
            (part / "classifier.json").write_text(lines + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error


def _arrays(state: State, text: TextHead | None) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {f"bank.{name}": getattr(state.bank, name) for name in BANK}
    arrays["background"] = state.background
    if text is not None:
        arrays |= {f"text.{name}": value for name, value in text.arrays().items()}
    if isinstance(state.head, ShotHead):
        arrays |= {f"shots.{name}": value for name, value in state.head.arrays().items()}
    return arrays


def check_place(folder: str | Path) -> None:
    """See that a classifier can be saved there, before long work; raises InputError."""
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file: name a folder for the classifier")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "classifier.json").is_file():
        raise InputError(f"{folder} holds something else than a classifier: name a new folder")


def read(folder: str | Path) -> State:
    """What :func:`save` has written.

    Raises:
        ModelError: no such folder, a damaged one, or one of another version.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise ModelError(
                f"{folder} has format {card['format']!r}; this version reads {FORMAT}: save it again"
            )
        with np.load(folder / "vectors.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return State(
            **{name: card[name] for name in PLAIN},
            classes=[_class_of(row) for row in card["classes"]],
            templates=tuple(card["templates"]),
            rule=Rule(**card["rule"]),
            head=_head(card, arrays),
            bank=TextBank(len(card["classes"]), **{name: arrays[f"bank.{name}"] for name in BANK}),
            background=arrays["background"],
        )
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no classifier's folder: {error.filename} is missing") from None
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise ModelError(f"{folder} cannot be read as a classifier: {error!r}; save it again") from error


def check_model(state: State, card: ModelCard, folder: str | Path) -> None:
    """See that a model is the one that the classifier was made with; raises ModelError."""
    if card.fingerprint != state.fingerprint or (card.fingerprint == "unknown" and card.name != state.model):
        raise ModelError(
            f"{folder} was made with the model {state.model} ({state.fingerprint}), not with {card.name} "
            f"({card.fingerprint}): its vectors mean nothing to another model. Name that model with --model, or make "
            "the classifier anew"
        )


def _class_of(row: dict[str, Any]) -> ClassTexts:
    kinds = {kind: tuple(row.get(kind, ())) for kind in KINDS}
    return ClassTexts(
        row["name"], **kinds, against={name: tuple(texts) for name, texts in row.get("against", {}).items()}
    )


def _head(card: dict[str, Any], arrays: dict[str, Any]) -> TextHead | ShotHead:
    def named(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    text = None if card["text"] is None else TextHead(**named("text."), **card["text"])
    if card["shots"] is None:
        if text is None:
            raise ValueError("it has neither texts nor labelled photos")
        return text
    settings = {**card["shots"], "text_scale": tuple(card["shots"]["text_scale"])}
    return ShotHead(**named("shots."), **settings, text=text)
