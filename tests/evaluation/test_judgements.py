"""Every distributed format, in small files with the quirks of the real ones."""

import json

import numpy as np
import pytest

from cliplet.classification.labelled import read_labelled_photos
from cliplet.data.book import read_book
from cliplet.data.photos import PhotoStore
from cliplet.errors import InputError
from cliplet.evaluation.benchmarks import BENCHMARKS, load_judgements
from cliplet.evaluation.human import ScoreRequest
from cliplet.evaluation.judgements import read_foil, read_rated_table, read_thumb
from cliplet.evaluation.pairs import read_pair_files
from cliplet.evaluation.scores import file_scores
from tests.evaluation.colours import jpeg

TOKEN = 'a.jpg#0\tA red dog .\na.jpg#1\tRed animal .\nb.jpg#0\tA blue cat .\nb.jpg#1\tBlue, "quoted .\n'


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_flickr8k_files_join_captions_by_number(tmp_path):
    write(tmp_path, "Flickr8k.token.txt", TOKEN)
    write(
        tmp_path,
        "ExpertAnnotations.txt",
        "a.jpg\tb.jpg#0\t1\t1\t2\na.jpg\ta.jpg#1\t4\t4\t3\na.jpg\tc.jpg#0\t1\t1\t1\n",
    )
    write(tmp_path, "CrowdFlowerAnnotations.txt", "a.jpg\tb.jpg#1\t0.25\t1\t3\n")
    data, files = load_judgements("flickr8k-expert", tmp_path)
    assert [f.name for f in files] == ["ExpertAnnotations.txt", "Flickr8k.token.txt"]
    assert [(r.caption, r.ratings, r.own) for r in data.rows] == [
        ("A blue cat .", (1.0, 1.0, 2.0), False),
        ("Red animal .", (4.0, 4.0, 3.0), True),
    ]
    assert data.rows[0].references == ("A red dog .", "Red animal .")
    assert data.notes == {"rows whose caption number is not in the caption file": 1}
    crowd, _ = load_judgements("flickr8k-cf", tmp_path)
    assert (crowd.rows[0].caption, crowd.rows[0].ratings) == ('Blue, "quoted .', (0.25,))
    with pytest.raises(InputError, match="nowhere: there is no such"):
        load_judgements("flickr8k-expert", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"8k_correctness\.csv.*Get it from: Composite"):
        load_judgements("composite", tmp_path)
    write(tmp_path, "ExpertAnnotations.txt", "a.jpg\tb.jpg#0\t1\t1\n")
    with pytest.raises(InputError, match="line 1: expected 5 cells"):
        load_judgements("flickr8k-expert", tmp_path)


def test_clipscore_json(tmp_path):
    judged = [{"caption": "x  y", "rating": r} for r in (1, 2, float("nan"))] + [
        {"caption": "z", "rating": 4}
    ]
    content = {"k": {"image_path": "F/k.jpg", "ground_truth": ["x y", "other"], "human_judgement": judged}}
    write(tmp_path, "flickr8k.json", json.dumps(content))
    data, _ = load_judgements("flickr8k-expert", tmp_path)
    assert [(r.image, r.caption, r.ratings, r.own) for r in data.rows] == [
        ("F/k.jpg", "x  y", (1.0, 2.0), True),
        ("F/k.jpg", "z", (4.0,), False),
    ]
    assert data.notes["ratings that are NaN"] == 1


def test_composite_amt_lines(tmp_path):
    head = ";".join(f"f{i}" for i in range(27))
    coco = "https://images.com/x/COCO_val2014_000000000042.jpg;A dog;A cat, yes;A bird;A fish;5;1;2;3"
    flickr = "http://s.com/a.jpg;A red dog .;blue;green;4;2;1;More;5"
    write(tmp_path, "coco_correctness.csv", f"{head};url;...\n{head};{coco}\n;;;\n")
    write(tmp_path, "8k_correctness.csv", f"{head};url\n{head};{flickr}\n")
    write(tmp_path, "Flickr8k.token.txt", TOKEN)
    coco_captions = {"images": [], "annotations": [{"id": 9, "image_id": 42, "caption": "A dog sits"}]}
    write(tmp_path, "captions_val2014.json", json.dumps(coco_captions))
    data, _ = load_judgements("composite", tmp_path)
    by_caption = {r.caption: r for r in data.rows}
    assert list(by_caption) == [
        "A red dog .",
        "blue",
        "green",
        "A dog",
        "A cat, yes",
        "A bird",
    ]  # the first three
    assert by_caption["A cat, yes"].references == ("A dog sits",)
    assert by_caption["A cat, yes"].ratings == (1.0,)
    assert by_caption["A red dog ."].own
    assert data.notes["lines without image, captions and ratings"] == 1


