"""References, metrics on them, the captions as a set and kept embeddings in a stream: as for one file, part by part."""

import json
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.errors import InputError
from cliplet.scoring.diversity import caption_diversity
from cliplet.scoring.file import score_file
from cliplet.scoring.scorer import Scorer
from cliplet.stream import caption_set, references, wanted
from cliplet.stream.caption_set import CaptionSet, Distinct
from cliplet.stream.references import References
from cliplet.stream.score import score_stream
from cliplet.stream.scores import ScoreWork
from cliplet.stream.sources import find_sources
from cliplet.stream.wanted import Wanted
from tests.stream.conftest import PHOTOS, ROWS, caption, contents, jpeg, rows

METRICS = ["bleu", "rouge", "cider"]
FIELDS = {"RefCLIPScore": "ref_clip_score", "RefMixScore": "ref_mix_score", "reference cosine": "reference_cosine",
          "BLEU-1": "bleu_1", "BLEU-4": "bleu_4", "ROUGE-L": "rouge_l", "CIDEr-D": "cider_d"}  # fmt: skip


@pytest.fixture(scope="module")
def refs(tmp_path_factory):
    """References of all photos but the last, by other spellings of their names."""
    path = tmp_path_factory.mktemp("refs") / "refs.json"
    path.write_text(json.dumps({f"photos/{i}.JPG": [caption(i + 3), caption(5 * i + 1), "a dog and a cat"]
                                for i in range(PHOTOS - 1)}))  # fmt: skip
    return path


@pytest.fixture
def work(here):
    return ScoreWork(str(here / "tiny"), images=str(here / "photos"))


