"""Losses against cases worked by hand, against their own derivatives, and against each other."""

import doctest
import importlib
import math
import pkgutil
import sys

import pytest
import torch
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.config import TransformerConfig
from cliplet.models.dual import DualModel
from cliplet.models.multiplexed import Attention
from cliplet.training import losses
from cliplet.training.config import DistillStage, load_recipe
from cliplet.training.distill.student import Student
from tests.training import make

MODULES = [module.name for module in pkgutil.iter_modules(losses.__path__) if module.name != "gather"]
"""All files of losses."""
PUBLIC = [
    getattr(losses, name)
    for name in losses.__all__
    if name not in ("gather", "gather_ragged", "LOSSES", "Loss", "feature_mse", "find_losses")
]


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def batch(dims=(5, 5, 7, 7), rows=4):
    return [doubles(rows, d, seed=i) for i, d in enumerate(dims)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"cliplet.training.losses.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("loss", PUBLIC, ids=lambda f: f.__name__)
def test_docstrings_have_the_form(loss):
    for part in ("Formula", "=====", "Relation:", "Source:", "Example:"):
        assert part in loss.__doc__, part


def test_l1_by_hand():
    assert losses.l1(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])).item() == 2.5


def test_cosine_by_hand_and_length_does_not_matter():
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [-2.0, 0.0]])
    assert losses.cosine(student, teacher).item() == pytest.approx((0.4 + 2) / 2)


def test_feature_mse_is_the_cosine_loss_in_disguise():
    s, t = doubles(4, 6), doubles(4, 6, seed=1)
    assert losses.FeatureMSE(6, 6)(s, t).item() == pytest.approx(losses.cosine(s, t).item() * 2 / 6)


def test_feature_mse_maps_other_widths():
    mse = losses.FeatureMSE(5, 3).double()
    assert sum(p.numel() for p in mse.parameters()) == 18
    s, t = doubles(4, 5), doubles(4, 3)
    expected = F.mse_loss(F.normalize(s @ mse.map.weight.T + mse.map.bias), F.normalize(t))
    assert mse(s, t).item() == pytest.approx(expected.item())


def test_embedding_losses_refuse_other_widths():
    for loss in (losses.l1, losses.cosine):
        with pytest.raises(InputError, match="FeatureMSE"):
            loss(torch.zeros(2, 3), torch.zeros(2, 4))


def unit(*angles):
    angles = torch.tensor(angles)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_similarity_regulator_by_hand():
    # teacher: images at 0 and 90 degrees, texts the same; T = [[1, 0], [0, 1]]
    t = unit(0.0, torch.pi / 2)
    # student: images at 0 and 90, texts at 60 and 90; S = [[.5, 0], [.866, 1]]
    s_txt = unit(torch.pi / 3, torch.pi / 2)
    expected = (0.5 + 0) / 2 + (0 + 3**0.5 / 2) / 2
    assert losses.similarity_regulator(t, s_txt, t, t).item() == pytest.approx(expected, abs=1e-6)


def test_similarity_regulator_is_one_sided():
    teacher_img, teacher_txt = unit(0.0, 1.0), unit(0.5, 1.5)  # matched cos(.5), others cos(1.5) and cos(.5)
    better = unit(0.0, 2.0)  # matched pairs above the teacher's, others below
    assert losses.similarity_regulator(better, better, teacher_img, teacher_txt).item() == 0
    assert losses.contrastive(better, better, 1.0).item() > 0


def test_similarity_regulator_equals_its_formula():
    s_img, s_txt, t_img, t_txt = batch()
    cos = F.cosine_similarity
    total = 0.0
    for i in range(4):
        for j in range(4):
            s = cos(s_img[i], s_txt[j], dim=0).item()
            t = cos(t_img[i], t_txt[j], dim=0).item()
            total += max(t - s, 0) / 4 if i == j else max(s - t, 0) / 12
    assert losses.similarity_regulator(s_img, s_txt, t_img, t_txt).item() == pytest.approx(total)
    with pytest.raises(InputError, match="at least 2"):
        losses.similarity_regulator(s_img[:1], s_txt[:1], t_img[:1], t_txt[:1])


