"""False photos: each edit does what its word says, inside its box; the same again by seed; bad photos are left out."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.regions.store import RegionSettings
from cliplet.training.objectives import false_photos as fp
from cliplet.training.objectives.false_captions import FalseCaption
from cliplet.training.objectives.false_photos import edits
from cliplet.training.objectives.false_photos.colours import ColourSearch, hsv, looks, recolour
from cliplet.training.objectives.false_photos.retrieve import Retriever, WordCosines
from cliplet.training.objectives.false_photos.words import (
    head_of,
    named_classes,
    other_side,
    slots,
    swapped_place,
)
from cliplet.training.pairs import PairSet, fingerprint

GRASS, BLACK, RED, BLUE = (120, 150, 90), (20, 20, 22), (200, 30, 30), (40, 70, 200)


def drawing(*things: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> np.ndarray:
    """Boxes of colours on grass, with a little noise: ``[96, 120, 3]``."""
    rng = np.random.default_rng(0)
    pixels = np.empty((96, 120, 3))
    pixels[:] = GRASS
    for (left, top, right, bottom), colour in things:
        pixels[top:bottom, left:right] = colour
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def blobs(pixels: np.ndarray, colour: str, rows: slice = slice(None)) -> int:
    """How many separate runs of columns have much of a colour."""
    columns = looks(pixels, colour)[rows].mean(axis=0) > 0.1
    return int((np.diff(np.append(0, columns.astype(int))) == 1).sum())


# photo: things on it (box, colour, class), its captions
PHOTOS: dict[str, tuple[list[tuple[tuple[int, int, int, int], tuple[int, int, int], str]], list[str]]] = {
    "dog": (
        [((20, 30, 60, 70), BLACK, "dog"), ((80, 10, 110, 30), BLACK, "tv")],
        ["A black dog stands on the grass.", "A dog in a field."],
    ),
    "cat": ([((30, 20, 75, 70), (150, 150, 150), "cat")], ["A grey cat sits on the grass.", "a cat in a field"]),
    "cat2": ([((50, 40, 100, 85), (240, 240, 240), "cat")], ["A white cat lies in a field."]),
    "balls": (
        [((20, 50, 32, 62), RED, "sports ball"), ((50, 50, 62, 62), RED, "sports ball")],
        ["Two balls lie on the grass."],
    ),
    "balls3": (
        [((10, 50, 22, 62), RED, "sports ball"), ((50, 50, 62, 62), RED, "sports ball"),
         ((85, 50, 97, 62), RED, "sports ball")],
        ["Three balls lie on the grass."],
    ),
    "side": ([((5, 20, 35, 80), BLUE, "person")], ["A man in a blue shirt on the left of a field."]),
    "white dog": ([((20, 30, 60, 70), (240, 240, 240), "dog")], ["A white dog stands on grass."]),
}  # fmt: skip


@pytest.fixture
def pairs(tmp_path: Path) -> PairSet:
    """The drawn photos with their captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    result, photo_of = PairSet(), []
    lines = []
    for number, (name, (things, captions)) in enumerate(PHOTOS.items()):
        Image.fromarray(drawing(*(t[:2] for t in things))).save(folder / f"{name}.png")
        result.names.append(f"{name}.png")
        result.photos.append(folder / f"{name}.png")
        result.captions += captions
        photo_of += [number] * len(captions)
        lines += [{"image": f"{name}.png", "box": b, "label": label, "score": 0.9} for b, _, label in things]
    result.photo_of = np.array(photo_of)
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return result


def boxes_of(pairs: PairSet, tmp_path: Path) -> fp.Boxes:
    return fp.photo_boxes(pairs, RegionSettings(proposer=str(tmp_path / "boxes.jsonl")), tmp_path / "kept")


def false_caption(pairs: PairSet, true: str, before: str, after: str, kind: Any) -> FalseCaption:
    text = true.replace(before, after, 1)
    return FalseCaption(pairs.captions.index(true), text, kind, before, after)


def one_of_each(pairs: PairSet) -> list[FalseCaption]:
    return [
        false_caption(pairs, "A black dog stands on the grass.", "black", "white", "colour"),
        false_caption(pairs, "A dog in a field.", "dog", "cat", "object"),
        false_caption(pairs, "Two balls lie on the grass.", "Two", "Three", "number"),
        false_caption(pairs, "Three balls lie on the grass.", "Three", "Two", "number"),
        *fp.side_captions(pairs),
        false_caption(pairs, "A man in a blue shirt on the left of a field.", "blue", "red", "colour"),
    ]


