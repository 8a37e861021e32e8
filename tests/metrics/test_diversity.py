import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.metrics.bleu import bleu
from cliplet.metrics.diversity import diversity, mutual_bleu, self_retrieval


def words(*captions: str) -> list[list[str]]:
    return [caption.split() for caption in captions]


def test_measures_by_hand() -> None:
    score = diversity(words("a dog a dog", "a cat", ""), training=words("a cat", "a bird"))
    assert score.mean_length == 2
    assert score.vocabulary == 3
    assert score.empty == 1
    assert score.distinct_1 == pytest.approx(3 / 6)
    assert score.distinct_2 == pytest.approx(3 / 4)  # a dog, dog a, a cat of four
    assert score.repeated == pytest.approx(((2 / 4 + 0) / 2, (1 / 3 + 0) / 2, 0, 0))
    assert score.novel == pytest.approx(2 / 3)
    assert diversity(words("a cat")).novel is None


def test_repetition_raises_only_repetition() -> None:
    fluent, stuck = words("a man rides a horse on the beach"), words("a man a man a man a man")
    assert diversity(stuck).repeated[3] > 0.5
    assert diversity(fluent).repeated[1:] == (0, 0, 0)


def test_captions_without_words() -> None:
    score = diversity([[], []])
    assert (score.mean_length, score.vocabulary, score.distinct_1, score.repeated) == (0, 0, 0, (0, 0, 0, 0))


def test_mutual_bleu_is_bleu_against_the_other_captions() -> None:
    same = words("a dog runs on grass", "a dog runs on grass")
    different = words("a dog runs on grass", "two people sit down now", "red bus")
    assert mutual_bleu([same])[3] == pytest.approx(1)
    assert mutual_bleu([different])[0] < 1e-6
    expected = bleu(
        [*same, *different],
        [[same[1]], [same[0]], different[1:], [different[0], different[2]], different[:2]],
    ).corpus
    assert mutual_bleu([same, words("alone"), different]) == pytest.approx(expected)


def test_self_retrieval() -> None:
    images = np.eye(4, dtype=np.float32)
    assert self_retrieval(images, images) == 1
    assert self_retrieval(images, images[[1, 0, 2, 3]]) == 0.5
    assert self_retrieval(images, images[[1, 1]], image_of_caption=[1, 0]) == 0.5
    assert self_retrieval(np.ones((4, 2)), np.ones((4, 2))) == pytest.approx(
        1 / 4
    )  # all tie: what guessing gives


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(InputError, match="no captions"):
        diversity([])
    with pytest.raises(InputError, match="tokenise"):
        diversity(["a dog"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="two captions"):
        mutual_bleu([words("a")])
    with pytest.raises(InputError, match="embeddings must be"):
        self_retrieval(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="every caption needs its image"):
        self_retrieval(np.ones((2, 3)), np.ones((3, 3)))
