"""Comparing captioners: the right images, the right numbers, tests that find a difference and do not invent one."""

import json
import re
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cliplet.cli.main import cli
from cliplet.errors import InputError
from cliplet.metrics.bleu import bleu, bleu_of_sums
from cliplet.metrics.meteor import Meteor
from cliplet.reports.compare import comparison_page
from cliplet.scoring.compare import compare_files
from cliplet.scoring.file import score_file
from cliplet.scoring.scorer import Scorer
from cliplet.statistics.corpus import CorpusStatistic, corpus_interval, paired_corpus_test
from cliplet.statistics.resampling import bootstrap_mean, paired_mean_test
from tests.tiny_model import WORDS, build_tiny_model

N = 40
WORD_METRICS = ["BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D"]
if find_spec("pycocoevalcap"):
    WORD_METRICS.append("METEOR")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Photos, references, a captioner that repeats a reference with one word changed, and one that says anything."""
    root = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    references, close, random = {}, {}, {}
    for i in range(N):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / "photos" / f"{i}.png")
        sentence = [str(w) for w in rng.choice(WORDS[:-3], 8)]
        references[f"{i}.png"] = [" ".join(sentence), " ".join(sentence[::-1])]
        close[f"{i}.png"] = " ".join([*sentence[:-1], "photo"])
        random[f"{i}.png"] = " ".join(str(w) for w in rng.choice(WORDS[:-3], 8))
    random["no photo.png"] = "a dog"
    del random["3.png"]
    for name, content in {"refs": references, "close": close, "random": random}.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return root, Scorer(build_tiny_model(root / "model"))


def compared(setup, *names):
    root, scorer = setup
    files = [root / f"{name}.json" for name in names]
    return compare_files(files, root / "photos", scorer, root / "refs.json", resamples=400)


def test_only_images_that_all_have_are_compared(setup):
    result = compared(setup, "close", "random")
    assert len(result.images) == N - 1
    assert "3.png" not in result.images
    assert result.left_out == {"close": 1, "random": 0}
    assert result.names == ["close", "random"]


def test_a_clear_difference_is_found_and_none_is_invented(setup):
    result = compared(setup, "close", "random")
    by_metric = {d.metric: d for d in result.differences}
    for metric in WORD_METRICS:
        d = by_metric[metric]
        assert d.test.low > 0
        assert d.p_adjusted < 0.05
        assert d.wins > d.losses
        assert d.wins + d.losses + d.ties == N - 1
        assert d.test.difference == pytest.approx(
            result.intervals[metric][0].value - result.intervals[metric][1].value
        )
    same = compared(setup, "close", "close")
    assert same.names[0] != same.names[1]
    for d in same.differences:
        assert d.test.difference == 0
        assert d.p_adjusted == 1
        assert d.ties == N


def test_corpus_values_are_those_of_the_metric_on_the_common_images(setup):
    root, _ = setup
    result = compared(setup, "random", "close")
    references = json.loads((root / "refs.json").read_text())
    random = json.loads((root / "random.json").read_text())
    images = [f"{i}.png" for i in range(N) if i != 3]
    words = [random[i].replace(".", "").split() for i in images]
    refs = [[r.replace(".", "").split() for r in references[i]] for i in images]
    assert result.intervals["BLEU-4"][0].value == pytest.approx(bleu(words, refs).corpus[3], abs=1e-12)


def test_three_captioners_give_three_pairs(setup):
    result = compared(setup, "close", "random", "refs")
    assert len(result.differences) == 3 * len(result.intervals)


def silenced(setup, tmp_path, caption, every=2):
    """The close captioner's file with every second caption replaced."""
    root, _ = setup
    captions = json.loads((root / "close.json").read_text())
    for i, image in enumerate(captions):
        if i % every == 0:
            captions[image] = caption
    path = tmp_path / "silent.json"
    path.write_text(json.dumps(captions))
    return path