def test_boxes_keep_their_classes(pairs: PairSet, tmp_path: Path) -> None:
    boxes = boxes_of(pairs, tmp_path)
    assert [[boxes.names[f.label] for f in found] for found in boxes.photos] == [
        [label for _, _, label in things] for things, _ in PHOTOS.values()
    ]
    assert boxes.photos[0][0].box == pytest.approx((20 / 120, 30 / 96, 60 / 120, 70 / 96), abs=1e-3)


@pytest.mark.parametrize("after", ["white", "grey", "red", "blue", "yellow", "brown"])
def test_recolour_changes_the_thing_and_nothing_outside_its_box(after: str) -> None:
    pixels = drawing(((20, 30, 60, 70), BLACK), ((80, 10, 110, 30), BLACK))
    search = ColourSearch(pixels, (20, 30, 60, 70), "black")
    mask, solid = search.part()
    assert search.share > 0.9
    assert search.around < 0.1
    assert solid > 0.8
    changed = recolour(pixels, mask, after)
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[30:70, 20:60] = False
    assert (changed[outside] == pixels[outside]).all()
    assert looks(changed, after)[34:66, 24:56].mean() > 0.9
    assert looks(changed, "black")[34:66, 24:56].mean() < 0.1


def test_recolour_from_one_hue_to_another_keeps_light_and_shade() -> None:
    pixels = drawing(((20, 30, 60, 70), RED))
    pixels[30:50, 20:60] = (150, 20, 20)  # shade above
    changed = recolour(pixels, ColourSearch(pixels, (20, 30, 60, 70), "red").part()[0], "blue")
    values = hsv(changed)
    assert abs(np.median(values[35:65, 25:55, 0]) - 218) < 10
    assert values[52:66, 25:55, 2].mean() > values[34:48, 25:55, 2].mean() + 0.1


def test_skin_is_no_part_of_a_garment() -> None:
    skin = (225, 170, 140)
    pixels = drawing(((20, 10, 60, 30), skin), ((20, 30, 60, 70), (240, 120, 160)))
    mask, _ = ColourSearch(pixels, (20, 10, 60, 70), "pink", (20, 25, 60, 65)).part()
    assert mask[40:65, 25:55].mean() > 0.9
    assert mask[12:26, 25:55].max() < 0.2


def test_paste_stays_inside_its_box() -> None:
    pixels = drawing(((20, 30, 60, 70), BLACK))
    patch = drawing(((0, 0, 120, 96), RED))
    changed = edits.paste(pixels, patch, (20, 30, 60, 70))
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[30:70, 20:60] = False
    assert (changed[outside] == pixels[outside]).all()
    assert looks(changed, "red")[42:58, 32:48].mean() > 0.9


def test_a_copy_and_a_fill_change_the_count_by_one() -> None:
    pixels = drawing(((20, 50, 32, 62), RED), ((50, 50, 62, 62), RED))
    boxes = [(20.0, 50.0, 32.0, 62.0), (50.0, 50.0, 62.0, 62.0)]
    more, where = edits.duplicate(pixels, boxes[0], boxes, np.random.default_rng(0))
    assert blobs(pixels, "red", slice(48, 64)) == 2
    assert blobs(more, "red", slice(48, 64)) == 3
    assert edits.overlap(edits.grown(where, -0.06, pixels.shape), boxes) < 0.06
    fewer = edits.fill(pixels, boxes[1], boxes[:1])
    assert blobs(fewer, "red", slice(48, 64)) == 1
    assert np.abs(fewer[52:60, 52:60].mean(axis=(0, 1)) - GRASS).max() < 8


def test_a_fill_without_free_background_is_drawn_from_an_even_rim_or_refused() -> None:
    pixels = drawing(((10, 0, 110, 96), BLUE), ((50, 40, 70, 60), RED))
    everything = [(0.0, 0.0, 120.0, 96.0)]
    assert looks(edits.fill(pixels, (50, 40, 70, 60), everything), "blue")[40:60, 50:70].mean() > 0.9
    pixels[:, 60:] = (240, 240, 30)
    with pytest.raises(edits.UnfitError, match="no background"):
        edits.fill(pixels, (50, 40, 70, 60), everything)


def test_no_room_for_a_copy() -> None:
    pixels = drawing(((5, 5, 115, 90), RED))
    with pytest.raises(edits.UnfitError, match="no room"):
        edits.duplicate(pixels, (5, 5, 115, 90), [(5, 5, 115, 90)], np.random.default_rng(0))


