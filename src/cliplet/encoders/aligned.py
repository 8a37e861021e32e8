"""An encoder with a fitted map behind each side, and :func:`align`, which fits it on photos and captions.

A map closes the gap between the photos and the texts of one CLIP-like encoder, or joins an image encoder and a sentence
encoder that never met. Nothing is trained: every method has a closed form.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.data.text import caption_problem
from cliplet.encoders.base import BaseEncoder, Embeddings, Encoder, adapt
from cliplet.encoders.card import AlignmentSpec, MatchSpec, ModelCard
from cliplet.encoders.fits import Fit, Pairs, check_method, fit_alignment, held_out, recall_at_1
from cliplet.encoders.registry import load
from cliplet.errors import InputError

Progress = Callable[[str, int, int], object]
BLOCK = 512
"""Photos, and texts times four, embedded between two calls of ``progress``."""


@dataclass(frozen=True)
class AlignmentReport:
    """What :func:`align` did, and whether it helps."""

    method: str
    """The method's name."""
    photos: int
    """Photos that the fit used."""
    captions: int
    """Their captions."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the method chose."""
    held_out: int = 0
    """Photos of the check: fitted on the others, measured on these."""
    before: float | None = None
    """Share of held-out captions whose photo is nearest, without a map; None for two encoders that never met."""
    after: float | None = None
    """The same with a map fitted on the other photos; None where too few photos were given to hold some out."""
    gap: tuple[float, float] | None = None
    """Distance of the mean photo and the mean caption before and after, on the held-out photos."""
    failures: dict[int, str] = field(default_factory=dict)
    """Pairs that were left out, by position, and why."""

    def lines(self) -> list[str]:
        """The report in words."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        found = [
            f"{self.method} on {self.photos:,} photos and {self.captions:,} captions{'; ' * bool(settings)}{settings}"
        ]
        if self.after is not None:
            before = "" if self.before is None else f"{100 * self.before:.1f} before, "
            found.append(
                f"text to image R@1 among {self.held_out:,} photos held out: {before}{100 * self.after:.1f} after"
            )
        if self.gap is not None:
            found.append(
                f"distance of mean photo and mean caption: {self.gap[0]:.2f} before, {self.gap[1]:.2f} after"
            )
        if self.before is not None and self.after is not None and self.after <= self.before:
            found.append("the map does not help this encoder: use it as it is, or fit on more pairs")
        return found


class AlignedEncoder(BaseEncoder):
    """Two encoders, or the two sides of one, with a map behind each: ``unit((embedding - mean) @ matrix)``.

    Args:
        images: embeds photos.
        texts: embeds texts; the same object for the two sides of one encoder.
        fit: the maps.
        card: what it says of itself; :func:`aligned_card` makes one.
    """

    library = "aligned"
    report: AlignmentReport | None = None
    """What :func:`align` measured; None for a map of your own."""

    def __init__(self, images: Encoder, texts: Encoder, fit: Fit, card: ModelCard) -> None:
        self.images = adapt(images)
        self.texts = self.images if texts is images else adapt(texts)
        self.fit = fit
        self.raw = self.images.raw and self.texts.raw
        self.tower_threads = min(self.images.tower_threads, self.texts.tower_threads)
        self.card = dataclasses.replace(card, fingerprint_of=self._fingerprint)

    @property
    def device(self) -> str:
        """Where the image side computes."""
        return self.images.device

    def to(self, device: str) -> None:
        """Move both sides; the maps stay on the CPU."""
        for side in {id(self.images): self.images, id(self.texts): self.texts}.values():
            side.to(device)

    def preload(self) -> None:
        """Begin to load both sides."""
        self.images.preload()
        self.texts.preload()

    def encode_images_safely(
        self, images: Sequence[ImageInput], normalise: bool = True
    ) -> tuple[Embeddings, dict[int, str]]:
        """``[n, k]`` after the map with NaN rows for bad images, and their reasons by position."""
        rows, reasons = self.images.encode_images_safely(images)
        mapped, wrong = self.checked(self.fit.image(rows), len(images), "image", normalise)
        return mapped, wrong | reasons

    def encode_texts_safely(
        self, texts: Sequence[str], normalise: bool = True
    ) -> tuple[Embeddings, NDArray[np.bool_], dict[int, str]]:
        """``[n, k]`` after the map, which texts were cut, and the reasons of those without an embedding."""
        rows, cut, reasons = self.texts.encode_texts_safely(texts)
        mapped, wrong = self.checked(self.fit.text(rows), len(texts), "text", normalise)
        return mapped, cut, wrong | reasons

    def encode_here(
        self, images: Sequence[ImageInput], texts: Sequence[str]
    ) -> tuple[Embeddings, dict[int, str], Embeddings, NDArray[np.bool_]]:
        """As the sides do it in the calling thread."""
        if self.images is self.texts:
            rows, reasons, words, cut = self.images.encode_here(images, texts)
        else:
            rows, reasons = self.images.encode_here(images, [])[:2] if images else (self.images.no_rows(), {})
            words, cut = (
                self.texts.encode_here([], texts)[2:] if texts else (self.texts.no_rows(), np.zeros(0, bool))
            )
        mapped, wrong = self.checked(self.fit.image(rows), len(images), "image", True)
        spoken, _ = self.checked(self.fit.text(words), len(texts), "text", True)
        return mapped, wrong | reasons, spoken, cut

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for side, fitted in ((self.images, self.fit.image), (self.texts, self.fit.text)):
            digest.update(side.card.fingerprint.encode())
            for values in (fitted.mean, fitted.matrix):
                digest.update(b"" if values is None else np.ascontiguousarray(values, np.float32).tobytes())
        return digest.hexdigest()


def align(
    encoder: Encoder | str | Path,
    photos: Sequence[ImageInput],
    captions: Sequence[str | Sequence[str]],
    method: str | None = None,
    *,
    text_encoder: Encoder | str | Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> AlignedEncoder:
    """Fit a map between photos and captions, without training; the result is an Encoder with its own card.

    Args:
        encoder: an Encoder or what :func:`cliplet.load` takes; with ``text_encoder`` it embeds the photos alone, and
            ``"timm:NAME+st:FOLDER"`` (or ``"lite0+minilm-l6"``) names both at once.
        photos: n photos.
        captions: one caption, or a list of them, for each photo. For ``normalise`` any number of texts.
        method: ``procrustes``, ``ridge``, ``robust``, ``normalise`` or ``cca`` (see :mod:`~cliplet.encoders.fits`);
            default ``procrustes`` for one encoder, ``cca`` for two.
        text_encoder: what embeds texts, where it is another encoder than the photos'.
        name: the new model's name.
        progress: called with what is embedded, how many are done, and of how many.

    Returns:
        The aligned encoder; its ``report`` says what was left out and whether the map helps photos held out.
        ``cliplet.export.export_aligned`` writes it as a model folder.

    Raises:
        InputError: no pairs, another number of captions than of photos, nothing that can be fitted.
        ModelError: a model cannot be loaded.

    Source: ReCap (arXiv 2307.05591) for Procrustes and ridge; distribution normalisation: arXiv 2302.11084, where the
    similarity is the product of the moved vectors; here they are brought to length 1 again.

    Example:
        >>> import cliplet
        >>> pair = cliplet.align("lite0+minilm-l6", photos, captions)  # doctest: +SKIP
    """
    images, texts = find_sides(encoder, text_encoder)
    chosen = method or ("procrustes" if images is texts else "cca")
    check_method(chosen, images is texts)
    groups = caption_groups(photos, captions, paired=chosen != "normalise")
    pairs, failures = embedded_pairs(images, texts, photos, groups, chosen != "normalise", progress)
    fit = fit_alignment(chosen, pairs, images is texts)
    report = measured_report(chosen, pairs, fit, images is texts, failures)
    aligned = AlignedEncoder(images, texts, fit, aligned_card(images, texts, fit, report, name))
    aligned.report = report
    return aligned


def aligned_card(
    images: BaseEncoder, texts: BaseEncoder, fit: Fit, report: AlignmentReport, name: str | None = None
) -> ModelCard:
    """The card of an aligned encoder: preprocessing of its sides, and how it was fitted."""
    one = images is texts
    own = name or f"{images.card.name if one else f'{images.card.name}+{texts.card.name}'}-{report.method}"
    facts = {
        "method": report.method,
        "photos": report.photos,
        "captions": report.captions,
        "settings": report.settings,
        "image_encoder": f"{images.card.name} ({images.card.fingerprint})",
        "text_encoder": f"{texts.card.name} ({texts.card.fingerprint})",
    }
    measured = {"held_out_photos": report.held_out, "before": report.before, "after": report.after}
    licenses = dict.fromkeys(filter(None, (images.card.license, texts.card.license)))
    return dataclasses.replace(
        images.card,
        name=own,
        embedding_dim=fit.image.width,
        text=texts.card.text,
        match=MatchSpec(),
        alignment=AlignmentSpec(report.method, report.photos, report.captions),
        license=" and ".join(licenses),
        description=f"{images.card.name}{'' if one else f' and {texts.card.name}'}, aligned by {report.method} on "
        f"{report.photos} photos.",
        training={**(images.card.training if one else {}), "alignment": facts},
        results={} if report.after is None else {"alignment_text_to_image_r1": measured},
        good_at=[],
        bad_at=[],
    )


def load_sides(name: str) -> tuple[BaseEncoder, BaseEncoder]:
    """The image and the text encoder of ``IMAGES+TEXTS``, such as ``timm:resnet18/FILE+st:FOLDER``.

    Either part may also be the bare name of weights that install with pip: ``lite0``, ``lite2``; ``minilm-l6``...

    Raises:
        ModelError: a part cannot be loaded.
        InputError: there are not two parts.
    """
    from cliplet.encoders import sentence, timm

    first, plus, second = name.partition("+")
    if not plus or not first or not second:
        raise InputError(
            f"{name!r} does not name two encoders: write IMAGES+TEXTS, such as timm:resnet18+st:FOLDER"
        )
    images = load(f"timm:{first}" if first in timm.PACKAGED else first)
    return images, load(f"st:{second}" if second in sentence.PACKAGED else second)


def find_sides(
    encoder: Encoder | str | Path, other: Encoder | str | Path | None = None
) -> tuple[BaseEncoder, BaseEncoder]:
    """What embeds photos and what embeds texts, as :func:`align` takes them; one object where it is one encoder."""
    named = isinstance(encoder, (str, Path))
    if other is None and named and "+" in str(encoder) and not Path(encoder).is_dir():  # type: ignore[arg-type]
        images, texts = load_sides(str(encoder))
    else:
        images = load(encoder) if isinstance(encoder, (str, Path)) else adapt(encoder)
        texts = images
        if other is not None:
            texts = load(other) if isinstance(other, (str, Path)) else adapt(other)
    if not images.sees:
        raise InputError(f"{images.card.name} embeds no photos: name an image encoder first")
    if not texts.reads:
        raise InputError(f"{texts.card.name} embeds no texts: give text_encoder, or name IMAGES+TEXTS")
    return images, texts


def caption_groups(
    photos: Sequence[ImageInput], captions: Sequence[str | Sequence[str]], paired: bool = True
) -> list[list[str]]:
    """The captions of each photo; InputError where there are no pairs, or not as many as photos."""
    if isinstance(captions, str):
        raise InputError(
            "captions is one text: give a list with a caption, or a list of captions, for each photo"
        )
    groups: list[list[str]] = [
        list(group) if isinstance(group, (list, tuple)) else [group]  # type: ignore[list-item]
        for group in captions
    ]
    if not len(photos) or not any(map(len, groups)):
        raise InputError("there are no pairs to fit on: give photos and their captions")
    if paired and len(groups) != len(photos):
        raise InputError(
            f"there are {len(photos)} photos and captions of {len(groups)}: give a caption, or a list of them, for "
            "each photo"
        )
    return groups


def embedded_pairs(
    images: BaseEncoder,
    texts: BaseEncoder,
    photos: Sequence[ImageInput],
    groups: list[list[str]],
    paired: bool = True,
    progress: Progress | None = None,
    kept: list[str] | None = None,
) -> tuple[Pairs, dict[int, str]]:
    """Embeddings, before a map, of what can be embedded, and why pairs were left out, by position.

    The captions of the pairs, in their order, are appended to ``kept``.
    """
    failures: dict[int, str] = {}
    prefix = texts.card.text.prompt_prefix
    spoken, owner = [], []
    for i, group in enumerate(groups):
        for caption in group:
            problem = caption_problem(caption)
            if problem is None:
                spoken.append(prefix + caption)
                owner.append(i)
            else:
                failures[i] = f"a caption was left out: {problem}"
        if not group:
            failures[i] = "it has no caption"
    rows = images.no_rows(len(photos))
    for start in range(0, len(photos), BLOCK):
        block = photos[start : start + BLOCK]
        rows[start : start + BLOCK], reasons = images.encode_images_safely(block)
        failures |= {start + i: reason for i, reason in reasons.items()}
        if progress is not None:
            progress("photos", start + len(block), len(photos))
    words = texts.no_rows(len(spoken))
    for start in range(0, len(spoken), 4 * BLOCK):
        part = spoken[start : start + 4 * BLOCK]
        words[start : start + len(part)] = texts.encode_texts_safely(part)[0]
        if progress is not None:
            progress("captions", start + len(part), len(spoken))
    pairs, places = _finite(rows, words, np.array(owner, dtype=np.int64), paired, failures)
    if kept is not None:
        kept += [spoken[i].removeprefix(prefix) for i in places]
    return pairs, failures


def _finite(
    rows: Embeddings, words: Embeddings, owner: NDArray[np.int64], paired: bool, failures: dict[int, str]
) -> tuple[Pairs, NDArray[np.int64]]:
    """Photos and captions that have embeddings (where they are pairs, those that have both), and which captions."""
    seen, read = np.isfinite(rows).all(axis=1), np.isfinite(words).all(axis=1)
    for i in owner[~read]:
        failures.setdefault(int(i), "the model gave NaN for a caption")
    places = np.flatnonzero(read)
    words, owner = words[read], owner[read]
    if not paired:
        return Pairs(rows[seen], words, owner), places
    keep = np.flatnonzero(seen & (np.bincount(owner, minlength=len(rows)) > 0))
    if not len(keep):
        why = f"; the first reason: {failures[min(failures)]}" if failures else ""
        raise InputError(f"none of the {len(rows)} pairs can be used{why}")
    return Pairs(rows, words, owner).of(keep), places[np.isin(owner, keep)]


def measured_report(
    method: str, pairs: Pairs, fit: Fit, same: bool, failures: dict[int, str]
) -> AlignmentReport:
    """What a fit did, and what one on some of the pairs does for the others."""
    facts: dict[str, Any] = {"settings": fit.settings, "failures": failures}
    counts = (method, len(pairs.images), len(pairs.texts))
    if method == "normalise" and len(pairs.images) and len(pairs.texts):
        gap = _gap(pairs.images, pairs.texts), _gap(*fit.embed(pairs.images, pairs.texts))
        return AlignmentReport(*counts, gap=gap, **facts)
    inner, outer = held_out(len(pairs.images), seed=1)
    if len(inner) < 10:
        return AlignmentReport(*counts, **facts)
    rest = pairs.of(outer)
    try:
        trial = fit_alignment(method, pairs.of(inner), same)
    except InputError:  # the photos that are left are all the same
        return AlignmentReport(*counts, **facts)
    moved = trial.embed(rest.images, rest.texts)
    return AlignmentReport(
        *counts,
        held_out=len(outer),
        before=recall_at_1(rest.images, rest.texts, rest.owner) if same else None,
        after=recall_at_1(*moved, rest.owner),
        gap=(_gap(rest.images, rest.texts), _gap(*moved)) if same else None,
        **facts,
    )


def _gap(images: Embeddings, texts: Embeddings) -> float:
    return float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))
