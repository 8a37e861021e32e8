"""Reports of evaluations: a table for the terminal, Markdown, JSON, and one HTML file with plots and photos."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoStore
from cliplet.evaluation.human import HumanResult
from cliplet.evaluation.model_runs import PairsDetail, RetrievalDetail, ZeroShotDetail
from cliplet.evaluation.results import Check, Entry, Evaluation, published_for, published_value
from cliplet.evaluation.runs import HumanDetail, human_statistic
from cliplet.files import write_atomically
from cliplet.metrics.clipscore import MODEL_SCORES
from cliplet.reports.page import escape, page, thumbnail
from cliplet.reports.svg import Bar, bar_chart, histogram, line_chart, number
from cliplet.statistics.kendall import Floats, dense_ranks
from cliplet.statistics.resampling import mid_ranks

SHOWN = 12
"""Photos shown in a section of the report."""
FOLDED = 10
"""Lines of a list that stand open; a longer list folds."""


def write_evaluation(evaluation: Evaluation, folder: Path, checks: Sequence[Check] = ()) -> None:
    """Write ``results.json``, ``results.md`` and ``report.html``, each whole or not at all."""
    content = json.dumps(evaluation.as_json(), indent=2, ensure_ascii=False)
    write_atomically(folder / "results.json", content + "\n")
    write_atomically(folder / "results.md", markdown(evaluation))
    write_atomically(folder / "report.html", html_report(evaluation, checks))


# ---------------------------------------------------------------- tables
def table_rows(entries: Sequence[Entry], evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of results; columns without content are left out."""
    header = [
        "benchmark",
        "metric",
        "statistic",
        "value",
        "95 % interval",
        "n",
        "published",
        "difference",
    ]
    compared = {(c["benchmark"], c["metric"], c["statistic"]): c for c in evaluation.comparisons}
    rows = []
    for e in entries:
        known = published_value(e)
        c = compared.get((e.benchmark, e.metric, e.statistic))
        rows.append(
            [
                e.benchmark,
                e.metric,
                e.statistic,
                number(e.value),
                "" if math.isnan(e.low) else f"{number(e.low)} to {number(e.high)}",
                str(e.n),
                number(known.value) if known else "",
                f"{number(c['difference'])} to {c['against']} (p {_p(c['p_holm'])})" if c else "",
            ]
        )
    keep = [i for i in range(len(header)) if i < 4 or any(row[i] for row in rows)]
    return [header[i] for i in keep], [[row[i] for i in keep] for row in rows]


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.2f}"


def elsewhere(entries: Sequence[Entry]) -> list[str]:
    """Lines of published values of metrics that were not measured here, by benchmark."""
    measured = {(e.benchmark, e.statistic, e.metric) for e in entries}
    lines: dict[str, list[str]] = {}
    for p in published_for(entries):
        if (p.benchmark, p.statistic, p.metric) not in measured:
            lines.setdefault(f"{p.benchmark}, {p.statistic}", []).append(
                f"{p.name} {p.value:.1f} ({p.source})"
            )
    return [f"{where}: {'; '.join(values)}" for where, values in lines.items()]


