"""One rule for which image a name means."""

import pytest

from cliplet.data.names import NameIndex, find_each, image_name
from cliplet.errors import InputError

NAMES = [
    "dog.jpg", "sub/cat.PNG", "a/1.jpg", "b/1.jpg", "COCO_val2014_000000000042.jpg", "000000000139.jpg", "22.05.jpg",
    "22.06.jpg", "deep/x/tree.jpg", "Gr\u00fcn.jpg",
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("dog.jpg", "dog.jpg"),
        ("./dog.jpg", "dog.jpg"),
        ("photos\\dog.jpg", "dog.jpg"),
        ("/data/photos/dog.jpg", "dog.jpg"),
        ("DOG.JPEG", "dog.jpg"),
        ("cat", "sub/cat.PNG"),
        ("elsewhere/cat.png", "sub/cat.PNG"),
        ("photos/a/1.jpg", "a/1.jpg"),
        ("B/1.JPG", "b/1.jpg"),
        ("x/tree.jpg", "deep/x/tree.jpg"),
        (42, "COCO_val2014_000000000042.jpg"),
        ("42.0", "COCO_val2014_000000000042.jpg"),
        ("000000000042.jpg", "COCO_val2014_000000000042.jpg"),
        ("COCO_train2014_000000000139", "000000000139.jpg"),
        ("22.05", "22.05.jpg"),
        ("Gru\u0308n.jpg", "Gr\u00fcn.jpg"),  # decomposed, as macOS writes it
    ],
)
def test_every_spelling_finds_its_image(key, name):
    assert NameIndex(NAMES, "photos").find(key) == name


@pytest.mark.parametrize("key", ["22", 43, "", "tree/x", "o", "og.jpg", "42.0.jpg", "a\0b", "x" * 5000])
def test_what_is_not_there_is_not_found(key):
    assert NameIndex(NAMES, "photos").find(key) is None


@pytest.mark.parametrize(
    ("names", "key", "both"),
    [
        (NAMES, "1.jpg", "a/1.jpg, b/1.jpg"),
        (NAMES, "c/1.jpg", "a/1.jpg, b/1.jpg"),
        (["Dog.jpg", "dog.jpg"], "DOG.jpg", "Dog.jpg, dog.jpg"),
        (["7.jpg", "7.png"], 7, "7.jpg, 7.png"),
        (["007.jpg", "COCO_val2014_000000000007.jpg"], "7", "007.jpg, COCO_val2014_000000000007.jpg"),
        (["1.jpg", "val/1.jpg"], "/data/val/1.jpg", "val/1.jpg, 1.jpg"),
    ],
)
def test_two_that_meet_a_name_at_one_step_are_both_named(names, key, both):
    with pytest.raises(
        InputError, match=rf"several photos could be {str(key)!r}: {both}; use the exact name"
    ):
        NameIndex(names, "photos").find(key)


def test_the_surer_step_wins():
    assert NameIndex(["dog.jpg", "x/dog.jpg"], "photos").find("dog.jpg") == "dog.jpg"
    assert NameIndex(["7.jpg", "COCO_val2014_000000000007.jpg"], "photos").find(7) == "7.jpg"


def test_an_image_never_borrows_what_another_one_names():
    index = NameIndex(["b/1.jpg", "2.jpg"], "photos")
    found = index.find_all(["a/1.jpg", "b/1.jpg", "B/1.JPG", "2.png", "2"])
    assert (found["b/1.jpg"], found["B/1.JPG"], found["2"]) == ("b/1.jpg", "b/1.jpg", "2.jpg")
    assert "'b/1.jpg' means it too" in str(found["a/1.jpg"])
    assert index.find_all(["a/1.jpg"]) == {"a/1.jpg": "b/1.jpg"}, "alone it may"
    flat = NameIndex(["1.jpg"], "photos").find_all(["x/1.jpg", "y/1.jpg"])
    assert all(isinstance(value, InputError) for value in flat.values())


def test_many_files_of_one_name_are_told_apart_quickly():
    index = NameIndex([f"data/{i}/image.jpg" for i in range(20_000)], "photos")
    found = find_each(index.find, [f"{i}/image.jpg" for i in range(20_000)])
    assert all(name == f"data/{key}" for key, name in found.items())


def test_names_to_gather_by():
    names = [0, "000042", "42.0", 42, "./a.jpg", "a.jpg", "x\\a.jpg", "1.jpg"]
    assert [image_name(n) for n in names] == ["0", "42", "42", "42", "a.jpg", "a.jpg", "x/a.jpg", "1.jpg"]
