"""Human judgements of captions, in the formats in which they are distributed.

Two shapes cover the field: :class:`Ratings` (a caption of an image got one or more ratings) and
:class:`Preferences` (people preferred one of two captions of an image). Readers keep every row and say what they
could not use in ``notes``; leaving rows out is the protocol's business (:mod:`cliplet.evaluation.human`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.data.book import CaptionBook
from cliplet.data.images import ImageInput
from cliplet.data.records import CAPTION_FIELDS, IMAGE_FIELDS, REFERENCE_FIELDS, Records
from cliplet.data.tables import as_list, cells_of, column, find_column, leave_out, read_json, read_table
from cliplet.data.text import caption_problem
from cliplet.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Rated:
    """One caption of one image and what people gave it."""

    image: str
    """The image's name."""
    caption: str
    """The candidate caption."""
    references: tuple[str, ...]
    """All captions known for the image (the protocol says which of them a metric may see)."""
    ratings: tuple[float, ...]
    """One number a rater, higher is better."""
    own: bool = False
    """Whether the candidate is one of the image's own reference captions, by number or word for word."""


@dataclass
class Ratings:
    """A set of rated captions."""

    rows: list[Rated]
    """In file order."""
    notes: Counter[str] = field(default_factory=Counter)
    """What the reader could not use, with counts."""
    photos: dict[str, ImageInput] = field(default_factory=dict)
    """Photos that came inside the table, by image name."""


@dataclass(frozen=True)
class Preferred:
    """Two captions of one image and how many people preferred each."""

    image: str
    """The image's name."""
    first: str
    """One caption."""
    second: str
    """The other."""
    votes: tuple[float, float]
    """Votes for the first and for the second."""
    references: tuple[str, ...]
    """Reference captions of the image."""
    category: str = ""
    """The set's own category (HC, HI, HM, MM)."""


@dataclass
class Preferences:
    """A set of preferences between two captions."""

    rows: list[Preferred]
    """In file order."""
    notes: Counter[str] = field(default_factory=Counter)
    """What the reader could not use, with counts."""


def _same(a: str, b: str) -> bool:
    return " ".join(a.split()) == " ".join(b.split())


def _rated(
    image: str, caption: str, references: Sequence[str], ratings: Sequence[float], own: bool = False
) -> Rated:
    own = own or any(_same(caption, r) for r in references)
    return Rated(image, caption, tuple(references), tuple(ratings), own)


def _refuse_empty(path: Path, rows: Sequence[Any], bad: Sequence[str]) -> None:
    """Raise InputError when no row of a file can be used, with the first reason."""
    if bad and not rows:
        raise InputError(f"{path}, {bad[0]}")


def _flickr8k(path: Path, captions: CaptionBook, cells: int, ratings: Any) -> Ratings:
    """Rows of image, caption number and judgements, joined with the captions."""
    out, bad = Ratings([]), []
    for number, row, _ in cells_of(path, "\t"):
        if len(row) != cells:
            bad.append(f"line {number}: expected {cells} cells parted by tabs, found {len(row)}")
            continue
        image, caption_id = row[:2]
        found, own = captions.ids.get(caption_id), captions.of(image)
        if found is None:
            out.notes["rows whose caption number is not in the caption file"] += 1
        elif not own:
            out.notes["rows whose image is not in the caption file"] += 1
        else:
            try:
                values = ratings([_number(v) for v in row[2:]])
            except ValueError as error:
                bad.append(f"line {number}: {error}")
                continue
            source, candidate = found
            out.rows.append(_rated(image, candidate, own, values, own=source == captions.name(image)))
    _refuse_empty(path, out.rows, bad)
    leave_out(out.notes, bad)
    return out


def read_flickr8k_expert(path: Path, captions: CaptionBook) -> Ratings:
    """ExpertAnnotations.txt: image, caption number, three ratings from 1 to 4."""
    return _flickr8k(path, captions, 5, lambda v: v)


def read_flickr8k_cf(path: Path, captions: CaptionBook) -> Ratings:
    """CrowdFlowerAnnotations.txt: image, caption number, share of yes, count of yes, count of no."""
    return _flickr8k(path, captions, 5, lambda v: v[:1])


