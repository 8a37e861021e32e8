"""Whole evaluations of models, from files to named numbers: retrieval, zero-shot classes, hard negatives."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.classifier import Classifier
from cliplet.classification.ensemble import DEFAULT_TEMPLATES
from cliplet.classification.labelled import LabelledPhotos
from cliplet.classification.texts import ClassTexts
from cliplet.data.book import CaptionBook, read_book
from cliplet.data.photos import PhotoStore
from cliplet.data.tables import leave_out
from cliplet.data.text import read_names
from cliplet.encoders.base import Embeddings, Encoder, adapt
from cliplet.encoders.embed import Progress, embed_photos, embed_texts
from cliplet.errors import InputError
from cliplet.evaluation.calibration import Mix, mix_captions
from cliplet.evaluation.fewshot import BASELINE, FewShotData, evaluate_fewshot
from cliplet.evaluation.hard_negatives import Swaps
from cliplet.evaluation.near_nouns import (
    NounLabels,
    NounPhoto,
    evaluate_near_nouns,
    from_captions,
    from_detector,
    from_names,
)
from cliplet.evaluation.pairs import PairSet, PairsResult, evaluate_pairs, read_pair_files
from cliplet.evaluation.results import Evaluation, entry, plain_entry
from cliplet.evaluation.retrieval import Direction, RetrievalProtocol, evaluate_retrieval
from cliplet.evaluation.zeroshot import ZeroShotResult, evaluate_zeroshot, share_kept
from cliplet.regions.registry import make_proposer
from cliplet.statistics.resampling import TieRule, holm, paired_mean_test
from cliplet.versions import versions


def model_facts(encoder: Encoder, prefix: str = "") -> dict[str, Any]:
    """What identifies a model and how it saw its inputs."""
    card, able = encoder.card, adapt(encoder)
    return {
        "model": card.name,
        "fingerprint": card.fingerprint,
        "prompt_prefix": prefix,
        "preprocessing": {
            "image": dataclasses.asdict(card.image),
            "context_length": card.text.context_length,
        },
        "precision": card.precision,
        "device": able.device,
        "provider": able.provider,
    }


# ---------------------------------------------------------------- retrieval
@dataclass(frozen=True)
class RetrievalSet:
    """Embedded photos and captions, and which belong together."""

    images: NDArray
    """[images, d]."""
    texts: NDArray
    """[captions, d]."""
    caption_image: NDArray
    """[captions] image numbers, or [pairs, 2] (image, caption)."""
    image_names: list[str]
    """Names of the images; empty for saved embeddings."""
    captions: list[str]
    """The captions; empty for saved embeddings."""
    photos: PhotoStore | None
    """Where the photos are."""
    notes: list[str]
    """What was left out."""
    failures: list[str] = field(default_factory=list)
    """Photos that could not be used, with reasons."""


def chosen_captions(captions: Sequence[Path], split: str | None) -> CaptionBook:
    """Captions of a split: a file of image names (one a line), or the name of a Karpathy split."""
    if split is not None and Path(split).is_file():
        names = read_names(split, "image names")
        book = read_book(captions).only(names)
        if not book.images:
            raise InputError(f"{split}: none of its {len(names)} images has a caption")
        return book
    return read_book(captions, split)


def embed_captioned_photos(
    encoder: Encoder,
    captions: Sequence[Path],
    images: Sequence[str | Path],
    split: str | None = None,
    prefix: str = "",
    progress: Progress | None = None,
) -> RetrievalSet:
    """Embed the photos that are there and their captions; photos in ``captions`` alone are left out and counted."""
    book = chosen_captions(captions, split)
    store = PhotoStore(images, book.photos, captions[0].parent)
    found, missing = store.photos(list(book.images))
    photos = {name: photo for name, photo in zip(book.images, found, strict=True) if photo is not None}
    if not photos:
        first = next(iter(missing.values()))
        raise InputError(f"none of the {len(missing)} photos was found: {first}; name their folder or tar")
    failures = [*book.failures, *(f"{name}: {why}" for name, why in missing.items())]
    notes = []
    if book.failures:
        notes.append(f"{len(book.failures)} captions left out: {book.failures[0]} ...")
    if missing:
        first = next(iter(missing.values()))
        notes.append(f"{len(missing)} of {len(book.images)} captioned images left out: {first} ...")
    names = list(photos)
    embedded = embed_photos(encoder, list(photos.values()), names, progress)
    if embedded.failures:
        notes.append(
            f"{len(embedded.failures)} photos left out: {next(iter(embedded.failures.values()))} ..."
        )
        failures += embedded.failures.values()
    names = [names[i] for i in embedded.kept]
    texts = [text for name in names for text in book.images[name]]
    owner = np.repeat(np.arange(len(names)), [len(book.images[n]) for n in names])
    vectors = embed_texts(encoder, texts, prefix, progress)
    return RetrievalSet(embedded.embeddings, vectors, owner, names, texts, store, notes, failures)


def mixed_captions(
    encoder: Encoder,
    captions: Path,
    images: Sequence[str | Path],
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Mix, list[str]]:
    """Right and wrong captions of a collection with their cosines (for :func:`calibrate`), and what was left out."""
    prefix = encoder.card.text.prompt_prefix
    data = embed_captioned_photos(encoder, [captions], images, None, prefix, progress)
    mix = mix_captions(
        captions.stem, encoder, data.images, data.texts, data.captions, data.caption_image, prefix, seed
    )
    return mix, data.notes


@dataclass(frozen=True)
class RetrievalDetail:
    """What the report draws of a retrieval run."""

    directions: tuple[Direction, Direction]
    """Image-to-text and text-to-image."""
    data: RetrievalSet
    """What was retrieved."""


def run_retrieval(
    name: str,
    data: RetrievalSet,
    protocol: RetrievalProtocol,
    facts: dict[str, Any],
    right: NDArray | None = None,
) -> Evaluation:
    """Both directions of retrieval as named numbers.

    Args:
        name: the set's.
        data: what is retrieved.
        protocol: how.
        facts: for the provenance.
        right: (image, caption) of all that is right ``[pairs, 2]``; the captions' own images when left out.
    """
    right = data.caption_image if right is None else right
    directions = evaluate_retrieval(data.images, data.texts, right, protocol)
    out = Evaluation("Image-text retrieval", [], {"versions": versions(), **facts})
    for d in directions:
        for statistic, interval in d.values.items():
            out.entries.append(
                entry(name, d.name, statistic, interval, 1.0 if "rank" in statistic else 100.0)
            )
    out.notes += data.notes
    out.failed = len(data.failures)
    out.provenance |= {
        "protocol": dataclasses.asdict(protocol),
        "images": len(data.images),
        "captions": len(data.texts),
        "failures": data.failures,
    }
    out.details.append(RetrievalDetail(directions, data))
    return out


# ---------------------------------------------------------------- zero-shot
@dataclass(frozen=True)
class ZeroShotDetail:
    """What the report draws of a zero-shot run."""

    result: ZeroShotResult
    """The numbers."""
    data: LabelledPhotos
    """The photos and classes."""


def run_zeroshot(
    name: str,
    encoder: Encoder,
    data: LabelledPhotos,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    against: Encoder | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    texts: str | None = None,
    unlabelled: str | None = None,
) -> Evaluation:
    """Zero-shot accuracy as named numbers; with ``against`` also that model's, and the share kept of it.

    ``texts`` and ``unlabelled``: as :class:`~cliplet.classification.classifier.Classifier` takes them.
    """
    out = Evaluation("Zero-shot classification", [], {"versions": versions(), **model_facts(encoder)})
    results = []
    for model in (encoder, against):
        if model is None:
            continue
        named = [ClassTexts(class_name) for class_name in data.classes]
        classifier = Classifier(
            named, model, texts=texts, templates=templates, unlabelled=unlabelled, cache=False
        )
        out.notes += [note for note in classifier.notes if note not in out.notes]
        result = evaluate_zeroshot(model, data, templates, resamples, seed, progress, classifier)
        results.append(result)
        for statistic, value in (
            ("top-1", result.top1),
            ("top-5", result.top5),
            ("mean per class", result.mean_per_class),
        ):
            out.entries.append(entry(name, model.card.name, statistic, value))
    out.provenance |= {
        "classes": len(data.classes),
        "photos": len(data.names),
        "failures": list(results[0].failures.values()),
        "templates": list(templates),
        **({} if texts is None else {"texts": texts}),
        **({} if unlabelled is None else {"unlabelled": unlabelled}),
        "resamples": resamples,
        "seed": seed,
    }
    if results[0].failures:
        out.notes.append(
            f"{len(results[0].failures)} photos left out: {next(iter(results[0].failures.values()))} ..."
        )
    out.failed = len(results[0].failures) + data.notes.total()
    out.notes += [f"{n} {what}" for what, n in data.notes.items()]
    if against is not None:
        out.provenance["against"] = model_facts(against)
        test = paired_mean_test(results[0].ranks == 1, results[1].ranks == 1, resamples=resamples, seed=seed)
        for statistic, share in share_kept(*results).items():
            kept = f"{statistic}, share kept"
            out.entries.append(plain_entry(name, encoder.card.name, kept, share, len(results[0].ranks)))
        out.comparisons.append(
            {
                "benchmark": name,
                "metric": encoder.card.name,
                "against": against.card.name,
                "statistic": "top-1",
                "difference": 100 * test.difference,
                "low": 100 * test.low,
                "high": 100 * test.high,
                "p_value": test.p_value,
                "p_holm": test.p_value,
            }
        )
    out.details.append(ZeroShotDetail(results[0], data))
    return out


# ---------------------------------------------------------------- few shots
def run_fewshot(
    name: str,
    encoder: Encoder,
    sets: Sequence[LabelledPhotos],
    shots: Sequence[int],
    draws: int,
    adapters: Sequence[str] | None = None,
    texts: str | None = None,
    unlabelled: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Few-shot accuracies as named numbers, each adapter's difference to the linear probe beside it.

    Args:
        name: the set's.
        encoder: the model.
        sets: train and test photos; of one set every second photo of a class tests.
        shots: labelled photos a class.
        draws: of each number.
        adapters: their names; default: all.
        texts: as :class:`~cliplet.classification.classifier.Classifier` takes them; None: labelled photos alone.
        unlabelled: whether adapters may use all train photos without their labels.
        resamples: of intervals and tests.
        seed: of all draws.
        progress: called with (done, total).

    Raises:
        InputError: a class that the train photos have not, too few photos, or an unknown adapter.
    """
    data, failures = _fewshot_data(encoder, sets, progress)
    classifier = None
    if texts is not None or unlabelled:
        named = [ClassTexts(class_name) for class_name in data.classes]
        photos = data.train if unlabelled else None
        classifier = Classifier(named, encoder, texts=texts, unlabelled=photos, cache=False)
    results = evaluate_fewshot(data, shots, draws, adapters, classifier, resamples, seed, progress)
    out = Evaluation("Few-shot classification", [], {"versions": versions(), **model_facts(encoder)})
    for r in results:
        statistic = f"top-1, {r.shots} shots"
        out.entries.append(entry(name, r.adapter, statistic, r.accuracy))
        if r.difference is not None:
            low, high = 100 * r.difference.low, 100 * r.difference.high
            out.comparisons.append(
                {
                    "benchmark": name,
                    "metric": r.adapter,
                    "against": BASELINE,
                    "statistic": statistic,
                    "difference": 100 * r.difference.value,
                    "low": low,
                    "high": high,
                    "p_value": r.p_value,
                }
            )
    for comparison, p in zip(out.comparisons, holm([c["p_value"] for c in out.comparisons]), strict=True):
        comparison["p_holm"] = float(p)
    out.failed = len(failures)
    out.notes += [] if classifier is None else classifier.notes
    out.notes += [f"{len(failures)} photos left out: {failures[0]} ..."] if failures else []
    out.notes += [f"{n} {what}" for one in sets for what, n in one.notes.items()]
    out.provenance |= {
        "classes": len(data.classes),
        "train_photos": len(data.train),
        "test_photos": len(data.test),
        "draws": draws,
        "by_draw": {f"{r.adapter}, {r.shots}": r.by_draw.tolist() for r in results},
        "settings": {f"{r.adapter}, {r.shots}": r.settings for r in results},
        "texts": texts,
        "unlabelled": unlabelled,
        "failures": failures,
        "resamples": resamples,
        "seed": seed,
    }
    return out


