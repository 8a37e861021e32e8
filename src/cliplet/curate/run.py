"""Curation from sources to what is kept: measure, decide, write; each goes on after an interruption."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cliplet.curate.decide import Counts, Measured, Progress, decide
from cliplet.curate.report import Samples, write_report
from cliplet.curate.result import Curated
from cliplet.curate.rules import Rules
from cliplet.curate.shards import save_json
from cliplet.curate.work import CurateWork
from cliplet.curate.write import Written, check_form, stale_notes, write_kept, write_lists
from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry
from cliplet.encoders.card import ModelCard
from cliplet.errors import InputError
from cliplet.files import writable_folder, write_atomically
from cliplet.scoring.rows import find_photos
from cliplet.stream.part import need_pyarrow
from cliplet.stream.plan import PART_ROWS, make_plan
from cliplet.stream.reader import images_known, open_images
from cliplet.stream.run import Finished, alone, run
from cliplet.stream.scores import first_captions, located
from cliplet.stream.source import is_remote, without_query
from cliplet.stream.sources import Source
from cliplet.versions import versions

FORMAT = 1
"""Of what is measured and decided; a folder of another is refused or decided anew."""
MIN_MATCH = 0.2
"""The threshold where none is given and the model has a match."""


def curate(
    sources: Sequence[Source],
    folder: str | Path,
    rules: Rules,
    work: CurateWork,
    *,
    form: str = "list",
    engine: str = "local",
    workers: int = 0,
    part_rows: int = PART_ROWS,
    retry_failed: bool = False,
    quiet: bool = False,
    progress: Progress | None = None,
) -> Curated:
    """Clean image-text pairs: measure each, decide on all, write what is kept and what is removed with its reasons.

    What is measured stays in ``folder/measured``: the same call goes on after an interruption, and a call with other
    rules decides anew without measuring again.

    Args:
        sources: as :func:`cliplet.stream.sources.find_sources` finds them.
        folder: for the outputs.
        rules: what is removed; without a threshold ``min_match`` is :data:`MIN_MATCH` where the model has a match.
        work: model and layout.
        form: of what is kept: ``list`` (kept.jsonl), ``csv``, ``parquet``, ``shards`` or ``none``.
        engine: ``local`` or ``ray``.
        workers: processes; 0 for this one alone (local) or one a core (Ray).
        part_rows: rows measured, written and repeated together.
        retry_failed: try parts again that an earlier run gave up.
        quiet: no progress of measuring.
        progress: called with (what is done, parts done, parts in all) while deciding.

    Raises:
        InputError: sources or rules cannot be used, the folder holds another run, or no part could be measured.
        MissingExtraError: pyarrow or Ray is not installed.
    """
    need_pyarrow()
    check_form(form, sources)
    work = located(work)
    settings, card, has_match = settings_of(work)
    if work.device == "auto" and engine == "local":
        work = replace(work, device=settings["device"])
    rules = with_threshold(rules, has_match, card)
    check_photos(sources, work)
    folder = writable_folder(folder)
    with alone(folder):
        times = [time.monotonic()]
        finished = run(
            lambda: make_plan(sources, settings, part_rows, work.columns), sources, settings, work,
            folder / "measured", engine=engine, workers=workers, retry_failed=retry_failed, quiet=quiet,
        )  # fmt: skip
        if not finished.files():
            first = next(iter(finished.failed.values()), "there are no parts")
            raise InputError(f"no part could be measured: {first}")
        measured = Measured(finished.files())
        times.append(time.monotonic())
        decision = decision_of(finished, rules)
        counts = decided_counts(folder / "decided", decision)
        if counts is None:
            # first, as verdicts go one by one: what is left of them must not pass for a whole decision
            (folder / "decided" / "decision.json").unlink(missing_ok=True)
            counts = decide(measured, rules, folder / "decided", folder / ".scratch", progress)
            save_json(folder / "decided" / "decision.json", {"decision": decision, "counts": vars(counts)})
        times.append(time.monotonic())
        samples = Samples(rules)
        written = write_lists(measured, folder / "decided", folder, form, samples.see)
        if form in ("parquet", "shards"):
            more = write_kept(finished.plan, measured, folder / "decided", folder, form, f"{decision} {form}")
            written = Written(written.files + more.files, more.notes)
        notes = [
            *_notes(finished, rules, has_match),
            *counts.notes,
            *written.notes,
            *stale_notes(folder, form),
        ]
        times.append(time.monotonic())
        seconds = {
            n: round(b - a, 2)
            for n, a, b in zip(("measure", "decide", "write"), times, times[1:], strict=False)
        }
        curated = Curated(folder, counts, rules, written, finished.failed, notes, seconds)
        save_json(folder / "summary.json", summary(curated, settings))
        write_atomically(
            folder / "report.html", write_report(curated, samples, finished.plan, measured, work)
        )
    return curated


def check_photos(sources: Sequence[Source], work: CurateWork) -> None:
    """Raise InputError where none of the first pairs has a photo: --images was forgotten, most likely."""
    entries, source = first_captions(sources, work.columns)
    good: Sequence[CaptionEntry] = [entry for entry in entries if entry.reason is None]
    if not good:  # remote
        return
    if work.images is not None and is_remote(work.images):
        if images_known(work.images) is not None:  # tars are fetched by the workers alone
            return
        found, index = good, open_images(work.images)
    else:
        found, index = photos_of(good, [Path(source.path)], work.images)
    names, _, reasons = find_photos(found, index)
    if not any(names):
        raise InputError(f"no photo was found for the first {len(good)} captions of {source.name}: {reasons[0]}. "
                         "Give the folder or tar of the photos with --images")  # fmt: skip


def settings_of(work: CurateWork) -> tuple[dict[str, Any], ModelCard, bool]:
    """What the measured parts depend on, the model's card, and whether it has a match for texts as they are given."""
    scorer = work.measurer().scorer
    card = scorer.encoder.card
    libraries = ["cliplet", "numpy", "onnxruntime", "pillow"]
    if not scorer.encoder.provider.endswith("ExecutionProvider"):  # else that it is imported means nothing
        libraries.append("torch")
    known = bool(scorer.match) and not (card.text.prompt_prefix and not scorer.preset.with_prefix)
    settings = {
        "curate": FORMAT,
        "model": card.name,
        "fingerprint": card.fingerprint,
        "preset": scorer.preset.name,
        "device": scorer.encoder.device,
        "precision": work.precision,
        "match": hashlib.blake2b(repr(scorer.match).encode(), digest_size=8).hexdigest(),
        "images": work.images and without_query(work.images),
        "tars of images": images_known(work.images),
        "columns": asdict(work.columns),
        "versions": {k: v for k, v in versions().items() if k in libraries},
    }
    return settings, card, known