def test_every_kind_shows_what_the_false_caption_says(pairs: PairSet, tmp_path: Path) -> None:
    false, reasons = one_of_each(pairs), Counter[str]()
    boxes = boxes_of(pairs, tmp_path)
    found = fp.find_false_photos(pairs, false, boxes, tmp_path / "kept", 0, reasons=reasons)
    by = {(f.kind, f.row): np.asarray(load_rgb(f.photo)) for f in found}
    assert set(by) == {
        ("recolour", 0), ("recolour", 5), ("paste", 1), ("count", 2), ("count", 3), ("mirror", 4), ("retrieve", 0),
        ("retrieve", 1), ("retrieve", 2), ("retrieve", 3),
    }, reasons  # fmt: skip
    assert looks(by["recolour", 0], "white")[35:65, 25:55].mean() > 0.8
    assert looks(by["recolour", 0], "black")[12:28, 84:106].mean() > 0.9  # the other black thing
    assert looks(by["recolour", 5], "red")[30:50, 12:28].mean() > 0.8
    assert looks(by["paste", 1], "black")[35:65, 25:55].mean() < 0.2
    assert blobs(by["count", 2], "red", slice(48, 64)) == 3
    assert blobs(by["count", 3], "red", slice(48, 64)) == 2
    whole = np.asarray(load_rgb(pairs.photos[5])).astype(int)
    assert np.abs(by["mirror", 4] - whole[:, ::-1]).mean() < 3  # JPEG
    retrieved = {f.row: pairs.names[f.source] for f in found if f.kind == "retrieve"}
    assert retrieved == {0: "white dog.png", 1: "cat.png", 2: "balls3.png", 3: "balls.png"}
    rows = dict(fp.photo_counts(found, false, pairs))
    assert rows["false photos, count"] == "2 of 2 photos"
    assert "at most 2 of 2 false captions" in dict(
        fp.word_counts(false, pairs, RegionSettings(proposer=str(tmp_path / "boxes.jsonl")))
    )["false photos, count"]  # fmt: skip


def test_the_same_photos_by_seed_and_what_is_there_stays(pairs: PairSet, tmp_path: Path) -> None:
    false, boxes = one_of_each(pairs), boxes_of(pairs, tmp_path)

    def made(folder: str, kinds: tuple[str, ...] = fp.FALSE_PHOTO_KINDS) -> dict[str, bytes]:
        found = fp.find_false_photos(pairs, false, boxes, tmp_path / folder, 3, kinds)
        return {f.photo.name: f.photo.read_bytes() for f in found if f.source < 0}

    first = made("a")
    assert len(first) == 6
    assert made("b") == first
    files = sorted((tmp_path / "a" / "false-photos").iterdir())
    key = fingerprint(files)
    for index in (tmp_path / "a").glob("false-photos-*.npy"):
        index.unlink()  # as after a kill
    files[0].unlink()
    rest = fingerprint(files[1:])
    assert made("a") == first
    assert fingerprint(files[1:]) == rest
    files[2].unlink()
    assert made("a") == first
    assert key.isalnum()
    assert all(file.name.startswith(("recolour-", "paste-", "count-", "mirror-")) for file in files)


def test_a_bad_photo_is_left_out_with_its_reason(pairs: PairSet, tmp_path: Path) -> None:
    pairs.photos[6].write_bytes(b"no photo")
    boxes = boxes_of(pairs, tmp_path)
    pairs.photos[0].write_bytes(b"no photo")  # later
    reasons = Counter[str]()
    found = fp.find_false_photos(
        pairs, one_of_each(pairs), boxes, tmp_path / "kept", 0, ("recolour", "retrieve"), reasons=reasons
    )
    assert [f.row for f in found if f.kind == "recolour"] == [5]
    assert any("recolour" in r and "dog.png is not an image" in r for r in reasons)
    assert 6 not in {f.source for f in found}
    assert any("retrieve" in r and "white dog.png is not an image" in r for r in reasons)


def test_large_photos_are_made_small(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1200), GRASS).save(tmp_path / "large.jpg")
    pairs = PairSet(["large.jpg"], [tmp_path / "large.jpg"], ["a dog on the left"], np.array([0]))
    found = fp.find_false_photos(pairs, fp.side_captions(pairs), fp.Boxes.none(1), tmp_path, 0)
    assert min(load_rgb(found[0].photo).size) == 448


def test_without_classes_only_mirror_and_retrieve(pairs: PairSet, tmp_path: Path) -> None:
    boxes, reasons = fp.photo_boxes(pairs, RegionSettings(), tmp_path / "kept"), Counter[str]()
    found = fp.find_false_photos(pairs, one_of_each(pairs), boxes, tmp_path / "kept", 0, reasons=reasons)
    assert {f.kind for f in found} == {"mirror", "retrieve"}
    assert any("name a detector" in r for r in reasons)