def _fewshot_data(
    encoder: Encoder, sets: Sequence[LabelledPhotos], progress: Progress | None
) -> tuple[FewShotData, list[str]]:
    classes = sets[0].classes
    parts = []
    failures: list[str] = []
    for one in sets:
        unknown = [c for c in one.classes if c not in classes]
        if unknown:
            raise InputError(
                f"the test photos have the class {unknown[0]!r}, which the train photos have not"
            )
        photos = embed_photos(encoder, one.photos, one.names, progress, one.missing)
        numbers = np.array([classes.index(c) for c in one.classes], dtype=np.int64)
        parts.append((photos.embeddings, numbers[one.labels[photos.kept]]))
        failures += photos.failures.values()
    (train, labels), (test, truth) = parts[0], parts[-1]
    if len(parts) == 1:
        second = np.zeros(len(labels), dtype=bool)
        for c in range(len(classes)):
            second[np.flatnonzero(labels == c)[1::2]] = True
        train, labels, test, truth = train[~second], labels[~second], test[second], truth[second]
    return FewShotData(train, labels, test, truth, classes), failures


# ---------------------------------------------------------------- hard negatives
@dataclass(frozen=True)
class PairsDetail:
    """What the report draws of a hard-negative run."""

    name: str
    """The set's name."""
    result: PairsResult
    """The numbers."""
    photos: PhotoStore
    """Where the photos are."""


