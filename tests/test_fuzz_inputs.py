"""A short seeded run of the fuzz over library inputs, and that it sees what it is there for."""

import numpy as np
import pytest
from benchmarks import fuzz_files, fuzz_inputs

import cliplet
from tests.tiny_model import build_tiny_model

pytestmark = pytest.mark.skipif(not hasattr(fuzz_inputs.signal, "SIGALRM"), reason="no alarm here")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return cliplet.Scorer(build_tiny_model(tmp_path_factory.mktemp("model")), "cosine")


def test_no_input_of_the_fuzz_is_silently_wrong_or_raises_or_hangs(scorer):
    fuzz_inputs.add_forms_of_torch()
    counts, wrong = fuzz_inputs.fuzz(scorer, calls=150, seed=5)
    assert counts["right"] == 150, "\n".join(wrong)


def test_no_captions_file_of_the_fuzz_is_silently_wrong_or_raises_or_hangs(scorer):
    pytest.importorskip("pyarrow")
    counts, wrong = fuzz_inputs.fuzz(scorer, calls=150, seed=1, sources=fuzz_inputs.FILES)
    assert counts["right"] == 150, "\n".join(wrong)


def test_the_fuzz_of_files_finds_captions_that_slip_by_a_row(scorer, monkeypatch):
    pytest.importorskip("pyarrow")
    real = fuzz_files.score_file

    def slipped(*arguments):
        table = real(*arguments)
        scores = [row["cosine"] for row in table.rows]
        for row, score in zip(table.rows, np.roll(np.array(scores, dtype=object), 1), strict=True):
            row["cosine"] = score
        return table

    monkeypatch.setattr(fuzz_files, "score_file", slipped)
    counts, _ = fuzz_inputs.fuzz(scorer, calls=40, seed=1, sources=fuzz_inputs.FILES)
    assert counts["silent"] > 10


def test_the_fuzz_finds_a_scorer_that_mixes_rows_raises_or_waits(scorer, monkeypatch):
    def mixed(self, images, captions, references=None):
        result = cliplet.Scorer.score(scorer, images, captions, references)
        result.score[:] = np.roll(result.score, 1)
        return result

    def raising(self, images, captions, references=None):
        raise TypeError("truth value")

    class Broken(cliplet.Scorer):
        calls = 0

        def score(self, images, captions, references=None):
            Broken.calls += 1
            if Broken.calls <= 55:  # the oracle's own
                return scorer.score(images, captions, references)
            return (mixed, raising)[Broken.calls % 2](self, images, captions, references)

    counts, wrong = fuzz_inputs.fuzz(Broken(scorer.encoder, "cosine"), calls=30, seed=5)
    assert counts["silent"] > 2
    assert counts["traceback"] > 2
    assert len(wrong) == 30 - counts["right"]
    call = fuzz_inputs.Call("endless", lambda: iter(int, 1) and [None for _ in iter(int, 1)], None)
    assert fuzz_inputs.judge(call, 1)[0] == "hang"
