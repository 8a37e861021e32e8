"""`cliplet explain`: Shapley values by hand, units, a toy encoder's wrong word, odd inputs, pages, the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cliplet
from cliplet.cli.main import cli
from cliplet.encoders.card import ModelCard, ScoreSpec, TextSpec
from cliplet.errors import InputError
from cliplet.reports.explain import explain_page
from cliplet.reports.explain_image import WIDTH, explain_image
from cliplet.scoring.explain import Explainer, explain
from cliplet.scoring.occlusion import GRID, SHARES, covered, region
from cliplet.scoring.shapley import shapley_values, subsets
from cliplet.scoring.units import replaced, sentences, tidy, units, without, words

SEEN = {"dog": 1.0, "red": 0.5, "runs": 0.5}


class Toy:
    """Texts are the words they hold; a photo is SEEN where its left half is bright, else nothing much."""

    card = ModelCard("toy", 64, text=TextSpec(77, ""), score=ScoreSpec(w=1.0))

    def encode_texts(self, texts):
        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for i, text in enumerate(texts):
            rows[i, 63] = 0.5
            for word in text.lower().split():
                rows[i, self._place(word.strip(".,!"))] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_images(self, images):
        rows = np.zeros((len(images), 64), dtype=np.float32)
        for i, image in enumerate(images):
            pixels = np.asarray(image.convert("L"), dtype=np.float32)
            left = pixels[:, : pixels.shape[1] // 2].mean() / 255
            for word, weight in SEEN.items():
                rows[i, self._place(word)] = weight * (left if word == "dog" else 1.0)
            rows[i, 63] = 0.2
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    @staticmethod
    def _place(word):
        known = ("dog", "red", "runs", "cat", "blue", "man")
        return known.index(word) if word in known else 10 + sum(map(ord, word)) % 50


def photo():
    pixels = np.zeros((80, 120, 3), dtype=np.uint8)
    pixels[:, :50] = 255
    return Image.fromarray(pixels)


# ---------------------------------------------------------------- Shapley values
def test_shapley_of_a_sum_is_each_players_own_part():
    own = np.array([0.3, -1.0, 2.0])
    values = [0.5 + own[list(s)].sum() for s in subsets(3)]
    assert shapley_values(values) == pytest.approx(own)


def test_shapley_by_hand_and_alike_players_get_alike():
    # v(1) = 1, v(2) = 2, v(12) = 6: each gets its mean over both orders
    assert shapley_values([0, 1, 2, 6]) == pytest.approx([2.5, 3.5])
    gloves = [0, 0, 0, 0, 0, 1, 1, 1]  # the third with either of the first two
    assert shapley_values(gloves) == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_shapley_sums_to_all_less_none_and_refuses_other_lengths():
    values = np.random.default_rng(0).normal(size=256)
    assert shapley_values(values).sum() == pytest.approx(values[-1] - values[0])
    assert shapley_values([3.0]).shape == (0,)
    with pytest.raises(InputError, match="2\\^n"):
        shapley_values([1, 2, 3])


# ---------------------------------------------------------------- units
def test_units_hold_every_word_once_and_are_at_most_eight():
    long = "a man in a long coat looks through a camera on a tripod while two children in blue shirts eat near a river"
    for caption in (
        "A black dog runs on the beach .",
        long,
        "and of the",
        "一只狗在海滩上跑来跑去很开心",
        "Собака бежит",
    ):
        found = words(caption)
        parts = units(found, caption)
        assert 1 <= len(parts) <= 8
        for word in found:
            assert sum(p.start <= word.start and word.end <= p.end for p in parts) == 1, (caption, word)
        assert all(caption[p.start : p.end] == p.text for p in parts)


def test_words_have_kinds():
    kinds = {w.text: w.kind for w in words("Two men in a red shirt are riding an orange bike")}
    assert kinds["Two"] == "number"
    assert kinds["men"] == "nouns"
    assert kinds["red"] == kinds["orange"] == "colour"
    assert kinds["riding"] == "doing"
    assert kinds["a"] is None


def test_sentences_are_cut_where_they_end():
    text = "A dog runs . It is 2.5 m long, says Mr. Smith! Wow..."
    assert [s.text for s in sentences(text)] == [
        "A dog runs .",
        "It is 2.5 m long, says Mr. Smith!",
        "Wow...",
    ]


def test_leaving_out_and_replacing_keep_the_text_in_order():
    caption = "A dog, a cat and a bird"
    found = words(caption)
    assert without(caption, [found[0], found[1]]) == "a cat and a bird"
    assert replaced(caption, found[1], "elephant") == "An elephant, a cat and a bird"
    assert tidy(" , a   b ") == "a b"


# ---------------------------------------------------------------- explain
def test_shares_sum_to_the_score_and_the_wrong_word_is_named():
    found = explain(photo(), "a red cat runs", Toy())
    (judged,) = found.sentences
    assert sum(u.share for u in judged.units) + judged.neutral == pytest.approx(found.score, abs=1e-5)
    assert found.score == pytest.approx(cliplet.score(photo(), "a red cat runs", Toy()), abs=1e-6)
    assert found.wrong_word.text == "cat"
    assert "dog" in [word for word, _ in found.wrong_word.better]
    assert '"cat"' in found.message
    assert sum(w.probability for w in judged.words) == pytest.approx(1)


def test_the_region_is_where_the_phrase_is_seen():
    found = explain(photo(), "a dog and red", Toy())
    unit = next(u for u in found.sentences[0].units if "dog" in u.text)
    assert unit.region.x < 0.5
    left, top, right, bottom = unit.region.box
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1


def test_no_region_where_nothing_falls():
    assert region(np.zeros(len(SHARES) * GRID * GRID)) is None
    assert len(covered(photo())) == len(SHARES) * GRID * GRID


def test_sentences_are_judged_by_themselves():
    found = explain(photo(), "A red dog runs. A blue man.", Toy(), regions=False)
    first, second = found.sentences
    assert first.score > second.score
    assert found.sentence_score == pytest.approx((first.score + second.score) / 2)
    assert found.caption[second.start : second.end] == "A blue man."
    for sentence in found.sentences:
        for word in sentence.words:
            assert found.caption[word.start : word.end] == word.text
    assert found.wrong_word.start >= second.start


@pytest.mark.parametrize(
    "caption",
    ["the of and", "dog", "!!!", "一只狗在海滩上跑", "كلب يركض", "dog " * 100, "a\tdog\nruns", "<b>dog</b> & red",
     "A dog. " * 40, "naïve café 🐕"],
)  # fmt: skip
def test_odd_captions_are_explained(caption):
    found = Explainer(Toy()).explain(photo(), caption, regions=False)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.sentences
    assert explain_page(found, photo(), "p.png")


@pytest.mark.parametrize(
    ("image", "caption"), [(photo(), ""), (photo(), "  "), (b"no photo", "a dog"), ("no.jpg", "a dog")]
)
def test_bad_input_is_refused(image, caption):
    with pytest.raises(InputError):
        explain(image, caption, Toy())


# ---------------------------------------------------------------- pages and the command
def test_page_escapes_and_picture_has_its_width():
    found = explain(photo(), "a <script>alert(1)</script> dog", Toy())
    text = explain_page(found, photo(), "<img src=x>.png")
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    assert "data:image/jpeg" in text
    assert explain_image(found, photo()).width == WIDTH


@pytest.fixture
def saved(tmp_path):
    photo().save(tmp_path / "p.png")
    return tmp_path / "p.png"


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_command_prints_within_80_columns_and_writes(saved, tmp_path):
    for name in ("why.html", "why.png"):
        done = run("explain", saved, "a red dog runs on [the] beach. A cat.", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert (tmp_path / name).stat().st_size > 1000
    assert "most likely" in done.output
    assert max(map(len, done.output.splitlines()[:-1])) <= 80
    content = json.loads(run("explain", saved, "a red dog", "--json", "--no-regions").output)
    assert {"score", "sentences", "wrong_word", "message"} <= set(content)


def test_command_refuses_before_work(saved, tmp_path):
    assert "must end in" in run("explain", saved, "a dog", "--out", tmp_path / "why.pdf").output
    done = run("explain", saved, "a dog", "--out", tmp_path / "no" / "why.html")
    assert isinstance(done.exception, InputError)


def test_the_lowest_rows_of_a_report_say_why(saved, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"p.png": ["a red dog runs", "a blue cat on a table"]}))
    arguments = ["score", tmp_path / "c.json", "--images", tmp_path, "--out", tmp_path / "o"]
    assert run(*arguments).exit_code == 0
    assert "most likely" in (tmp_path / "o/report.html").read_text()
    assert run(*arguments, "--explain", 0).exit_code == 0
    assert "most likely" not in (tmp_path / "o/report.html").read_text()


def test_a_long_list_of_failures_folds(saved, tmp_path):
    rows = [{"image": f"missing{i}.jpg", "caption": "a dog"} for i in range(20)] + [
        {"image": "p.png", "caption": "a dog"}
    ]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    run("score", tmp_path / "c.json", "--images", tmp_path, "--out", tmp_path / "o")
    text = (tmp_path / "o/report.html").read_text()
    assert "<details><summary>Show all 20 captions" in text
    assert '<div class="scroll"><table id="rows">' in text