@pytest.fixture(scope="module")
def whole(here, refs, tmp_path_factory):
    """An uninterrupted run with references, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    work = ScoreWork(str(here / "tiny"), images=str(here / "photos"))
    done = score_stream([str(here / "captions.csv")], folder, work, workers=0, part_rows=10, quiet=True,
                        wanted=Wanted(str(refs), METRICS, diversity=True))  # fmt: skip
    return folder, done


@pytest.fixture(scope="module")
def plain(here, refs):
    """The same file scored whole."""
    return score_file(here / "captions.csv", here / "photos", Scorer(here / "tiny"), refs, METRICS)


def said(folder):
    return json.loads((folder / "summary.json").read_text())["summary"]


def test_every_row_has_the_scores_of_a_plain_run(whole, plain):
    found = rows(whole[0])
    assert len(found) == len(plain.rows) == ROWS
    for row, other in zip(found, plain.rows, strict=True):
        for field in FIELDS.values():
            assert row[field] == pytest.approx(other[field], abs=3e-6), (field, row["where"])
        assert row["references"] == (0 if row["image"] == "7.jpg" else 3)


def test_corpus_values_are_those_of_all_rows_together(whole, plain):
    found = whole[1].table.intervals
    for name in (*FIELDS, "BLEU-2", "BLEU-3", "CLIPScore"):
        assert found[name].value == pytest.approx(plain.intervals[name].value, abs=1e-6), name
        assert (found[name].low, found[name].high) == pytest.approx(
            (plain.intervals[name].low, plain.intervals[name].high), abs=0.02
        )
        assert found[name].n == plain.intervals[name].n
    mean = np.mean([row["bleu_2"] for row in rows(whole[0]) if row["bleu_2"] is not None])
    assert abs(found["BLEU-2"].value - mean) > 1e-3, "BLEU is no mean"


def test_the_summary_says_what_is_exact_and_whence_it_comes(whole):
    summary = said(whole[0])
    assert summary["without_references"] == sum(1 for i in range(ROWS) if i % PHOTOS == 7)
    notes = " ".join(summary["notes"])
    assert f"{summary['without_references']} of 100 captions have no references" in notes
    assert "those of all 7 images of" in notes
    assert "metrics on references are exact" in notes
    page = (whole[0] / "report.html").read_text()
    assert "CIDEr-D" in page
    assert "self-retrieval R@1 among 8" in page


def test_workers_and_a_run_that_goes_on_give_the_same_bytes(here, refs, work, whole, tmp_path):
    given = [str(here / "captions.csv")]
    more = {"part_rows": 10, "quiet": True, "wanted": Wanted(str(refs), METRICS, diversity=True)}
    score_stream(given, tmp_path, work, workers=2, **more)
    assert contents(tmp_path) == contents(whole[0])
    assert (tmp_path / "summary.json").read_bytes() == (whole[0] / "summary.json").read_bytes()
    before = (tmp_path / "beside" / "references.sqlite").stat().st_mtime_ns
    for lost in ("part-00002.parquet", "part-00007.parquet"):
        (tmp_path / "parts" / lost).unlink()
    done = score_stream(given, tmp_path, work, workers=0, **more)
    assert done.run.before == 8
    assert contents(tmp_path) == contents(whole[0])
    assert (tmp_path / "summary.json").read_bytes() == (whole[0] / "summary.json").read_bytes()
    assert (tmp_path / "beside" / "references.sqlite").stat().st_mtime_ns == before, "read again"
    with pytest.raises(InputError, match="metrics was .*bleu.*|metrics was .*BLEU-1"):
        score_stream(
            given,
            tmp_path,
            work,
            workers=0,
            part_rows=10,
            quiet=True,
            wanted=Wanted(str(refs), ["rouge"], diversity=True),
        )
    refs_2 = tmp_path / "other.json"
    refs_2.write_text(refs.read_text() + " ")
    with pytest.raises(InputError, match="references was"):
        score_stream(
            given,
            tmp_path,
            work,
            workers=0,
            part_rows=10,
            quiet=True,
            wanted=Wanted(str(refs_2), METRICS, diversity=True),
        )


def test_json_lines_hold_the_same_columns(here, refs, work, whole, tmp_path):
    score_stream([str(here / "captions.csv")], tmp_path, work, form="jsonl", workers=0, part_rows=50, quiet=True,
                 wanted=Wanted(str(refs), METRICS))  # fmt: skip
    found = [row for row in rows(tmp_path, "jsonl")]
    assert [row["cider_d"] for row in found] == [
        None if row["cider_d"] is None else round(row["cider_d"], 6) for row in rows(whole[0])
    ]


def test_references_of_other_images_are_refused_before_any_part(here, work, tmp_path):
    (tmp_path / "r.csv").write_text("image,caption\nx.jpg,a dog\n")
    with pytest.raises(
        InputError, match="none of the first 100 captions has a reference in .*'0.jpg'.*'x.jpg'"
    ):
        score_stream([str(here / "captions.csv")], tmp_path / "out", work, workers=0, quiet=True,
                     wanted=Wanted(str(tmp_path / "r.csv")))  # fmt: skip
    assert not list((tmp_path / "out" / "parts").iterdir())


def test_metrics_without_a_model_need_no_photos(here, refs, tmp_path):
    given = [str(here / "captions.csv")]
    done = score_stream(given, tmp_path / "a", ScoreWork("none"), workers=0, part_rows=30, quiet=True,
                        wanted=Wanted(str(refs), METRICS, diversity=True))  # fmt: skip
    other = score_file(here / "captions.csv", None, None, refs, METRICS)
    for row, plain_row in zip(rows(tmp_path / "a"), other.rows, strict=True):
        assert row["cider_d"] == pytest.approx(plain_row["cider_d"], abs=1e-6)
        assert row["reason"] == plain_row["reason"]
        assert row["score"] is None
    for name, interval in other.intervals.items():
        assert done.table.intervals[name].value == pytest.approx(interval.value, abs=1e-6)
    assert list(done.table.intervals) == list(other.intervals)
    assert done.table.diversity["vocabulary"] == caption_diversity(other, None)["vocabulary"]
    assert "self-retrieval" not in " ".join(done.table.diversity)
    assert done.table.provenance["model"] is None
    assert "BLEU-1" in (tmp_path / "a" / "report.html").read_text()
    score_stream(given, tmp_path / "b", ScoreWork("none"), workers=2, part_rows=30, quiet=True,
                 wanted=Wanted(str(refs), METRICS, diversity=True))  # fmt: skip
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# ---------------------------------------------------------------- document frequencies
def test_a_file_of_document_frequencies_weighs_every_row(here, refs, work, tmp_path):
    df = tmp_path / "df.npz"
    train = tmp_path / "train.csv"
    train.write_text("image,caption\n" + "".join(f"t{i}.jpg,{caption(i)}\n" for i in range(60)))
    assert CliRunner().invoke(cli, ["df", str(train), str(df)]).exit_code == 0
    from cliplet.metrics.cider import DocumentFrequencies

    other = score_file(here / "captions.csv", here / "photos", Scorer(here / "tiny"), refs, ["cider"],
                       DocumentFrequencies.load(df))  # fmt: skip
    score_stream([str(here / "captions.csv")], tmp_path / "out", work, workers=0, part_rows=30, quiet=True,
                 wanted=Wanted(str(refs), ["cider"], str(df)))  # fmt: skip
    assert [row["cider_d"] for row in rows(tmp_path / "out")] == pytest.approx(
        [row["cider_d"] for row in other.rows], abs=1e-6, nan_ok=True
    )


def test_frequencies_of_many_images_are_those_of_a_sample_and_said_so(
    here, refs, work, tmp_path, monkeypatch
):
    monkeypatch.setattr(wanted, "DOCUMENTS", 3)
    done = score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, quiet=True,
                        wanted=Wanted(str(refs), ["cider"]))  # fmt: skip
    assert any("estimates: those of a sample of 2 of the 7 images" in note for note in done.table.notes)


# ---------------------------------------------------------------- references in the files themselves
def own(path, count=20):
    lines = [{"image": f"{i % PHOTOS}.jpg", "prediction": caption(i), "references": [caption(i + 1), "a man runs"]}
             for i in range(count)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_references_in_a_captions_file_are_used_and_no_column_of_it(here, work, tmp_path):
    path = own(tmp_path / "own.jsonl")
    done = score_stream([str(path)], tmp_path / "out", work, workers=0, part_rows=7, quiet=True)
    other = score_file(path, here / "photos", Scorer(here / "tiny"), None, ["bleu", "rouge"])
    found = rows(tmp_path / "out")
    assert [row["rouge_l"] for row in found] == pytest.approx(
        [row["rouge_l"] for row in other.rows], abs=1e-6
    )
    assert [row["ref_clip_score"] for row in found] == pytest.approx(
        [row["ref_clip_score"] for row in other.rows], abs=3e-6
    )
    assert "cider_d" not in found[0]
    assert "extra" not in {name for name, value in found[0].items() if value is not None}
    assert any("CIDEr-D is left out" in note and "cliplet df" in note for note in done.table.notes)


def test_cider_on_references_in_the_files_needs_document_frequencies(work, tmp_path):
    with pytest.raises(InputError, match="CIDEr-D weighs.*cliplet df"):
        score_stream([str(own(tmp_path / "own.jsonl"))], tmp_path / "out", work, workers=0, quiet=True,
                     wanted=Wanted(metrics=["cider"]))  # fmt: skip


def test_metrics_without_any_references_are_refused(here, work, tmp_path):
    for given, option in ((Wanted(metrics=["bleu"]), "--metrics"), (Wanted(df="x.npz"), "--df")):
        with pytest.raises(
            InputError, match=f"{option} is for captions with references: give their file with --refs"
        ):
            score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, quiet=True, wanted=given)


def test_references_in_the_json_of_a_shard_belong_to_its_sample(here, tmp_path):
    import io

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            about = {"url": "x", "references": [caption(i), "a red car"]} if i else {"url": "x"}
            for name, content in ((f"{i}.jpg", jpeg(i)), (f"{i}.txt", caption(i + 2).encode()),
                                  (f"{i}.json", json.dumps(about).encode())):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    score_stream([str(tmp_path / "a.tar")], tmp_path / "out", ScoreWork(str(here / "tiny")), workers=0, quiet=True,
                 wanted=Wanted(metrics=["rouge"]))  # fmt: skip
    found = rows(tmp_path / "out")
    assert [row["references"] for row in found] == [0, 2, 2, 2]
    assert [row["rouge_l"] is None for row in found] == [True, False, False, False]
    other = score_file(tmp_path / "a.tar", None, Scorer(here / "tiny"), None, ["rouge"])
    assert [row["rouge_l"] for row in found[1:]] == pytest.approx(
        [row["rouge_l"] for row in other.rows[1:]], abs=1e-6
    )


# ---------------------------------------------------------------- the index
def test_an_index_means_by_a_name_what_a_list_of_names_does(tmp_path, monkeypatch):
    from cliplet.data.captions import read_references
    from cliplet.data.names import NameIndex

    names = ["a/dog.jpg", "b/dog.jpg", "COCO_val2014_000000000042.jpg", "cat.png", "./deep/er/fox.jpeg", "17"]
    path = tmp_path / "r.jsonl"
    path.write_text(
        "".join(json.dumps({"image": n, "caption": f"{n} {k}"}) + "\n" for k in range(2) for n in names)
    )
    monkeypatch.setattr(references, "BATCH", 3)
    read = references.build(tmp_path / "r.sqlite", find_sources([str(path)]))
    assert (read.images, read.captions, read.left_out) == (6, 12, 0)
    index, plain = References(tmp_path / "r.sqlite"), read_references(path)
    whole = NameIndex(plain, "names")
    keys = [
        "dog.jpg",
        "x/a/dog.JPG",
        "b/dog",
        42,
        "42.jpg",
        "Cat",
        "fox.jpg",
        "deep/er/fox",
        "000017.jpg",
        "no.jpg",
    ]
    for key in keys:
        hit = whole.find_all([key])[key]
        assert index.of([key], [None]) == [plain[hit] if isinstance(hit, str) else []], key
    assert index.of(["no.jpg"], ["cat.png"]) == [["cat.png 0", "cat.png 1"]], "by its photo's name"
    assert [len(group) for group in index.groups(2)] == [2, 2, 2]


def test_a_name_that_too_many_share_means_none_of_them(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"image": f"{i}/a.jpg", "caption": "a dog"}) + "\n" for i in range(9)))
    references.build(tmp_path / "r.sqlite", find_sources([str(path)]))
    monkeypatch.setattr(references, "NAMESAKES", 4)
    assert References(tmp_path / "r.sqlite").of(["a.jpg", "3/a.jpg"], [None, None]) == [[], ["a dog"]]


# ---------------------------------------------------------------- the captions as a set
def test_captions_as_a_set_are_measured_as_in_one_file(here, work, plain, tmp_path):
    train = tmp_path / "train.txt"
    train.write_text("\n".join(caption(i) for i in range(0, ROWS, 3)))
    done = score_stream([str(here / "captions.csv")], tmp_path / "out", work, workers=0, part_rows=ROWS, quiet=True,
                        wanted=Wanted(training=str(train)))  # fmt: skip
    other = caption_diversity(plain, Scorer(here / "tiny"), train)
    found = {name.replace(" among 8", ""): value for name, value in done.table.diversity.items()}
    assert found == pytest.approx(dict(other))
    assert said(tmp_path / "out")["diversity"]["novel captions"] == pytest.approx(
        other["novel captions"], abs=1e-6
    )
    parts = score_stream([str(here / "captions.csv")], tmp_path / "cut", work, workers=0, part_rows=9, quiet=True,
                         wanted=Wanted(training=str(train)))  # fmt: skip
    within = ("mutual BLEU-4", "self-retrieval R@1 among 8")
    for name, value in done.table.diversity.items():
        if name not in within:
            assert parts.table.diversity[name] == pytest.approx(value), name
    assert any(
        "mutual BLEU compares the captions of an image that stand in one block" in n
        for n in parts.table.notes
    )


def test_an_image_of_many_captions_costs_no_more_than_its_first():
    captions = [[f"w{i}", "a", "dog", "runs", f"v{i % 9}"] for i in range(500)]
    whole, first = CaptionSet(), CaptionSet()
    whole.add_block(captions, [0] * 500)
    first.add_block(captions[: caption_set.ALIKE], [0] * caption_set.ALIKE)
    assert whole.measures(False)["mutual BLEU-4"] == first.measures(False)["mutual BLEU-4"]
    assert whole.mutual[4] == 5 * caption_set.ALIKE, "words of the captions compared"


def test_many_different_words_are_estimated_and_said_to_be(monkeypatch):
    monkeypatch.setattr(caption_set, "KEPT", 1000)
    whole = CaptionSet()
    for part in range(4):
        one = CaptionSet()
        one.add_block([[f"w{part}-{i}", f"v{i % 7}"] for i in range(3000)], list(range(3000)))
        whole.add(CaptionSet.restore(one.arrays()))
    found = whole.measures(False)
    assert found["vocabulary"] == pytest.approx(12_007, rel=0.15)
    assert found["distinct-2"] == pytest.approx(1, rel=0.15)
    assert found["mean length"] == 2
    assert any("estimates from 1000 hashes" in note for note in whole.notes())
    few = Distinct()
    few.add(np.arange(1000, dtype=np.uint64))
    assert (few.count(), few.cut) == (1000, False)


# ---------------------------------------------------------------- kept embeddings
def test_kept_embeddings_give_the_same_bytes_whatever_is_kept(here, work, tmp_path, monkeypatch):
    from dataclasses import replace

    from cliplet.encoders.onnx import OnnxEncoder

    given = [str(here / "captions.csv")]
    for name, cache, workers in (("a", "one", 0), ("b", "one", 0), ("c", "two", 2), ("d", "two", 2)):
        if name == "b":
            monkeypatch.setattr(
                OnnxEncoder, "embed_images", lambda *_: pytest.fail("a photo was encoded again")
            )
        kept = replace(work, cache=str(tmp_path / cache))
        score_stream(given, tmp_path / name, kept, workers=workers, part_rows=30, quiet=True)
        monkeypatch.undo()
    assert (
        contents(tmp_path / "a")
        == contents(tmp_path / "b")
        == contents(tmp_path / "c")
        == contents(tmp_path / "d")
    )
    score_stream(given, tmp_path / "plain", work, workers=0, part_rows=30, quiet=True)
    assert [row["cosine"] for row in rows(tmp_path / "a")] == pytest.approx(
        [row["cosine"] for row in rows(tmp_path / "plain")], abs=2e-6
    )
    with pytest.raises(InputError, match="kept embeddings was true and is false"):
        score_stream(given, tmp_path / "a", work, workers=0, part_rows=30, quiet=True)


def test_the_command_takes_all_of_it(here, refs, tmp_path):
    done = CliRunner().invoke(cli, ["score", str(here / "captions.csv"), "--images", str(here / "photos"), "--model",
                                    str(here / "tiny"), "--out", str(tmp_path / "out"), "--parts", "jsonl", "--refs",
                                    str(refs), "--metrics", "bleu,cider", "--diversity", "--cache-dir",
                                    str(tmp_path / "cache"), "--strict"])  # fmt: skip
    assert done.exit_code == 1, "captions without references, and --strict"
    assert "CIDEr-D" in done.stdout
    assert "distinct-1" in done.stdout
    assert (tmp_path / "cache" / "embeddings.sqlite").exists()
