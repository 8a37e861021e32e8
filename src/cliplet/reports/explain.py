"""Explanations as HTML: coloured words, the doubt of each, and the photo with each phrase's region."""

import json

from cliplet.data.images import ImageInput, load_rgb
from cliplet.reports.page import breakable, escape, page, thumbnail
from cliplet.scoring.explain import Explanation, SentenceJudgement, Unit

PHOTO = 480
"""Longest side of the photo on the page, in pixels."""
STYLE = """
.caption { font-size: 19px; line-height: 1.9; }
.unit { border-radius: 4px; padding: 2px 3px; } .against { text-decoration: underline wavy 1px; }
.wrong { outline: 2px dashed var(--ink); outline-offset: 1px; border-radius: 3px; }
.regions { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(210px, 100%), 1fr)); gap: 16px; }
.bar { display: inline-block; height: 10px; border-radius: 2px; vertical-align: middle; min-width: 1px; }
.verdict { font-size: 13px; padding: 1px 8px; border: 1px solid var(--line); border-radius: 10px; white-space: nowrap; }
"""


def explain_page(explanation: Explanation, photo: ImageInput, name: str = "") -> str:
    """The whole page of one explanation, ``name`` being what the photo is called."""
    data = thumbnail(photo, PHOTO)
    width, height = load_rgb(photo).size
    ratio = min(max(width / height, 0.3), 4.0)
    parts = [
        f"<style>{STYLE}</style>",
        f"<p>{escape(explanation.message)}</p>",
        f"<p><b>{explanation.score:.3f}</b> {breakable(name)}</p>",
    ]
    parts += [_sentence_section(s, explanation, data, name, ratio) for s in explanation.sentences]
    if explanation.notes:
        parts.append(f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in explanation.notes)}</ul>")
    parts.append(_reading())
    facts = json.dumps(explanation.to_dict()["provenance"], indent=2, ensure_ascii=False)
    parts.append(f"<section><h2>Provenance</h2><pre>{escape(facts)}</pre></section>")
    return page(f"cliplet explain: {name}" if name else "cliplet explain", "\n".join(parts))


def coloured_caption(explanation: Explanation) -> str:
    """The caption as HTML, phrases coloured by their share, the word most likely wrong framed."""
    out, at = [], 0
    wrong = explanation.wrong_word
    largest = max((abs(u.share) for s in explanation.sentences for u in s.units), default=0.0)
    for sentence in explanation.sentences:
        for unit in sentence.units:
            out.append(escape(explanation.caption[at : unit.start]))
            text = escape(explanation.caption[unit.start : unit.end])
            if wrong is not None and unit.start <= wrong.start and wrong.end <= unit.end:
                before, word, after = (
                    explanation.caption[a:b]
                    for a, b in ((unit.start, wrong.start), (wrong.start, wrong.end), (wrong.end, unit.end))
                )
                title = f"most likely wrong, if one word is: {100 * wrong.probability:.0f} %"
                text = f'{escape(before)}<span class="wrong" title="{title}">{escape(word)}</span>{escape(after)}'
            out.append(
                f'<span class="unit{" against" * (unit.share < 0)}" style="background:{_colour(unit.share, largest)}" '
                f'title="share {unit.share:+.3f}">{text}</span>'
            )
            at = unit.end
    return "".join([*out, escape(explanation.caption[at:])])


def _colour(share: float, largest: float) -> str:
    """Blue for what adds, orange for what takes away, the stronger the more."""
    strength = 0.0 if not largest else min(1.0, abs(share) / largest)
    return f"rgb({'59 111 182' if share >= 0 else '209 116 47'} / {100 * (0.06 + 0.5 * strength):.0f}%)"


def _sentence_section(
    judged: SentenceJudgement, whole: Explanation, photo: str, name: str, ratio: float
) -> str:
    several = len(whole.sentences) > 1
    head = f"<h2>{escape(judged.text)}</h2>" if several else "<h2>Words</h2>"
    facts = f'<p><b>{judged.score:.3f}</b> <span class="verdict">{escape(judged.verdict)}</span></p>'
    alone = Explanation(
        whole.caption, judged.score, judged.score, (judged,), whole.preset, whole.model, whole.fingerprint
    )
    caption = f'<p class="caption">{_within(alone, judged)}</p>'
    regions = _regions(judged, photo, name, ratio)
    return f"<section>{head}{facts}{caption}{_shares(judged)}{_words(judged)}{regions}</section>"


def _within(alone: Explanation, judged: SentenceJudgement) -> str:
    """The coloured words of one sentence of a caption."""
    moved = Explanation(
        alone.caption[: judged.end], alone.score, alone.score, (judged,), alone.preset, alone.model, ""
    )
    before = escape(alone.caption[: judged.start])
    return coloured_caption(moved).removeprefix(before)