def read_clipscore_json(path: Path) -> Ratings:
    """The JSON in which CLIPScore's and PAC-S's code keep Flickr8k-Expert, Flickr8k-CF and Composite.

    ``{image: {"image_path", "ground_truth": [...], "human_judgement": [{"caption", "rating"}]}}``; these files have
    the candidates taken out of ``ground_truth`` already. The same caption in consecutive entries is one row with
    several ratings.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with one entry an image")
    out = Ratings([])
    for key, entry in content.items():
        try:
            image = str(entry.get("image_path", key))
            judged: dict[str, list[float]] = {}
            for judgement in entry["human_judgement"]:
                rating = float(judgement["rating"])
                if rating != rating:
                    out.notes["ratings that are NaN"] += 1
                else:
                    judged.setdefault(judgement["caption"], []).append(rating)
            references = [str(r) for r in entry["ground_truth"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{path}: entry {key!r} lacks human_judgement or ground_truth ({error})"
            ) from None
        out.rows += [_rated(image, caption, references, ratings) for caption, ratings in judged.items()]
    return out


def _composite_cells(row: Sequence[str]) -> tuple[str, list[str], list[str]] | None:
    """(image, captions, ratings) of one line of an AMT results file, or None for lines without them."""
    for i, cell in enumerate(row):
        if cell.strip().lower().startswith("http") and cell.strip().lower().endswith(
            (".jpg", ".jpeg", ".png")
        ):
            after = [c.strip() for c in row[i + 1 :]]
            n = next((k for k, c in enumerate(after) if c in {"1", "2", "3", "4", "5"}), 0)
            if n and len(after) >= 2 * n and all(c in {"1", "2", "3", "4", "5"} for c in after[n : 2 * n]):
                return cell.strip().rsplit("/", 1)[-1], after[:n], after[n : 2 * n]
    return None


def read_composite(paths: Sequence[Path], captions: CaptionBook, candidates: int = 3) -> Ratings:
    """Composite (Aditya et al. 2015): 8k_correctness.csv, 30k_correctness.csv and coco_correctness.csv.

    Each line has, after many fields of Mechanical Turk and parted by ``;``, the image's address, its 3 or 4 candidate
    captions and as many ratings from 1 to 5. The literature uses the first three: 11,985 ratings.
    """
    out = Ratings([])
    for path in paths:
        for number, row, _ in cells_of(path, ";"):
            if number == 1:
                continue
            found = _composite_cells(row)
            if found is None:
                out.notes["lines without image, captions and ratings"] += 1
                continue
            image, texts, ratings = found
            references = captions.of(image) or captions.of(image.split("_")[0])
            if not references:
                out.notes["images that the caption files do not have (rows kept, without references)"] += 1
            for text, rating in list(zip(texts, ratings, strict=True))[:candidates]:
                out.rows.append(_rated(image, text, references, [float(rating)]))
    return out


def read_thumb(path: Path, references: Path | None) -> Ratings:
    """THumB 1.0 (Kasai et al. 2021): mscoco_THumB-1.0.jsonl and mscoco_references.json (JSON Lines).

    The rating is (P + R) / 2 + Fl + Con + Inc, precision and recall from 1 to 5 and penalties for fluency,
    conciseness and inclusive language.
    """
    out, bad = Ratings([]), []
    listed = read_table(references, out.notes) if references else []
    refs: dict[str, list[str]] = {}
    for row in listed:
        try:
            refs[str(row.get("seg_id"))] = _texts(as_list(row.get("refs")))
        except ValueError as error:
            bad.append(f"{row.where} of {references}: {error}")
    for row in read_table(path, out.notes):
        try:
            p, r, fl, con, inc = (float(row[k]) for k in ("P", "R", "Fl", "Con", "Inc"))
            image, caption, segment = str(row["image"]), row["hyp"], str(row["seg_id"])
        except (KeyError, TypeError, ValueError) as error:
            bad.append(f"{row.where}: not a THumB row (lacks {error})")
            continue
        if reason := caption_problem(caption):
            bad.append(f"{row.where}: {reason}")
        else:
            out.rows.append(_rated(image, caption, refs.get(segment, []), [(p + r) / 2 + fl + con + inc]))
    _refuse_empty(path, out.rows, bad)
    leave_out(out.notes, bad)
    return out


RATING_COLUMNS = ("rating", "human_score", "score", "human", "ratings", "judgement", "human_judgement")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None


def _texts(captions: Sequence[Any]) -> list[str]:
    return [caption for caption in captions if caption_problem(caption) is None]


def read_rated_table(path: Path, captions: CaptionBook | None = None) -> Ratings:
    """A table of rated captions: your own CSV, or Polaris and Nebula as CSV or as Parquet with the photos inside.

    Columns, by any of the usual names: image (``image``, ``imgid``, ``img``, ``filename``), caption (``caption``,
    ``cand``, ``mt``, ``hyp``), rating (``rating``, ``human_score``, ``score``; several raters parted by ``|``), and
    references if there are any (``references``, ``refs``: a list, or several parted by ``|``); references may also
    come from a caption file.

    Raises:
        InputError: a column is missing, no row can be used, or one has more cells than the header: a comma without
            quotes has moved its rating into another column, and others may hide the same.
    """
    out, bad = Ratings([]), []
    rows = read_table(path, out.notes, surplus=False)
    column(rows, IMAGE_FIELDS, path, "image")
    caption_at = column(rows, CAPTION_FIELDS, path, "caption")
    rating_at = column(rows, RATING_COLUMNS, path, "rating")
    refs_at = find_column(rows[0], REFERENCE_FIELDS)
    records = Records()
    for row in rows:
        image, photo = records.image(row)
        try:
            references = _texts(as_list(row.get(refs_at))) if refs_at else []
            values = [v for v in map(_number, as_list(row.get(rating_at))) if v == v]
        except ValueError as error:
            bad.append(f"{row.where}: {error}")
            continue
        reason = caption_problem(row.get(caption_at))
        if reason or image == "":
            bad.append(f"{row.where}: {reason or 'it names no image'}")
        elif not values:
            out.notes["rows without a rating"] += 1
        else:
            if photo is not None:
                out.photos.setdefault(str(image), photo)
            if not references and captions is not None:
                references = captions.of(str(image))
            out.rows.append(_rated(str(image), row[caption_at], references, values))
    _refuse_empty(path, out.rows, bad)
    leave_out(out.notes, bad)
    return out


def _mat_fields(entry: Any) -> list[Any]:
    """The values of one MATLAB struct or row of cells, taken out of the arrays that they are wrapped in."""
    values: list[Any] = [*entry] if isinstance(entry, np.void) else list(np.asarray(entry).ravel())  # type: ignore[misc]
    for i, value in enumerate(values):
        while isinstance(value, np.ndarray):
            value = value.flat[0] if value.size else ""
        values[i] = value
    return values


def read_pascal50s(folder: Path) -> Preferences:
    """Pascal-50S (Vedantam et al. 2015): ``pair_pascal.mat`` and ``consensus_pascal.mat``; reading them needs scipy.

    4,000 pairs in four classes: HC two correct human captions, HI a correct and a wrong one, HM human and machine,
    MM two machines; 48 votes a pair, each cast against another reference caption.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtraError("reading Pascal-50S's .mat files", "dev") from None
    try:
        pairs, consensus = (loadmat(str(folder / n)) for n in ("pair_pascal.mat", "consensus_pascal.mat"))
        inputs, classes, triplets = pairs["new_input"][0], pairs["category"][0], consensus["triplets"][0]
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{folder}: pair_pascal.mat and consensus_pascal.mat are needed there ({error})"
        ) from None
    names = {1: "HC", 2: "HI", 3: "HM", 4: "MM"}
    votes_a_pair = len(triplets) // max(len(inputs), 1)
    out = Preferences([])
    for i, (entry, kind) in enumerate(zip(inputs, classes, strict=True)):
        image, first, second = (str(x).strip() for x in _mat_fields(entry))
        counts, references = [0.0, 0.0], []
        for vote in triplets[i * votes_a_pair : (i + 1) * votes_a_pair]:
            reference, left, right, winner = _mat_fields(vote)
            chosen = str(left if int(winner) == 1 else right).strip()
            references.append(str(reference).strip())
            if chosen in (first, second):
                counts[chosen == second] += 1
            else:
                out.notes["votes for neither caption of their pair"] += 1
        out.rows.append(
            Preferred(image, first, second, (counts[0], counts[1]), tuple(references), names[int(kind)])
        )
    return out


