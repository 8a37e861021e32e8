"""The packaged model's student in training: an embedding of two halves, and the losses of its two stages.

The first half, *meaning*, is pulled to the teacher's caption space, where distances follow how people rate captions.
The second half, *matching*, is trained by comparison with all other photos, which finds the right caption among similar
ones. The cosine of the whole is the weighted mean of the halves' cosines.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.quick_products import has_amx, quick_products
from cliplet.models.text import TextTower
from cliplet.training.small.data import padded
from cliplet.training.task import Task
from cliplet.training.teacher_space import Floats

MAX_LOGIT_SCALE = 100.0
TEMPERATURE = 0.05
"""Of the similarities among captions that the text tower copies."""


def halves(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """``[n, 2 d]`` -> meaning and matching, each ``[n, d]`` of length 1."""
    meaning, matching = embedding.float().chunk(2, dim=1)
    return F.normalize(meaning, dim=1), F.normalize(matching, dim=1)


def meaning_of(targets: Tensor, dim: int) -> Tensor:
    """Caption targets ``[n, D]`` -> their first ``dim`` directions, length 1."""
    return F.normalize(targets[:, :dim], dim=1)


def soft_targets(similarity: Tensor, own: Tensor, share: float, temperature: float = 0.1) -> Tensor:
    """Who should match whom: ``(1 - share) * own + share * softmax(similarity / temperature)``, rows sum to 1.

    A caption of another photo that means nearly the same is no full negative.

    Args:
        similarity: cosines of the photos' targets ``[B, n]``; -1e4 where a photo cannot be compared yet.
        own: column of each row's own photo ``[B]``.
        share: weight of the similar ones, 0..1.
        temperature: of their softmax.
    """
    result = share * (similarity / temperature).softmax(dim=1)
    rows = torch.arange(len(own), device=own.device)
    return result.index_put((rows, own), result.new_tensor(1 - share), accumulate=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the rows of ``logits`` ``[B, n]`` against soft targets, mean over the rows.

    Args:
        logits: scaled cosines.
        targets: ``[B, n]``, rows sum to 1.
    """
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def encode_by_length(tower: nn.Module, ids: Tensor, mask: Tensor, chunk: int = 64) -> Tensor:
    """Run a text tower on texts sorted by length, so that little is spent on padding; ``[n, d]`` in their order."""
    lengths = mask.sum(dim=1)
    order = lengths.argsort()
    parts = []
    for rows in order.split(chunk):
        longest = int(lengths[rows].max())
        parts.append(tower(ids[rows, :longest], mask[rows, :longest]).float())
    return torch.cat(parts)[order.argsort()]


@torch.inference_mode()
def encode_all(tower: nn.Module, tokens: Sequence[Sequence[int]]) -> Floats:
    """Outputs of a text tower for many token sequences, unnormalised."""
    tower.eval()
    batch = padded([t[:77] for t in tokens])
    return encode_by_length(tower, batch["input_ids"], batch["attention_mask"], 128).numpy()  # type: ignore[no-any-return]


