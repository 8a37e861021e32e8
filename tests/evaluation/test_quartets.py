"""Drawn pairs and quartets: what is drawn, what is written, which photos are taken, how both-right is scored."""

import numpy as np
import pytest
from PIL import Image

from cliplet.data.images import load_rgb
from cliplet.errors import InputError
from cliplet.evaluation.drawn_pairs import PATTERNS, DrawnPair, drawn_pairs, write_drawn_pairs
from cliplet.evaluation.hard_negatives import mentioned
from cliplet.evaluation.pairs import Quartet, read_pair_files
from cliplet.evaluation.quartets import (
    NEUTRAL,
    both_right,
    natural_quartets,
    quartet_columns,
    quartet_inputs,
)


def photos(count=3, side=80):
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 255, (side, side + 20, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int64)


def one(pattern: str, pairs: int = 30) -> list[DrawnPair]:
    return drawn_pairs([], pairs, 0, 128, (pattern,), "")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pair_differs_in_its_detail_alone(pattern):
    pairs = drawn_pairs(photos(), 6, 0, 64, (pattern,))
    assert len(pairs) == 6
    for pair in pairs:
        assert pair.pattern == pattern
        assert all(image.size == (64, 64) for image in pair.images)
        assert pair.texts[0] != pair.texts[1]
        assert all(text.startswith("a picture of ") for text in pair.texts)
        apart = (pixels(pair.images[0]) != pixels(pair.images[1])).any(axis=2)
        assert apart.any()
        assert not apart[0].any()  # the background is the same
    assert len({pair.texts for pair in pairs}) > 1


def test_the_seed_decides():
    first, same, other = (drawn_pairs(photos(), 2, seed, 64) for seed in (0, 0, 1))
    assert [p.texts for p in first] == [p.texts for p in same]
    assert all((pixels(a.images[1]) == pixels(b.images[1])).all() for a, b in zip(first, same, strict=True))
    assert [p.texts for p in first] != [p.texts for p in other]
    few = drawn_pairs(photos(), 1, 0, 64, ("size", "colour"))  # each pair is its own
    assert few[0].texts == first[12].texts


