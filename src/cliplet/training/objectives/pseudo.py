"""Text embeddings made for photos without captions, from the captioned photos."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cliplet.data.images import load_rgb
from cliplet.encoders.base import BaseEncoder, unit_norm
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.training.checkpoint import read_weights
from cliplet.training.computed import computed
from cliplet.training.dclip.inputs import Photos
from cliplet.training.fit import BEST
from cliplet.training.objectives.base import Setup
from cliplet.training.pairs import fingerprint
from cliplet.training.teacher_space import ridge, standardise, unseen_predictions

Floats = NDArray[np.float32]
PENALTIES = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
"""Of the ridge, the one chosen that predicts held back photos best."""


@dataclass(frozen=True)
class SoftCaptions:
    """How a photo without captions gets a text embedding."""

    sources: tuple[Literal["ridge", "neighbours", "students"], ...] = ("ridge", "neighbours")
    """Whose embeddings are averaged. ``ridge``: a linear map from the base model's photo features to the captions'
    embeddings, fitted on the captioned photos. ``neighbours``: the captions of the photos that look most like it.
    ``students``: the captions that earlier students of the same base model find for it."""
    students: tuple[str, ...] = ()
    """Folders of earlier students, such as ``runs/few/infonce-seed0``; the cosines of several are averaged."""
    nearest: int = 32
    """Photos (``neighbours``) or captions (``students``) whose embeddings are averaged."""
    temperature: float = 0.1
    """Of the softmax of the cosines that weighs them."""
    features: tuple[str, ...] = ()
    """Further image encoders, by the names that ``cliplet.load`` takes (``timm:lite2``, ``open_clip:...``, a model
    folder): what they see joins the base model's features for ``ridge`` and ``neighbours``. They stay frozen, and the
    tuned model does not need them."""

    def __post_init__(self) -> None:
        if self.nearest < 1 or not self.temperature > 0:
            raise InputError(
                f"nearest={self.nearest} and temperature={self.temperature} of pseudo must be above 0"
            )
        if not self.sources:
            raise InputError("sources of pseudo is empty; give some of ridge, neighbours, students")
        if ("students" in self.sources) != bool(self.students):
            raise InputError(
                "pseudo takes sources=['students'] together with students=[...], the folders of students that are "
                "trained already, such as runs/few/infonce-seed0"
            )


def soft_captions(setup: Setup, bare: Photos, settings: SoftCaptions) -> Floats:
    """A text embedding of the base model for each photo without captions ``[bare, d]``, unit norm.

    Args:
        setup: of the objective; the model has the base model's weights.
        bare: the photos.
        settings: how.

    Raises:
        InputError: a student is not there, or is of another model.
    """
    found: list[Floats] = []
    if set(settings.sources) - {"students"}:
        known, text, unknown = _captioned(setup, bare, settings)
        if "ridge" in settings.sources:
            found.append(_from_ridge(known, text, unknown))
        if "neighbours" in settings.sources:
            found.append(_mixed(unit_norm(unknown) @ unit_norm(known).T, text, settings))
    if "students" in settings.sources:
        found.append(_from_students(setup, bare, settings))
    return unit_norm(np.mean(found, axis=0))


def _captioned(setup: Setup, bare: Photos, settings: SoftCaptions) -> tuple[Floats, Floats, Floats]:
    """Features and mean caption embedding of the captioned photos, and features of the bare ones, standardised."""
    own = setup.train.captions_of()
    rows = [i for i, captions in enumerate(own) if len(captions)]
    text = unit_norm(np.stack([setup.captions.base[own[i]].mean(axis=0) for i in rows]))
    encoders = [load(name) for name in settings.features]
    for encoder, name in zip(encoders, settings.features, strict=True):
        if not encoder.sees:
            raise InputError(f"features of pseudo: {name} embeds no photos")
    known, mean, deviation = standardise(_features(setup, setup.photos, encoders)[rows])
    return known, text, (_features(setup, bare, encoders) - mean) / deviation


def _features(setup: Setup, photos: Photos, encoders: Sequence[BaseEncoder]) -> Floats:
    """What the base model and the further encoders see on photos ``[photos, D]``, unit norm, equal parts of each."""
    found = [base_features(setup, photos)]
    found += [_further_features(setup, photos, encoder) for encoder in encoders]
    return unit_norm(np.concatenate(found, axis=1))


def _further_features(setup: Setup, photos: Photos, encoder: BaseEncoder) -> Floats:
    """Embeddings of photos as they are by another encoder ``[photos, D]``, unit norm, kept on disk."""

    def features(start: int, stop: int) -> Floats:
        return encoder.encode_images([load_rgb(photo) for photo in photos.photos[start:stop]])

    file = setup.folder / f"features-{fingerprint([encoder.card.fingerprint])}-{photos.key}.npy"
    return np.asarray(
        computed(file, len(photos.photos), features, 64, np.float16, encoder.card.name), dtype=np.float32
    )


def _from_ridge(known: Floats, text: Floats, unknown: Floats) -> Floats:
    """With the penalty that predicts held back photos best, of five parts."""
    middle = text.mean(axis=0)
    wanted = text - middle
    fit = {p: float((unseen_predictions(known, wanted, p) * unit_norm(wanted)).sum()) for p in PENALTIES}
    best = max(PENALTIES, key=lambda p: fit[p])
    return unit_norm(unknown @ ridge(known, wanted, best) + middle)


def _mixed(cosine: Floats, text: Floats, settings: SoftCaptions) -> Floats:
    """The embeddings ``[n, d]`` of the nearest rows of ``text``, weighed: cosines ``[m, n]`` -> ``[m, d]``."""
    count = min(settings.nearest, cosine.shape[1])
    rows = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
    near = np.take_along_axis(cosine, rows, axis=1) / settings.temperature
    weights = np.exp(near - near.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return unit_norm(np.einsum("mk,mkd->md", weights, text[rows]).astype(np.float32))


def _from_students(setup: Setup, bare: Photos, settings: SoftCaptions) -> Floats:
    """By the captions whose embeddings the students find nearest."""
    model = setup.learner.clip.model
    base = {k: v.detach().clone() for k, v in model.state_dict().items()}
    text, found = setup.captions.base, []
    try:
        for folder in settings.students:
            model.load_state_dict(_tuned(setup, Path(folder)), strict=False)
            found.append(_all(bare) @ setup.captions.embeddings().T)
            model.load_state_dict(base)
    finally:
        model.load_state_dict(base)
    return _mixed(np.mean(found, axis=0), text, settings)


def _tuned(setup: Setup, folder: Path) -> dict[str, Any]:
    """The weights that a student has learnt."""
    if not (folder / BEST).is_file():
        raise InputError(
            f"students: {folder} holds no {BEST}; train that variant first (only=[...]), and name its folder, such as "
            f"runs/few/infonce-seed0"
        )
    weights = read_weights(folder / BEST)
    other = set(weights) - set(setup.learner.names)
    if other:
        raise InputError(
            f"students: {folder} has learnt {sorted(other)[0]}, which this recipe does not: student.train must name "
            f"what earlier students have learnt"
        )
    return weights


def _all(photos: Photos) -> Floats:
    """Embeddings by the present weights, of the photos as they are."""
    return photos.embed(0, len(photos.photos), quick=True)


def base_features(setup: Setup, photos: Photos) -> Floats:
    """The base model's features of photos as they are ``[photos, D]``, unit norm, kept on disk.

    Those before its projection where it has an image tower of ours, else its embeddings.
    """
    learner = setup.learner

    @torch.inference_mode()
    def features(start: int, stop: int) -> Floats:
        rows = np.arange(start, stop)
        batch = {k: v.to(learner.clip.device) for k, v in photos.batch(rows, np.zeros_like(rows)).items()}
        return unit_norm(learner.encode_images(batch, quick=True).cpu().numpy())

    key = fingerprint([learner.clip.encoder.card.fingerprint, learner.first, photos.kept is None])
    file, count = setup.folder / f"features-{key}-{photos.key}.npy", len(photos.photos)
    with _without_head(learner.clip.model):
        found = computed(file, count, features, 64, np.float16, "photo features")
    return np.asarray(found, dtype=np.float32)


@contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """An image tower of ours gives its pooled features inside the block."""
    tower = getattr(model, "image", None)
    head = getattr(tower, "head", None)
    if not isinstance(tower, nn.Module) or not isinstance(head, nn.Module):
        yield
        return
    tower.head = nn.Identity()
    try:
        yield
    finally:
        tower.head = head
