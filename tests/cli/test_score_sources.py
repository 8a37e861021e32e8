"""``cliplet score`` of several files, shards and patterns; what must not be taken for a caption; spreadsheets."""

import csv
import json
import tarfile

import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
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


def two_folders(here):  # noqa: F811
    """A captions file beside its photos in each of two folders: dog.jpg is another photo in each."""
    for folder, colour in (("one", "red"), ("two", "blue")):
        (here / folder).mkdir()
        Image.new("RGB", (20, 20), colour).save(here / folder / "dog.jpg")
    Image.new("RGB", (20, 20), "green").save(here / "two" / "only.jpg")
    (here / "one" / "c.json").write_text('{"dog.jpg": "a dog", "only.jpg": "a cat"}')
    (here / "two" / "c.csv").write_text(
        "image,caption\ndog.jpg,a dog\nonly.jpg,a cat\n../photos/cow.jpg,a cow\n"
    )
    return "one/c.json", "two/c.csv"


def test_each_captions_file_has_its_photos_beside_itself(here, score):  # noqa: F811
    one, two = two_folders(here)
    alone = {row["where"]: row for file in (one, two) for row in score(file)["rows"]}
    together = score(one, two)["rows"]
    assert [row["image"] for row in together] == [
        "one/dog.jpg", "one/only.jpg", "two/dog.jpg", "two/only.jpg", "../photos/cow.jpg",
    ]  # fmt: skip
    assert [row["clip_score"] for row in together] == [row["clip_score"] for row in alone.values()]
    assert together[0]["clip_score"] != together[2]["clip_score"]
    assert "no photo 'one/only.jpg'" in together[1]["reason"], "never the photo beside another file"
    assert [row["clip_score"] for row in score(two, one)["rows"]] == [
        row["clip_score"] for row in (*together[2:], *together[:2])
    ]


def test_references_of_a_name_that_means_two_photos_are_not_guessed(here, score):  # noqa: F811
    files = two_folders(here)
    (here / "refs.json").write_text('{"dog.jpg": ["a dog"], "cow.jpg": ["a cow"]}')
    found = score(*files, "--refs", "refs.json", "--metrics", "bleu")
    assert [row["bleu_1"] is not None for row in found["rows"]] == [False] * 4 + [True]
    (here / "refs.json").write_text('{"two/dog.jpg": ["a dog"]}')
    found = score(*files, "--refs", "refs.json", "--metrics", "bleu")
    assert [row["bleu_1"] is not None for row in found["rows"]] == [False, False, True, False, False]


def test_the_title_counts_files_whatever_their_names(here, model):  # noqa: F811
    for name in ("a, b.json", "c, d, e.json"):
        (here / name).write_text('{"photos/dog.jpg": "a dog"}')
    for files, title in (
        (["a, b.json"], "a, b.json: 1"),
        (["a, b.json", "c, d, e.json"], "a, b.json and 1 more: 2"),
    ):
        done = CliRunner().invoke(cli, ["score", *files, "--model", model], catch_exceptions=False)
        assert done.output.splitlines()[0].strip() == f"{title} captions"


@pytest.mark.parametrize("cell", ["['a dog','a ca", '["a dog", "a ca'])
def test_a_list_that_is_cut_off_fails_its_row(here, score, cell):  # noqa: F811
    with open(here / "c.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ("image", "caption"),
                ("dog.jpg", cell),
                ("cat.jpg", "[photo] a cat"),
                ("cow.jpg", "['a cow','a bull']"),
            ]
        )
    rows = score("c.csv", "--images", "photos")["rows"]
    assert "cut off before its end" in rows[0]["reason"]
    assert cell[:10] in rows[0]["reason"].replace("\\", "")
    assert [row["caption"] for row in rows[1:]] == ["[photo] a cat", "a cow", "a bull"]
    assert all(row["clip_score"] is not None for row in rows[1:])


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
