"""Class names in prompts: one vector a class, the mean of its prompts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cliplet.data.text import read_names, shown
from cliplet.encoders.base import Embeddings, Encoder
from cliplet.encoders.embed import Progress, embed_texts
from cliplet.errors import InputError

DEFAULT_TEMPLATES = ("a photo of a {}.",)
SEVEN_TEMPLATES = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""The seven prompts of OpenAI's CLIP notebook for ImageNet."""


def read_templates(path: Path) -> tuple[str, ...]:
    """Prompt templates, one a line, with ``{}`` (or ``{c}``) where the class name goes."""
    lines = [line.replace("{c}", "{}") for line in read_names(path, "templates")]
    lines = [line for line in lines if not line.startswith("#")]
    for line in lines:
        if line.count("{}") != 1:
            raise InputError(f"{path}: template {line!r} must hold one {{}} for the class name")
    if not lines:
        raise InputError(f"{path}: holds no templates")
    return tuple(lines)


def check_templates(templates: object) -> tuple[str, ...]:
    """Templates as a tuple; InputError where there are none, or one has no place for the name."""
    if isinstance(templates, str) or not isinstance(templates, Sequence) or not templates:
        raise InputError(
            f"templates must be a list of prompts with {{}} for the name, not {shown(templates)}"
        )
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise InputError(f"template {shown(template)} must hold {{}} for the class name")
    return tuple(templates)


def class_embeddings(
    encoder: Encoder, classes: Sequence[str], templates: Sequence[str], progress: Progress | None = None
) -> Embeddings:
    """[classes, d]: for each class the mean of its prompts' unit vectors, scaled to length 1 (Radford et al. 2021)."""
    prompts = filled(classes, templates)
    return ensembles(embed_texts(encoder, prompts, progress=progress), len(templates))


def filled(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with each name, the templates of one name together."""
    return [template.replace("{}", name) for name in names for template in templates]


def ensembles(vectors: Embeddings, templates: int) -> Embeddings:
    """[names * templates, d] to [names, d]: means of the unit vectors of each name's prompts, scaled to length 1."""
    means = vectors.reshape(len(vectors) // templates, templates, -1).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
