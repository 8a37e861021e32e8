"""``cliplet score`` of several files, shards and patterns; what must not be taken for a caption; spreadsheets."""

import csv
import json
import tarfile

import pytest

from cliplet.errors import InputError
from tests.cli.test_score_files import here, model, score  # noqa: F401


def shards(here, names, suffix="tar"):  # noqa: F811
    """One photo a shard, each called ``0``."""
    for number, name in enumerate(names):
        with tarfile.open(here / f"{number:03d}.{suffix}", "w:gz" if suffix.endswith("gz") else "w") as out:
            out.add(here / "photos" / f"{name}.jpg", "0.jpg")
            (here / "0.txt").write_text(f"a {name}")
            out.add(here / "0.txt", "0.txt")


def test_shards_by_name_by_braces_and_by_wildcards_give_each_photo_its_own_score(here, score):  # noqa: F811
    alone = {n: score(f"photos/{n}.jpg", f"a {n}")["rows"][0]["score"] for n in ("dog", "cat", "cow")}
    assert len(set(alone.values())) == 3
    for suffix in ("tar", "tar.gz"):
        shards(here, alone, suffix)
        expected = [(f"00{n}.{suffix}/0.jpg", alone[name]) for n, name in enumerate(alone)]
        patterns = ([f"00{n}.{suffix}" for n in range(3)], [f"{{000..002}}.{suffix}"], [f"00*.{suffix}"])
        for pattern in patterns:
            found = score(*pattern)
            assert [(row["image"], row["clip_score"]) for row in found["rows"]] == expected
            assert found["summary"]["images_without_caption"] == 0
    with pytest.raises(InputError, match="no file matches"):
        score("z*.tar")


def test_references_that_two_shards_could_mean_are_not_guessed(here, score):  # noqa: F811
    shards(here, ["dog", "cat"])
    (here / "refs.json").write_text(json.dumps({"0.jpg": ["a dog"], "1.jpg": ["a cat"]}))
    with pytest.raises(InputError, match="none of the 2 captions has a reference"):
        score("*.tar", "--refs", "refs.json")
    (here / "refs.json").write_text(json.dumps({"000.tar/0.jpg": ["a dog"], "001.tar/0.jpg": ["a cow"]}))
    found = score("*.tar", "--refs", "refs.json", "--metrics", "bleu")
    assert [row["bleu_1"] > 0.9 for row in found["rows"]] == [True, False]


def test_several_captions_files_and_a_repeated_row(here, score):  # noqa: F811
    (here / "a.json").write_text('{"dog.jpg": "a dog"}')
    (here / "b.csv").write_text("image,caption\ncat.jpg,a cat\nphotos/dog.jpg,a dog\ncat.jpg,\n")
    found = score("a.json", "b.csv", "--images", "photos")
    assert [row["where"] for row in found["rows"]] == [
        "a.json, line 1 column 2", "b.csv, line 2", "b.csv, line 3", "b.csv, line 4",
    ]  # fmt: skip
    assert "1 rows repeat an image with the same caption; each counts" in found["summary"]["notes"]


def test_files_are_never_scored_as_captions(here, score):  # noqa: F811
    (here / "dog.txt").write_text("a dog")
    (here / "c.json").write_text('{"dog.jpg": "a dog"}')
    for more in ("photos/cat.jpg", "dog.txt", "missing.png", "c.json"):
        assert "is a file, not a caption" in score("photos/dog.jpg", more, "a dog", status=2)
    assert "is a photo: give it a caption too" in score("photos/*.jpg", status=2)
    assert "is a photo" in score("c.json", "photos/dog.jpg", status=2)


def test_a_long_caption_with_a_dot_is_a_caption(here, score):  # noqa: F811
    text = "A dog runs. " + "It is a very good dog and runs on " * 20
    assert score("photos/dog.jpg", text)["rows"][0]["caption"] == text


def test_safe_csv_defuses_formulas_and_leaves_numbers(here, score):  # noqa: F811
    risky = ["=1+1", "+1", "-a", "@x", "\tx", "\rx", "a=b"]
    (here / "c.jsonl").write_text(
        "".join(json.dumps({"image": "dog.jpg", "caption": text, "=more": -1}) + "\n" for text in risky)
    )
    for options, sign in (((), ""), (("--safe-csv",), "'")):
        score("c.jsonl", "--images", "photos", "--out", "out", "--preset", "cosine", *options)
        with open(here / "out" / "rows.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["caption"] for row in rows] == [sign + text for text in risky[:-1]] + ["a=b"]
        assert rows[0][f"{sign}=more"] == "-1"
        float(rows[0]["cosine"])
        kept = [
            json.loads(line)["caption"] for line in (here / "out" / "rows.jsonl").read_text().splitlines()
        ]
        assert kept == risky
