"""What people put into files of classes and texts."""

import json

import pytest

from cliplet.classification.mining import mine_sentences
from cliplet.classification.texts import ClassTexts, add_texts, check_classes, make_classes, read_labels
from cliplet.errors import InputError


def test_a_line_is_a_name_and_its_synonyms(tmp_path):
    (tmp_path / "l.txt").write_text("cat, kitty | feline\n\nn01484850_great_white_shark\n")
    classes, notes = read_labels(tmp_path / "l.txt")
    assert classes == [ClassTexts("cat", ("kitty", "feline")), ClassTexts("great white shark")]
    assert notes == []


def test_json_names_keep_their_commas(tmp_path):
    (tmp_path / "l.json").write_text('["Paris, France", ["cat", "kitty"]]')
    assert read_labels(tmp_path / "l.json")[0] == [ClassTexts("Paris, France"), ClassTexts("cat", ("kitty",))]
    (tmp_path / "l.json").write_text('{"cat": ["kitty"], "dog": "hound"}')
    assert [c.synonyms for c in read_labels(tmp_path / "l.json")[0]] == [("kitty",), ("hound",)]


def test_duplicates_are_merged_and_said():
    classes, notes = make_classes([["tennis court"], ["dog"], ["Tennis_Court", "hard court"]])
    assert classes == [ClassTexts("tennis court", ("hard court",)), ClassTexts("dog")]
    assert len(notes) == 1
    assert "class 3: 'Tennis Court' stands there twice" in notes[0]


def test_a_synonym_of_two_classes_speaks_for_none():
    classes, notes = make_classes([["car", "jaguar", "auto"], ["cat", "jaguar"], ["dog", "cat"]])
    assert [c.synonyms for c in classes] == [("auto",), (), ()]
    assert len(notes) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "there are no classes"), (["cat", " "], "class 2: the class has no name"), ([["", "kitty"]], "has no name"),
     ("cat", "must be a list"), ([3], "not a string")],
)  # fmt: skip
def test_what_names_no_class(names, message):
    with pytest.raises(InputError, match=message):
        make_classes(names)


def test_an_empty_file_and_a_line_without_a_name(tmp_path):
    (tmp_path / "l.txt").write_text("\n\n")
    with pytest.raises(InputError, match="holds no class names"):
        read_labels(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("cat\n, kitty\n")
    with pytest.raises(InputError, match=r"class 2: the class has no name"):
        read_labels(tmp_path / "l.txt")


def test_texts_join_what_is_there(tmp_path):
    classes, _ = make_classes([["cat", "kitty"], "dog"])
    given = {"Cat": {"attributes": ["whiskers"], "against": {"dog": ["it meows"]}}, "dog": ["a dog barks"]}
    (tmp_path / "t.json").write_text(json.dumps(given))
    cat, dog = add_texts(classes, tmp_path / "t.json")
    assert cat == ClassTexts("cat", ("kitty",), ("whiskers",), against={"dog": ("it meows",)})
    assert cat.texts() == [("attributes", "cat with whiskers")]
    assert dog.texts() == [("sentences", "a dog barks")]


def said_of(names):
    return {name: {"analogues": [f"big {name}"]} for name in names}


def test_texts_of_a_function():
    found = add_texts(make_classes(["cat", "dog"])[0], f"{__name__}:said_of")
    assert [c.texts() for c in found] == [
        [("analogues", "cat similar to big cat")],
        [("analogues", "dog similar to big dog")],
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [({"bird": []}, "'bird' is not among the 2 classes"), ({"cat": {"colour": []}}, "unknown kind 'colour'"),
     ({"cat": 3}, "expected a list of sentences"), ({"cat": {"attributes": "fur"}}, "expected a list of texts"),
     ({"cat": [""]}, "a text is empty"), ({"cat": {"against": {"cat": []}}}, "'cat' is no other class")],
)  # fmt: skip
def test_texts_of_another_form(texts, message):
    with pytest.raises(InputError, match=message):
        add_texts(make_classes(["cat", "dog"])[0], texts)


def test_captions_that_name_one_class_are_mined():
    classes, _ = make_classes([["tennis court", "hard court"], "puppy"])
    captions = ["Two tennis courts here", "a Hard Court", "a hard court", "a hard court", "puppies at the tennis court",
                "the puppies", "a court of tennis"]  # fmt: skip
    found, count = mine_sentences(classes, captions, most=2)
    assert count == 2
    assert found[0].sentences == ("a hard court", "a Hard Court")
    assert found[1].sentences == ("the puppies",)


def test_of_names_inside_each_other_the_longest_is_meant():
    classes, _ = make_classes(["dog", "hot dog", "court", "tennis court"])
    captions = ["a hot dog", "two hot dogs", "a dog", "a dog eats a hot dog", "a tennis court", "the court"]
    found, count = mine_sentences(classes, captions)
    assert count == 4
    assert [own.sentences for own in found] == [
        ("a dog",), ("a hot dog", "two hot dogs"), ("the court",), ("a tennis court",),
    ]  # fmt: skip


def test_a_synonym_that_texts_give_two_classes_speaks_for_none():
    classes, _ = make_classes([["cat", "kitty"], "dog", "cow"])
    notes = []
    given = {"dog": {"synonyms": ["kitty", "hound"]}, "cow": {"synonyms": ["Hound", "dog", "ox"]}}
    found = add_texts(classes, given, notes)
    assert [own.synonyms for own in found] == [(), (), ("ox",)]
    assert len(notes) == 5
    assert "'dog': the synonym 'hound' is also said of another class; left out" in notes


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (ClassTexts("a", against={"c": ("q",)}), "class 1, against: 'c' is no other class"),
        (ClassTexts("a", against={"a": ("q",)}), "class 1, against: 'a' is no other class"),
        (ClassTexts("a", attributes="wings"), "class 1, attributes: expected a list"),
        (ClassTexts("a", sentences=("",)), "class 1, sentences: a text is empty"),
        (ClassTexts(" "), "class 1: a class name must be a text"),
    ],
)
def test_classes_that_are_taken_as_they_are_must_be_whole(own, message):
    with pytest.raises(InputError, match=message):
        check_classes([own, ClassTexts("b")])
