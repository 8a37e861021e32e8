"""Training of captioners: both kinds of stage, resume after a kill, rewards, the folder it writes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cliplet.captioner import Captioner, DecodeConfig
from cliplet.errors import InputError
from cliplet.models.captioner import load_decoder
from cliplet.rewards import build_reward
from cliplet.training.captioner.config import CaptionRecipe, CaptionStage, RewardWeight
from cliplet.training.captioner.data import CaptionSplit, Reader, pack, stage_data
from cliplet.training.captioner.evaluate import decode_split
from cliplet.training.captioner.student import CaptionModel, CaptionStudent
from cliplet.training.captioner.train import CaptionRun, train_captioner
from cliplet.training.captioner.vocabulary import plain, train_vocabulary
from tests.captioner import make

pytestmark = pytest.mark.usefixtures("torchvision")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "captioner.safetensors")


def lines(folder: Path, kind: str) -> list[dict]:
    text = (folder / "log.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def test_learns_the_captions_of_toy_photos(tmp_path):
    run = CaptionRun(make.recipe(tmp_path, (make.cross_entropy(epochs=25, updates=4),)))
    run.train()
    values = lines(tmp_path / "run", "dev")
    assert values[-1]["CIDEr-D"] > 2 > values[0]["CIDEr-D"]
    folder = run.finish()
    captioner = Captioner(folder, threads=1)
    photos = [Path(photo) for photo in run.dev_split.photos]
    for config in (
        DecodeConfig("greedy"),
        DecodeConfig(beam=3, captions=2),
        DecodeConfig("nucleus", captions=2),
    ):
        onnx = captioner.caption(photos, config)
        read = run._reader(run.dev_split, False, False)
        own = decode_split(CaptionModel(run.decoder), read, len(photos), run.limits, config)
        same = [a.captions == run.say(b.tokens) for a, b in zip(onnx, own, strict=True)]
        assert np.mean(same) > 0.85  # kept grids and stored weights are fp16: near-ties may fall otherwise


def test_the_folder_has_the_logits_of_pytorch(tmp_path):
    from cliplet.training.captioner.export import export_captioner

    tower = make.tower()
    decoder = make.decoder(0, *tower.shape())
    vocabulary = train_vocabulary(["a dog runs on the grass", "two dogs run"], 100)
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 0.05), ("int8", 0.5)):
        difference = export_captioner(tower, decoder, vocabulary, tmp_path / precision, "small", precision)
        assert difference < tolerance


def test_the_reward_moves_the_captions(tmp_path):
    """Rewarded for short captions alone, they become short; the warning comes."""
    stages = (make.cross_entropy(epochs=6, updates=8),)
    train_captioner(make.recipe(tmp_path, stages))
    start = str(tmp_path / "run/0-cross_entropy/best")
    vocabulary = str(tmp_path / "run/tokenizer.json")
    short = make.self_critical("length", epochs=1, updates=60, lr=3e-3, batch_size=8)
    recipe = make.recipe(tmp_path, (short,), out=str(tmp_path / "short"), start=start, tokenizer=vocabulary)
    run = CaptionRun(recipe)
    run._build = lambda weights, split, normalise: build_reward(  # references of one word set the length
        weights, {name: ["dog"] for name in split.names}, normalise=normalise
    )
    run.train()
    lengths = [line["length"] for line in lines(tmp_path / "short", "train")]
    assert np.mean(lengths[-5:]) < 0.6 * np.mean(lengths[:5])
    assert any("cut short" in line["text"] for line in lines(tmp_path / "short", "warning"))


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
def test_self_critical_loss_is_its_formula(tmp_path, baseline):
    run = CaptionRun(
        make.recipe(tmp_path, (make.self_critical("cider", baseline=baseline, normalise=False),))
    )
    stage = run.recipe.stages[0]
    student = CaptionStudent(CaptionModel(run.decoder), run.limits, run.train_split.names, run.say)
    reward = run._reward(stage)
    student.begin(stage, reward)
    batch = next(
        iter(
            stage_data(stage, run.tokens, run._reader(run.train_split, False, True), run.limits, 0).load(0, 0)
        )
    )
    terms = student(batch)
    memory = run.decoder.memory(batch["image"])
    drawn = student._draw(memory.detach(), batch["draw"].tolist(), 3)
    expected, tokens = 0.0, 0
    for i, photo in enumerate(batch["photo"].tolist()):
        name = run.train_split.names[photo]
        r = reward.rewards["cider"]([name] * 3, run.say(drawn[i].tokens))
        greedy = decode_split(
            student.model, _Rows(batch["image"][i : i + 1]), 1, run.limits, DecodeConfig("greedy")
        )
        g = reward.rewards["cider"]([name], run.say(greedy[0].tokens))[0]
        for k in range(3):
            b = g if baseline == "greedy" else (r.sum() - r[k]) / 2
            expected -= (r[k] - b) * drawn[i].log_prob[k]
            tokens += len(drawn[i].tokens[k]) + drawn[i].ended[k]
    assert terms["loss"].item() == pytest.approx(expected / tokens, rel=1e-3, abs=1e-5)


def test_both_stages_run_in_mixed_precision(tmp_path):
    stages = (make.cross_entropy(epochs=1), make.self_critical(kl=0.1, epochs=1, updates=2))
    train_captioner(make.recipe(tmp_path, stages, precision="bf16"))
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run", "train"))
    before, after = (
        weights(tmp_path / "run" / name) for name in ("0-cross_entropy/best", "1-self_critical/last")
    )
    assert all(w.dtype == torch.float32 for w in after.values())
    assert not any(torch.equal(before[k], after[k]) for k in after if after[k].ndim == 2)


class _Rows(Reader):
    """One batch of grids as a reader."""

    def __init__(self, image):
        super().__init__([image.numpy()])


def test_no_divergence_at_the_start_and_some_later(tmp_path):
    stages = (make.cross_entropy(epochs=1), make.self_critical(kl=0.5, epochs=1, updates=6, lr=1e-2))
    train_captioner(make.recipe(tmp_path, stages))
    kl = [line["kl"] for line in lines(tmp_path / "run", "train") if "kl" in line]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-4
    assert {"reward/cider", "spread/cider", "reward/repetition", "length", "repeated_2", "distinct_2", "no_end",
            "entropy"} <= lines(tmp_path / "run", "train")[-1].keys()  # fmt: skip


def test_the_image_tower_can_learn_too(tmp_path):
    stages = (
        make.cross_entropy(epochs=1, finetune=True),
        make.self_critical(finetune=True, epochs=1, updates=2),
    )
    run = CaptionRun(make.recipe(tmp_path, stages))
    before = {k: v.clone() for k, v in run.tower.state_dict().items()}
    run.train()
    folder = run.finish()
    after = run.tower.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert any(k.endswith("conv_stem.weight") for k in moved)
    assert not any("running" in k or k.startswith(("mean", "std")) for k in moved)
    assert Captioner(folder, threads=1).caption([run.dev_split.photos[0]])[0].reason is None


def test_captions_end_to_end():
    packed = pack([[[7, 8], [9]], [[5]]], make.LIMITS)
    assert packed["tokens"].tolist() == [[2, 7, 8, 2, 9], [2, 5, 0, 0, 0]]
    assert packed["targets"].tolist() == [[7, 8, 3, 9, 3], [5, 3, 0, 0, 0]]
    assert packed["caption"].tolist() == [[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]]
    cut = pack([[[4] * 20]], make.LIMITS)
    assert cut["targets"].tolist() == [[4] * 9]  # no end to learn


def test_every_photo_once_an_epoch_and_the_same_again():
    tokens = [[[4] * (1 + i % 5)] for i in range(24)]
    stage = CaptionStage(batch_size=4)
    read = Reader([np.arange(24)[:, None], -np.arange(24)[:, None]])
    data = stage_data(stage, tokens, read, make.LIMITS, seed=3)
    first, again = list(data.load(0, 0)), list(data.load(0, 2))
    assert sorted(torch.cat([b["photo"] for b in first]).tolist()) == list(range(24))
    assert [b["photo"].tolist() for b in first[2:]] == [b["photo"].tolist() for b in again]
    assert {bool(b["image"].min() < 0) for b in first} == {True}  # both views come
    assert [b["photo"].tolist() for b in data.load(1, 0)] != [b["photo"].tolist() for b in first]


def test_vocabulary_gives_captions_back():
    captions = plain(["A dog's ball, on the grass!", "Two dogs run .", "the dogs run on grass"])
    assert captions[1] == "two dogs run"
    tokenizer = train_vocabulary(captions, 100)
    encoded = tokenizer.encode_batch(captions)
    assert tokenizer.decode_batch([e.ids for e in encoded]) == captions
    assert train_vocabulary(captions[::-1], 100).to_str() == tokenizer.to_str()


def test_photos_without_captions_are_said(tmp_path):
    from cliplet.training.pairs import PairSet

    with pytest.raises(InputError, match="photos and their captions"):
        CaptionSplit.of(PairSet(names=["a"], photos=["a"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "self_critical"}, "needs rewards"),
        ({"kind": "self_critical", "rewards": (RewardWeight("cider"),), "samples": 1}, "at least 2"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": -1}, "epochs=-1 of stage cross_entropy must be at least"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"temperature": 0.0}, "temperature=0.0 of stage cross_entropy must be above 0"),
    ],
)
def test_impossible_stages(change, message):
    with pytest.raises(InputError, match=message):
        CaptionStage(**change)


def test_what_a_later_stage_would_stumble_over_is_said_at_once(tmp_path):
    with pytest.raises(InputError, match="unknown reward 'cidre'"):
        RewardWeight("cidre")
    stages = (make.cross_entropy(), make.self_critical(batch_size=64))
    with pytest.raises(InputError, match="16 items do not fill one batch of 64; lower batch_size"):
        CaptionRun(make.recipe(tmp_path, stages))


def test_once_tuned_always_tuned():
    with pytest.raises(InputError, match="later stages"):
        CaptionRecipe(stages=(make.cross_entropy(finetune=True), make.cross_entropy()))


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    recipe = make.recipe(tmp_path, (make.cross_entropy(epochs=1, updates=1),))
    train_captioner(recipe)
    with pytest.raises(InputError, match="seed"):
        train_captioner(dataclasses.replace(recipe, seed=1))
    assert load_decoder(tmp_path / "run/0-cross_entropy/last").config.vocab_size > 4