def _coco_name(image_id: object, images: dict[object, str]) -> str:
    """An image's file name from the file's own list, else its number."""
    return images.get(image_id) or str(image_id)


def read_foil(path: Path, captions: CaptionBook | None = None) -> Preferences:
    """FOIL-COCO (Shekhar et al. 2017): foilv1.0_test_2017.json; references from captions_val2014.json.

    Each foil (one noun replaced by a wrong one) is paired with the true caption of the same number; the true caption
    itself is never a reference.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "annotations" not in content:
        raise InputError(f"{path}: expected FOIL's object with 'annotations'")
    images = {i.get("id"): str(i.get("file_name", "")) for i in content.get("images", [])}
    true: dict[Any, Any] = {}
    foils: list[Any] = []
    for row in content["annotations"]:
        if row.get("foil") in (True, "true", "True", 1):
            foils.append(row)
        else:
            true[row["id"]] = row
    out = Preferences([])
    for foil in foils:
        partner = true.get(foil["id"])
        if partner is None:
            out.notes["foils without their true caption"] += 1
            continue
        image = _coco_name(foil["image_id"], images)
        references = captions.of(image) if captions else []
        references = [r for r in references if not _same(r, partner["caption"])]
        word = f"{foil.get('target_word', '')} -> {foil.get('foil_word', '')}"
        out.rows.append(
            Preferred(image, partner["caption"], foil["caption"], (1, 0), tuple(references), word)
        )
    return out
