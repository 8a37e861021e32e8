"""Zero-shot classes against a model whose answers are known, and against brute force."""

import dataclasses
import tarfile

import numpy as np
import pytest

from cliplet.classification.ensemble import class_embeddings, read_templates
from cliplet.classification.labelled import read_class_names, read_labelled_photos
from cliplet.classification.texts import tidy_class_name
from cliplet.errors import InputError
from cliplet.evaluation.model_runs import run_fewshot, run_zeroshot
from cliplet.evaluation.zeroshot import class_ranks, evaluate_zeroshot, share_kept
from cliplet.statistics.resampling import Interval
from tests.evaluation.colours import ColourEncoder, write_photos

PHOTOS = {f"{c}/{i}.jpg": c for c in ("red", "green", "blue") for i in range(3)}
WRONG = {"red/wrong.jpg": "green"}


def test_ensemble_is_the_mean_of_unit_vectors_scaled_to_one():
    encoder = ColourEncoder()
    templates = ("a {} thing", "grey {}")
    got = class_embeddings(encoder, ["red", "blue"], templates)
    for name, vector in zip(("red", "blue"), got, strict=True):
        each = encoder.encode_texts([t.format(name) for t in templates])
        mean = each.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_accuracies_by_hand(tmp_path):
    data = read_labelled_photos(write_photos(tmp_path / "p", PHOTOS | WRONG))
    assert data.classes == ["blue", "green", "red"]
    result = evaluate_zeroshot(ColourEncoder(), data, resamples=50)
    assert result.top1.value == pytest.approx(9 / 10)
    assert result.top5.value == 1.0
    assert result.mean_per_class.value == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert dict(result.per_class) == {"blue": 1.0, "green": 1.0, "red": 0.75}
    half = dataclasses.replace(result, top1=Interval(0.6, 0, 1, 10))
    assert share_kept(half, result)["top-1"] == pytest.approx(0.6 / 0.9)


def test_ties_count_against_the_model():
    images = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    classes = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    ranks, _ = class_ranks(images @ classes.T, np.array([0, 2]))
    assert ranks.tolist() == [2, 1]  # the first photo's class ties with another


def test_labels_from_tars_tables_and_lists(tmp_path):
    folder = write_photos(
        tmp_path / "flat", {"n01484850_great_red.JPEG": "red", "n01491361_blue.JPEG": "blue"}
    )
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    data = read_labelled_photos(tmp_path / "images.tar")
    assert data.classes == ["great red", "blue"]
    assert evaluate_zeroshot(ColourEncoder(), data, resamples=0).top1.value == 1.0
    (tmp_path / "list.csv").write_text("image,label\nn01484850_great_red.JPEG,1\nn01491361_blue.JPEG,Blue\n")
    data = read_labelled_photos(tmp_path / "list.csv", [folder], ["blue", "great_red"])
    assert data.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="'Blue' is not among the 2"):
        read_labelled_photos(tmp_path / "list.csv", [folder], ["great red", "green"])
    synsets = write_photos(tmp_path / "val", {"n01440764/a.jpg": "red", "n01443537/b.jpg": "blue"})
    assert read_labelled_photos(synsets, class_names=["red", "blue"]).labels.tolist() == [0, 1]


def test_files_of_names_and_templates(tmp_path):
    (tmp_path / "names.json").write_text('["a", "b"]')
    assert read_class_names(tmp_path / "names.json") == ["a", "b"]
    (tmp_path / "t.txt").write_text("# comment\na photo of {}.\nart of {c}\n")
    assert read_templates(tmp_path / "t.txt") == ("a photo of {}.", "art of {}")
    (tmp_path / "t.txt").write_text("no place\n")
    with pytest.raises(InputError, match="must hold one"):
        read_templates(tmp_path / "t.txt")
    assert tidy_class_name("n01484850_great_white_shark") == "great white shark"
    assert tidy_class_name("n01484850") == "n01484850"


def test_run_counts_bad_photos_and_prints_the_share_kept(tmp_path):
    folder = write_photos(tmp_path / "p", PHOTOS | WRONG)
    (folder / "red" / "broken.jpg").write_bytes(b"not a photo")
    run = run_zeroshot(
        "set", ColourEncoder(), read_labelled_photos(folder), against=ColourEncoder("other"), resamples=10
    )
    assert run.failed == 1
    assert len(run.provenance["failures"]) == 1
    assert "broken.jpg" in run.notes[0]
    shares = [e for e in run.entries if "share kept" in e.statistic]
    assert [e.value for e in shares] == [100.0] * 3
    assert run.comparisons[0]["difference"] == 0.0


def test_texts_and_unlabelled_photos_take_part(tmp_path):
    folder = write_photos(tmp_path / "p", PHOTOS)
    (tmp_path / "t.json").write_text('{"red": ["blue blue"], "blue": ["red", "red wall"]}')
    data = read_labelled_photos(folder)
    plain = run_zeroshot("set", ColourEncoder(), data, resamples=0)
    texts = run_zeroshot("set", ColourEncoder(), data, resamples=0, texts=str(tmp_path / "t.json"))
    assert plain.entries[0].value == 100.0
    assert texts.details[0].result.ranks.tolist() != plain.details[0].result.ranks.tolist()
    again = run_zeroshot("set", ColourEncoder(), data, resamples=0, unlabelled=str(folder))
    assert again.entries[0].value == 100.0
    assert again.provenance["unlabelled"] == str(folder)


def test_few_shots_from_files(tmp_path):
    names = {f"{c}/{i}.jpg": c for c in ("red", "green", "blue") for i in range(6)}
    data = read_labelled_photos(write_photos(tmp_path / "p", names))
    run = run_fewshot("set", ColourEncoder(), [data], [1, 2], 2, ["mean", "soft-kmeans"], None, True, 20)
    assert {e.metric for e in run.entries} == {"probe", "mean", "soft-kmeans"}
    assert all(e.value == 100.0 for e in run.entries if e.metric == "mean")
    assert run.provenance["test_photos"] == 9
    assert len(run.comparisons) == 4
    other = read_labelled_photos(write_photos(tmp_path / "q", {"yellow/0.jpg": "yellow"}))
    with pytest.raises(InputError, match="class 'yellow'"):
        run_fewshot("set", ColourEncoder(), [data, other], [1], 1)
