"""BLEU, METEOR, length and repetition as rewards: agreement with the metrics, and values worked out by hand."""

import pickle

import numpy as np
import pytest

from cliplet.errors import InputError, MissingExtraError
from cliplet.metrics import meteor as meteor_module
from cliplet.metrics.bleu import bleu
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import BleuReward, LengthReward, MeteorReward, RepetitionReward
from cliplet.rewards.base import WordReward
from tests.shared_data import shared_data

REFERENCES = {
    "dog.jpg": ["A dog runs on the beach.", "The brown dog is running.", "Dog, beach and water"],
    7: ["Two men talk.", "Two men are talking in the street."],
}


def tokens(captions: list[str]) -> list[list[str]]:
    return tokenize_many(captions, joined=False)


@pytest.fixture(scope="module")
def dev() -> tuple[dict[str, list[str]], list[str], list[str]]:
    """References of 150 photos (a varying number of them), and captions of these and other photos for them."""
    names = shared_data("flickr8k/split_dev.txt").read_text().split()[:150]
    groups: dict[str, list[str]] = {name: [] for name in names}
    for line in shared_data("flickr8k/Flickr8k.token.txt").read_text().splitlines():
        key, caption = line.split("\t")
        if (name := key.split("#")[0]) in groups:
            groups[name].append(caption)
    references = {name: group[1 : 2 + place % 4] for place, (name, group) in enumerate(groups.items())}
    captions = [group[0] for group in groups.values()]
    images = [*names, *names[::-1], names[0], names[1]]
    return references, images, [*captions, *captions, "", "xyzzy"]


def test_bleu_without_smoothing_is_the_metric(dev: tuple) -> None:
    references, images, captions = dev
    expected = bleu(tokens(captions), [tokens(references[image]) for image in images]).per_caption[3]
    values = BleuReward(references, smoothing="none")(images, captions)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    assert (expected > 0.01).sum() > 10


def test_smoothed_bleu_follows_its_formula() -> None:
    # three of four words, one of three pairs, none of two triples, none of one 4-gram; closest reference: 4 words
    caption = "a dog beach xyzzy"
    value = BleuReward({"dog.jpg": ["a dog is beach", "dog"]})(["dog.jpg"], [caption])[0]
    assert value == pytest.approx((3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25)
    short = BleuReward(REFERENCES)(["dog.jpg"], ["beach dog"])[
        0
    ]  # closest: 4 words, so exp(1 - 4/2); no pair
    assert short == pytest.approx(np.exp(-1) * (2 / 2 * 1 / 2 * 1 / 1 * 1 / 1) ** 0.25)
    np.testing.assert_array_equal(BleuReward(REFERENCES)([7, 7], ["", "xyzzy qwerty"]), [0, 0])


def test_smoothed_bleu_tells_apart_what_plain_bleu_does_not(dev: tuple) -> None:
    references, images, captions = dev
    plain, smooth = (BleuReward(references, smoothing=s)(images, captions) for s in ("none", "add-one"))
    nothing = plain < 1e-6
    assert nothing.mean() > 0.5
    assert len(np.unique(smooth[nothing])) > 20
    assert (smooth >= 0).all()
    assert (smooth <= 1).all()


def test_an_end_token_counts_as_a_word_of_bleu() -> None:
    ends, plain = BleuReward(REFERENCES, end_token="<end>"), BleuReward(REFERENCES)
    cut, whole = "two men are talking in the", "two men are talking in the street"
    np.testing.assert_allclose(ends([7], [whole]), 1)
    assert np.diff(ends([7, 7], [cut, whole])) > np.diff(plain([7, 7], [cut, whole]))


def test_meteor_is_the_metric(dev: tuple) -> None:
    pytest.importorskip("pycocoevalcap")
    references, images, captions = (dev[0], dev[1][:40], dev[2][:40])
    expected = meteor_module.meteor(
        tokens(captions), [tokens(references[image]) for image in images]
    ).per_caption
    np.testing.assert_array_equal(MeteorReward(references)(images, captions), expected)


def test_meteor_without_its_tables_fails_before_any_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("METEOR", "meteor")

    monkeypatch.setattr(meteor_module, "load_tables", missing)
    with pytest.raises(MissingExtraError, match=r"cliplet\[meteor\]"):
        MeteorReward(REFERENCES)


def test_length_is_the_distance_from_the_references() -> None:
    reward = LengthReward(REFERENCES)  # means: 5 words of (6 + 5 + 4) / 3, and 5 of (3 + 7) / 2
    captions = ["a dog runs on sand", "a dog", "", "a dog runs on sand " * 3]
    np.testing.assert_allclose(reward(["dog.jpg"] * 3 + [7], captions), [0, -0.6, -1, -2])
    np.testing.assert_allclose(LengthReward(target=4)(["any", "image"], ["a dog", "a, b; c. d!"]), [-0.5, 0])


def test_repetition_is_the_share_of_words_said_again() -> None:
    cases = {
        "a dog runs on a beach": 0,
        "a dog and a cat": 0,
        "dog dog dog": 2 / 3,  # each equals its neighbour
        "a dog and a dog": 1 / 5,  # the pair "a dog" again
        "big city big city big city": 3 / 6,  # after the pairs "big city" and "city big", only these again
        "dog dog cat dog dog": 2 / 5,  # a pair that is both counts once
        "": 0,
        "dog": 0,
    }
    found = RepetitionReward()(["x"] * len(cases), list(cases))
    np.testing.assert_allclose(found, -np.array(list(cases.values())))


@pytest.mark.parametrize("make", [BleuReward, MeteorReward, LengthReward])
def test_references_are_checked_when_the_reward_is_made(make: type[WordReward]) -> None:
    pytest.importorskip("pycocoevalcap")
    for references, message in (
        ({}, "at least one image"),
        ({"x": []}, "image 'x' has no reference"),
        ({"x": "a dog"}, "references of image 'x' must be a list"),
        ({"x": ["a dog", 5]}, "all strings or all lists"),
        ([["a dog"]], "must be a mapping"),
    ):
        with pytest.raises(InputError, match=message):
            make(references)  # type: ignore[call-arg]


def test_what_else_cannot_work_is_named() -> None:
    with pytest.raises(InputError, match="unknown smoothing 'floor' of BLEU: choose one of add-one, none"):
        BleuReward(REFERENCES, smoothing="floor")
    with pytest.raises(InputError, match="references or a target"):
        LengthReward()
    for target in (0, -3, float("nan")):
        with pytest.raises(InputError, match="positive number of words"):
            LengthReward(target=target)
    with pytest.raises(InputError, match="references of image 'x' have no words"):
        LengthReward({"x": ["..."]})
    with pytest.raises(InputError, match="empty"):
        RepetitionReward()([], [])


def test_neither_the_batch_nor_a_copy_changes_a_value(dev: tuple) -> None:
    references, images, captions = dev
    for reward in (BleuReward(references), LengthReward(references), RepetitionReward()):
        values = reward(images, captions)
        assert values.dtype == np.float64
        alone = [
            reward([image], [caption])[0] for image, caption in zip(images[-9:], captions[-9:], strict=True)
        ]
        np.testing.assert_allclose(alone, values[-9:], rtol=1e-12)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(reward))(images, captions), values)