@pytest.mark.parametrize(
    ("kinds", "count", "message"),
    [(("paint",), 7, "no false photos of kind"), (("paste",), 3, "boxes of 3 photos")],
)
def test_wrong_arguments(
    pairs: PairSet, tmp_path: Path, kinds: tuple[str, ...], count: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fp.find_false_photos(pairs, [], fp.Boxes.none(count), tmp_path, 0, kinds)


def test_a_count_that_the_detector_does_not_share_is_left_alone(pairs: PairSet, tmp_path: Path) -> None:
    pairs.captions[pairs.captions.index("Two balls lie on the grass.")] = "Four balls lie on the grass."
    false = [false_caption(pairs, "Four balls lie on the grass.", "Four", "Three", "number")]
    reasons = Counter[str]()
    boxes = boxes_of(pairs, tmp_path)
    assert not fp.find_false_photos(pairs, false, boxes, tmp_path / "kept", 0, ("count",), reasons=reasons)
    assert reasons == {"count: the detector counts otherwise": 1}


def test_people_are_not_painted(pairs: PairSet, tmp_path: Path) -> None:
    pairs.captions[-2] = "A blond man in a brown shirt."
    true, reasons = pairs.captions[-2], Counter[str]()
    false = [false_caption(pairs, true, *words, "colour") for words in (("blond", "blue"), ("brown", "blue"))]
    boxes = boxes_of(pairs, tmp_path)
    assert not fp.find_false_photos(pairs, false, boxes, tmp_path / "kept", 0, ("recolour",), reasons=reasons)
    assert reasons == {
        "recolour: the colour is of hair or skin": 1, "recolour: skin has the garment's colour": 1
    }  # fmt: skip


def test_retrieval_never_gives_the_own_photo_nor_one_with_the_true_word() -> None:
    captions = [
        "a black dog runs on sand", "a white dog runs on sand", "a white dog and a black dog run on sand",
        "a white cat runs on sand", "a black dog lies on sand", "a white dog lies on sand",
    ]  # fmt: skip
    pairs = PairSet([*"abcde"], [*"abcde"], captions, np.array([0, 1, 2, 3, 4, 4]))
    false = [FalseCaption(0, "a white dog runs on sand", "colour", "black", "white")]
    places = [swapped_place(captions[0], false[0].text, "black", "white")]
    assert Retriever(pairs).photos(false, places)[0] == [1]  # not 2 and 4, which have black dogs too
    last = [FalseCaption(5, "a black dog lies on sand", "colour", "white", "black")]
    assert Retriever(pairs).photos(last, [swapped_place(captions[5], last[0].text, "white", "black")])[0] == [
        0
    ]

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 4)) / 2

    assert Retriever(pairs, embed).photos(false, places)[0] == [1]


def test_tf_idf() -> None:
    near = WordCosines(["a red dog", "a blue dog", "a blue cat", "a fish"])
    rare, half = np.log(4) ** 2, np.log(2) ** 2  # red, cat, fish; dog, blue
    assert near("a red bird").tolist() == pytest.approx([(rare / (rare + half)) ** 0.5, 0, 0, 0])
    expected = [rare / (2 * rare * (rare + half)) ** 0.5, 0, rare / (2 * rare * (rare + half)) ** 0.5, 0]
    assert near("a red cat").tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("A man on the left kicks with his right foot", "A man on the right kicks with his left foot"),
        ("Left hand up, facing right", "Right hand up, facing left"),
    ],
)
def test_sides_are_swapped(true: str, false: str) -> None:
    assert (other_side(true) or [""])[0] == false


@pytest.mark.parametrize("text", ["the dog left the house", "he is right behind her", "right now", "a dog"])
def test_no_sides(text: str) -> None:
    assert other_side(text) is None


def test_words_and_classes() -> None:
    names = ("person", "dog", "car", "truck", "ship", "sheep")
    assert named_classes("Puppies", names) == (frozenset({1}), True)
    assert named_classes("truck", names) == (frozenset({2, 3}), False)
    assert named_classes("ships", names) == (frozenset({4}), True)  # a class that COCO does not have
    assert named_classes("tree", names) == (frozenset(), False)
    assert head_of("A man in a bright red shirt runs", 19) == "shirt"
    place = swapped_place("An orange cat by a red car", "A black cat by a red car", "orange", "black")
    assert place is not None
    assert (place.before, place.after, place.head) == ("orange", "black", "cat")
    assert swapped_place("a dog", "a dog and a cat", "dog", "cat") is None
    assert slots("Two black dogs", "colour") == slots("a black puppy", "colour")
    assert slots("a black dog", "colour") != slots("a black car", "colour")