def with_threshold(rules: Rules, has_match: bool, card: ModelCard) -> Rules:
    """The rules with the threshold that holds where none is given.

    Raises:
        InputError: a match is asked for that the model does not have.
    """
    if rules.min_match and not has_match:
        raise InputError(
            f"{card.name} has no match: measure one with `cliplet calibrate --out match.json` and give --match, or "
            "give --min-score or --top-share"
        )
    given = (rules.min_match, rules.min_score, rules.min_cosine, rules.top_share)
    if has_match and all(value is None for value in given):
        return replace(rules, min_match=MIN_MATCH)
    return rules


def decision_of(finished: Finished, rules: Rules) -> str:
    """What the verdicts depend on, as a short text: the plan, which of its parts are there, and the rules."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in finished.files()]
    plan = finished.plan
    content = json.dumps([FORMAT, plan.settings, plan.cuts, files, rules.facts()], default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def decided_counts(folder: Path, decision: str) -> Counts | None:
    """What was counted where this very decision was made already; None where it was not."""
    try:
        known = json.loads((folder / "decision.json").read_text())
    except (OSError, ValueError):
        return None
    if known.get("decision") != decision:
        return None
    counts = Counts(**known["counts"])
    counts.matches = {float(k): v for k, v in counts.matches.items()}
    counts.shares = {float(k): v for k, v in counts.shares.items()}
    counts.rules, counts.only = type(Counts().rules)(counts.rules), type(Counts().rules)(counts.only)
    return counts


def _notes(finished: Finished, rules: Rules, has_match: bool) -> list[str]:
    notes = []
    if not has_match:
        notes.append("the model has no match; scores of other models cannot be compared with these")
    if rules.language is None:
        notes.append("languages were not looked at: --language en (or another) does")
    for number, reason in finished.failed.items():
        notes.append(f"part {number} was given up, its pairs are neither kept nor removed: {reason}")
    return notes


def summary(curated: Curated, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    counts = curated.counts
    return {
        "pairs": counts.pairs,
        "kept": counts.kept,
        "removed": counts.pairs - counts.kept,
        "removed_by": dict(counts.rules.most_common()),
        "removed_by_this_alone": dict(counts.only.most_common()),
        "at_match": {f"{k:g}": {"at_least": v[0], "and_clean": v[1]} for k, v in counts.matches.items()},
        "top_share": {
            f"{k:g}": {
                "cosine": round(v[0], 6),
                "match": None if v[1] != v[1] else round(v[1], 4),
                "and_clean": v[2],
            }
            for k, v in counts.shares.items()
        },
        "rules": curated.rules.facts(),
        "failed_parts": {str(k): v for k, v in curated.failed.items()},
        "files": curated.written.files,
        "notes": list(curated.notes),
        "seconds": dict(curated.seconds),
        "provenance": dict(settings),
    }
