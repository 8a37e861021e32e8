"""Decoding: with and without cache, greedy and beam, nucleus, several hypotheses."""

import itertools

import numpy as np
import pytest
import torch

from cliplet.captioner.decoding import DecodeConfig, Limits, beam_search, decode, draw, log_softmax
from cliplet.errors import InputError
from cliplet.models.captioner import TorchSteps
from cliplet.training.captioner.data import pack
from tests.captioner import make


@pytest.fixture(scope="module")
def setting():
    decoder = make.decoder()
    with torch.no_grad():
        memory = decoder.memory(torch.randn(7, 4, 6, generator=torch.Generator().manual_seed(3)))
    return decoder, TorchSteps(decoder), memory


class Chain:
    """A Markov chain over tokens instead of a decoder: what comes next depends on the last token alone."""

    def __init__(self, log_p):
        self.log_p = np.asarray(log_p, dtype=np.float32)  # [V, V]

    def start(self, memory, hypotheses):
        return np.zeros(0)

    def step(self, memory, tokens, past):
        return self.log_p[tokens], past

    def photos(self, memory, past, rows):
        return memory[rows], past

    def hypotheses(self, past, parents):
        return past


def test_cached_steps_agree_with_whole_captions(setting):
    decoder, steps, memory = setting
    rng = np.random.default_rng(0)
    captions = [[rng.integers(4, 23, n).tolist() for n in (8, 3, 5)] for _ in range(7)]
    packed = pack(captions, make.LIMITS)
    with torch.no_grad():
        whole = decoder.logits(decoder.states(memory, packed["tokens"], packed["caption"])).numpy()
    past = steps.start(memory, 3)
    tokens = np.full((7, 3), make.LIMITS.start_id)
    for t in range(9):
        logits, past = steps.step(memory, tokens, past)
        for i, k in itertools.product(range(7), range(3)):
            if t <= len(captions[i][k]):
                place = int((packed["caption"][i] == k).nonzero()[0]) + t
                np.testing.assert_allclose(logits[i, k], whole[i, place], atol=2e-5)
        tokens = np.array([[(c + [3] * 9)[t] for c in row] for row in captions])


def test_padding_and_other_captions_do_not_matter(setting):
    decoder, _, memory = setting
    alone = pack([[[5, 6, 7]]], make.LIMITS)
    among = pack([[[9, 9], [5, 6, 7]], [[4] * 8, [4] * 8]], make.LIMITS)
    with torch.no_grad():
        a = decoder.states(memory[:1], alone["tokens"], alone["caption"])[0]
        b = decoder.states(memory[:2], among["tokens"], among["caption"])[0]
    torch.testing.assert_close(a, b[3:7], atol=1e-5, rtol=1e-4)


def test_beam_of_one_is_greedy(setting):
    _, steps, memory = setting
    greedy = decode(steps, memory, make.LIMITS, DecodeConfig("greedy"))
    beam = decode(steps, memory, make.LIMITS, DecodeConfig("beam", beam=1))
    assert len({tuple(f.tokens[0]) for f in greedy}) > 1
    for a, b in zip(greedy, beam, strict=True):
        assert (a.tokens, a.ended) == (b.tokens, b.ended)
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)


def test_log_probability_is_that_of_the_whole_caption(setting):
    decoder, steps, memory = setting
    for config in (DecodeConfig("nucleus", captions=4, top_p=0.8), DecodeConfig("beam", beam=4, captions=4)):
        found = decode(steps, memory, make.LIMITS, config)
        packed = pack([f.tokens for f in found], make.LIMITS)
        with torch.no_grad():
            states = decoder.states(memory, packed["tokens"], packed["caption"])
            log_p = (
                decoder.logits(states).log_softmax(dim=2).gather(2, packed["targets"][:, :, None])[:, :, 0]
            )
        for i, one in enumerate(found):
            for k, value in enumerate(one.log_prob):
                rows = packed["caption"][i] == k
                assert float(log_p[i][rows].sum()) == pytest.approx(value, abs=1e-3)


def test_wide_beam_finds_the_best_of_all_captions():
    rng = np.random.default_rng(1)
    log_p = log_softmax(rng.normal(size=(4, 4)) * 2)
    limits = Limits(start_id=0, end_id=1, max_tokens=4)
    best = -np.inf
    for length in range(4):
        for tokens in itertools.product((0, 2, 3), repeat=length):
            path = [0, *tokens, 1]
            best = max(best, sum(float(log_p[a, b]) for a, b in itertools.pairwise(path)))
    found = beam_search(Chain(log_p), np.zeros((1, 1)), limits, DecodeConfig(beam=40))[0]
    assert found.log_prob[0] == pytest.approx(best, abs=1e-5)
    assert found.ended[0]


def test_length_penalty_prefers_longer_captions():
    log_p = np.log([[0.01, 0.55, 0.44], [1, 1, 1], [0.01, 0.75, 0.24]])  # stop now, or say 2 and stop
    limits = Limits(start_id=0, end_id=1, max_tokens=4)
    short = beam_search(Chain(log_p), np.zeros((1, 1)), limits, DecodeConfig(beam=2))[0]
    long = beam_search(Chain(log_p), np.zeros((1, 1)), limits, DecodeConfig(beam=2, length_penalty=1.0))[0]
    assert short.tokens[0] == []
    assert long.tokens[0] == [2]


def test_a_caption_without_end_says_so():
    log_p = np.log([[1e-9, 1e-9, 1.0], [1, 1, 1], [1e-9, 1e-9, 1.0]])
    limits = Limits(start_id=0, end_id=1, max_tokens=5)
    for config in (DecodeConfig("greedy"), DecodeConfig("beam", beam=1), DecodeConfig("nucleus")):
        found = decode(Chain(log_p), np.zeros((2, 1)), limits, config)[1]
        assert (found.tokens[0], found.ended[0]) == ([2] * 5, False)


def test_samples_depend_on_seed_and_photo_not_on_the_batch(setting):
    _, steps, memory = setting
    config = DecodeConfig("nucleus", top_p=0.95, captions=3, seed=5)
    whole = [f.tokens for f in decode(steps, memory, make.LIMITS, config)]
    part = [f.tokens for f in decode(steps, memory[4:6], make.LIMITS, config, keys=[4, 5])]
    assert whole[4:6] == part
    assert whole == [f.tokens for f in decode(steps, memory, make.LIMITS, config)]
    other = DecodeConfig("nucleus", top_p=0.95, captions=3, seed=6)
    assert whole != [f.tokens for f in decode(steps, memory, make.LIMITS, other)]


def test_draws_follow_the_nucleus():
    p = np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32)
    log_p = np.tile(np.log(p), (1, 20_000, 1))
    uniform = np.random.default_rng(0).random((1, 20_000))
    share = np.bincount(draw(log_p, uniform, 1.0, 1.0)[0], minlength=4) / 20_000
    np.testing.assert_allclose(share, p, atol=0.012)
    share = np.bincount(draw(log_p, uniform, 0.75, 1.0)[0], minlength=4) / 20_000
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=0.012)
    cold = np.bincount(draw(log_p, uniform, 1.0, 0.5)[0], minlength=4) / 20_000
    np.testing.assert_allclose(cold, p**2 / (p**2).sum(), atol=0.012)


@pytest.mark.parametrize(
    "values", [{"beam": 0}, {"top_p": 0.0}, {"temperature": 0}, {"method": "greedy", "captions": 2}]
)
def test_impossible_settings(values):
    with pytest.raises(InputError):
        DecodeConfig(**values)
