"""Results, published values, expectations, plots, reports, and the commands themselves."""

import json
import math
import re
import tarfile
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.evaluate import evaluate
from cliplet.errors import InputError
from cliplet.evaluation.results import Entry, check_expected, published, published_value
from cliplet.reports.svg import Bar, bar_chart, histogram, line_chart, nice_ticks, number
from tests.evaluation.colours import ColourEncoder, write_photos

TABLE = """image,caption,references,rating
r.jpg,a red dog,a red animal|a crimson dog,4
r.jpg,a blue dog,a red animal|a crimson dog,1
g.jpg,a green dog,a green animal,5
g.jpg,a red dog,a green animal,2
b.jpg,a blue cat,a blue animal,4
b.jpg,a grey cat,a blue animal,2
"""


@pytest.fixture
def folder(tmp_path):
    names = {"r.jpg": "red", "g.jpg": "green", "b.jpg": "blue"}
    write_photos(tmp_path / "photos", names)
    (tmp_path / "ratings.csv").write_text(TABLE)
    (tmp_path / "captions.csv").write_text(
        "image,caption\n" + "".join(f"{n},a {c} thing\n" for n, c in names.items())
    )
    return tmp_path


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("cliplet.encoders.registry.load", lambda name, *_: ColourEncoder(name or "packaged"))

    def call(*arguments):
        result = CliRunner().invoke(evaluate, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_human_json_has_the_documented_shape(folder, run):
    result = run(
        "human",
        "table",
        "--data",
        folder / "ratings.csv",
        "--images",
        folder / "photos",
        "--draws",
        20,
        "--json",
    )
    content = json.loads(result.stdout)
    assert set(content) >= {"results", "provenance"}
    by_metric = {r["metric"]: r for r in content["results"]}
    assert set(by_metric["CLIPScore"]) == {"benchmark", "metric", "statistic", "value", "low", "high", "n"}
    assert {"CLIPScore", "RefCLIPScore", "RefMixScore", "BLEU-4", "ROUGE-L", "CIDEr-D"} <= set(by_metric)
    assert by_metric["CLIPScore"]["value"] > 60  # x 100
    assert by_metric["CLIPScore"]["n"] == 6
    about = content["provenance"]["benchmarks"]["table"]
    assert about["protocol"]["hide"] == "candidate"
    assert about["rows_scored"] == 6


def test_choices_can_be_changed_and_wrong_ones_are_refused(folder, run):
    base = (
        "human",
        "table",
        "--data",
        folder / "ratings.csv",
        "--model",
        "none",
        "--metrics",
        "rouge",
        "--draws",
        0,
        "--json",
    )
    content = json.loads(run(*base, "--set", "statistic=spearman", "--set", "references=1").stdout)
    assert content["results"][0]["statistic"] == "spearman"
    assert content["provenance"]["benchmarks"]["table"]["mean_references"] == 1.0
    for wrong in ("colour=red", "drop_own=maybe", "references=few", "statistic"):
        assert run(*base, "--set", wrong).exit_code == 2
    with pytest.raises(InputError, match="hide cannot be 'all'; use candidate, judged, none"):
        run(*base, "--set", "hide=all")
    with pytest.raises(InputError, match="nothing to measure"):
        run("human", "table", "--data", folder / "ratings.csv", "--model", "none", "--metrics", "none")


def test_your_own_scores_and_the_reports(folder, run):
    (folder / "mine.csv").write_text("image,caption,mine\n" + "".join(
        f"{line.split(',')[0]},{line.split(',')[1]},{line.split(',')[3]}\n" for line in TABLE.strip().split("\n")[1:]
    ))  # fmt: skip
    out = folder / "out"
    result = run(
        "human", "table", "--data", folder / "ratings.csv", "--images", folder / "photos", "--scores",
        f"{folder / 'mine.csv'}:mine", "--draws", 20, "--out", out,
    )  # fmt: skip
    content = json.loads((out / "results.json").read_text())
    assert {r["metric"]: r["value"] for r in content["results"]}["mine"] == pytest.approx(100 * 2 * 13 / 27)
    assert "| table | mine | tau-c |" in (out / "results.md").read_text()
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "<svg" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, nothing from outside
    assert "mine" in result.stdout
    assert "hide=candidate" in result.stdout


def test_expect_passes_and_fails_with_its_exit_status(folder, run):
    base = (
        "human",
        "table",
        "--data",
        folder / "ratings.csv",
        "--model",
        "none",
        "--metrics",
        "rouge",
        "--draws",
        0,
    )
    (folder / "want.json").write_text(run(*base, "--json").stdout)
    assert run(*base, "--expect", folder / "want.json").exit_code == 0
    want = json.loads((folder / "want.json").read_text())
    want["results"][0]["value"] += 1.0
    (folder / "want.json").write_text(json.dumps(want))
    failed = run(*base, "--expect", folder / "want.json")
    assert failed.exit_code == 1
    assert "NOT MET: table ROUGE-L tau-c" in failed.stdout
    assert run(*base, "--expect", folder / "want.json", "--tolerance", 2).exit_code == 0


def test_strict_fails_when_a_photo_is_missing(folder, run):
    (folder / "photos" / "b.jpg").unlink()
    base = ("human", "table", "--data", folder / "ratings.csv", "--images", folder / "photos", "--draws", 0)
    loose = run(*base)
    assert loose.exit_code == 0
    assert "2 rows left out" in loose.stdout
    assert run(*base, "--strict").exit_code == 1


def test_retrieval_from_captions_and_from_saved_embeddings(folder, run):
    saved = folder / "saved"
    base = ("--draws", 10, "--json", "--name", "colours")
    first = run(
        "retrieval", folder / "captions.csv", "--images", folder / "photos", "--save-embeddings", saved, *base
    )
    values = {(r["metric"], r["statistic"]): r["value"] for r in json.loads(first.stdout)["results"]}
    assert values["image-to-text", "R@1"] == values["text-to-image", "mAP@R"] == 100.0
    assert values["image-to-text", "median rank"] == 1.0
    again = run("retrieval", "--embeddings", saved, *base)
    assert json.loads(again.stdout)["results"] == json.loads(first.stdout)["results"]
    assert run("retrieval").exit_code == 2
    out = run(
        "retrieval",
        folder / "captions.csv",
        "--images",
        folder / "photos",
        "--out",
        folder / "o",
        "--draws",
        0,
    )
    assert out.exit_code == 0
    assert "Recall at K" in (folder / "o" / "report.html").read_text()


def test_retrieval_from_tars_and_a_split(folder, run):
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, colour in (("r", "red"), ("g", "green")):
            tar.add(folder / "photos" / f"{name}.jpg", f"{name}.jpg")
            (folder / f"{name}.txt").write_text(f"a {colour} thing")
            tar.add(folder / f"{name}.txt", f"{name}.txt")
    content = json.loads(run("retrieval", folder / "shard.tar", "--draws", 0, "--json").stdout)
    assert content["provenance"]["images"] == 2
    (folder / "split.txt").write_text("r.jpg\nb.jpg\n")
    images = ("--images", folder / "photos")
    content = json.loads(
        run("retrieval", folder / "captions.csv", *images, "--split", folder / "split.txt", "--json").stdout
    )
    assert (content["provenance"]["images"], content["results"][0]["benchmark"]) == (2, "split")
    rows = [
        {"filename": "r.jpg", "split": "test", "sentences": [{"raw": "red"}]},
        {"filename": "g.jpg", "split": "val", "sentences": [{"raw": "green"}]},
    ]
    (folder / "karpathy.json").write_text(json.dumps({"images": rows}))
    content = json.loads(
        run("retrieval", folder / "karpathy.json", *images, "--split", "test", "--json").stdout
    )
    assert content["provenance"]["images"] == 1
    with pytest.raises(InputError, match="it has test, val"):
        run("retrieval", folder / "karpathy.json", *images, "--split", "dev")


def test_zeroshot_and_pairs_commands(folder, run):
    by_class = write_photos(
        folder / "classes", {"red/1.jpg": "red", "blue/1.jpg": "blue", "blue/2.jpg": "red"}
    )
    result = run("zeroshot", by_class, "--draws", 10, "--against", "other", "--out", folder / "z")
    assert "share kept" in result.stdout
    assert "taken for: red" in (folder / "z" / "report.html").read_text()
    (folder / "hard.csv").write_text(
        "image,caption,false,category\nr.jpg,red,blue,colour\nb.jpg,red,blue,colour\n"
    )
    result = run(
        "pairs",
        folder / "hard.csv",
        "--images",
        folder / "photos",
        "--draws",
        10,
        "--out",
        folder / "p",
        "--json",
    )
    content = json.loads(result.stdout)
    assert content["results"][0]["value"] == 50.0
    assert "false, preferred" in (folder / "p" / "report.html").read_text()


def test_published_values_stand_beside_their_metric():
    e = Entry("flickr8k-expert", "BLEU-4", "tau-c", 0, 0, 0, 0)
    assert published_value(e).value == 30.8
    assert all(p.source and -100 <= p.value <= 100 for p in published())
    keys = [(p.benchmark, p.statistic, p.metric, p.name) for p in published()]
    assert len(keys) == len(set(keys))


def test_expected_values_that_were_not_measured_fail(tmp_path):
    (tmp_path / "e.json").write_text('[{"benchmark": "b", "metric": "m", "statistic": "s", "value": 1}]')
    check = check_expected([], tmp_path / "e.json")[0]
    assert not check.passed
    assert math.isnan(check.measured)
    (tmp_path / "e.json").write_text('{"results": [{"benchmark": "b"}]}')
    with pytest.raises(InputError, match="value 1 lacks"):
        check_expected([], tmp_path / "e.json")


def test_plots_are_sound_svg_for_odd_data():
    charts = [
        bar_chart([Bar("a <b>", 5, 3, 7, 6), Bar("none", math.nan), Bar("minus", -2.5)], "t & t"),
        bar_chart([Bar("zero", 0.0)], "t"),
        histogram({"one": [1.0], "same": np.ones(5), "none": [], "nan": [math.nan, 1.0]}, "t"),
        line_chart({"l": [(1, 0.1), (10, math.nan), (100, 0.9)]}, "t", log_x=True),
        line_chart({"l": [(1, 0.5)]}, "t"),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert "nan" not in chart.lower().replace("nan</text>", "")
        x_max, y_max = (float(v) for v in root.get("viewBox").split()[2:])
        for element in root.iter():
            for name, limit in (
                ("x", x_max),
                ("x1", x_max),
                ("x2", x_max),
                ("y", y_max),
                ("y1", y_max),
                ("y2", y_max),
            ):
                if element.get(name) is not None:
                    assert -1 <= float(element.get(name)) <= limit + 1
    assert bar_chart([], "t") == histogram({"a": []}, "t") == line_chart({}, "t") == ""
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert number(-1.25) == "−1.2"