def made_pairs(
    captions: Sequence[Path],
    split: str | None,
    seed: int,
    images: PhotoStore | None = None,
    swaps: Swaps = Swaps(),  # noqa: B008 (frozen)
) -> PairSet:
    """False captions made from true ones (see :mod:`cliplet.evaluation.hard_negatives`); photos must be there."""
    book = chosen_captions(captions, split)
    names = list(book.images)
    if images is not None:
        images.extra |= book.photos
        found, _ = images.photos(names)
        names = [name for name, photo in zip(names, found, strict=True) if photo is not None]
    out = PairSet(swaps.make({name: book.images[name] for name in names}, seed))
    if len(names) < len(book.images):
        out.notes["captioned images left out: their photos are not there"] += len(book.images) - len(names)
    leave_out(out.notes, book.failures)
    return out


def run_pairs(
    name: str,
    encoder: Encoder,
    files: Sequence[Path],
    images: Sequence[str | Path],
    from_captions: bool = False,
    split: str | None = None,
    ties: TieRule = "loss",
    prefix: str = "",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    swaps: Swaps = Swaps(),  # noqa: B008 (frozen)
) -> Evaluation:
    """Hard negatives as named numbers: the model, and beside it what blind models get."""
    store = PhotoStore(images, beside=files[0].parent)
    data = made_pairs(files, split, seed, store, swaps) if from_captions else read_pair_files(files)
    result = evaluate_pairs(encoder, data, store, ties, prefix, resamples, seed, progress)
    out = Evaluation("Hard negatives", [], {"versions": versions(), **model_facts(encoder, prefix)})
    for r in result.results:
        label = r.statistic if r.category == "all" else f"{r.statistic}, {r.category}"
        out.entries.append(entry(name, encoder.card.name, label, r.interval))
        for control, value in r.blind.items():
            out.entries.append(plain_entry(name, f"blind: {control}", label, value, r.interval.n))
    out.notes += [f"{n} {what}" for what, n in sorted(result.notes.items())]
    out.failed = len(result.failures) + sum(
        n for what, n in data.notes.items() if what.startswith("rows left out")
    )
    out.provenance |= {
        "files": [str(f) for f in files],
        "pairs": len(result.pairs),
        "failures": result.failures,
        "made_from_captions": from_captions,
        **(dataclasses.asdict(swaps) if from_captions else {}),
        "ties": ties,
        "resamples": resamples,
        "seed": seed,
    }
    out.details.append(PairsDetail(name, result, store))
    return out