def test_contrastive_by_hand():
    image, text = unit(0.0, torch.pi / 2), unit(0.0, torch.pi / 3)
    s = torch.tensor([[1.0, 0.5], [0.0, 3**0.5 / 2]]) * 2
    expected = 0.0
    for rows in (s, s.T):
        expected -= sum(torch.log(rows[i].exp()[i] / rows[i].exp().sum()) for i in range(2)).item() / 4
    assert losses.contrastive(image, text, 2.0).item() == pytest.approx(expected, abs=1e-6)


def test_affinity_mimicking_tends_to_contrastive_for_a_sure_teacher():
    s_img, s_txt, _, _ = batch()
    sure = torch.eye(4, dtype=torch.float64)
    mimic = losses.affinity_mimicking(s_img, s_txt, sure, sure, 3.0, teacher_scale=1000.0)
    assert mimic.item() == pytest.approx(losses.contrastive(s_img, s_txt, 3.0).item())


def test_affinity_mimicking_is_least_at_the_teacher_and_gives_it_no_gradient():
    s_img, s_txt, _, _ = batch()
    own = losses.affinity_mimicking(s_img, s_txt, s_img.detach(), s_txt.detach(), 3.0)
    own.backward()
    assert s_img.grad.abs().max() < 1e-12
    t_img, t_txt = doubles(4, 6), doubles(4, 6, seed=3)
    losses.affinity_mimicking(s_img, s_txt, t_img, t_txt, 3.0).backward()
    assert t_img.grad is None
    assert s_img.grad.abs().max() > 1e-4


def test_interactive_contrastive_reduces_to_contrastive():
    s_img, s_txt, _, _ = batch()
    own = losses.interactive_contrastive(s_img, s_txt, s_img, s_txt, 2.0)
    assert own.item() == pytest.approx(losses.contrastive(s_img, s_txt, 2.0).item())


def test_attention_distillation_equals_its_formula():
    student = [doubles(2, 3, 4, seed=i) for i in range(3)]
    teacher = [doubles(2, 3, 8, seed=9 + i).detach() for i in range(3)]
    total = 0.0
    for i in range(3):
        for j in range(3):
            for b in range(2):
                target = (teacher[i][b] @ teacher[j][b].T / 8**0.5).softmax(-1)
                ours = (student[i][b] @ student[j][b].T / 4**0.5).softmax(-1)
                total += -(target * ours.log()).sum(-1).mean().item() / 2 / 9
    assert losses.attention_distillation(student, teacher).item() == pytest.approx(total)
    split = losses.attention_distillation(student, teacher, heads=2).item()
    assert split != pytest.approx(total)
    with pytest.raises(InputError, match="3 relation heads"):
        losses.attention_distillation(student, teacher, heads=3)


def test_attention_distillation_takes_our_towers():
    config = TransformerConfig(width=16, heads=4)
    attention = Attention(config.width, config.heads, qkv_bias=True)
    x = torch.randn(2, 5, 16)
    qkv = attention.qkv(x).chunk(3, dim=-1)
    loss = losses.attention_distillation(qkv, [torch.randn(2, 5, 24) for _ in range(3)])
    loss.backward()
    assert attention.qkv.weight.grad.abs().max() > 0


FIXED = doubles(4, 6, seed=20).detach()  # a teacher: it takes no gradient


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b, c, d: losses.l1(a, c),
        lambda a, b, c, d: losses.cosine(a, c),
        lambda a, b, c, d: losses.FeatureMSE(6, 6)(a, c),
        lambda a, b, c, d: losses.similarity_regulator(a, b, c, d),
        lambda a, b, c, d: losses.contrastive(a, b, 3.0),
        lambda a, b, c, d: losses.affinity_mimicking(a, b, FIXED, FIXED, 3.0, 5.0),
        lambda a, b, c, d: losses.interactive_contrastive(a, b, c, d, 3.0),
        lambda a, b, c, d: losses.hidden_distillation(a[None], FIXED[None]),
        lambda a, b, c, d: losses.attention_distillation([a[None], b[None], c[None]], [FIXED[None]] * 3),
    ],
    ids=["l1", "cosine", "mse", "sr", "contrastive", "affinity", "interactive", "hidden", "attention"],
)
def test_gradients_equal_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, batch((6, 6, 6, 6)))