class LateTower(nn.Module):
    """The last stages of a timm EfficientNet-Lite and a linear projection, on feature maps kept from the stages before.

    Batch norm is folded into the convolutions, for batches are small, and 1x1 convolutions are matrix products, which
    a processor with AMX does in bf16. :meth:`write_back` returns the weights to the network.

    Args:
        body: the whole network; what comes before ``blocks[first]`` stays as it is.
        first: first stage that learns.
        dim: width of the embedding.
        dropout: share of pooled features that are left out in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, body: Any, first: int, dim: int, dropout: float) -> None:
        super().__init__()
        blocks = [block for stage in body.blocks[first:] for block in stage]
        self.blocks = nn.ModuleList(_LateBlock(block) for block in blocks)
        self.last = _folded(body.conv_head, body.bn2)
        width = int(body.num_features)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, dim)

    def features(self, maps: Tensor) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> pooled features ``[n, width]``."""
        x = maps.float().permute(0, 2, 3, 1).contiguous()  # [n, h, w, C]
        for block in self.blocks:
            x = block(x)
        return F.relu6(_product(x, self.last)).float().mean(dim=(1, 2))

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w] -> [n, dim]``."""
        return self.head(self.dropout((self.features(maps) - self.mean) / self.deviation))  # type: ignore[no-any-return]

    @torch.no_grad()
    def write_back(self, body: Any, first: int) -> None:
        """Put the weights into the network they came from; its batch norms keep their statistics."""
        blocks = [block for stage in body.blocks[first:] for block in stage]
        for late, block in zip(self.blocks, blocks, strict=True):
            assert isinstance(late, _LateBlock)
            _unfold(late.expand, block.conv_pw, block.bn1)
            _unfold(late.depthwise, block.conv_dw, block.bn2)
            _unfold(late.project, block.conv_pwl, block.bn3)
        _unfold(self.last, body.conv_head, body.bn2)


class _LateBlock(nn.Module):
    """An inverted residual block of EfficientNet-Lite with its batch norms folded; ``[n, h, w, C]`` in and out."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.expand = _folded(block.conv_pw, block.bn1)
        self.depthwise = _folded(block.conv_dw, block.bn2)
        self.project = _folded(block.conv_pwl, block.bn3)
        self.skip = bool(block.has_skip)

    def forward(self, x: Tensor) -> Tensor:
        """Expand, look around, project."""
        y = F.relu6(_product(x, self.expand)).permute(0, 3, 1, 2).float()
        stride, kernel = self.depthwise.stride[0], self.depthwise.kernel_size[0]
        size = y.shape[-1]
        padding = max(0, (-(-size // stride) - 1) * stride + kernel - size)  # "same", the odd one at the end
        before, after = padding // 2, padding - padding // 2
        if before == after:
            y = self._look(y, before)
        else:
            y = self._look(F.pad(y, (before, after, before, after)), 0)
        y = _product(F.relu6(y).permute(0, 2, 3, 1), self.project)
        return x + y if self.skip else y

    def _look(self, y: Tensor, padding: int) -> Tensor:
        conv = self.depthwise
        return F.conv2d(y, conv.weight, conv.bias, conv.stride, padding, groups=conv.groups)


def _folded(conv: Any, norm: Any) -> nn.Conv2d:
    """A convolution and the batch norm behind it as one convolution with a bias."""
    result = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups, bias=True
    )
    with torch.no_grad():
        weight, bias = fold(conv, norm)
        result.weight.copy_(weight)
        assert result.bias is not None
        result.bias.copy_(bias)
    return result


def fold(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm behind it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _unfold(folded: nn.Module, conv: Any, norm: Any) -> None:
    """The inverse of :func:`_folded`: a batch norm that changes nothing but adds the bias."""
    conv.weight.copy_(folded.weight)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(folded.bias + norm.running_mean)


def _product(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of ``[n, h, w, C]``."""
    weight, bias = conv.weight[:, :, 0, 0], conv.bias
    assert bias is not None
    if x.device.type == "cpu" and has_amx():
        return F.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    return F.linear(x.float(), weight, bias)


class TextStudent(Task):
    """Stage 1: the text tower learns the caption space, from captions alone.

    ``4 cosine + relations``: the cosine distance to the caption's target, over all of its directions and over the
    meaning half alone, and KL divergences of the similarities among the batch's captions, to each other and to the
    targets.
    """

    def __init__(self, tower: TextTower, meaning: int) -> None:
        super().__init__()
        self.model = tower
        self.meaning = meaning

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of ``input_ids``, ``attention_mask`` and ``target`` ``[B, D]``."""
        with quick_products():
            said = encode_by_length(self.model, batch["input_ids"], batch["attention_mask"])
        student, target = F.normalize(said, dim=1), batch["target"]
        own = torch.eye(len(target), dtype=torch.bool, device=target.device)
        teacher = target @ target.T / TEMPERATURE
        within = (student @ student.T / TEMPERATURE).masked_fill(own, -1e4).log_softmax(dim=1)
        across = (student @ target.T / TEMPERATURE).log_softmax(dim=1)
        whole = (student * target).sum(dim=1)
        short = (meaning_of(said, self.meaning) * meaning_of(target, self.meaning)).sum(dim=1)
        terms = {
            "cosine": (2 - whole - short).mean(),
            "relations": F.kl_div(
                within, teacher.masked_fill(own, -1e4).softmax(dim=1), reduction="batchmean"
            )
            + F.kl_div(across, teacher.softmax(dim=1), reduction="batchmean"),
        }
        loss = 4 * terms["cosine"] + terms["relations"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}


class PairStudent(Task):
    """Stage 2: photos against the teacher's captions.

    ``3 image + 10 cosines + contrastive``. *image*: the cosine distance of the meaning half to the photo's target.
    *cosines*: squared differences of the batch's cosines between photos and captions to those of the targets.
    *contrastive*: the matching half of a photo against one caption of every training photo, and of a caption against
    all photos as they were when last seen; the matching half of a caption is a linear map of its target, the link,
    which learns too. What is alike counts as partly right (:func:`soft_targets`).

    Args:
        late: the image tower's last stages.
        link: matching half of a caption's target, ``[D] -> [d]``.
        captions: the teacher's targets of all captions ``[N, D]``, unit norm.
        photos: targets of the photos ``[P, d]``, unit norm.
        soft: weight of similar captions in the contrastive targets.
    """

    captions: Tensor
    photos: Tensor
    bank: Tensor
    seen: Tensor

    def __init__(
        self, late: nn.Module, link: nn.Linear, captions: Tensor, photos: Tensor, soft: float = 0.5
    ) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"image": late, "link": link})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))
        self.soft = soft
        self.register_buffer("captions", captions, persistent=False)
        self.register_buffer("photos", photos, persistent=False)
        self.register_buffer("bank", torch.zeros(len(photos), link.out_features))
        self.register_buffer("seen", torch.zeros(len(photos), dtype=torch.bool))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch.

        ``maps`` ``[B, C, h, w]`` of the photos ``photo`` ``[B]``, and one caption of every training photo,
        ``columns`` ``[P]``.
        """
        rows, dim = batch["photo"], self.bank.shape[1]
        meaning, matching = halves(self.model["image"](batch["maps"]))
        photo, columns = self.photos[rows], self.captions[batch["columns"]]
        caption = meaning_of(columns[rows], dim)
        dropout = 0.1 if self.training else 0.0
        columns = F.normalize(self.model["link"](F.dropout(columns, dropout)), dim=1)  # [P, d]
        terms = {
            "image": (1 - (meaning * photo).sum(dim=1)).mean(),
            "cosines": (meaning @ caption.T - photo @ caption.T).square().mean(),
            "contrastive": self._contrastive(rows, photo, matching, columns),
        }
        loss = 3 * terms["image"] + 10 * terms["cosines"] + terms["contrastive"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}

    def _contrastive(self, rows: Tensor, photo: Tensor, matching: Tensor, columns: Tensor) -> Tensor:
        """Photos against a caption of every photo, captions against every photo seen so far."""
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        similarity = photo @ self.photos.T  # [B, P]
        to_text = soft_cross_entropy(scale * matching @ columns.T, soft_targets(similarity, rows, self.soft))
        with torch.no_grad():
            self.bank[rows] = matching.detach()
            self.seen[rows] = True
        hidden = ~self.seen
        bank = self.bank.clone().index_copy(0, rows, matching)
        logits = (scale * columns[rows] @ bank.T).masked_fill(hidden, -1e4)
        targets = soft_targets(similarity.masked_fill(hidden, -1e4), rows, self.soft)
        return (to_text + soft_cross_entropy(logits, targets)) / 2


@torch.inference_mode()
def encode_maps(late: LateTower, maps: NDArray[np.float16], batch: int = 64) -> Floats:
    """Outputs of the late stages for kept maps, unnormalised."""
    late.eval()
    blocks = [
        late(torch.from_numpy(np.array(maps[i : i + batch]))).numpy() for i in range(0, len(maps), batch)
    ]
    return np.concatenate(blocks)
