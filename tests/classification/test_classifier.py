"""The classifier on photos of one colour, with a model that knows colours."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest

import cliplet
from cliplet.classification.coder import Rule
from cliplet.classification.confidence import (
    expected_calibration_error,
    fit_cut,
    fit_several,
    fit_temperature,
    softmax,
)
from cliplet.classification.texts import ClassTexts
from cliplet.encoders.base import adapt
from cliplet.errors import InputError, ModelError
from tests.evaluation.colours import ColourEncoder, jpeg, write_photos
from tests.tiny_model import build_tiny_model

NAMES = {f"{c}{i}.jpg": c for c in ("red", "green", "blue") for i in range(3)}


@pytest.fixture
def folder(tmp_path):
    return write_photos(tmp_path / "photos", NAMES)


def colours(*names, **more):
    return cliplet.Classifier(list(names) or ["red", "green", "blue"], ColourEncoder(), cache=False, **more)


def truth(result):
    return [[name.rpartition("/")[2].rstrip("0123456789.jpg")] for name in result.names]


def test_photos_of_a_folder_a_tar_a_pattern_a_file_and_a_list(folder, tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    classifier = colours()
    of_folder = classifier(folder)
    assert of_folder.answers == truth(of_folder)
    assert len(of_folder) == 9
    for source, count in ((tmp_path / "p.tar", 9), (f"{folder}/red*.jpg", 3), (folder / "red0.jpg", 1)):
        result = classifier.classify(source)
        assert len(result) == count
        assert result.answers == [
            [n.rpartition("/")[2].rpartition(":")[2][: -len("0.jpg")]] for n in result.names
        ]
    assert classifier.classify([jpeg("blue"), jpeg("red")]).answers == [["blue"], ["red"]]
    with pytest.raises(InputError, match="no such photo"):
        classifier.classify(tmp_path / "nowhere")


def test_single_photos_equal_the_batch(folder):
    classifier = colours(texts={"red": {"attributes": ["red paint"]}}, unlabelled=folder)
    batch = classifier.classify(folder, top=3, none_of_these=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        alone = classifier.classify(path, top=3, none_of_these=True)
        assert alone.answers[0] == batch.answers[i]
        np.testing.assert_allclose(alone.scores[0], batch.scores[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(alone.top[0], batch.top[i])


def test_bad_photos_are_reported_and_cost_no_other(folder):
    (folder / "broken.jpg").write_bytes(b"no photo")
    result = colours().classify(folder, none_of_these=True)
    (bad,) = result.reasons
    assert result.names[bad].endswith("broken.jpg")
    assert result.answers[bad] == []
    rows = list(result.rows())
    assert rows[bad]["label"] is None
    assert rows[bad]["reason"]
    assert result.summary()["failed"] == 1
    assert sum(result.summary()["labels"].values()) == 9


def test_the_same_label_permuted_changes_no_prediction(folder):
    """Nothing of prediction reads a label: calibration moves the confidence alone."""
    classifier = colours()
    before = classifier.classify(folder).answers
    labels = np.random.default_rng(0).permutation([name[0] for name in truth(classifier.classify(folder))])
    classifier.calibrate(folder, labels.tolist())
    assert classifier.classify(folder).answers == before


def test_one_class_many_classes_and_top(folder):
    one = colours("red").classify(folder / "red0.jpg")
    assert one.answers == [["red"]]
    assert one.confidence.tolist() == [[1.0]]
    many = [f"red thing {i}" for i in range(3000)] + ["blue"]
    result = colours(*many).classify(folder / "blue0.jpg", top=2)
    assert result.answers == [["blue"]]
    equal = colours(*many).classify(folder / "red0.jpg", top=2)
    assert equal.top[0].tolist()[0] == 0  # of equal scores the first class
    with pytest.raises(InputError, match="at least 1"):
        colours().classify(folder, top=0)


def test_the_confidence_is_fitted_to_held_out_photos():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    scores = rng.normal(size=(400, 4)) + 1.5 * np.eye(4)[labels]
    found = fit_temperature(scores, labels)

    def loss(t):
        return -np.log(softmax(scores, t)[np.arange(400), labels]).mean()

    assert loss(found) <= min(loss(t) for t in found * np.array([0.8, 0.95, 1.05, 1.3])) + 1e-9
    right = scores.argmax(axis=1) == labels
    assert expected_calibration_error(softmax(scores, found).max(axis=1), right) < 0.1
    assert expected_calibration_error(softmax(scores, found / 20).max(axis=1), right) > 0.2
    assert expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False])) == pytest.approx(0.4)
    with pytest.raises(InputError, match="cannot be fitted"):
        fit_temperature(np.ones((3, 2)), np.zeros(3, dtype=int))


def test_cuts_by_hand():
    assert fit_cut(np.arange(100.0), kept=0.95) == 4.0
    evidence = np.array([[3.0, 1.0], [2.0, 0.0]])
    assert fit_several(evidence, np.array([[True, False], [True, False]])) == 2.0
    assert fit_several(evidence, np.array([[True, True], [True, True]])) == 0.0


def test_none_of_these_and_several(tmp_path):
    photos = write_photos(tmp_path / "p", {"red0.jpg": "red", "blue0.jpg": "blue", "grey0.jpg": "grey"})
    classifier = colours("red", "blue")
    classifier.calibrate(
        [jpeg("red", i) for i in range(9)] + [jpeg("blue", i) for i in range(9)], ["red"] * 9 + ["blue"] * 9
    )
    result = classifier.classify(photos, none_of_these=True)
    assert dict(zip([n.rpartition("/")[2] for n in result.names], result.answers, strict=True)) == {
        "blue0.jpg": ["blue"], "grey0.jpg": [], "red0.jpg": ["red"],
    }  # fmt: skip
    assert list(result.rows())[1]["label"] == "none of these"
    many = colours("red", "red yellow", "blue")
    many.calibrate([jpeg("red"), jpeg("blue")], [["red", "red yellow"], ["blue"]])
    found = many.classify([jpeg("red"), jpeg("blue")], several=True)
    assert [set(a) for a in found.answers] == [{"red", "red yellow"}, {"blue"}]


def test_learning_from_photos(folder):
    classifier = cliplet.Classifier(["warm", "cold", "wood"], ColourEncoder(), cache=False)
    labels = {"red": "warm", "green": "wood", "blue": "cold"}
    shots = [jpeg(c, 5) for c in labels]
    classifier.learn(shots, list(labels.values()), "mean")
    result = classifier.classify(folder)
    assert result.answers == [[labels[name[0]]] for name in truth(result)]
    assert result.provenance["adapter"] == "mean"
    with pytest.raises(InputError, match="none of these needs a cut"):
        classifier.classify(folder, none_of_these=True)
    with pytest.raises(InputError, match="label 'hot' is not among the 3 classes"):
        classifier.learn(shots, ["hot", "wood", "cold"])
    with pytest.raises(InputError, match="3 labelled photos have 2 labels"):
        classifier.learn(shots, ["warm", "wood"])


@pytest.mark.parametrize("adapter", [None, "mean", "probe", "tip", "soft-kmeans"])
def test_a_saved_folder_is_the_same_classifier(folder, tmp_path, adapter):
    texts = {
        "red": {"attributes": ["red paint"], "against": {"blue": ["red"]}},
        "blue": {"against": {"red": ["blue"]}},
    }
    made = colours(texts=texts, unlabelled=folder, rule=Rule(gate=0.3))
    if adapter:
        made.learn(
            [jpeg("red", i) for i in (1, 2)] + [jpeg("green")] + [jpeg("blue")],
            ["red", "red", "green", "blue"],
            adapter,
        )
    made.calibrate(folder, [name[0] for name in truth(made.classify(folder))])
    before = made.classify(folder, top=3, none_of_these=True)
    made.save(tmp_path / "saved")
    loaded = cliplet.Classifier.load(tmp_path / "saved", ColourEncoder())
    after = loaded.classify(folder, top=3, none_of_these=True)
    assert after.answers == before.answers
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.confidence, before.confidence)
    assert loaded.calibrated
    assert loaded.classes == made.classes
    made.save(tmp_path / "saved")  # it may take its own place


def test_a_wrong_model_and_a_wrong_folder_are_refused(folder, tmp_path):
    made = colours()
    made.save(tmp_path / "saved")
    with pytest.raises(ModelError, match="was made with the model colours"):
        cliplet.Classifier.load(tmp_path / "saved", ColourEncoder("other"))
    with pytest.raises(InputError, match="holds something else"):
        made.save(folder)
    with pytest.raises(ModelError, match="is no classifier's folder"):
        cliplet.Classifier.load(folder, ColourEncoder())
    card = json.loads((tmp_path / "saved" / "classifier.json").read_text())
    (tmp_path / "saved" / "classifier.json").write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(ModelError, match="has format 9"):
        cliplet.Classifier.load(tmp_path / "saved", ColourEncoder())
    (tmp_path / "saved" / "classifier.json").write_text(json.dumps(card))
    (tmp_path / "saved" / "vectors.npz").write_bytes(b"PK damaged")
    with pytest.raises(ModelError, match="cannot be read as a classifier"):
        cliplet.Classifier.load(tmp_path / "saved", ColourEncoder())


def test_class_texts_are_encoded_once_and_kept(tmp_path):
    first, second, other = ColourEncoder(), ColourEncoder(), ColourEncoder("other")
    for encoder in (first, second, other):
        cliplet.Classifier(["red", "blue"], encoder, cache=tmp_path)
    assert first.texts_seen == ["a photo of a red.", "a photo of a blue."]
    assert second.texts_seen == []
    assert other.texts_seen == first.texts_seen  # another fingerprint
    third = ColourEncoder()
    cliplet.Classifier(["red", "blue", "green"], third, cache=tmp_path)
    assert third.texts_seen == ["a photo of a green."]


def test_labels_by_synonym_number_and_spelling():
    made = cliplet.Classifier([["tennis court", "hard court"], "red"], ColourEncoder(), cache=False)
    assert made.numbers(["Tennis_Court", "hard court", 1, np.int64(0)]).tolist() == [0, 0, 1, 0]
    with pytest.raises(InputError, match="label 2 is not among"):
        made.numbers([2])


def test_classes_given_as_they_are_keep_their_doubles():
    made = cliplet.Classifier([ClassTexts("red"), ClassTexts("red")], adapt(ColourEncoder()), cache=False)
    assert made.names == ["red", "red"]


@pytest.mark.parametrize("templates", [[], "a photo of a {}.", ["a photo"], [3]])
def test_templates_without_a_place_for_the_name_are_refused(templates):
    with pytest.raises(InputError, match="template"):
        colours(templates=templates)


def test_the_confidence_is_that_of_the_answer(tmp_path):
    write_photos(tmp_path / "p", {"red0.jpg": "red", "none0.jpg": "yellow"})
    classifier = colours("red", "green", "blue")
    result = classifier.classify(tmp_path / "p", top=3)
    for answers, wanted in (
        ([[], ["red"]], [None, float(result.confidence[1, 0])]),
        ([["blue", "red"], ["green", "red"]], [_share(result, 0, "blue"), _share(result, 1, "green")]),
    ):
        said = dataclasses.replace(result, answers=answers)
        assert [row["confidence"] for row in said.rows()] == [
            None if value is None else round(value, 6) for value in wanted
        ]


def _share(result, i, name):
    return float(result.confidence[i, result.top[i].tolist().index(result.classes.index(name))])


def test_a_loaded_classifier_keeps_its_standardised_texts_when_it_learns(folder, tmp_path):
    made = colours(texts={"red": ["red paint"]}, unlabelled=folder)
    made.save(tmp_path / "saved")
    again = cliplet.Classifier.load(tmp_path / "saved", ColourEncoder())
    assert again.facts()["rule"]["standardised"] is made.facts()["rule"]["standardised"] is True
    vectors = made.embed(folder)
    labels = [name.split("/")[-1].rstrip("0123456789.jpg") for name in made.classify(folder).names]
    want = made.learn(vectors, labels, "tip", {"alpha": 1.0, "beta": 1.0}).head.text
    got = again.learn(vectors, labels, "tip", {"alpha": 1.0, "beta": 1.0}).head.text
    np.testing.assert_array_equal(got.linear, want.linear)


def test_another_number_of_labels_is_refused_before_photos_are_embedded(folder):
    classifier = colours()
    classifier.encoder.encode_images_safely = lambda images, normalise=True: pytest.fail(
        "photos were embedded"
    )
    with pytest.raises(InputError, match="9 labelled photos have 2 labels"):
        classifier.learn(folder, ["red", "green"])


def test_an_iterator_of_photos_and_what_is_none(folder):
    classifier = colours()
    assert classifier.classify(jpeg(c) for c in ("red", "blue")).answers == [["red"], ["blue"]]
    for wrong in (3, None, {"a": 1}):
        with pytest.raises(InputError, match="photos must be a path, a photo or a list of them"):
            classifier.classify(wrong)


def test_vectors_are_vectors_of_length_1(folder):
    classifier = colours()
    vectors = classifier.embed(folder)
    with pytest.raises(InputError, match="these are vectors, not photos"):
        classifier.classify(vectors)
    for wrong in (3 * vectors, np.where(np.arange(len(vectors))[:, None] == 2, np.nan, vectors)):
        for use in (classifier.embed, lambda v: classifier.learn(v, ["red", "green", "blue"] * 3)):
            with pytest.raises(InputError, match="not all of length 1"):
                use(wrong)


def test_a_saved_classifier_finds_its_model_folder_from_anywhere(folder, tmp_path, monkeypatch):
    build_tiny_model(tmp_path / "tiny")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cliplet.Classifier(["red", "blue"], "tiny", cache=False).save("saved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cliplet.Classifier.load(tmp_path / "saved").names == ["red", "blue"]
    (tmp_path / "tiny").rename(tmp_path / "moved")
    with pytest.raises(
        ModelError, match="saved was made with the model tiny.*cannot be loaded.*give that model"
    ):
        cliplet.Classifier.load(tmp_path / "saved")
    assert cliplet.Classifier.load(tmp_path / "saved", tmp_path / "moved").names == ["red", "blue"]
