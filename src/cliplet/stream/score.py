"""`cliplet score` as a stream: plan, parts, summary and report."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry
from cliplet.data.photos import PhotoIndex
from cliplet.encoders.base import BaseEncoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.scoring.match import load_match
from cliplet.scoring.rows import find_photos, none_found
from cliplet.stream.part import need_pyarrow
from cliplet.stream.plan import PART_ROWS, make_plan
from cliplet.stream.reader import BLOCK, images_known, open_images
from cliplet.stream.run import begun, run
from cliplet.stream.scores import ScoreWork, first_captions, located, other_columns
from cliplet.stream.source import without_query
from cliplet.stream.sources import Source, find_sources
from cliplet.stream.wanted import Settled, Wanted, settle
from cliplet.versions import versions

if TYPE_CHECKING:
    from cliplet.stream.report import StreamScores


def score_stream(
    arguments: Sequence[str],
    folder: str | Path,
    work: ScoreWork,
    *,
    form: str = "parquet",
    engine: str = "local",
    workers: int = 1,
    part_rows: int = PART_ROWS,
    retry_failed: bool = False,
    quiet: bool = False,
    wanted: Wanted | None = None,
) -> "StreamScores":
    """Score the captions of any number of files, part by part, into a folder; the same call goes on where it stopped.

    Args:
        arguments: files, patterns, folders of shards, data sets on disk, addresses of fsspec.
        folder: takes ``plan.json``, ``parts/``, ``summary.json`` and ``report.html``.
        work: model, preset, photos and columns.
        form: ``parquet`` or ``jsonl`` parts.
        engine: ``local`` or ``ray``.
        workers: as :func:`cliplet.stream.run.run`.
        part_rows: rows of a part, about.
        retry_failed: try parts again that were given up.
        quiet: no progress.
        wanted: what is computed beside the model's scores: metrics on references, the captions as a set.

    Raises:
        InputError: a source is missing, no image of the first rows has a photo, or the folder holds another run.
        ModelError: no such model.
    """
    need_pyarrow()
    sources = find_sources(arguments)
    work = located(work)
    if isinstance(work.cache, str):
        work = replace(work, cache=os.path.abspath(work.cache))
    here = engine == "local"  # a driver on a cluster may lack the devices of its actors
    encoder, card, where = None, None, {}
    if not work.alone:
        encoder = load(work.model, work.device, work.precision) if here else load(work.model)
        card, where = encoder.card, _where(encoder, work, here)
        if work.match is not None:
            load_match(work.match, card)
        if here and work.device == "auto":
            work = replace(work, device=encoder.device)
    settings, work, settled = prepared(work, sources, encoder, part_rows, Path(folder), wanted or Wanted())
    del encoder
    _free_memory()
    done = run(
        lambda: make_plan(sources, settings, part_rows, work.columns),
        sources,
        settings,
        work,
        folder,
        form=form,
        engine=engine,
        workers=workers,
        retry_failed=retry_failed,
        quiet=quiet,
        prepare=settled.prepare,
    )
    from cliplet.stream.report import reported  # now that the workers have ended: it takes memory

    return reported(done, work, card, where, settled)


def prepared(
    work: ScoreWork,
    sources: Sequence[Source],
    encoder: BaseEncoder | None,
    part_rows: int,
    folder: Path,
    wanted: Wanted,
) -> tuple[dict[str, Any], ScoreWork, Settled]:
    """What a plan of scores depends on, the work with all its columns, and what is computed beside the scores.

    Raises:
        InputError: a new run whose first images have no photos, or ``wanted`` cannot be.
    """
    entries, source = first_captions(sources, work.columns)
    settled = settle(wanted, entries, source, folder)
    scores = []
    if encoder is not None:
        scores = ["aCLIPScore"] * bool(encoder.card.alignment)
        if settled.extras.references:
            scores += ["RefCLIPScore", "RefMixScore", "reference cosine"]
            scores += ["RefaCLIPScore"] * bool(encoder.card.alignment)
    elif not settled.extras.columns:
        raise InputError("without a model there are only metrics on references: give references and metrics")
    work = replace(work, several=len(sources) > 1, extras=settled.extras, scores=tuple(scores))
    work = replace(work, others=other_columns(entries, work.measured().values()))
    if work.cache and encoder is not None:
        from cliplet.encoders.cache import kept_alone

        kept_alone(encoder, work.cache).cache.close()  # says why not, and is there before the workers are
    tars = None if encoder is None else images_known(work.images)
    if tars is None and work.images is not None and encoder is not None:
        settled.photos = open_images(work.images)  # tars at an address are fetched by the workers alone
    if entries and tars is None and encoder is not None and not begun(folder):
        _check_photos(entries, source, settled.photos)
    settings = {
        "model": encoder and encoder.card.name,
        "fingerprint": encoder and encoder.card.fingerprint,
        "preset": work.preset,
        "device": encoder and (work.device or encoder.device),
        "precision": work.precision,
        "match": None if work.match is None else Path(work.match).read_text(encoding="utf-8"),
        "images": work.images and without_query(work.images),
        "tars of images": tars,
        "image column": work.columns.image,
        "caption column": work.columns.caption,
        "separator": work.columns.separator,
        "part rows": part_rows,
        "block": BLOCK,
        "batch size": encoder and encoder.batch_size,
        "other columns": [list(one) for one in work.others],
        **runtime(encoder),
        "kept embeddings": bool(work.cache),
        **settled.settings,
    }
    return settings, work, settled


def runtime(encoder: BaseEncoder | None) -> dict[str, str | None]:
    """Versions of what the last digits of a score depend on."""
    known = versions()
    if encoder is None:
        return {"cliplet": known["cliplet"], "onnxruntime": None, "torch": None}
    torch = None if encoder.provider.endswith("ExecutionProvider") else known.get("torch")
    return {"cliplet": known["cliplet"], "onnxruntime": known["onnxruntime"], "torch": torch}


def _where(encoder: BaseEncoder, work: ScoreWork, here: bool) -> dict[str, str]:
    """Device, provider and precision, for the provenance; on a cluster as they were asked for."""
    if here:
        return {"device": encoder.device, "provider": encoder.provider, "precision": encoder.card.precision}
    own = encoder.folder is not None or work.precision is None
    return {
        "device": work.device or encoder.device,
        "provider": "" if work.device else encoder.provider,
        "precision": encoder.card.precision if own else str(work.precision),
    }


def _free_memory() -> None:
    """Give back what PyTorch keeps of a GPU's memory for a model that is gone: the workers size their batches by it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _check_photos(entries: list[CaptionEntry], source: Source, photos: PhotoIndex | None) -> None:
    good: Sequence[CaptionEntry] = [entry for entry in entries if entry.reason is None]
    found, index = photos_of(good, [Path(source.path)], None) if photos is None else (good, photos)
    names, _, reasons = find_photos(found, index)
    if not any(names):
        raise none_found([str(reason) for reason in reasons])