def _shares(judged: SentenceJudgement) -> str:
    largest = max((abs(u.share) for u in judged.units), default=0.0) or 1.0
    rows = "".join(
        f"<tr><td>{escape(u.text)}</td><td>{u.share:+.3f}</td><td>{u.left_out:+.3f}</td>"
        f'<td style="text-align:left"><span class="bar" style="width:{90 * abs(u.share) / largest:.0f}px;'
        f'background:{_colour(u.share, 0.5 * largest)}"></span></td></tr>'
        for u in judged.units
    )
    total = (
        f"<tr><td><i>a photo</i></td><td>{judged.neutral:+.3f}</td><td></td><td></td></tr>"
        f"<tr><td><b>sum</b></td><td><b>{judged.neutral + sum(u.share for u in judged.units):.3f}</b></td>"
        "<td></td><td></td></tr>"
    )
    return (
        '<div class="scroll"><table class="numbers"><thead><tr><th>words</th><th>share</th><th>left out</th><th></th>'
        f"</tr></thead><tbody>{rows}{total}</tbody></table></div>"
    )


def _words(judged: SentenceJudgement) -> str:
    doubted = sorted((w for w in judged.words if w.probability >= 0.01), key=lambda w: -w.probability)[:6]
    if not doubted:
        return ""
    rows = "".join(
        f"<tr><td>{escape(w.text)}</td><td>{100 * w.probability:.0f} %</td>"
        f'<td style="text-align:left">{escape(", ".join(f"{other} {gain:+.3f}" for other, gain in w.better))}</td></tr>'
        for w in doubted
    )
    return (
        '<h3>Which word, if one is wrong</h3><div class="scroll"><table class="numbers"><thead><tr><th>word</th>'
        '<th>likely</th><th style="text-align:left">what fits better in its place</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _regions(judged: SentenceJudgement, photo: str, name: str, ratio: float) -> str:
    found = [unit for unit in judged.units if unit.region is not None]
    if not photo or not found:
        return ""
    cards = "".join(_card(unit, photo, name, ratio) for unit in found)
    return f'<h3>Where the photo shows it</h3><div class="regions">{cards}</div>'


def _card(unit: Unit, photo: str, name: str, ratio: float) -> str:
    """The photo with one phrase's map on it."""
    assert unit.region is not None
    region = unit.region
    top = max(float(region.map.max()), 1e-9)
    side = region.map.shape[0]
    cells = "".join(
        f'<rect x="{c}" y="{r}" width="1.02" height="1.02" fill="#ffd23f" '
        f'fill-opacity="{0.72 * max(0.0, float(region.map[r, c])) / top:.2f}"/>'
        for r in range(side)
        for c in range(side)
    )
    label = f"{name}: where {unit.text} is found, most of all {place(region.x, region.y)}"
    return (
        f'<figure><svg role="img" aria-label="{escape(label)}" viewBox="0 0 {side} {side}" preserveAspectRatio="none" '
        f'style="width:100%;display:block;aspect-ratio:{ratio:.4f}">'
        f'<image href="{photo}" width="{side}" height="{side}" '
        f'preserveAspectRatio="none"/>{cells}<circle cx="{side * region.x:.2f}" cy="{side * region.y:.2f}" r="0.22" '
        'fill="none" stroke="#000" stroke-width="0.16"/>'
        f'<circle cx="{side * region.x:.2f}" cy="{side * region.y:.2f}" r="0.22" fill="none" stroke="#fff" '
        f'stroke-width="0.08"/></svg><figcaption>{escape(unit.text)}<small>{place(region.x, region.y)}; covered there '
        f"it loses {region.fall:.3f}</small></figcaption></figure>"
    )


def place(x: float, y: float) -> str:
    """A place in the photo (shares of width and height) in words."""
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else "middle"
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else "middle"
    return (
        down
        if across == down
        else across
        if down == "middle"
        else down
        if across == "middle"
        else f"{down} {across}"
    )


def _reading() -> str:
    return (
        "<details><summary>How to read this</summary><p>A share says how much of the score a phrase carries, by its "
        "mean effect over all ways to leave phrases out; the shares and the score of <i>a photo</i> sum to the "
        "score (negative scores are shown as 0). Blue adds, orange with a wavy line takes away. <i>Left out</i> is the "
        "change of the score without that phrase alone. The dashed word is the one most likely wrong, if one is. What "
        "fits "
        "better names words that the photo shows, not a correction. Bright parts of a photo are those without which "
        "the phrase fits less.</p></details>"
    )
