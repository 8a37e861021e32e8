"""The few-shot multimodal classifier: tokens, masks, the corrected losses, resume, tuning, its folder."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.classification.inputs import fit_inputs
from cliplet.errors import InputError, ModelError
from cliplet.models.multimodal import MultimodalAutoencoder, MultimodalClassifier
from cliplet.models.multimodal_config import MultimodalConfig, pixel_modality, window_modality
from cliplet.models.tokens import band_groups, tokens_of, window_patches
from cliplet.training.config import Schedule
from cliplet.training.diffclip.corrupt import add_noise, noise_levels, visible_places
from cliplet.training.diffclip.folder import FewShotMultimodal, load_multimodal
from cliplet.training.diffclip.pretrain import PretrainConfig, pretrain
from cliplet.training.diffclip.task import MaskedDenoising, batch_of
from cliplet.training.diffclip.tune import TuneConfig, balanced_targets, class_contrast, probabilities, tune
from cliplet.training.fit import make_accelerator

CONFIG = MultimodalConfig(
    (pixel_modality("hsi", 8, 4), pixel_modality("lidar", 6, 3)), width=16, heads=2, blocks=1, embedding_dim=5
)


def pixels(n: int = 48, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        band_groups(torch.randn(n, 8, generator=random), 4),
        band_groups(torch.randn(n, 6, generator=random), 3),
    ]


# ---------------------------------------------------------------- tokens
def test_band_groups_are_neighbouring_bands():
    assert band_groups(torch.arange(6.0)[None], 3).tolist() == [[[0, 1], [2, 3], [4, 5]]]
    with pytest.raises(InputError, match="4 groups do not divide 6 bands"):
        band_groups(torch.zeros(1, 6), 4)


def test_patches_of_a_window_by_hand():
    window = torch.arange(16.0).view(1, 4, 4, 1)
    assert window_patches(window, 2).tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    ]
    assert window_patches(torch.randn(2, 3, 3, 5), 1).shape == (2, 9, 5)
    with pytest.raises(InputError, match="patches of 2 do not divide windows of 3 x 3"):
        window_patches(torch.zeros(1, 3, 3, 1), 2)


def test_samples_of_another_shape_are_refused():
    with pytest.raises(InputError, match="pixels"):
        tokens_of(CONFIG.modalities[0], torch.zeros(2, 3, 3, 8))
    with pytest.raises(InputError, match="4 tokens of 4 values, not 4 of 2"):
        tokens_of(CONFIG.modalities[0], torch.zeros(2, 16))
    with pytest.raises(InputError, match="do not divide"):
        window_modality("a", 3, 5, 2)


# ---------------------------------------------------------------- what pretraining does to a sample
def test_hand_made_mask():
    order = torch.tensor([[2, 0, 3, 1]])  # its inverse, which the released code takes for LiDAR, is 1 3 0 2
    keep, hidden = visible_places(order, 2)
    assert keep.tolist() == [[2, 0]]
    assert hidden.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("modality", [0, 1])
def test_the_decoder_puts_tokens_back_where_they_came_from(modality):
    """Of every modality: with the inverse of the shuffle most tokens would stand at other places."""
    model = MultimodalAutoencoder(CONFIG)
    decoder = model.decoders[modality]
    seen = {}
    decoder.transformer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    n, tokens = 5, CONFIG.modalities[modality].tokens
    keep, hidden = visible_places(torch.rand(n, tokens).argsort(dim=1), 2)
    states = torch.cat([torch.zeros(n, 1, 16), torch.randn(n, 2, 16)], dim=1)
    decoder(states, keep)
    inside = seen["x"][:, 1:] - decoder.positions
    for row in range(n):
        for k in range(2):
            assert torch.allclose(inside[row, keep[row, k]], states[row, 1 + k], atol=1e-6)
        assert torch.allclose(inside[row, hidden[row]], decoder.mask[0].expand(tokens - 2, -1), atol=1e-6)


def test_the_task_hides_every_modality_by_the_shuffle(monkeypatch):
    """The places that the encoder sees are those that the loss calls visible, in both modalities."""
    task = MaskedDenoising(MultimodalAutoencoder(CONFIG), hidden=0.5, noise=0.0)
    seen = {}
    monkeypatch.setattr(task.model, "forward", lambda noised, step, keeps: seen.update(keeps=keeps) or noised)
    monkeypatch.setattr(
        task, "losses", lambda found, clean, masks: seen.update(masks=masks) or {"loss": torch.zeros(())}
    )
    task(batch_of(pixels(20)))
    for keep, hidden in zip(seen["keeps"], seen["masks"], strict=True):
        assert not hidden.gather(1, keep).any()
        assert (hidden.sum(dim=1) + keep.shape[1] == hidden.shape[1]).all()
    assert not torch.equal(seen["keeps"][0][:, 0] % 3, seen["keeps"][1][:, 0])  # each has its own places


def test_noise_levels():
    levels = noise_levels(1000)
    assert levels[0] == 1
    assert (levels.diff() < 0).all()
    assert levels[-1] < 1e-4
    assert noise_levels(1).tolist() == [1]
    clean, noise = torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 10.0)
    assert add_noise(clean, noise, torch.tensor([0.64])).item() == pytest.approx(0.8 * 2 + 0.6 * 10)


def test_pretraining_loss_by_hand():
    task = MaskedDenoising(MultimodalAutoencoder(CONFIG), hidden_weight=1.0, visible_weight=0.1)
    clean = [torch.zeros(1, 4, 2), torch.zeros(1, 3, 2)]
    found = [torch.tensor([[[1.0, 1], [2, 2], [0, 0], [0, 0]]]), torch.full((1, 3, 2), 3.0)]
    masks = [torch.tensor([[True, False, True, False]]), torch.tensor([[True, True, False]])]
    values = task.losses(found, clean, masks)
    hidden, visible = (1 + 0) / 2 + 9, (4 + 0) / 2 + 9
    assert values["hidden"].item() == pytest.approx(hidden)
    assert values["visible"].item() == pytest.approx(visible)
    assert values["loss"].item() == pytest.approx(hidden + 0.1 * visible)


def test_pretraining_learns_and_both_modalities_share_the_encoder():
    torch.manual_seed(0)
    task = MaskedDenoising(MultimodalAutoencoder(CONFIG), hidden=0.5, noise=0.1)
    base = torch.randn(64, 1)
    tokens = [base[:, :, None].expand(64, 4, 2) + 0.0, base[:, :, None].expand(64, 3, 2) + 0.0]
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        values = task(batch_of(tokens))
        values["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(values["hidden"].detach()))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    keeps = [torch.arange(4).expand(64, 4)[:, :2], torch.arange(3).expand(64, 3)[:, :1]]
    masks = [torch.ones(64, 4, dtype=torch.bool), torch.zeros(64, 3, dtype=torch.bool)]
    values = task.losses(task.model(tokens, torch.zeros(64), keeps), tokens, masks)
    values["hidden"].backward()  # of the first modality alone
    assert task.model.encoder.transformer.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert task.model.decoders[1].out.weight.grad is None or not task.model.decoders[1].out.weight.grad.any()


# ---------------------------------------------------------------- a killed run
def tiny_pretraining(folder, steps_before_kill=None, monkeypatch=None):
    config = PretrainConfig(stage=Schedule(name="pretraining", epochs=3, batch_size=16, lr=1e-3))
    accelerator = make_accelerator(cpu=True)
    if steps_before_kill is not None:
        kept, count = MaskedDenoising.forward, [0]

        def forward(self, batch):
            count[0] += 1
            if count[0] > steps_before_kill:
                raise KeyboardInterrupt
            return kept(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(MaskedDenoising, "forward", forward)
            with pytest.raises(KeyboardInterrupt):
                pretrain(accelerator, folder, CONFIG, pixels(), config, 1, save_every=2)
        return None
    return pretrain(accelerator, folder, CONFIG, pixels(), config, 1, save_every=2)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_resumed_pretraining_is_exact(tmp_path, monkeypatch, step):
    whole = tiny_pretraining(tmp_path / "whole")
    tiny_pretraining(tmp_path / "killed", step, monkeypatch)
    torch.rand(5)  # another state of the random numbers
    resumed = tiny_pretraining(tmp_path / "killed")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


# ---------------------------------------------------------------- tuning
def test_equal_classes_are_no_negatives():
    """Two samples of a class with texts of their own: neither is pushed away from the other's text."""
    labels = torch.tensor([0, 0, 1])
    pairs = torch.zeros(3, 3, requires_grad=True)
    class_contrast(pairs, labels).backward()
    assert pairs.grad[0, 1] == pairs.grad[0, 0] < 0 < pairs.grad[0, 2]
    released = torch.zeros(3, 3, requires_grad=True)
    F.cross_entropy(released, torch.arange(3)).backward()
    assert released.grad[0, 1] > 0  # there the twin's text is a negative