def test_pascal50s_mat_files(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")

    def wrap(value):
        return np.array([[value]], dtype=object)

    pairs = [("p.jpg", "one ", "two"), ("q.jpg", "three", "four")]
    inputs = np.zeros((1, 2), dtype=[(n, object) for n in ("image", "first", "second")])
    for i, p in enumerate(pairs):
        inputs[0, i] = tuple(np.array([x]) for x in p)
    scipy_io.savemat(tmp_path / "pair_pascal.mat", {"new_input": inputs, "category": np.array([[1, 4]])})
    votes = np.zeros((1, 6), dtype=[(n, object) for n in "abcd"])
    for j, (pair, winner) in enumerate([(0, 1), (0, 1), (0, -1), (1, -1), (1, -1), (1, 1)]):
        _, first, second = pairs[pair]
        votes[0, j] = (
            wrap(np.array([f"ref {j}"])),
            wrap(np.array([first])),
            wrap(np.array([second])),
            wrap(winner),
        )
    scipy_io.savemat(tmp_path / "consensus_pascal.mat", {"triplets": votes})
    data, _ = load_judgements("pascal50s", tmp_path)
    assert [(r.image, r.first, r.second, r.votes, r.category) for r in data.rows] == [
        ("p.jpg", "one", "two", (2.0, 1.0), "HC"),
        ("q.jpg", "three", "four", (1.0, 2.0), "MM"),
    ]
    assert data.rows[0].references == ("ref 0", "ref 1", "ref 2")


def test_foil_pairs_by_number_and_hides_the_true_caption(tmp_path):
    rows = [
        {
            "id": 1,
            "image_id": 42,
            "caption": "a dog sits",
            "foil": False,
            "target_word": "ORIG",
            "foil_word": "ORIG",
        },
        {
            "id": 1,
            "image_id": 42,
            "caption": "a cat sits",
            "foil": True,
            "target_word": "dog",
            "foil_word": "cat",
        },
        {"id": 2, "image_id": 42, "caption": "no partner", "foil": True},
    ]
    path = write(tmp_path, "foilv1.0_test_2017.json", json.dumps({"images": [], "annotations": rows}))
    captions = [{"id": i, "image_id": 42, "caption": c} for i, c in enumerate(["a dog sits", "an animal"])]
    book = read_book([write(tmp_path, "captions_val2014.json", json.dumps({"annotations": captions}))])
    data = read_foil(path, book)
    assert [(r.image, r.first, r.second, r.references, r.category) for r in data.rows] == [
        ("42", "a dog sits", "a cat sits", ("an animal",), "dog -> cat")
    ]
    assert data.notes["foils without their true caption"] == 1


def test_thumb_rating_is_the_rubric(tmp_path):
    row = {
        "seg_id": "7",
        "image": "COCO_val2014_000000000007.jpg",
        "hyp": "a dog",
        "P": 5,
        "R": 4,
        "Fl": -0.1,
        "Con": 0,
        "Inc": -0.5,
    }
    write(tmp_path, "mscoco_THumB-1.0.jsonl", json.dumps(row) + "\n")
    write(tmp_path, "mscoco_references.json", json.dumps({"seg_id": "7", "refs": ["one", "two"]}) + "\n")
    data, _ = load_judgements("thumb", tmp_path)
    assert data.rows[0].ratings[0] == pytest.approx(3.9)
    assert data.rows[0].references == ("one", "two")


def test_tables_of_polaris_kind_and_plain_ones(tmp_path):
    polaris = write(
        tmp_path, "polaris_test.csv", 'mt,refs,score,imgid\na dog,"[\'x, y\', ""it\'s""]",0.75,k.jpg\n'
    )
    row = load_judgements("polaris", polaris)[0].rows[0]
    assert (row.image, row.caption, row.references, row.ratings) == (
        "k.jpg",
        "a dog",
        ("x, y", "it's"),
        (0.75,),
    )
    plain = write(
        tmp_path, "mine.csv", "image,caption,references,rating\nk.jpg,a dog,one | two,4|5\nk.jpg,a cat,,\n"
    )
    data = read_rated_table(plain)
    assert (data.rows[0].references, data.rows[0].ratings) == (("one", "two"), (4.0, 5.0))
    assert data.notes["rows without a rating"] == 1
    bad = write(tmp_path, "bad.csv", "image,caption,rating\nk.jpg,a dog,good\n")
    with pytest.raises(InputError, match=r"bad\.csv, line 2: 'good' is not a number"):
        read_rated_table(bad)
    with pytest.raises(InputError, match="no column for the rating"):
        read_rated_table(write(tmp_path, "short.csv", "image,caption\nk.jpg,a dog\n"))


def test_parquet_with_photos_inside(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table(
        {
            "img": [{"bytes": jpeg("red"), "path": None}, {"bytes": jpeg("blue"), "path": "b.jpg"}],
            "cand": ["red", "red"],
            "refs": [["a red thing"], []],
            "human_score": [1.0, 0.0],
        }
    )
    parquet.write_table(table, tmp_path / "polaris.parquet")
    data, _ = load_judgements("polaris", tmp_path)
    assert [r.image for r in data.rows] == ["row 1", "b.jpg"]
    assert PhotoStore([], data.photos).photo("b.jpg").read_bytes() == jpeg("blue")


def test_every_benchmark_says_where_its_files_come_from():
    for benchmark in BENCHMARKS.values():
        assert len(benchmark.source) > 20
        assert benchmark.protocol is None or benchmark.protocol.resamples == 1000


def test_a_row_that_cannot_be_read_is_left_out_and_counted(tmp_path):
    (tmp_path / "t.csv").write_bytes(
        b"image,caption,references,rating\nk.jpg,a dog,one|caf\xe9,4\nk.jpg,caf\xe9,one,4\nk.jpg,a man\n"
        b"k.jpg,a cat,one,good\nk.jpg,a cow,one,nan\n,a pig,one,3\n"
    )
    data = read_rated_table(tmp_path / "t.csv")
    assert [(r.caption, r.references) for r in data.rows] == [("a dog", ("one",))]
    assert sum(data.notes.values()) == 5
    assert data.notes["rows without a rating"] == 1
    assert any("line 4: 2 cells under a header of 4" in note for note in data.notes)
    assert any("line 3: the caption is not valid UTF-8" in note for note in data.notes)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_row_with_more_cells_than_the_header_is_an_error(tmp_path, separator):
    rows = [("image", "caption", "rating"), ("k.jpg", "a dog", "4"), ("k.jpg", "a man", " a hat", "5")]
    path = write(tmp_path, "t.csv", "".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"t\.csv, line 3: 4 cells under a header of 3: .*in quotes"):
        read_rated_table(path)
    quoted = write(tmp_path, "q.csv", 'image,caption,rating\nk.jpg,"a man, a hat",5\n')
    assert read_rated_table(quoted).rows[0].caption == "a man, a hat"


def test_a_thumb_reference_that_is_cut_off_is_left_out(tmp_path):
    judged = {"P": 4, "R": 4, "Fl": 0, "Con": 0, "Inc": 0, "image": "a.jpg", "hyp": "a dog", "seg_id": 1}
    path = write(tmp_path, "t.jsonl", json.dumps(judged))
    refs = write(tmp_path, "r.jsonl", json.dumps({"seg_id": 1, "refs": "['a dog','a pup"}))
    data = read_thumb(path, refs)
    assert data.rows[0].references == ()
    assert "cut off before its end" in str(data.notes)


def test_captions_that_are_null_never_become_words(tmp_path):
    rows = [{"image": "k.jpg", "caption": c, "rating": 1} for c in ("a dog", None, "", 5)]
    data = read_rated_table(write(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert [r.caption for r in data.rows] == ["a dog"]
    rows = [
        {"image": "k.jpg", "caption": c, "false": f}
        for c, f in (("a dog", "a cat"), (None, "x"), ("x", None))
    ]
    pairs = read_pair_files([write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))])
    assert [(p.true, p.false) for p in pairs.pairs] == [("a dog", "a cat")]
    assert pairs.notes == {"rows left out, such as line 2: the caption is not a string but None": 2}
    rows = [{"image": f"{i}.jpg", "label": label} for i, label in enumerate((0, "red", None))]
    photos = read_labelled_photos(write(tmp_path, "z.jsonl", "\n".join(map(json.dumps, rows))))
    assert photos.classes == ["0", "red"]
    assert photos.notes == {"rows left out, such as line 3: it names no class": 1}


def test_scores_from_a_table_meet_images_by_any_spelling(tmp_path):
    path = write(tmp_path, "s.csv", "image,caption,mine\nDOG.JPG,a  dog,0.5\n42,a cat,0.25\nx.jpg,broken\n")
    images = ["photos/dog.jpg", "COCO_val2014_000000000042.jpg", "cow.jpg"]
    request = ScoreRequest(images, ["a dog", "a cat", "a cow"], [(), (), ()])
    notes: list[str] = []
    np.testing.assert_array_equal(file_scores(path, request, notes=notes)["mine"], [0.5, 0.25, np.nan])
    assert "line 4: 2 cells under a header of 3" in notes[0]
