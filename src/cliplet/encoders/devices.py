"""What ``--device`` and ``--precision`` may say; whether this machine has it is asked by the library that computes."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from cliplet.errors import InputError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

KINDS = {
    "auto": "the best that is there",
    "cpu": "the processor",
    "cuda": "a GPU of NVIDIA",
    "mps": "a GPU of Apple",
    "coreml": "Core ML, model folders only",
    "directml": "DirectML on Windows, model folders only",
    "openvino": "OpenVINO, model folders only",
}
"""Kinds of device and what each is; ``cuda`` and ``directml`` may be followed by a number."""
NUMBERED = ("cuda", "directml")


@dataclass(frozen=True)
class Device:
    """A device as it was asked for."""

    kind: str
    """One of :data:`KINDS`."""
    index: int | None = None
    """Its number, counted from 0; None where none was given."""

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


def read_device(text: str) -> Device:
    """A device from its name, such as ``auto``, ``cpu`` or ``cuda:1``.

    Raises:
        InputError: there is no such name.
    """
    kind, colon, number = str(text).strip().lower().partition(":")
    if kind not in KINDS or (colon and (kind not in NUMBERED or not re.fullmatch(r"\d{1,3}", number))):
        raise InputError(
            f"device {str(text)!r}: give auto, cpu, cuda, cuda:0 (or another number) or mps; "
            "for a model folder also coreml, directml or openvino"
        )
    return Device(kind, int(number) if colon else None)


def read_precision(text: str) -> str:
    """A precision by its name; raises InputError for another."""
    if text not in PRECISIONS:
        raise InputError(f"precision {text!r}: give one of {', '.join(PRECISIONS)}")
    return text


def stored_precision(spoken: str) -> set[str]:
    """The precisions of the weights that a card's ``precision`` names: ``int8 weights, fp32 compute`` -> int8."""
    return set(re.findall(r"(\w+) weights", spoken)) or {spoken}
