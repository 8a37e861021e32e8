import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.metrics.cider import DocumentFrequencies, cider
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import CiderReward
from cliplet.rewards import cider as cider_module

REFERENCES = {
    "dog.jpg": ["A dog runs on the beach.", "The brown dog is running.", "Dog, beach and water"],
    "cat.jpg": ["A cat sits on a mat.", "A black cat"],
    7: ["Two men talk.", "Two men are talking in the street."],
}
IMAGES = ["dog.jpg", "dog.jpg", "cat.jpg", 7, 7, "cat.jpg"]
CAPTIONS = ["A dog runs", "a cat on the beach", "A black cat sits.", "Two men are talking", "", "xyzzy"]


def tokens(captions: list[str]) -> list[list[str]]:
    return tokenize_many(captions, joined=False)


@pytest.fixture
def frequencies() -> DocumentFrequencies:
    training = [*REFERENCES.values(), ["A dog and a cat."], ["Men on a beach"], ["A street with two dogs."]]
    return DocumentFrequencies.from_references([tokens(captions) for captions in training])


def expected(frequencies: DocumentFrequencies) -> np.ndarray:
    """From the corpus metric, one caption at a time."""
    return np.array(
        [
            cider(tokens([caption]), [tokens(REFERENCES[image])], frequencies).corpus
            for image, caption in zip(IMAGES, CAPTIONS, strict=True)
        ]
    )


def test_the_reward_is_cider_d(frequencies: DocumentFrequencies) -> None:
    reward = CiderReward(REFERENCES, frequencies)
    values = reward(IMAGES, CAPTIONS)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected(frequencies), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(values, reward(IMAGES, tokens(CAPTIONS)))
    tokenised = CiderReward({image: tokens(captions) for image, captions in REFERENCES.items()}, frequencies)
    np.testing.assert_array_equal(values, tokenised(IMAGES, CAPTIONS))
    assert values[3] > values[1] > values[4] == 0


def test_own_references_give_the_frequencies_by_default() -> None:
    own = DocumentFrequencies.from_references([tokens(captions) for captions in REFERENCES.values()])
    np.testing.assert_array_equal(
        CiderReward(REFERENCES)(IMAGES, CAPTIONS), CiderReward(REFERENCES, own)(IMAGES, CAPTIONS)
    )


def test_neither_the_batch_nor_its_order_matters(
    frequencies: DocumentFrequencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = CiderReward(REFERENCES, frequencies)
    values = reward(IMAGES, CAPTIONS)
    alone = [reward([image], [caption])[0] for image, caption in zip(IMAGES, CAPTIONS, strict=True)]
    np.testing.assert_allclose(alone, values, rtol=0, atol=1e-15)
    np.testing.assert_allclose(reward(IMAGES[::-1], CAPTIONS[::-1])[::-1], values, rtol=0, atol=1e-15)
    monkeypatch.setattr(cider_module, "BLOCK_IMAGES", 2)
    np.testing.assert_allclose(
        CiderReward(REFERENCES, frequencies)(IMAGES, CAPTIONS), values, rtol=0, atol=1e-15
    )
    assert reward([], []).shape == (0,)


def test_it_can_be_pickled_and_shared_by_threads(frequencies: DocumentFrequencies) -> None:
    reward = CiderReward(REFERENCES, frequencies)
    values = reward(IMAGES, CAPTIONS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reward))(IMAGES, CAPTIONS), values)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: reward(IMAGES, CAPTIONS), range(40)):
            np.testing.assert_array_equal(result, values)


def test_scoring_leaves_no_trace(frequencies: DocumentFrequencies) -> None:
    reward = CiderReward(REFERENCES, frequencies)
    size = len(pickle.dumps(reward))
    for number in range(50):
        reward(["dog.jpg"], [f"new word{number} here"])
    assert len(pickle.dumps(reward)) == size


def test_an_end_token_rewards_stopping() -> None:
    ending = DocumentFrequencies.from_references(
        [[[*caption, "<end>"] for caption in tokens(captions)] for captions in REFERENCES.values()]
    )
    reward = CiderReward(REFERENCES, ending, end_token="<end>")
    np.testing.assert_allclose(
        reward(IMAGES, CAPTIONS), CiderReward(REFERENCES, end_token="<end>")(IMAGES, CAPTIONS)
    )
    plain = CiderReward(REFERENCES)
    cut, whole = "two men are talking in the", "two men are talking in the street"
    assert np.diff(reward([7, 7], [cut, whole])) > np.diff(plain([7, 7], [cut, whole]))


def test_what_cannot_be_rewarded_is_named(frequencies: DocumentFrequencies) -> None:
    reward = CiderReward(REFERENCES, frequencies)
    with pytest.raises(InputError, match=r"'bird\.jpg' has no references"):
        reward(["bird.jpg"], ["a bird"])
    with pytest.raises(InputError, match="2 captions but 1 images"):
        reward(["dog.jpg"], ["a", "b"])
    with pytest.raises(InputError, match="all strings or all lists"):
        reward(["dog.jpg", "dog.jpg"], ["a", ["b"]])
    with pytest.raises(InputError, match="at least one image"):
        CiderReward({})
    with pytest.raises(InputError, match="'x' has no reference"):
        CiderReward({"x": []})
    with pytest.raises(InputError, match="end token"):
        CiderReward(REFERENCES, frequencies, end_token="<end>")
