"""Boxes and the phrases that name them."""

import doctest

import numpy as np
import pytest

from cliplet.regions import phrases
from cliplet.regions.coco import COCO_CLASSES
from cliplet.regions.phrases import name_boxes, named_class, random_box


def test_examples():
    result = doctest.testmod(phrases)
    assert result.attempted
    assert not result.failed


def test_every_synonym_is_of_a_class_and_of_one_only():
    known = phrases._synonyms()
    assert set(known) <= set(COCO_CLASSES)
    words = [w for several in known.values() for w in several]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("A young girl", ("person", 1)),
        ("three people", ("person", 3)),
        ("people", ("person", None)),
        ("several dogs", ("dog", None)),
        ("a hot dog", ("hot dog", 1)),
        ("the red fire trucks", ("truck", None)),
        ("a sheep", ("sheep", 1)),
        ("two sheep", ("sheep", 2)),
        ("his skis", ("skis", 1)),
        ("a man 's hat", None),
        ("the beach", None),
    ],
)
def test_named_class(phrase, expected):
    assert named_class(phrase, COCO_CLASSES) == expected


def test_only_where_nothing_else_could_be_meant():
    boxes = np.array([[0, 0, 4, 4], [5, 1, 9, 8], [2, 3, 3, 9]], dtype=np.float32)
    captions = [
        "A brown dog jumps over a red ball .",
        "Two dogs play with a man .",
        "A dog follows another dog .",
        "the man holds a red ball",
    ]
    found = name_boxes(captions, boxes, ["dog", "dog", "person"])
    # one dog alone could be either; "another dog" too; the ball has no box
    assert [(n.label, n.phrase, n.caption, n.box) for n in found] == [
        ("dog", "Two dogs", 1, (0, 0, 9, 8)),
        ("person", "a man", 1, (2, 3, 3, 9)),
    ]
    assert found[0].others == ("a man",)
    assert name_boxes(captions, boxes[:0], []) == []
    one = name_boxes(captions[:1], boxes[:2], ["dog", ""])
    assert [(n.phrase, n.others) for n in one] == [("A brown dog", ("a red ball",))]


def test_a_users_own_classes():
    found = name_boxes(
        ["Two storage tanks near the road"], np.zeros((2, 4), np.float32), ["storage tank"] * 2
    )
    assert [n.phrase for n in found] == ["Two storage tanks"]


def test_a_random_box_is_of_the_same_size_and_on_the_photo():
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, top, right, bottom = random_box((0.25, 0.5, 0.75, 0.75), rng)
        assert (right - left, bottom - top) == pytest.approx((0.5, 0.25))
        assert min(left, top) >= 0
        assert max(right, bottom) <= 1