@pytest.mark.parametrize("caption", ["", " \n", None, 7, "\ud800"])
def test_a_captioner_gains_nothing_by_silence(setup, tmp_path, caption):
    root, scorer = setup
    silent = silenced(setup, tmp_path, caption)
    result = compare_files(
        [silent, root / "close.json"], root / "photos", scorer, root / "refs.json", resamples=200
    )
    assert len(result.images) == N
    alone = score_file(silent, root / "photos", scorer, root / "refs.json")
    for metric in WORD_METRICS:
        assert result.intervals[metric][0].value == pytest.approx(alone.intervals[metric].value, abs=1e-12)
        assert result.intervals[metric][0].value < result.intervals[metric][1].value
    answered = alone.intervals["CLIPScore"]
    assert result.intervals["CLIPScore, answered"][0].value == pytest.approx(answered.value)
    assert result.intervals["CLIPScore, answered"][1] == result.intervals["CLIPScore"][1]
    assert result.intervals["CLIPScore"][0].value == pytest.approx(answered.value / 2)
    assert result.intervals["CLIPScore"][0].n == N
    by_metric = {d.metric: d for d in result.differences}
    assert "CLIPScore, answered" not in by_metric
    for metric in ("CLIPScore", "RefCLIPScore", "BLEU-1", "CIDEr-D"):
        assert by_metric[metric].wins == 0
        assert by_metric[metric].wins + by_metric[metric].losses + by_metric[metric].ties == N
    assert by_metric["reference cosine"].test.high < 0
    assert (
        f"silent: {N // 2} of {N} captions are empty or no text and count 0 in the model's scores"
        in result.notes
    )
    np.testing.assert_array_equal(result.per_image["CLIPScore"][::2, 0], 0)
    page = comparison_page(result)
    assert "CLIPScore, answered" in page
    json.dumps(result.summary(), allow_nan=False)


def test_without_silence_nothing_is_said_of_answers(setup):
    result = compared(setup, "close", "random")
    assert not any("answered" in metric for metric in result.intervals)
    assert not any("empty" in note for note in result.notes)


def test_each_metric_runs_over_the_images_that_it_can_measure_for_all(setup, tmp_path):
    root, scorer = setup
    (tmp_path / "photos").mkdir()
    for i in range(N):
        (tmp_path / "photos" / f"{i}.png").write_bytes((root / "photos" / f"{i}.png").read_bytes())
    (tmp_path / "photos" / "0.png").write_bytes(b"damaged")
    references = json.loads((root / "refs.json").read_text())
    for i in (1, 2):
        del references[f"{i}.png"]
    (tmp_path / "refs.json").write_text(json.dumps(references))
    silent = silenced(setup, tmp_path, "", every=3)  # 0.png and 3.png among them
    result = compare_files(
        [root / "close.json", silent], tmp_path / "photos", scorer, tmp_path / "refs.json", resamples=100
    )
    n = {metric: values[0].n for metric, values in result.intervals.items()}
    assert n["CLIPScore"] == n["cosine"] == N - 1
    assert n["RefCLIPScore"] == n["reference cosine"] == N - 3
    assert n["BLEU-1"] == n["ROUGE-L"] == N - 2
    assert len(result.images) == N
    assert np.isnan(result.per_image["CLIPScore"][0]).all()
    assert np.isnan(result.per_image["RefCLIPScore"][1]).all()
    assert result.per_image["RefCLIPScore"][3, 1] == 0
    assert any(
        note.startswith(f"RefCLIPScore, RefMixScore, reference cosine: {N - 3} of {N - 1}")
        for note in result.notes
    )
    for d in result.differences:
        assert d.wins + d.losses + d.ties == n[d.metric]
    assert "damaged" not in comparison_page(result)


def test_one_image_gives_values_without_intervals(setup, tmp_path):
    root, scorer = setup
    for name in ("close", "random"):
        captions = json.loads((root / f"{name}.json").read_text())
        (tmp_path / f"{name}.json").write_text(json.dumps({"5.png": captions["5.png"]}))
    files = [tmp_path / "close.json", tmp_path / "random.json"]
    result = compare_files(files, root / "photos", scorer, root / "refs.json", resamples=50)
    assert all(np.isnan([i.low, i.high]).all() for values in result.intervals.values() for i in values)
    assert all(np.isnan([d.test.low, d.test.high]).all() for d in result.differences)
    assert any("one image" in note for note in result.notes)
    json.dumps(result.summary(), allow_nan=False)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", comparison_page(result))
    alone = score_file(files[0], root / "photos", scorer, root / "refs.json")
    assert any("one image" in note for note in alone.notes)
    json.dumps(alone.summary(), allow_nan=False)


def test_bad_calls_are_named(setup, tmp_path):
    root, scorer = setup
    with pytest.raises(InputError, match="two or more"):
        compare_files([root / "close.json"], root / "photos", scorer)
    (tmp_path / "other.json").write_text('{"3.png": "a dog"}')
    with pytest.raises(InputError, match="no scored image in common"):
        compare_files([root / "random.json", tmp_path / "other.json"], root / "photos", scorer)