def test_contrast_by_hand():
    labels = torch.tensor([0, 0, 1])
    pairs = torch.tensor([[4.0, 1.0, 0.0], [2.0, 3.0, 0.5], [0.0, 1.5, 3.0]])
    target = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    by_hand = -((target * pairs.log_softmax(1)).sum() + (target * pairs.log_softmax(0)).sum()) / 6
    assert class_contrast(pairs, labels).item() == pytest.approx(by_hand.item())


def test_where_a_class_has_one_text_the_released_labels_have_the_same_gradient():
    """What docs/diffclip.md says of them."""
    labels = torch.tensor([0, 2, 0, 1, 2, 2])
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    class_contrast(ours[:, labels], labels).backward()
    pairs = theirs[:, labels]
    ((F.cross_entropy(pairs, torch.arange(6)) + F.cross_entropy(pairs.T, torch.arange(6))) / 2).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_targets_are_balanced_by_what_has_been_predicted():
    found = balanced_targets(torch.zeros(1, 2), torch.tensor([0.8, 0.2]))
    assert found.tolist() == [pytest.approx([0.2, 0.8])]


def model(seed: int = 0) -> MultimodalClassifier:
    torch.manual_seed(seed)
    return MultimodalClassifier(CONFIG, torch.randn(3, 5))


