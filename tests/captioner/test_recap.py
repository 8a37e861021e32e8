"""Captions by retrieval: the store, consensus, a function of one's own, the self-improving loop, the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cliplet
from cliplet.captioner.augment import CONTROLS, LoopConfig, augment
from cliplet.captioner.decoding import DecodeConfig
from cliplet.captioner.recap import PROMPT, Recap, consensus_order
from cliplet.captioner.store import CaptionStore
from cliplet.cli.caption import caption
from cliplet.encoders.base import BaseEncoder, unit_norm
from cliplet.encoders.card import ModelCard, TextSpec
from cliplet.encoders.fits import Pairs
from cliplet.errors import InputError
from tests.tiny_model import build_tiny_model

DOGS = ["a dog runs on the beach", "a dog runs on the sand", "a brown dog runs on the beach"]
CATS = ["a cat sits on a red sofa", "the cat is on a sofa", "one cat sits on a red sofa"]


class Topics(BaseEncoder):
    """Photos are numbers: 0 for dogs, 1 for cats; 9 cannot be read."""

    def __init__(self) -> None:
        self.card = ModelCard("topics", 3, text=TextSpec(prompt_prefix=""), fingerprint_of=lambda: "f" * 16)

    def encode_images_safely(self, images, normalise=True):
        rows = unit_norm(np.array([[1.0, 0, 0.1], [0, 1, 0.1]])[[int(i) % 2 for i in images]])
        bad = {i: "no such photo" for i, photo in enumerate(images) if photo == 9}
        rows[list(bad)] = np.nan
        return rows, bad

    def encode_texts_safely(self, texts, normalise=True):
        rows = np.array([["dog" in t, "cat" in t, 0.01 * len(t)] for t in texts], dtype=np.float32)
        return unit_norm(rows), np.zeros(len(texts), bool), {}


@pytest.fixture
def store() -> CaptionStore:
    return CaptionStore.build(Topics(), [[DOGS[0], DOGS[1]], [DOGS[2]], CATS, ["two red cars"]])


def test_a_store_comes_back_as_it_was(store, tmp_path):
    store.save(tmp_path / "store.npz")
    again = CaptionStore.load(tmp_path / "store.npz", Topics())
    assert again.captions == store.captions
    assert again.owner.tolist() == [0, 0, 1, 2, 2, 2, 3]
    np.testing.assert_array_equal(again.embeddings, store.embeddings)
    assert again.frequencies.documents == 4


def test_a_store_of_another_model_or_none_is_refused(store, tmp_path):
    store.save(tmp_path / "store.npz")
    other = Topics()
    other.card = ModelCard("other", 3, fingerprint_of=lambda: "0" * 16)
    with pytest.raises(InputError, match=r"embedded by topics \(f+\), not by other"):
        CaptionStore.load(tmp_path / "store.npz", other)
    with pytest.raises(InputError, match="no such store"):
        CaptionStore.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"bad")
    for wrong in ("bad.npz", "."):
        with pytest.raises(InputError, match=r"not a store of captions: it is no \.npz file"):
            CaptionStore.load(tmp_path / wrong)
    with pytest.raises(InputError, match=r"embedded by topics \(f+\), not by other"):
        Recap(other, store)
    with pytest.raises(InputError, match="no captions"):
        CaptionStore.build(Topics(), [["  "], [None]])


def test_the_nearest_captions_are_the_nearest(store):
    photos = Topics().encode_images([0, 1])
    found = store.nearest(photos, 3)
    assert [{store.captions[j] for j in row} for row in found] == [set(DOGS), set(CATS)]
    scores = photos @ store.embeddings.T
    assert found.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :3].tolist()
    assert store.nearest(photos, 99).shape == (2, 7)


def test_consensus_is_the_mean_cider_against_the_others_by_hand(store):
    from cliplet.metrics.cider import cider

    found = np.array([[0, 1, 2]])
    words = [store.words[j] for j in found[0]]
    by_hand = [
        cider([words[i]], [[w for j, w in enumerate(words) if j != i]], store.frequencies).corpus
        for i in range(3)
    ]
    assert consensus_order(store, found)[0].tolist() == np.argsort(-np.array(by_hand), kind="stable").tolist()


def test_many_photos_are_done_in_blocks_with_the_same_result(store, monkeypatch):
    from cliplet.captioner import recap
    from cliplet.captioner import store as of_store

    found = np.random.default_rng(0).permuted(np.tile(np.arange(7), (10, 1)), axis=1)[:, :5]
    photos = unit_norm(np.random.default_rng(1).normal(size=(10, 3)))
    whole, near = consensus_order(store, found), store.nearest(photos, 3)
    held, reward = [], recap.CiderReward
    monkeypatch.setattr(recap, "CiderReward", lambda refs, df: held.append(len(refs)) or reward(refs, df))
    monkeypatch.setattr(recap, "BATCH", 4)
    monkeypatch.setattr(of_store, "SIMILARITIES", 14)
    np.testing.assert_array_equal(consensus_order(store, found), whole)
    np.testing.assert_array_equal(store.nearest(photos, 3), near)
    assert max(held) <= 4 * 5


def test_a_store_of_captions_that_cannot_be_embedded_is_refused():
    class Deaf(Topics):
        def encode_texts_safely(self, texts, normalise=True):
            return (
                np.full((len(texts), 3), np.nan),
                np.zeros(len(texts), bool),
                dict.fromkeys(range(len(texts)), "NaN"),
            )

    with pytest.raises(InputError, match="no caption can be embedded; the first reason: NaN"):
        CaptionStore.build(Deaf(), [DOGS])


def test_captions_of_photos(store):
    recap = Recap(Topics(), store, neighbours=3)
    found = recap.caption([0, 1, 9])
    assert found[0].captions[0] in DOGS
    assert found[1].captions[0] in CATS
    assert found[2].captions == []
    assert found[2].reason == "no such photo"
    assert len(set(recap.caption([0], DecodeConfig(captions=2))[0].captions)) == 2
    nearest = Recap(Topics(), store, "nearest", 3).caption([0])[0].captions
    assert nearest == [store.captions[store.nearest(Topics().encode_images([0]), 1)[0, 0]]]


def test_a_function_gets_captions_and_prompt_and_may_fail_for_one_photo(store):
    seen = []

    def write(captions, prompt):
        seen.append((captions, prompt))
        if any("cat" in c for c in captions):
            raise RuntimeError("no cats here")
        return "  a dog,\n written by me "

    found = Recap(Topics(), store, write, 3).caption([0, 1])
    assert found[0].captions == ["a dog, written by me"]
    assert found[1].captions == []
    assert found[1].reason == "write failed: RuntimeError: no cats here"
    assert set(seen[0][0]) == set(DOGS)
    assert seen[0][1] == PROMPT.replace("{captions}", "\n".join(f"- {c}" for c in seen[0][0]))


@pytest.mark.parametrize("answer", ["", None, 3, [], [" "]])
def test_what_is_no_caption_is_a_reason(store, answer):
    found = Recap(Topics(), store, lambda captions, prompt: answer, 3).caption([0])
    assert "which is no caption" in found[0].reason


def test_several_answers_are_ranked_by_the_model(store):
    recap = Recap(Topics(), store, lambda captions, prompt: ["a cat", "a dog"], 3)
    assert recap.caption([0, 1])[0].captions == ["a dog", "a cat"]
    assert recap.caption([1])[0].captions == ["a cat", "a dog"]


def test_wrong_settings_are_refused(store):
    with pytest.raises(InputError, match="no fusion 'magic'"):
        Recap(Topics(), store, "magic")
    with pytest.raises(InputError, match="at least 1"):
        Recap(Topics(), store, neighbours=0)
    with pytest.raises(InputError, match="not a function"):
        Recap(Topics(), store, "cliplet.captioner.recap:PROMPT")
    wide = Topics()
    wide.card = ModelCard("wide", 4)
    with pytest.raises(InputError, match="3 dimensions"):
        Recap(wide, store)
    with pytest.raises(InputError, match="no control"):
        LoopConfig(control="magic")  # type: ignore[arg-type]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_loop_and_its_controls(control):
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(4, 8))
    label = np.arange(40) % 4
    words = ("dog", "cat", "car", "man")
    captions = [f"a {words[k]} stands on the number {i % 3}" for i, k in enumerate(label)]
    table = dict(zip(captions, unit_norm(topics[label] @ rng.normal(size=(8, 6)) + 0.1), strict=True))
    images = unit_norm(topics[label] + 0.1 * rng.normal(size=(40, 8)))
    pairs = Pairs(images[:30], np.stack([table[c] for c in captions[:30]]), np.arange(30))
    rounds = list(
        augment(
            pairs, captions[:30], images[30:], lambda texts: np.stack([table[t] for t in texts]),
            LoopConfig("ridge", rounds=2, neighbours=5, control=control),
        )
    )  # fmt: skip
    assert len(rounds) == 3
    assert rounds[0].joined == 0
    last = rounds[-1]
    assert len(last.store.captions) == 30 + last.joined
    assert last.joined == 10 if control == "no threshold" else 0 < last.joined <= 10
    moved = np.abs(last.fit.image.matrix - rounds[0].fit.image.matrix).max()
    assert (moved == 0) == (control == "no refit")
    if control == "no threshold":
        own = last.store.captions[30:]
        assert all(words[i % 4] in text for i, text in zip(range(30, 40), own, strict=True))


def test_the_command_makes_a_store_and_captions(tmp_path):
    build_tiny_model(tmp_path / "tiny")
    (tmp_path / "captions.json").write_text(json.dumps({"a.jpg": DOGS, "b.jpg": CATS}))
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(np.full((40, 40, 3), 100 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")

    def call(*arguments):
        return CliRunner().invoke(caption, [str(a) for a in arguments], catch_exceptions=False)

    made = call("store", tmp_path / "tiny", tmp_path / "captions.json", "-o", tmp_path / "store.npz")
    assert made.exit_code == 0
    assert "6 captions of 2 photos by tiny-0" in made.output
    (tmp_path / "names.txt").write_text("a.jpg\ngone.jpg\n")
    some = call("store", tmp_path / "tiny", tmp_path / "captions.json", "-o", tmp_path / "some.npz", "--images",
                tmp_path / "names.txt")  # fmt: skip
    assert "note: 1 names of" in some.output
    assert "have no captions, such as gone.jpg" in some.output
    assert "3 captions of 1 photos" in some.output
    run = ["run", tmp_path / "tiny", tmp_path / "photos", "--method", "recap"]
    done = call(*run, "--store", tmp_path / "store.npz", "-o", tmp_path / "out.json", "--neighbours", 4)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written) == {"0.png", "1.png"}
    assert set(written.values()) <= {*DOGS, *CATS}
    assert "bad.png" in json.loads((tmp_path / "out.failed.json").read_text())
    assert call(*run, "-o", tmp_path / "out.json").exit_code == 2
    assert call(*run, "--store", tmp_path / "store.npz", "--greedy").exit_code == 2
    assert call("run", tmp_path / "tiny", tmp_path / "photos", "--store", "x.npz").exit_code == 2


def test_with_an_aligned_model(tmp_path):
    encoder = cliplet.load(build_tiny_model(tmp_path / "tiny"))
    photos = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(12)]
    captions = [[(DOGS + CATS)[i % 6]] for i in range(12)]
    aligned = cliplet.align(encoder, photos, captions)
    found = Recap(aligned, CaptionStore.build(aligned, captions)).caption(photos[:2])
    assert all(one.captions for one in found)


def test_the_loop_as_a_command(tmp_path):
    build_tiny_model(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    for folder, names in (("known", range(12)), ("bare", range(12, 18))):
        (tmp_path / folder).mkdir()
        for i in names:
            blocks = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            Image.fromarray(blocks).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "bare" / "bad.png").write_bytes(b"bad")
    content = {f"{i}.png": (DOGS + CATS)[i % 6] for i in range(12)}
    (tmp_path / "captions.json").write_text(json.dumps(content))
    arguments = ["improve", tmp_path / "tiny", "--captions", tmp_path / "captions.json", "--images",
                 tmp_path / "known", "--bare", tmp_path / "bare", "--out", tmp_path / "new", "--store",
                 tmp_path / "store.npz", "--rounds", 2, "--neighbours", 4, "--control", "no threshold",
                 "--method", "procrustes"]  # fmt: skip
    done = CliRunner().invoke(caption, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "6, 6 of 7 photos" in done.output
    assert "bad.png" in done.output
    store = CaptionStore.load(tmp_path / "store.npz", cliplet.load(tmp_path / "new"))
    assert len(store.captions) == 18
    assert cliplet.load(tmp_path / "new").card.training["loop"]["own_captions"] == 6
    run = ["run", tmp_path / "new", tmp_path / "bare", "--method", "recap", "--store", tmp_path / "store.npz",
           "-o", tmp_path / "out.json"]  # fmt: skip
    again = CliRunner().invoke(caption, [str(a) for a in run], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert len(json.loads((tmp_path / "out.json").read_text())) == 6
