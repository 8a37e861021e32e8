import pytest

from cliplet.curate.captions import caption_key, name_problem, word_count
from cliplet.curate.languages import SCRIPTS, known_language, language_problem
from cliplet.errors import InputError
from tests.shared_data import shared_data


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("IMG_1234.JPG", "file"),
        ("holiday photo 12.jpeg", "file"),
        ("DSC00123", "file"),
        ("Screenshot 2021-03-04 at 10.12.33", "file"),
        ("P1010023", "file"),
        ("'photo (3).png'", "file"),
        ("https://example.com/a.jpg?x=1", "address"),
        ("www.example.org/cats", "address"),
        ("shop.example.co/a/b", "address"),
        ("3f2a9c1b77de", "ID"),
        ("550e8400-e29b-41d4-a716-446655440000", "ID"),
        ("0012345", "ID"),
        ("beach_0042_small", "ID"),
        ("12 / 34 / 56", "ID"),
    ],
)
def test_names_for_machines_are_no_captions(caption, why):
    assert why in (name_problem(caption) or "")


@pytest.mark.parametrize(
    "caption",
    [
        "a dog on the beach",
        "a dog, dog.jpg",
        "Photo of 2 dogs",
        "a man at 10.30 in the park",
        "A T-shirt with the number 12",
        "two dogs.",
        "Picture of the year 2012 winner",
        "une image de chien",
        "Hund",
        "7-eleven store front",
        "visit example.com for more dogs on beaches",
        "",
    ],
)
def test_captions_are_no_names(caption):
    assert name_problem(caption) is None


def test_no_caption_of_flickr8k_is_taken_for_a_name():
    lines = shared_data("flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t")[1] for line in lines]
    assert [text for text in captions if name_problem(text)] == []
    foreign = [text for text in captions if language_problem(text, "en")]
    assert len(foreign) <= len(captions) / 10_000, foreign


@pytest.mark.parametrize(
    ("text", "language", "fits"),
    [
        ("a dog on the beach", "en", True),
        ("Ein Hund läuft auf der Straße", "en", False),
        ("Ein Hund läuft auf der Straße", "de", True),
        ("a dog on the beach with a ball", "de", False),
        ("Un perro en la playa con una pelota", "en", False),
        ("Un chien et un chat dans le jardin", "fr", True),
        ("собака на пляже", "en", False),
        ("собака на пляже", "ru", True),
        ("一只狗在海滩上", "zh", True),
        ("一只狗在海滩上", "en", False),
        ("犬がビーチにいる", "ja", True),
        ("a café in the old town of Besançon", "en", True),
        ("A man reads 新聞 at the station", "en", True),
        ("dog beach", "en", True),  # nothing speaks against it
        ("Hund Strand Sonne", "en", True),  # what this check cannot see
        ("12345", "en", True),
    ],
)
def test_language_by_script_and_commonest_words(text, language, fits):
    assert (language_problem(text, language) is None) == fits


def test_an_unknown_language_is_refused_with_those_known():
    with pytest.raises(InputError, match="--language xx is not known"):
        known_language("xx")
    assert known_language("EN") == "en"
    assert len(SCRIPTS) > 20


def test_words_are_counted_in_scripts_without_spaces_too():
    assert word_count("a dog's life-size portrait") == 4
    assert word_count("一只狗在海滩上") == 4
    assert word_count("собака на пляже") == 3
    assert word_count("...") == 0


def test_captions_are_the_same_but_for_case_spaces_and_the_last_mark():
    assert caption_key("A  Dog runs.") == caption_key("a dog runs")
    assert caption_key("ａ dog runs") == caption_key("a dog runs!")
    assert caption_key("a dog runs") != caption_key("a dog run")
