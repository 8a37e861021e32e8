"""Mixtures: sums, running statistics, exact resume, and errors before any work."""

import json
from collections.abc import Hashable, Sequence

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.metrics.ngrams import Caption
from cliplet.rewards import LengthReward, MixedReward, RepetitionReward, Reward
from cliplet.rewards.base import WordReward

IMAGES = ["x"] * 4


class Given:
    """A stranger's reward: the caption is the number."""

    name = "given"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> np.ndarray:
        self.calls += 1
        return np.array([float(caption) for caption in captions])


class Words(WordReward):
    """Remembers the lists of words that it was given."""

    name = "words"

    def __init__(self, known: Sequence[Hashable] | None = None) -> None:
        self.rows = None if known is None else {image: row for row, image in enumerate(known)}
        self.seen: list[Sequence[Caption]] = []

    def of_words(self, images: Sequence[Hashable], words: Sequence[Caption]) -> np.ndarray:
        self.seen.append(words)
        return np.array([float(len(caption)) for caption in words])


def captions(values: Sequence[float]) -> list[str]:
    return [repr(float(value)) for value in values]


def test_without_normalisation_a_mixture_is_the_weighted_sum() -> None:
    mixed = MixedReward({"a": (Given(), 2.0), "b": (LengthReward(target=2), -0.5)}, normalise=False)
    found = mixed.parts(["x", "x"], ["3", "4"])
    np.testing.assert_array_equal(found.values["a"], [3, 4])
    np.testing.assert_array_equal(found.values["b"], [-0.5, -0.5])
    np.testing.assert_array_equal(found.total, [6.25, 8.25])
    assert found.spreads == {"a": 0.5, "b": 0.0}
    np.testing.assert_array_equal(mixed(["x", "x"], ["3", "4"]), found.total)


def test_every_part_is_a_reward_and_so_is_the_mixture() -> None:
    mixed = MixedReward({"a": (Given(), 1.0)})
    assert isinstance(mixed, Reward)
    assert all(isinstance(part, Reward) for part in (Given(), LengthReward(target=3), RepetitionReward()))


def test_the_first_batch_is_normalised_by_itself() -> None:
    values = [1.0, 2.0, 3.0, 6.0]
    total = MixedReward({"a": (Given(), 1.5)})(IMAGES, captions(values))
    np.testing.assert_allclose(total, 1.5 * (np.array(values) - 3) / np.std(values), rtol=1e-12)


def test_the_statistics_are_those_of_all_captions_until_the_window_is_full() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(5, 2, size) for size in (7, 20, 3, 30)]
    mixed = MixedReward({"a": (Given(), 1.0)}, window=60)
    for batch in batches:
        found = mixed.parts(["x"] * len(batch), captions(batch))
    everything = np.concatenate(batches)
    assert found.spreads["a"] == pytest.approx(everything.std(), rel=1e-12)
    expected = (batches[-1] - everything.mean()) / everything.std()
    np.testing.assert_allclose(found.total, expected, rtol=1e-9)


def test_a_full_window_forgets_what_is_long_ago() -> None:
    mixed = MixedReward({"a": (Given(), 1.0)}, window=20)
    mixed(["x"] * 10, captions([1000.0, -1000.0] * 5))
    for _ in range(60):
        spread = mixed.parts(["x"] * 10, captions([1.0, 3.0] * 5)).spreads["a"]
    assert spread == pytest.approx(1, rel=1e-6)
    assert mixed.state_dict()["a"]["mean"] == pytest.approx(2, rel=1e-6)


def test_normalised_parts_weigh_alike_whatever_their_scale() -> None:
    class Large(Given):
        def __call__(self, images: Sequence[Hashable], captions: Sequence[str]) -> np.ndarray:
            return -1000 * super().__call__(images, captions) + 7

    mixed = MixedReward({"a": (Given(), 1.0), "b": (Large(), 1.0)})
    np.testing.assert_allclose(mixed(IMAGES, captions([1, 2, 3, 9])), 0, atol=1e-9)


def test_a_part_that_never_varied_adds_nothing_and_a_rare_one_is_bounded() -> None:
    constant = MixedReward({"a": (Given(), 3.0)})
    np.testing.assert_array_equal(constant(IMAGES, captions([0.1] * 4)), 0)
    total = MixedReward({"a": (Given(), 1.0)})(["x"] * 100, captions([0.0] * 99 + [-1.0]))
    assert total[-1] == -5
    assert 0 < total[0] < 0.2