def labelled_nouns(
    labels: NounLabels,
    files: Sequence[Path],
    store: PhotoStore,
    split: str | None = None,
    detector: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[NounPhoto], list[str]]:
    """Photos that show one listed thing, by their captions, their names or a detector, and photos that failed.

    Args:
        labels: where the labels come from.
        files: captions files for ``captions``; else folders and tars of photos.
        store: where the photos are.
        split: of captions, as :func:`chosen_captions` takes it; for photos a file of their names.
        detector: what :func:`cliplet.regions.registry.make_proposer` takes, for ``detector``.
    """
    if labels == "captions":
        book = chosen_captions(files, split)
        store.extra |= book.photos
        found, _ = store.photos(list(book.images))
        there = [name for name, photo in zip(book.images, found, strict=True) if photo is not None]
        return from_captions({name: book.images[name] for name in there}), []
    names = store.names()
    if split is not None:
        wanted = set(read_names(split, "image names"))
        names = [name for name in names if name in wanted]
    if labels == "names":
        return from_names(names), []
    found, missing = store.photos(names)
    photos = {name: photo for name, photo in zip(names, found, strict=True) if photo is not None}
    asked, failures = from_detector(make_proposer(detector or ""), photos, progress)
    return asked, [*failures, *missing.values()]


def run_near_nouns(
    name: str,
    encoder: Encoder,
    asked: Sequence[NounPhoto],
    photos: PhotoStore,
    labels: NounLabels,
    prefix: str = "",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Near nouns as named numbers: the model, and beside it what guessers get that see no photo."""
    results, failures = evaluate_near_nouns(encoder, asked, photos, prefix, resamples, seed, progress)
    out = Evaluation("Near nouns", [], {"versions": versions(), **model_facts(encoder, prefix)})
    for r in results:
        label = f"right noun by {labels}" + ("" if r.category == "all" else f", {r.category}")
        out.entries.append(entry(name, encoder.card.name, label, r.interval))
        for control, value in r.blind.items():
            shown = control if control == "chance" else f"blind: {control}"
            out.entries.append(plain_entry(name, shown, label, value, r.interval.n))
    out.failed = len(failures)
    out.provenance |= {"labels": labels, "asked": len(asked), "failures": failures, "seed": seed}
    return out


def save_embeddings(folder: Path, data: RetrievalSet) -> None:
    """Write ``images.npy``, ``texts.npy`` and ``caption_image.npy``, which ``retrieval --embeddings`` reads again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (
        ("images", data.images),
        ("texts", data.texts),
        ("caption_image", data.caption_image),
    ):
        temporary = folder / f".{name}.tmp.npy"
        np.save(temporary, array, allow_pickle=False)
        temporary.replace(folder / f"{name}.npy")


def load_embedding_folder(folder: Path) -> RetrievalSet:
    """What :func:`save_embeddings` wrote, memory-mapped; or an ``.npz`` with these three arrays."""
    from cliplet.evaluation.retrieval import load_embeddings

    names = ("images", "texts", "caption_image")
    if folder.is_dir():
        arrays: list[Embeddings] = [load_embeddings(str(folder / f"{n}.npy")) for n in names]
    else:
        arrays = [load_embeddings(str(folder), n) for n in names]
    return RetrievalSet(arrays[0], arrays[1], arrays[2], [], [], None, [])
