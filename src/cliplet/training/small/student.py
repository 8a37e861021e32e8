"""The packaged model's student in training: an embedding of two halves, and the losses of its three stages.

The first half, *meaning*, is pulled to the teacher's caption space, where distances follow how people rate captions.
The second half, *matching*, is trained by comparison within the batch, which finds the right caption among similar
ones. The cosine of the whole is the weighted mean of the halves' cosines.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.models.text import TextTower

MAX_LOGIT_SCALE = 100.0


def halves(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """``[n, 2 d]`` -> meaning and matching, each ``[n, d]`` of length 1."""
    meaning, matching = embedding.float().chunk(2, dim=1)
    return F.normalize(meaning, dim=1), F.normalize(matching, dim=1)


def soft_targets(photos: Tensor, share: float, temperature: float = 0.1) -> Tensor:
    """Who should match whom: ``(1 - share) * identity + share * softmax(cosine of the photos' targets)``.

    A caption of another photo that means nearly the same is no full negative.

    Args:
        photos: the photos' targets ``[B, d]``, unit norm.
        share: weight of the similar ones, 0..1.
        temperature: of their softmax.
    """
    eye = torch.eye(len(photos), device=photos.device)
    return (1 - share) * eye + share * (photos @ photos.T / temperature).softmax(dim=1)


def soft_contrastive(logits: Tensor, targets: Tensor, extra: Tensor | None = None) -> Tensor:
    """Cross-entropy of the rows and of the columns of ``logits`` ``[B, B]``, each against soft targets.

    Args:
        logits: scaled cosines.
        targets: ``[B, B]``, rows sum to 1.
        extra: one more negative for each row, ``[B]`` (minus infinity where there is none).
    """
    rows = logits if extra is None else torch.cat([logits, extra[:, None]], dim=1)
    by_row = (rows.logsumexp(dim=1)[:, None] - logits).mul(targets).sum(dim=1).mean()
    by_column = -(targets * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (by_row + by_column) / 2


def encode_by_length(tower: nn.Module, ids: Tensor, mask: Tensor, chunk: int = 32) -> Tensor:
    """Run a text tower on texts sorted by length, so that little is spent on padding; ``[n, d]`` in their order."""
    lengths = mask.sum(dim=1)
    order = lengths.argsort()
    parts = []
    for rows in order.split(chunk):
        longest = int(lengths[rows].max())
        parts.append(tower(ids[rows, :longest], mask[rows, :longest]))
    return torch.cat(parts).float()[order.argsort()]


class LateTower(nn.Module):
    """The last stages of a timm EfficientNet and a linear projection, on feature maps kept from the stages before.

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
        self.blocks = body.blocks[first:]
        self.conv_head, self.bn2 = body.conv_head, body.bn2
        width = int(body.num_features)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, dim)

    def features(self, maps: Tensor) -> Tensor:
        """Kept maps ``[n, C, h, w]`` -> pooled features ``[n, width]``."""
        x = self.blocks(maps.float().contiguous(memory_format=torch.channels_last))
        return self.bn2(self.conv_head(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w] -> [n, dim]``."""
        return self.head(self.dropout((self.features(maps) - self.mean) / self.deviation))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "LateTower":
        """Dropout follows the mode; batch statistics stay those of ImageNet, for the batches are small."""
        super().train(mode)
        self.blocks.eval()
        self.bn2.eval()
        return self


class TextStudent(nn.Module):
    """Stage 1: the text tower learns the caption space, from captions alone.

    A batch holds two captions of each photo, the first of all photos, then the second. Its targets are halfway
    between the caption and the mean of its photo's captions: what the photo shows, rather than how it is said.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.model = tower
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of ``input_ids``, ``attention_mask``, ``target`` ``[2 B, d]`` and ``photo`` ``[B, d]``."""
        meaning, matching = halves(encode_by_length(self.model, batch["input_ids"], batch["attention_mask"]))
        target, photo = batch["target"], batch["photo"]
        own = torch.eye(len(target), dtype=torch.bool, device=target.device)
        student = (meaning @ meaning.T / 0.05).masked_fill(own, -1e4).log_softmax(dim=1)
        teacher = (target @ target.T / 0.05).masked_fill(own, -1e4).softmax(dim=1)
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        first, second = matching.chunk(2)
        terms = {
            "cosine": (1 - (meaning * target).sum(dim=1)).mean(),
            "relations": F.kl_div(student, teacher, reduction="batchmean"),
            "contrastive": soft_contrastive(scale * first @ second.T, soft_targets(photo, 0.3)),
        }
        loss = 4 * terms["cosine"] + terms["relations"] + 0.3 * terms["contrastive"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}


class PairStudent(nn.Module):
    """Stages 2 and 3: photos against captions.

    In stage 2 the text side is a linear map of the teacher's caption targets, in stage 3 the text tower itself, with
    false captions (one object, colour, number or action swapped) as further negatives.

    Args:
        late: the image tower's last stages.
        text: a linear map ``[d] -> [d]`` of caption targets, or the text tower.
        soft: weight of similar captions in the contrastive targets.
    """

    def __init__(self, late: LateTower, text: nn.Module, soft: float = 0.3) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"image": late, "text": text})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))
        self.soft = soft

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch.

        ``maps`` ``[B, C, h, w]``; ``photo_target`` and ``caption_target`` ``[B, d]``; with the text tower also
        ``input_ids`` and ``attention_mask`` ``[B + F, t]``, the last F of them false captions of photos ``owner``
        ``[F]``.
        """
        photo, caption = batch["photo_target"], batch["caption_target"]
        meaning, matching = halves(self.model["image"](batch["maps"]))
        terms: dict[str, Tensor] = {}
        extra = None
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        if "input_ids" in batch:
            said = encode_by_length(self.model["text"], batch["input_ids"], batch["attention_mask"])
            words, match = halves(said)
            terms["text"] = (
                1 - (words[: len(photo)] * F.normalize(photo + caption, dim=1)).sum(dim=1)
            ).mean()
            owner = batch["owner"]
            false = (matching[owner] * match[len(photo) :]).sum(dim=1)
            extra = false.new_full((len(photo),), -1e4).index_copy(0, owner, scale * false)
            gap = (false + (meaning[owner] * words[len(photo) :]).sum(dim=1)) / 2
            words, match = words[: len(photo)], match[: len(photo)]
            gap = gap - ((meaning * words).sum(dim=1) + (matching * match).sum(dim=1))[owner] / 2
            terms["false captions"] = 0.5 * F.softplus(gap / 0.04 + 1).sum() / max(1, len(owner))
        else:
            words, match = caption, F.normalize(self.model["text"](caption), dim=1)
        terms["image"] = (1 - (meaning * photo).sum(dim=1)).mean()
        terms["cosines"] = (meaning @ words.T - photo @ caption.T).square().mean()
        terms["contrastive"] = soft_contrastive(
            scale * matching @ match.T, soft_targets(photo, self.soft), extra
        )
        weights = {"image": 3.0, "text": 3.0, "cosines": 10.0}
        loss = torch.stack([weights.get(k, 1.0) * v for k, v in terms.items()]).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}


@torch.no_grad()
def joined(head: nn.Linear, embeddings: Tensor, share: float) -> None:
    """Scale a head's two halves so that ``share`` of the squared length is meaning, in place.

    After that the plain cosine of the whole embedding is, up to the spread of the halves' lengths, the mean of the
    halves' cosines with weights ``share`` and ``1 - share``.

    Args:
        head: projection to both halves.
        embeddings: what it gives for typical inputs ``[n, 2 d]``.
        share: weight of meaning, 0..1.
    """
    half = head.out_features // 2
    for rows, weight in ((slice(0, half), share), (slice(half, None), 1 - share)):
        factor = math.sqrt(weight) / float(embeddings[:, rows].norm(dim=1).mean())
        head.weight[rows] *= factor
        head.bias[rows] *= factor