def test_the_logit_scale_learns():
    s_img, s_txt, _, _ = batch()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: losses.contrastive(s_img.detach(), s_txt.detach(), x), (scale,))


def test_half_precision_embeddings_are_compared_in_fp32():
    image, text = torch.randn(4, 8), torch.randn(4, 8)
    loss = losses.contrastive(image.bfloat16(), text.bfloat16(), 100.0)
    assert loss.dtype == torch.float32


# ---------------------------------------------------------------- the table
OWN = """
from cliplet.training.losses import Loss, l1
def margin(student_image, teacher_text, scale, share=0.5):
    return scale * share * (student_image - teacher_text).square().mean()
def rows(student, teacher):
    return (student - teacher).square().mean(dim=1)
def strange(student, captions):
    return 0
declared = Loss(lambda a, b: 3 * l1(b, a), ("teacher", "student"))
number = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_losses", None)


def test_the_tables_order_then_ones_own(own):
    found = losses.find_losses({"my_losses:margin": 1.0, "sr": 0.5, "l1": 1.0, "cosine": 0.0})
    assert list(found) == ["l1", "sr", "my_losses:margin"]
    assert [loss.pairs for loss in found.values()] == [False, True, True]
    assert [loss.mapped for loss in found.values()] == [True, False, False]
    assert [loss.scaled for loss in found.values()] == [False, False, True]
    assert found["my_losses:margin"].needs == ("student_image", "teacher_text", "scale")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "l3",
            "unknown loss 'l3': choose from l1, cosine, .*interactive, or name your own as module:attribute",
        ),
        ("my_losses:margins", "my_losses.* has no attribute 'margins'; it has margin"),
        (
            "my_losses:strange",
            "loss strange needs student, captions; a loss takes student, teacher, or some of",
        ),
        ("my_losses:number", "is of type int: it must be a function or a Loss"),
        ("no_such_file:f", "there is no module 'no_such_file'"),
    ],
)
def test_what_is_no_loss_is_refused_before_training(own, name, message):
    with pytest.raises(InputError, match=message):
        DistillStage(losses={name: 1.0})


def test_a_loss_without_a_row_cannot_be_forgotten():
    with pytest.raises(ImportError, match="no loss of .*relation.* is in LOSSES"):
        losses._check_files(besides={"gather"})


def test_ones_own_losses_are_weighed_like_the_others(own):
    torch.manual_seed(0)
    student = Student(DualModel(make.CONFIG), 16)
    stage = DistillStage(losses={"l1": 2.0, "my_losses:declared": 0.5, "my_losses:margin": 3.0})
    student.begin(stage)
    assert student.logit_scale.requires_grad
    batch = {
        "pixels": torch.randn(4, 3, 32, 32), "input_ids": torch.randint(0, 10, (4, 6)),
        "attention_mask": torch.ones(4, 6, dtype=torch.long),
        "teacher_image": torch.randn(4, 16), "teacher_text": torch.randn(4, 16),
    }  # fmt: skip
    found = student(batch)
    image = student.model.encode_image(batch["pixels"])
    margin = 14 * 0.5 * (image - batch["teacher_text"]).square().mean().item()
    assert found["my_losses:margin"].item() == pytest.approx(margin, rel=1e-4)
    assert found["my_losses:declared"].item() == pytest.approx(3 * found["l1"].item(), rel=1e-5)
    total = 2 * found["l1"] + 0.5 * found["my_losses:declared"] + 3 * found["my_losses:margin"]
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    student.begin(DistillStage(losses={"my_losses:rows": 1.0}))
    with pytest.raises(InputError, match=r"loss my_losses:rows gives \[4\] numbers; it must give one"):
        student(batch)


def test_recipes_and_changes_name_them(own, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.py").write_text(OWN)
    (tmp_path / "r.toml").write_text('[[stages]]\nlosses = {l1 = 1, "my_losses:margin" = 2}\n')
    assert load_recipe("r.toml").stages[0].losses == {"l1": 1.0, "my_losses:margin": 2.0}
    changes = ["stages.0.losses.l1=0", 'stages.*.losses."folder.mine:rows"=0.25']
    assert load_recipe("r.toml", changes).stages[0].losses == {
        "my_losses:margin": 2.0,
        "folder.mine:rows": 0.25,
    }
    with pytest.raises(InputError, match=r"stages\[0\]\.losses\.l1='much' must be float"):
        load_recipe("r.toml", ["stages.0.losses.l1=much"])


# ---------------------------------------------------------------- several texts a photo
def several_texts(photos=4, texts=3, dim=5):
    return doubles(photos, dim), doubles(photos, texts, dim)


def test_multi_text_is_the_mean_of_the_plain_losses():
    image, texts = several_texts()
    expected = sum(losses.contrastive(image, texts[:, m], 3.0) for m in range(3)) / 3
    torch.testing.assert_close(losses.multi_text(image, texts, 3.0), expected)


@pytest.mark.parametrize("loss", [losses.multi_text, losses.multi_positive])
def test_with_one_text_both_are_the_plain_loss(loss):
    image, texts = several_texts(texts=1)
    torch.testing.assert_close(loss(image, texts, 3.0), losses.contrastive(image, texts[:, 0], 3.0))


def test_multi_positive_by_hand():
    """Two photos, two texts each: the second text of photo 0 lies at photo 1."""
    image = torch.eye(2, dtype=torch.float64)
    texts = torch.stack([torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])], 1).double()
    e = torch.tensor(1.0).exp()
    photo0 = (3 + e).log() - 0.5  # cosines 1 0 | 0 0 to the texts of 0 and 1, mean of the own ones 1/2
    photo1 = (1 + 3 * e).log() - 1  # 0 1 | 1 1
    right, wrong = (1 + 1 / e).log(), (1 + e).log()  # a text beside its photo; beside the other one
    expected = ((photo0 + photo1) / 2 + (3 * right + wrong) / 4) / 2
    found = losses.multi_positive(image, texts, 1.0)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_multi_positive_cannot_fall_below_half_the_log_of_the_texts():
    x = torch.eye(3)
    assert losses.multi_positive(x, torch.stack([x, x], 1), 100.0).item() == pytest.approx(
        math.log(2) / 2, abs=1e-5
    )
    assert losses.multi_text(x, torch.stack([x, x], 1), 100.0).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", [losses.multi_text, losses.multi_positive])
def test_an_equal_text_is_no_negative(loss):
    """Against plain loops: what photo i has among its texts is no negative of it, on neither side."""
    image, texts = several_texts(photos=3, texts=2)
    image, texts = F.normalize(image, dim=1), F.normalize(texts, dim=2)
    ids = [[0, 1], [1, 2], [3, 3]]
    mean = loss is losses.multi_text
    forth, back = [], []
    for i in range(3):
        for m in range(2):
            own = [(j, n) for j in range(3) for n in range(2) if j == i or ids[j][n] not in ids[i]]
            own = [(j, n) for j, n in own if n == m or not mean]
            rows = torch.stack([2.0 * image[i] @ texts[j, n] for j, n in own])
            forth.append(rows.logsumexp(0) - rows[own.index((i, m))])
            of = [j for j in range(3) if j == i or ids[i][m] not in ids[j]]
            rows = torch.stack([2.0 * image[j] @ texts[i, m] for j in of])
            back.append(rows.logsumexp(0) - rows[of.index(i)])
    expected = (torch.stack(forth).mean() + torch.stack(back).mean()) / 2
    torch.testing.assert_close(loss(image, texts, 2.0, torch.tensor(ids)), expected)


def test_photos_that_share_their_text_by_hand():
    image = torch.eye(3, dtype=torch.float64)
    texts = image[:, None]
    one = losses.multi_text(image, texts, 2.0, torch.tensor([[0], [0], [1]]))
    # photos 0 and 1 share their text: each has photo 2's alone as a negative
    two = math.log(1 + math.exp(-2))
    three = math.log(1 + 2 * math.exp(-2))
    assert one.item() == pytest.approx((two + two + three) / 3, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.multi_text, losses.multi_positive])
def test_multi_text_gradients(loss):
    image, texts = several_texts(photos=3, texts=2, dim=4)
    ids = torch.tensor([[0, 1], [1, 2], [3, 3]])
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 2.0, ids), (image, texts))