def test_a_weight_of_zero_only_measures() -> None:
    found = MixedReward({"a": (Given(), 1.0), "b": (LengthReward(target=1), 0.0)}).parts(
        ["x", "x"], ["1", "2"]
    )
    np.testing.assert_allclose(found.total, [-1, 1])
    np.testing.assert_array_equal(found.values["b"], [0, 0])


def test_scoring_without_update_leaves_the_statistics() -> None:
    mixed = MixedReward({"a": (Given(), 1.0)})
    np.testing.assert_allclose(mixed(["x", "x"], ["1", "3"], update=False), [-1, 1])
    assert mixed.state_dict()["a"]["seen"] == 0
    mixed(["x", "x"], ["0", "20"])
    before = mixed.state_dict()
    np.testing.assert_allclose(mixed(["x", "x"], ["10", "30"], update=False), [0, 2])
    assert mixed.state_dict() == before


def test_a_run_resumes_exactly_from_the_saved_statistics() -> None:
    rng = np.random.default_rng(1)
    first, second = captions(rng.normal(size=50)), captions(rng.normal(3, 5, size=50))
    mixed = MixedReward({"a": (Given(), 1.0)}, window=70)
    mixed(["x"] * 50, first)
    saved = json.loads(json.dumps(mixed.state_dict()))
    expected = mixed(["x"] * 50, second)
    resumed = MixedReward({"a": (Given(), 1.0)}, window=70)
    resumed.load_state_dict(saved)
    np.testing.assert_array_equal(resumed(["x"] * 50, second), expected)
    assert resumed.state_dict() == mixed.state_dict()
    with pytest.raises(InputError, match="statistics are of a, but this mixture has b"):
        MixedReward({"b": (Given(), 1.0)}).load_state_dict(saved)


def test_words_are_found_once_for_all_parts() -> None:
    parts = {name: Words() for name in "ab"}
    MixedReward({name: (part, 1.0) for name, part in parts.items()})(["x"], ["A dog, running."])
    assert parts["a"].seen == [[["a", "dog", "running"]]]
    assert parts["a"].seen[0] is parts["b"].seen[0]


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([], [], "no captions to reward: the lists are empty"),
        (["x"], ["1", "2"], "2 captions but 1 images"),
        (["x", "y"], ["1", 5], r"caption 1 \(image 'y'\) is not a string but int"),
        (["x", "x"], ["1", None], "caption 1 .* not a string but NoneType"),
        ("xy", ["1", "2"], "images must be a list with one entry"),
        (
            ["x", "z"],
            ["1", "2"],
            "image 'z' has no references in the reward 'words'; known are 2 images: 'x', 'y'",
        ),
        (["x", ["z"]], ["1", "2"], "image 1 cannot be an image id, being a list"),
    ],
)
def test_bad_input_is_named_before_any_part_works(images: list, texts: list, message: str) -> None:
    slow = Given()
    mixed = MixedReward({"slow": (slow, 1.0), "words": (Words(["x", "y"]), 1.0)})
    with pytest.raises(InputError, match=message):
        mixed(images, texts)
    assert slow.calls == 0
    assert mixed.state_dict()["slow"]["seen"] == 0


def test_parts_weights_and_values_are_checked() -> None:
    with pytest.raises(InputError, match="at least one reward"):
        MixedReward({})
    for weight in (float("nan"), float("inf"), "1", None, True):
        with pytest.raises(InputError, match="weight of the reward 'a' must be a finite number"):
            MixedReward({"a": (Given(), weight)})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="at least 1 caption"):
        MixedReward({"a": (Given(), 1.0)}, window=0)
    mixed = MixedReward({"a": (Given(), 1.0)})
    with pytest.raises(InputError, match="'a' gave nan for caption 1"):
        mixed(["x", "x"], ["1", "nan"])
    mixed.rewards["a"] = lambda images, captions: np.zeros((2, 1))  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"'a' gave an array of shape \(2, 1\) for 2 captions"):
        mixed(["x", "x"], ["1", "2"])