def markdown(evaluation: Evaluation) -> str:
    """The report as Markdown: table, notes, published values, protocol."""
    header, rows = table_rows(evaluation.entries, evaluation)
    lines = [f"# {evaluation.title}", "", "| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join("---:" if h in ("value", "n", "published") else "---" for h in header) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    if others := elsewhere(evaluation.entries):
        lines += ["", "Published elsewhere:", "", *[f"- {line}" for line in others]]
    if evaluation.notes:
        lines += ["", "Notes:", "", *[f"- {note}" for note in evaluation.notes]]
    provenance = json.dumps(evaluation.provenance, indent=2, ensure_ascii=False)
    return "\n".join([*lines, "", "## Provenance", "", "```json", provenance, "```", ""])


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    flush = {i for i, h in enumerate(header) if h in ("value", "n", "published")}

    def cell(i: int, value: str) -> str:
        return f'<td class="value">{escape(value)}</td>' if i in flush else f"<td>{escape(value)}</td>"

    body = "".join("<tr>" + "".join(cell(i, c) for i, c in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(lines: Sequence[str]) -> str:
    """The lines as a list; a long one folds."""
    listed = "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""
    if len(lines) > FOLDED:
        return f"<details><summary>Show all {len(lines)}</summary>{listed}</details>"
    return listed


def _cards(cards: Sequence[tuple[ImageInput | None, Sequence[str]]]) -> str:
    """Photos with lines of text under them; the first line of a card is set strong."""
    figures = []
    for photo, lines in cards:
        data = thumbnail(photo, 320) if photo is not None else ""
        picture = f'<img loading="lazy" alt="" src="{data}">' if data else ""
        first, *rest = lines
        caption = f"<strong>{escape(first)}</strong>" + "".join(
            f"<small>{escape(line)}</small>" for line in rest
        )
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


# ---------------------------------------------------------------- HTML
def html_report(evaluation: Evaluation, checks: Sequence[Check] = ()) -> str:
    """One file with all plots and photos inside."""
    header, rows = table_rows(evaluation.entries, evaluation)
    sections: list[tuple[str, str]] = [("Results", _html_table(header, rows))]
    if checks:
        sections.append(("Expected values", _list([check_line(c) for c in checks])))
    for detail in evaluation.details:
        sections += _detail_sections(detail, evaluation.entries)
    sections.append(("Published elsewhere", _list(elsewhere(evaluation.entries))))
    sections.append(("Notes", _list(evaluation.notes)))
    provenance = escape(json.dumps(evaluation.provenance, indent=2, ensure_ascii=False))
    sections.append(("How this was measured", f"<pre>{provenance}</pre>"))
    body = "\n".join(
        f"<section><h2>{escape(h)}</h2>{content}</section>" for h, content in sections if content
    )
    return page(f"cliplet: {evaluation.title}", body)


def check_line(check: Check) -> str:
    """One expected value, whether it was met."""
    verdict = "ok" if check.passed else "NOT MET"
    wanted = f"expected {check.expected:g} ± {check.tolerance:g}"
    return f"{verdict}: {check.name}: {wanted}, measured {number(check.measured, 3)}"


def _detail_sections(detail: Any, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    if isinstance(detail, HumanDetail):
        return _human_sections(detail)
    if isinstance(detail, RetrievalDetail):
        return _retrieval_sections(detail)
    if isinstance(detail, ZeroShotDetail):
        return _zeroshot_sections(detail)
    if isinstance(detail, PairsDetail):
        return _pairs_sections(detail, entries)
    return []


def _human_sections(detail: HumanDetail) -> list[tuple[str, str]]:
    result = detail.result
    bars = []
    for m in result.metrics:
        e = Entry(result.benchmark, m.metric, human_statistic(result, m.statistic), 0, 0, 0, 0)
        known = published_value(e)
        label = (
            m.metric
            if m.statistic in ("accuracy", result.protocol.statistic)
            else f"{m.metric} {m.statistic[9:]}"
        )
        value, low, high = (100 * v for v in (m.interval.value, m.interval.low, m.interval.high))
        is_model = m.metric in MODEL_SCORES
        bars.append(Bar(label, value, low, high, known.value if known else math.nan, 0 if is_model else 1))
    bars.sort(key=lambda b: -b.value if math.isfinite(b.value) else math.inf)
    statistic = human_statistic(result, result.protocol.statistic)
    title = f"{result.benchmark}: {statistic}"
    unit = f"{statistic} x 100, with 95 % intervals (images resampled)"
    sections = [(title, bar_chart(bars, title, unit))]
    if len(result.ratings):
        main = _main_metric(result)
        sections.append((f"{main} by rating", histogram(_by_rating(result, main), f"{main} by rating", main)))
        sections.append((f"Where {main} and people disagree most", _disagreements(detail, main)))
    return sections


def _main_metric(result: HumanResult) -> str:
    """The model's best score if there is one, else the best metric."""
    model = [m for m in result.metrics if m.metric in MODEL_SCORES]
    return max(model or result.metrics, key=lambda m: m.interval.value).metric


def _by_rating(result: HumanResult, metric: str) -> dict[str, Floats]:
    """Scores of captions whose mean rating falls into each of up to six ranges."""
    scores, ratings = result.scores[metric], result.ratings
    levels = np.unique(ratings)
    if len(levels) <= 6:
        return {f"rated {level:.3g}": scores[ratings == level] for level in levels}
    edges = np.unique(np.linspace(levels[0], levels[-1], 6))
    place = np.clip(np.digitize(ratings, edges) - 1, 0, len(edges) - 2)
    named = {f"rated {edges[i]:.2g} to {edges[i + 1]:.2g}": scores[place == i] for i in range(len(edges) - 1)}
    return {name: values for name, values in named.items() if len(values)}


def _disagreements(detail: HumanDetail, metric: str) -> str:
    """Captions whose place by score is furthest from their place by rating, half of them over-, half underrated."""
    result = detail.result
    places = [mid_ranks(*dense_ranks(v)) / len(v) for v in (result.scores[metric], result.ratings)]
    gap = places[0] - places[1]
    order = np.argsort(gap, kind="stable")
    chosen: list[int] = []
    for rows in (order[::-1], order):  # at most one caption of a photo on each side
        seen: set[str] = set()
        for i in rows:
            if result.request.images[i] not in seen and len(seen) < SHOWN // 2:
                seen.add(result.request.images[i])
                chosen.append(int(i))
    cards = []
    for i in chosen:
        photo = detail.photos.photo(result.request.images[i]) if detail.photos is not None else None
        about = f"{metric} {result.scores[metric][i]:.3f}: above {100 * places[0][i]:.0f} % of captions"
        people = f"people {result.ratings[i]:.2f}: above {100 * places[1][i]:.0f} %"
        verdict = "score too high" if gap[i] > 0 else "score too low"
        cards.append((photo, [result.request.captions[i], f"{verdict}; {about}", people]))
    return _cards(cards)


def _retrieval_sections(detail: RetrievalDetail) -> list[tuple[str, str]]:
    curves = {d.name: [(k, 100 * r) for k, r in d.recall_curve] for d in detail.directions}
    chart = line_chart(curves, "Recall at K", "K", "R@K x 100", log_x=True, y_range=(0, 100))
    sections = [("Recall at K", chart)]
    data = detail.data
    if data.image_names and len(detail.directions[0].folds) == 1:
        metrics = detail.directions[0].folds[0]
        worst = np.argsort(-metrics.best_rank, kind="stable")[:SHOWN]
        cards = []
        for q in worst:
            i = int(metrics.queries[q])
            scores = data.texts @ data.images[i]  # [captions]
            first = int(np.argmax(scores))
            own = data.captions[int(np.argmax(np.where(data.caption_image == i, scores, -np.inf)))]
            photo = _find(data.photos, data.image_names[i])
            rank = f"best own caption at rank {metrics.best_rank[q]}: {own}"
            cards.append((photo, [f"first: {data.captions[first]}", rank]))
        sections.append(("Photos whose captions were found last", _cards(cards)))
    return sections


def _find(photos: PhotoStore | None, name: str) -> ImageInput | None:
    return photos.photo(name) if photos is not None else None


def _zeroshot_sections(detail: ZeroShotDetail) -> list[tuple[str, str]]:
    result, data = detail.result, detail.data
    sections = []
    curve = [(k, 100 * float((result.ranks <= k).mean())) for k in range(1, min(len(data.classes), 50) + 1)]
    sections.append(
        (
            "Right class among the first K",
            line_chart({"photos": curve}, "top-K accuracy", "K", "x 100", y_range=(0, 100)),
        )
    )
    worst = np.argsort(-result.ranks, kind="stable")[:SHOWN]
    cards = []
    for w in worst:
        i = int(result.kept[w])
        right, taken = data.classes[data.labels[i]], data.classes[result.predicted[w]]
        cards.append(
            (data.photos[i], [right, f"taken for: {taken}", f"right class at rank {result.ranks[w]}"])
        )
    sections.append(("Photos furthest from their class", _cards(cards)))
    return sections


def _pairs_sections(detail: PairsDetail, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    bars = []
    for r in detail.result.results:
        label = r.category if r.statistic == "accuracy" else f"{r.statistic} {r.category}"
        best_blind = 100 * max([*r.blind.values(), r.chance])
        value, low, high = (100 * v for v in (r.interval.value, r.interval.low, r.interval.high))
        bars.append(Bar(label, value, low, high, best_blind, 0 if r.category == "all" else 1))
    title = f"{detail.name}: true caption above the false one"
    sections = [(title, bar_chart(bars, title, "accuracy x 100", mark_name="best blind guess"))]
    worst = np.argsort(detail.result.margins, kind="stable")[:SHOWN]
    cards = []
    for i in worst:
        p = detail.result.pairs[i]
        lines = [
            f"false, preferred: {p.false}",
            f"true: {p.true}",
            f"{p.category}; margin {detail.result.margins[i]:.3f}",
        ]
        cards.append((detail.photos.photo(p.image), lines))
    sections.append(("False captions that the model likes best", _cards(cards)))
    return sections