def test_the_command_prints_and_writes(setup, tmp_path):
    root, _ = setup
    arguments = ["compare", root / "close.json", root / "random.json", "--images", root / "photos"]
    arguments += ["--refs", root / "refs.json", "--model", root / "model", "--out", tmp_path, "--draws", 200]
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "failed: 1 of 40 captions of random" in done.output
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["summary"]["images"] == N - 1
    assert set(written["provenance"]) == {"close", "random"}
    page = (tmp_path / "report.html").read_text()
    assert "close above random by CLIPScore" in page
    assert "data:image/jpeg" in page
    lines = (tmp_path / "per_image.csv").read_text().splitlines()
    assert len(lines) == N
    assert lines[0].startswith("image,CLIPScore close,CLIPScore random")


def odd_tables(setup, tmp_path):
    """The two captioners as CSVs whose columns have unusual names."""
    root, _ = setup
    files = []
    for name in ("close", "random"):
        captions = json.loads((root / f"{name}.json").read_text())
        path = tmp_path / f"{name}.csv"
        path.write_text("who;says\n" + "".join(f"{i};{c}\n" for i, c in captions.items()))
        files.append(path)
    return root, files


def test_columns_can_be_named(setup, tmp_path):
    root, files = odd_tables(setup, tmp_path)
    common = ["--refs", root / "refs.json", "--resamples", 50, "--json"]
    options = ["--image-column", "who", "--caption-column", "says", "--separator", ";"]
    for more in (["--images", root / "photos", "--model", root / "model"], ["--metrics", "bleu,cider"]):

        def summary(files, *options, more=more):
            arguments = ["compare", *files, *more, *common, *options]
            done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return json.loads(done.stdout)["summary"]

        assert summary(files, *options) == summary([root / "close.json", root / "random.json"])


def test_a_refusal_names_the_fields_and_the_option(setup, tmp_path):
    root, files = odd_tables(setup, tmp_path)
    arguments = ["compare", *files, "--images", root / "photos", "--model", root / "model"]
    for options in ([], ["--image-column", "who"], ["--image-column", "who", "--caption-column", "nothing"]):
        done = CliRunner().invoke(cli, list(map(str, [*arguments, *options])))
        assert isinstance(done.exception, InputError)
        message = str(done.exception)
        assert f"{files[0]}, line 2" in message
        assert "no caption: found the fields who, says" in message
        assert "--caption-column" in message
    done = CliRunner().invoke(cli, list(map(str, [*arguments, "--separator", "::"])))
    assert "--separator '::' must be one character" in str(done.exception)


def test_intervals_and_tests_of_means_equal_those_for_means():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)
    images = np.repeat(np.arange(30), 2)
    ours, known = corpus_interval(CorpusStatistic.mean(a), images, seed=5), bootstrap_mean(a, images, seed=5)
    assert (ours.value, ours.low, ours.high, ours.n) == pytest.approx(
        (known.value, known.low, known.high, known.n)
    )
    statistics = [CorpusStatistic.mean(x).by_group(images, 30) for x in (a, b)]
    test = paired_corpus_test(*statistics, CorpusStatistic.mean(a).value, resamples=2000)
    reference = paired_mean_test(a, b, images, resamples=2000)
    assert test.difference == pytest.approx(reference.difference)
    assert (test.low, test.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert test.p_value == pytest.approx(reference.p_value, abs=0.03)


def test_resampled_bleu_and_meteor_equal_the_metric_on_the_resample():
    rng = np.random.default_rng(2)
    candidates = [[str(w) for w in rng.choice(WORDS, 6)] for _ in range(12)]
    references = [[[str(w) for w in rng.choice(WORDS, 7)] for _ in range(3)] for _ in range(12)]
    rows = rng.integers(0, 12, 30)
    weights = np.bincount(rows, minlength=12)
    again = [candidates[i] for i in rows], [references[i] for i in rows]
    sums = weights @ bleu(candidates, references).statistics.addends()
    assert bleu_of_sums(sums) == pytest.approx(bleu(*again).corpus, abs=1e-12)
    scorer = Meteor(exact_stem=True)
    statistic = scorer(candidates, references).statistic
    assert statistic.value(weights @ statistic.addends) == pytest.approx(scorer(*again).corpus, abs=1e-12)
    many = np.stack([weights, np.ones(12, int)]) @ statistic.addends
    assert statistic.value(many)[1] == pytest.approx(scorer(candidates, references).corpus)
