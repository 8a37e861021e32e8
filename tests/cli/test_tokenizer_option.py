"""``--tokenizer ptb-punctuation``: other numbers, named wherever they stand; without it nothing changes."""

import json

import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.metrics.registry import reference_scores

CAPTIONS = {"1.jpg": "a dog, running.", "2.jpg": "a man - with a hat - sits", "3.jpg": "two cats"}
REFERENCES = {
    "1.jpg": ["A dog, running on grass.", "The dog runs!"],
    "2.jpg": ["A man - with a cap - sits.", "A seated man."],
    "3.jpg": ["Two cats.", "Cats, two of them."],
}
OTHER = "ptb-punctuation"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps(CAPTIONS))
    (tmp_path / "d.json").write_text(json.dumps(dict.fromkeys(CAPTIONS, "a dog, a man.")))
    (tmp_path / "r.json").write_text(json.dumps(REFERENCES))
    rows = [f'{image},"{caption}",{i}' for i, (image, caption) in enumerate(CAPTIONS.items())]
    (tmp_path / "ratings.csv").write_text("\n".join(["image,caption,rating", *rows]))
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(cli, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def score(*more):
    return json.loads(
        run("score", "c.json", "--refs", "r.json", "--metrics", "bleu,rouge,cider", "--json", *more)
    )


def test_score():
    usual, other = score(), score("--tokenizer", OTHER)
    assert usual == score("--tokenizer", "ptb")
    assert "tokenizer" not in usual["summary"]
    assert "tokenizer" not in usual["provenance"]
    assert not any("punctuation" in note for note in usual["summary"]["notes"])
    assert other["summary"]["tokenizer"] == other["provenance"]["tokenizer"] == OTHER
    assert any(n.startswith("BLEU-1") and "CIDEr-D" in n and OTHER in n for n in other["summary"]["notes"])
    assert OTHER in run("score", "c.json", "--refs", "r.json", "--metrics", "bleu", "--tokenizer", OTHER)
    captions, references = list(CAPTIONS.values()), list(REFERENCES.values())
    found = reference_scores(captions, references, list(CAPTIONS), ["rouge"], tokenizer=OTHER)
    assert [row["rouge_l"] for row in other["rows"]] == pytest.approx(found.per_caption["ROUGE-L"], abs=1e-6)
    # by hand: candidate a dog , running . (5 tokens), reference a dog , running on grass . (7); all 5 are in order
    precision, recall = 5 / 5, 5 / 7
    assert found.per_caption["ROUGE-L"][0] == pytest.approx(
        2.44 * precision * recall / (recall + 1.44 * precision)
    )
    for row, same in zip(usual["rows"], other["rows"], strict=True):
        assert row["cider_d"] != same["cider_d"]


def test_compare():
    command = (
        "compare",
        "c.json",
        "d.json",
        "--refs",
        "r.json",
        "--metrics",
        "cider",
        "--resamples",
        "20",
        "--json",
    )
    usual, other = (json.loads(run(*command, *more)) for more in ((), ("--tokenizer", OTHER)))
    assert "tokenizer" not in usual["summary"]
    assert other["summary"]["tokenizer"] == other["provenance"]["c"]["tokenizer"] == OTHER
    assert any(OTHER in note for note in other["summary"]["notes"])
    # document frequencies are counted on the same tokens
    alone = score("--tokenizer", OTHER)["summary"]["metrics"]["CIDEr-D"]["mean"]
    assert other["summary"]["metrics"]["CIDEr-D"]["c"]["value"] == pytest.approx(alone, abs=1e-6)
    assert usual["summary"]["metrics"]["CIDEr-D"]["c"]["value"] != pytest.approx(alone, abs=1e-3)


def test_evaluate_human():
    command = (
        "evaluate",
        "human",
        "table",
        "--data",
        "ratings.csv",
        "--references",
        "r.json",
        "--model",
        "none",
    )
    command += ("--metrics", "rouge", "--resamples", "0", "--json")
    usual, other = (json.loads(run(*command, *more)) for more in ((), ("--tokenizer", OTHER)))
    (about,) = other["provenance"]["benchmarks"].values()
    assert about["tokenizer"] == OTHER
    assert any(OTHER in note for note in other["notes"])
    assert OTHER not in json.dumps(usual)


def test_document_frequencies_of_other_tokens_are_said():
    run("df", "r.json", "ptb.npz")
    run("df", "r.json", "other.npz", "--tokenizer", OTHER)

    def notes(*arguments):
        return [n for n in score(*arguments)["summary"]["notes"] if "document frequencies were" in n]

    assert not notes("--df", "ptb.npz")
    assert not notes("--df", "other.npz", "--tokenizer", OTHER)
    assert f"--tokenizer {OTHER}" in notes("--df", "ptb.npz", "--tokenizer", OTHER)[0]
    assert "counted with punctuation" in notes("--df", "other.npz")[0]
    equal = score("--df", "other.npz", "--tokenizer", OTHER)["rows"], score("--tokenizer", OTHER)["rows"]
    assert equal[0] == equal[1]