def test_predictions_do_not_depend_on_random_numbers():
    """The released code draws the noise step at test time."""
    classifier, tokens, steps = model().eval(), pixels(6), []
    for embed in classifier.encoder.embeddings:
        embed.register_forward_pre_hook(lambda _, args: steps.append(args[1].clone()))
    torch.manual_seed(1)
    first = probabilities(classifier, tokens)
    torch.manual_seed(2)
    assert torch.equal(first, probabilities(classifier, tokens))
    assert all((step == 0).all() for step in steps)
    shifted = classifier.encoder(tokens, torch.full((6,), 500.0))  # the step does matter, where it is given
    assert not torch.allclose(shifted[0], classifier.encoder(tokens)[0])


def separable(n: int = 30) -> tuple[list[torch.Tensor], torch.Tensor]:
    labels = torch.arange(n) % 3
    return [
        x + 2 * F.one_hot(labels, 3)[:, None, :1] - 2 * F.one_hot(labels, 3)[:, None, 1:2] for x in pixels(n)
    ], labels


@pytest.mark.parametrize("loss", ["classes", "contrast"])
@pytest.mark.parametrize("fusion", ["separate", "joint"])
@pytest.mark.parametrize("pool", ["class", "mean", "tokens"])
def test_tuning_learns_and_is_repeatable(loss, fusion, pool):
    tokens, labels = separable()
    config = TuneConfig(steps=60, lr=1e-2, loss=loss, start=20, unlabelled_batch=16)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        sizes = MultimodalConfig(CONFIG.modalities, 16, 2, 1, 1, 2.0, fusion, pool, embedding_dim=5)
        classifier = MultimodalClassifier(sizes, torch.randn(3, 5))
        found.append(probabilities(tune(classifier, tokens, labels, config, 3, pixels(40, seed=9)), tokens))
    assert torch.equal(*found)
    assert (found[0].argmax(dim=1) == labels).float().mean() > 0.8


def test_unlabelled_samples_count_only_when_they_are_asked_for():
    tokens, labels = separable()
    results = []
    for weight in (0.0, 1.0):
        config = TuneConfig(steps=10, start=2, unlabelled=weight, unlabelled_batch=16, confidence=0.0)
        tuned = tune(model(), tokens, labels, config, 3, pixels(40, seed=9))
        results.append(probabilities(tuned, tokens))
        if not weight:
            assert torch.equal(results[0], probabilities(tune(model(), tokens, labels, config, 3), tokens))
    assert not torch.equal(*results)


def test_wrong_tuning_is_refused():
    with pytest.raises(InputError, match="2 labels for"):
        tune(model(), pixels(3), torch.tensor([0, 1]), TuneConfig(steps=1), 0)
    with pytest.raises(InputError, match="average=1"):
        TuneConfig(average=1.0)


# ---------------------------------------------------------------- the folder
def classifier_of_windows() -> tuple[FewShotMultimodal, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    samples = [
        rng.normal(size=(10, 3, 3, 6)).astype(np.float32),
        rng.normal(size=(10, 3, 3, 2)).astype(np.float32),
    ]
    config = MultimodalConfig(
        (window_modality("hsi", 6, 3), window_modality("lidar", 2, 3)),
        width=16,
        heads=2,
        blocks=1,
        embedding_dim=5,
    )
    inputs = tuple(fit_inputs(x, whitening=0.5) for x in samples)
    net = MultimodalClassifier(config, torch.randn(3, 5)).eval()
    return FewShotMultimodal(net, inputs, ("tree", "road", "water"), {"shots": 5}), samples


def test_a_classifier_is_saved_and_loaded(tmp_path):
    first, samples = classifier_of_windows()
    first.save(tmp_path / "a" / "model")
    second = load_multimodal(tmp_path / "a" / "model")
    assert sorted(p.name for p in (tmp_path / "a" / "model").iterdir()) == ["card.json", "model.safetensors"]
    assert (second.probabilities(samples) == first.probabilities(samples)).all()
    assert second.predict(samples) == first.predict(samples)
    assert (second.classes, second.training) == (first.classes, {"shots": 5})
    card = json.loads((tmp_path / "a" / "model" / "card.json").read_text())
    assert card["model"]["modalities"][0] == {"name": "hsi", "tokens": 9, "values": 6, "patch": 1}


def test_wrong_samples_and_folders_are_named(tmp_path):
    first, samples = classifier_of_windows()
    with pytest.raises(InputError, match="equally many of each"):
        first.predict([samples[0], samples[1][:3]])
    with pytest.raises(InputError, match="windows"):
        first.predict([samples[0][:, 0, 0], samples[1][:, 0, 0]])
    with pytest.raises(ModelError, match="no folder of a few-shot multimodal classifier"):
        load_multimodal(tmp_path)
    first.save(tmp_path / "model")
    shutil.copy(tmp_path / "model" / "card.json", tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelError, match="damaged"):
        load_multimodal(tmp_path / "model")