def test_statements_say_what_is_drawn():
    for pair in one("count"):
        blocks = [_blobs(np.abs(pixels(image) - 128).max(axis=2) > 20) for image in pair.images]
        words = [text.split()[0] for text in pair.texts]
        assert [["one", "two", "three", "four", "five", "six"][b - 1] for b in blocks] == words
        assert all((text[-1] == "s") == (b > 1) for text, b in zip(pair.texts, blocks, strict=True))
    for pattern, axis, words in (
        ("left/right", 1, ("left", "right")),
        ("above/below", 0, ("above", "below")),
    ):
        for pair in one(pattern):
            drawn = [(pixels(image) != 128).any(axis=2) for image in pair.images]
            assert all(word in text for word, text in zip(words, pair.texts, strict=True))
            reds = [_centre(image, pair.texts[0], axis) for image in pair.images]
            assert reds[0] < 0 < reds[1]
            assert drawn[0].any()
    for pair in one("colour"):
        shown = [tuple(pixels(i)[_middle(i)]) for i in pair.images]
        assert shown[0] != shown[1]
        assert pair.texts[0].split()[-1] == pair.texts[1].split()[-1]
    for pair in one("size"):
        assert [text.split()[1] for text in pair.texts] == ["large", "small"]
        sizes = [_mass(image, pair.texts[0].split()[2]) for image in pair.images]
        assert sizes[0] > 2 * sizes[1]
    for pair in one("presence"):
        assert "without" in pair.texts[1]
        assert "without" not in pair.texts[0]
    for pair in one("facing"):
        left, right = (pixels(image) for image in pair.images)
        assert np.abs(left - right[:, ::-1]).mean() < np.abs(left - right).mean() / 2  # mirrored
    arrows = [p for p in one("facing") if "arrow" in p.texts[0]]
    for pair in arrows:
        high = (pixels(pair.images[0]) != 128).any(axis=2).sum(axis=0)
        assert high[: len(high) // 2].max() > high[len(high) // 2 :].max()  # the head is on the left


def _blobs(mask: np.ndarray) -> int:
    """Connected areas, their holes filled."""
    from scipy.ndimage import binary_fill_holes, label

    return int(label(binary_fill_holes(mask))[1])


NAMED = {
    "red": (214, 32, 36), "green": (36, 150, 60), "blue": (36, 80, 214), "yellow": (245, 208, 30),
    "orange": (245, 130, 30), "purple": (130, 50, 170), "black": (20, 20, 20), "white": (248, 248, 248),
}  # fmt: skip


def _of_colour(image: Image.Image, colour: str) -> np.ndarray:
    return np.abs(pixels(image) - np.array(NAMED[colour])).sum(axis=2) < 30


def _mass(image: Image.Image, colour: str) -> int:
    return int(_of_colour(image, colour).sum())


def _centre(image: Image.Image, text: str, axis: int) -> float:
    """Where the first shape named is, from the middle."""
    mask = _of_colour(image, text.split()[1])
    return float(np.nonzero(mask)[axis].mean() - mask.shape[axis] / 2)


def _middle(image: Image.Image) -> tuple[int, int]:
    rows, columns = np.nonzero((pixels(image) != 128).any(axis=2))
    return int(np.median(rows)), int(np.median(columns))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patterns": ("colours",)}, "unknown pattern 'colours'"),
        ({"pairs": 0}, "pairs=0"),
        ({"size": 8}, "size=8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        drawn_pairs([], **{"pairs": 1, **wrong})


def test_written_pairs_are_read_as_quartets(tmp_path):
    pairs = drawn_pairs(photos(), 2, 0, 64, ("count", "left/right"))
    quartets = write_drawn_pairs(tmp_path / "drawn", pairs)
    assert [q.category for q in quartets] == ["count"] * 2 + ["left/right"] * 2
    assert read_pair_files([tmp_path / "drawn" / "examples.jsonl"]).quartets == quartets
    read = pixels(load_rgb(tmp_path / "drawn" / quartets[3].images[1]))
    assert (read == pixels(pairs[3].images[1])).all()
    assert write_drawn_pairs(tmp_path / "drawn", pairs) == quartets
    with pytest.raises(InputError, match="holds something else"):
        write_drawn_pairs(tmp_path / "drawn", pairs[:2])


# ---------------------------------------------------------------- scores
def test_both_right_by_hand():
    e = np.eye(3)
    images = np.stack([[e[0], e[1]], [e[1], e[0]], [e[0], e[0]]])
    texts = np.stack([[e[0], e[1]]] * 3)
    assert both_right(images, texts).tolist() == [1.0, 0.0, 0.0]  # the last is a tie


def test_the_corrected_score_sees_past_a_photo_that_all_texts_like():
    # picture 1 is nearer to any text (third dimension), yet each text leans to its own in the first two
    images = np.array([[[0.3, 0.0, 0.2], [0.0, 0.3, 0.6]]])
    texts = np.array([[[0.5, 0.0, 0.7], [0.0, 0.5, 0.7]]])
    bank = np.array([[0.0, 0.0, 0.7], [0.1, 0.1, 0.7]])
    assert both_right(images, texts).item() == 0.0
    assert both_right(images, texts, bank).item() == 1.0
    s = texts[0] @ images[0].T
    bias = (bank @ images[0].T).mean(axis=0)
    assert (s - bias).argmax(axis=1).tolist() == [0, 1]


def test_columns_by_category():
    quartets = [
        Quartet(("a", "b"), ("A", "B"), "colour"), Quartet(("b", "a"), ("A", "B"), "number"),
        Quartet(("a", "gone"), ("A", "B"), "number"),
    ]  # fmt: skip
    assert quartet_inputs(quartets) == (["a", "b", "gone"], ["A", "B"])
    e = np.eye(2, dtype=np.float32)
    found = quartet_columns("drawn", quartets, {"a": e[0], "b": e[1]}, {"A": e[0], "B": e[1]}, e)
    assert found["drawn|all|both right"].tolist() == [1.0, 0.0]
    assert found["drawn|colour|both right, bias-corrected"].tolist() == [1.0]
    assert found["drawn|number|both right"].tolist() == [0.0]
    assert found["drawn|all|photo"].tolist() == [0, 1]
    with pytest.raises(InputError, match="no quartet is left"):
        quartet_columns("drawn", quartets, {"a": e[0]}, {}, e)
    assert len(set(NEUTRAL)) == len(NEUTRAL) > 20


def test_natural_quartets_are_near_and_name_other_things():
    names = ["red", "blue", "both", "far", "once"]
    captions = [
        "A red car.", "The red car is fast.", "A blue car.", "The blue car is fast.", "A red and blue car.",
        "A blue car with red doors.", "A green car.", "The green car.", "A car.", "A yellow car.", "Nothing.",
    ]  # fmt: skip
    photo_of = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1])
    angles = np.array([0.0, 0.1, 0.05, 1.5, 0.02])
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    quartets = natural_quartets(names, captions, photo_of, images, near=0.6)
    # "both" names both, "once" says it once in two, "far" is far
    assert [set(q.images) for q in quartets] == [{"red", "blue"}]
    assert quartets[0].category == "colour"
    for name, caption in zip(quartets[0].images, quartets[0].captions, strict=True):
        assert name in caption
    assert len(natural_quartets(names, captions, photo_of, images, near=1.0)) == 4
    once = [
        n for q in natural_quartets(names, captions, photo_of, images, near=1.0, uses=1) for n in q.images
    ]
    assert len(once) == len(set(once)) > 0
    assert len(natural_quartets(names, captions, photo_of, images, near=1.0, most=2)) == 2
    assert natural_quartets(names[:1], captions[:2], photo_of[:2], images[:1]) == []
    with pytest.raises(InputError, match="near=0"):
        natural_quartets(names, captions, photo_of, images, near=0)


def test_natural_quartets_of_numbers():
    captions = ["Two dogs run.", "2 dogs on grass.", "Three dogs run.", "Three dogs on grass."]
    images = np.array([[1.0, 0.0], [0.99, 0.141]])
    quartets = natural_quartets(["a", "b"], captions, np.array([0, 0, 1, 1]), images)
    assert [q.category for q in quartets] == ["number"]
    by_name = dict(zip(quartets[0].images, quartets[0].captions, strict=True))
    assert not mentioned([by_name["a"]], "number") & mentioned([by_name["b"]], "number")
