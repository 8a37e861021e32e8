"""The student of DCLIP: a copy of the base model, some of whose parameters learn, with the hybrid loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.encoders.base import unit_norm
from cliplet.training import losses
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.config import StudentSettings
from cliplet.training.dclip.features import Halves, view_images
from cliplet.training.dclip.tunable import Tunable
from cliplet.training.pairs import PairSet
from cliplet.training.task import Task

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class DclipStudent(Task):
    """The model in training.

    ``L = a (1 - cos(s_img, g)) + b (1 - cos(s_txt, t_txt)) + c InfoNCE(s_img, s_txt)``, the hybrid loss as published,
    with ``r H(softmax(g g^T / t_r), softmax(s_img s_txt^T / t))``, both ways, the teacher's relations between pairs,
    and four terms that keep what the base model knows: ``d (1 - cos(s_img, b_img))``, ``e KL(classes seen by the base
    model || classes seen by the student)``, ``n H(class, classes seen in its prototype)`` and ``f |w - w_base|^2 /
    |w_base|^2`` over the learning weights. g is the teacher's embedding, t and b the base model's.

    Args:
        tunable: the model.
        settings: the student's.
        learning: names of the parameters that learn.
        first: first stage of the image tower that learns, where its input is kept.
        prompts: the classes for ``prompts`` as the text mode reads captions: ``base_text`` ``[K, d]``,
            ``text_states`` ``[K, w]``, or ``input_ids`` and ``attention_mask`` ``[K, t]``; None without the term.
    """

    def __init__(
        self,
        tunable: Tunable,
        settings: StudentSettings,
        learning: Sequence[str],
        first: int,
        prompts: dict[str, Tensor] | None,
    ) -> None:
        super().__init__()
        self.tunable, self.settings, self.first = tunable, settings, first
        own = dict(tunable.model.named_parameters())
        for name, parameter in own.items():
            parameter.requires_grad_(name in set(learning))
        # Only what learns is this module's: checkpoints and moving averages leave the frozen rest alone.
        self.model = nn.ParameterDict({name.replace(".", "/"): own[name] for name in learning})
        self.start = {name: own[name].detach().clone() for name in learning}
        self.text_mode = text_mode(tunable, learning)
        self.prompts = prompts or {}

    def train(self, mode: bool = True) -> "DclipStudent":
        """The model itself stays in evaluation mode: batch statistics and dropout as they were in the base model."""
        self.training = mode
        self.tunable.model.eval()
        return self

    def weights(self) -> dict[str, Tensor]:
        """The parameters that learn, by the model's own names."""
        return {name.replace("/", "."): value for name, value in self.model.items()}

    def images(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's photos ``[B, d]``, unit norm."""
        if "maps" in batch:
            dropout = self.settings.dropout if self.training else 0.0
            out = self.tunable.encode_late(batch["maps"].float(), self.first, dropout, quick=True)
        else:
            out = self.tunable.encode_image(batch["pixels"])
        return F.normalize(out.float(), dim=1)

    def texts(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's captions ``[B, d]``, unit norm."""
        if self.text_mode == "frozen":
            return batch["base_text"]
        if self.text_mode == "head":
            return F.normalize(self.tunable.project_text(batch["text_states"].float()).float(), dim=1)
        return F.normalize(
            self.tunable.encode_text(batch["input_ids"], batch["attention_mask"]).float(), dim=1
        )

    def classes_seen(self, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The student's cosines of photos ``[B, d]`` to the classes of ``prompts`` and the base model's.

        ``prompt_classes`` of the K classes, drawn for each batch where the student reads them word by word.

        Args:
            image: the student's embeddings.
            known: the base model's cosines to all classes ``[B, K]``.
        """
        prompts = {k: v.to(image.device) for k, v in self.prompts.items()}
        count = self.settings.prompt_classes
        if self.text_mode == "all" and 0 < count < known.shape[1]:
            rows = torch.randperm(known.shape[1])[:count].to(image.device)
            prompts, known = {k: v[rows] for k, v in prompts.items()}, known[:, rows]
        return image @ self.texts(prompts).T, known

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and each of its terms, unweighted.

        ``maps`` or ``pixels``; ``target`` ``[B, d]`` where distilled; ``base_text`` ``[B, d]``, and ``text_states`` or
        ids and mask where the text tower learns; ``base_image`` ``[B, d]`` for the anchors; ``base_classes``
        ``[B, K]``, the base model's cosines to the classes, for ``prompts``.
        """
        w, terms = self.settings.weights, {}
        image, text = self.images(batch), self.texts(batch)
        if w.image:
            terms["image"] = losses.cosine(image, batch["target"])
        if w.text and self.text_mode != "frozen":
            terms["text"] = losses.cosine(text, batch["base_text"])
        if w.contrastive:
            terms["contrastive"] = losses.contrastive(image, text, 1 / self.settings.temperature)
        if w.relation:
            terms["relation"] = losses.affinity_mimicking(
                image, text, batch["target"], batch["target"],
                1 / self.settings.temperature, 1 / self.settings.relation_temperature,
            )  # fmt: skip
        if w.anchor or w.prompts or w.naming:
            terms |= self._anchor_terms(image, batch)
        if w.stay:
            terms["stay"] = self._distance()
        loss = torch.stack([getattr(w, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}

    def _anchor_terms(self, image: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``anchor`` and ``prompts``, over the batch's photos and the further ones together, and ``naming``."""
        w, terms = self.settings.weights, {}
        further = {k.removeprefix("anchor_"): v for k, v in batch.items() if k.startswith("anchor_")}
        if further:
            others = self.images(further)
            image = torch.cat([image, others])
        if w.anchor:
            known = [batch["base_image"], *([further["base"]] if further else [])]
            terms["anchor"] = losses.cosine(image, torch.cat(known))
        if w.prompts:
            scale = self.settings.prompt_scale
            seen = [batch["base_classes"], *([further["classes"]] if further else [])]
            own, base = ((scale * c).log_softmax(dim=1) for c in self.classes_seen(image, torch.cat(seen)))
            terms["prompts"] = F.kl_div(own, base, reduction="batchmean", log_target=True)
        if w.naming:
            typical = further["label"] >= 0
            cosine, _ = self.classes_seen(others[typical], further["classes"][typical])
            terms["naming"] = F.cross_entropy(self.settings.prompt_scale * cosine, further["label"][typical])
        return terms

    def _distance(self) -> Tensor:
        """How far the learning weights are from the base model's, relative and squared."""
        moved = [(p - self.start[n]).square().sum() for n, p in self.weights().items()]
        length = torch.stack([s.square().sum() for s in self.start.values()]).sum()
        return torch.stack(moved).sum() / length


def text_mode(tunable: Tunable, learning: Sequence[str]) -> str:
    """How captions are read: ``frozen`` (kept embeddings), ``head`` (kept states), or ``all`` (tokens)."""
    text = [n for n in learning if not tunable.is_image(n)]
    if not text:
        return "frozen"
    return "head" if set(text) <= set(tunable.head) else "all"


@dataclass
class Anchors:
    """Photos without captions that the student shall see as the base model does."""

    pairs: PairSet
    """The photos; empty where only their maps are known."""
    maps: Halves | None
    """Kept maps of each, as those of the training photos; None reads the photos."""
    base_image: Floats
    """The base model's embedding of each ``[photos, d]``."""
    label: Ints
    """The ImageNet class of a prototype ``[photos]``, -1 for a photo."""


@dataclass
class StudentData:
    """What the student learns from."""

    pairs: PairSet
    """Photos and captions."""
    views: list[Halves] | None
    """Kept maps of each view; None reads the photos."""
    base_image: list[Floats] | None
    """The base model's embedding of each view ``[photos, d]``, where an anchor needs it."""
    base_text: Floats
    """The base model's embedding of every caption ``[captions, d]``."""
    states: Halves | None
    """States before the text projection ``[captions, w]``, where only that learns."""
    target: Floats | None
    """The teacher's embedding for every caption ``[captions, d]``."""
    classes: Floats | None
    """The base model's embedding of the classes ``[K, d]``, where ``prompts`` needs them."""
    anchors: Anchors | None = None
    """Further photos for the anchors."""


class StudentBatches:
    """Random views of the batch's photos, each with one of its captions.

    Args:
        tunable: reads photos and captions where they are not kept.
        data: what to learn from.
        augment: the views.
        size: photos a batch.
        seed: of everything.
        mode: see :func:`text_mode`.
    """

    def __init__(
        self, tunable: Tunable, data: StudentData, augment: AugmentConfig, size: int, seed: int, mode: str
    ) -> None:
        self.tunable, self.data, self.augment, self.size, self.seed, self.mode = (
            tunable, data, augment, size, seed, mode
        )  # fmt: skip
        self.captions = data.pairs.captions_of()
        self.photos = np.array([i for i, rows in enumerate(self.captions) if len(rows)], dtype=np.int64)
        self.batches = len(self.photos) // size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.photos)
        for batch in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, batch])
            photos = np.sort(order[batch * self.size : (batch + 1) * self.size])
            captions = np.array([rng.choice(self.captions[p]) for p in photos])
            views = rng.integers(self.augment.views, size=len(photos))
            mirrored = rng.random(len(photos)) < (0.5 if self.augment.flip else 0.0)
            yield self._images(photos, views, mirrored) | self._texts(captions) | self._anchors(rng)

    def _anchors(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """As many of the further photos as there are training photos in a batch."""
        anchors = self.data.anchors
        if anchors is None:
            return {}
        rows = np.sort(
            rng.choice(len(anchors.base_image), min(self.size, len(anchors.base_image)), replace=False)
        )
        batch = {
            "anchor_base": torch.from_numpy(anchors.base_image[rows]),
            "anchor_label": torch.from_numpy(anchors.label[rows]),
        }
        if anchors.maps is not None:
            batch["anchor_maps"] = torch.from_numpy(np.asarray(anchors.maps[rows]))
        else:
            images = view_images(anchors.pairs, self.augment, self.seed, [int(r) for r in rows], 0)
            batch["anchor_pixels"] = self.tunable.pixels(images)
        if self.data.classes is not None:
            batch["anchor_classes"] = torch.from_numpy(anchors.base_image[rows] @ self.data.classes.T)
        return batch

    def _images(self, photos: Ints, views: Ints, mirrored: NDArray[np.bool_]) -> dict[str, Tensor]:
        d = self.data
        if d.views is not None:
            maps = torch.from_numpy(np.stack([d.views[v][p] for v, p in zip(views, photos, strict=True)]))
            if self.augment.views > 1 and maps.ndim == 4:
                flip = torch.from_numpy(mirrored)[:, None, None, None]
                maps = torch.where(flip, maps.flip(3), maps)
            batch = {"maps": maps}
        else:
            images = [
                view_images(d.pairs, self.augment, self.seed, [int(p)], int(v))[0]
                for p, v in zip(photos, views, strict=True)
            ]
            batch = {"pixels": self.tunable.pixels(images)}
        if d.base_image is not None:
            base = np.stack([d.base_image[v][p] for v, p in zip(views, photos, strict=True)])
            batch["base_image"] = torch.from_numpy(base)
            if d.classes is not None:
                batch["base_classes"] = torch.from_numpy(base @ d.classes.T)
        return batch

    def _texts(self, captions: Ints) -> dict[str, Tensor]:
        d = self.data
        batch = {"base_text": torch.from_numpy(d.base_text[captions])}
        if d.target is not None:
            batch["target"] = torch.from_numpy(d.target[captions])
        if self.mode == "head":
            assert d.states is not None
            batch["text_states"] = torch.from_numpy(np.asarray(d.states[captions]))
        elif self.mode == "all":
            batch |= self.tunable.tokens([d.pairs.captions[i] for i in captions])
        return batch


@torch.inference_mode()
def encode_maps(tunable: Tunable, maps: Halves, first: int, quick: bool = False, step: int = 64) -> Floats:
    """Embeddings of kept maps ``[n, d]``, unit norm; ``quick`` may round as bf16 does."""
    blocks = []
    for start in range(0, len(maps), step):
        x = torch.from_numpy(np.array(maps[start : start + step])).to(tunable.device).float()
        blocks.append(tunable.encode_late(x, first, quick=quick).float().cpu().numpy())
    return unit_norm(np.concatenate(blocks))


@torch.inference_mode()
def encode_states(tunable: Tunable, states: Any, step: int = 4096) -> Floats:
    """Embeddings of kept caption states ``[n, d]``, unit norm."""
    blocks = []
    for start in range(0, len(states), step):
        x = torch.from_numpy(np.array(states[start : start + step], dtype=np.float32)).to(tunable.device)
        blocks.append(tunable.project_text(x).cpu().numpy())
    return unit_norm(np.concatenate(blocks))


@torch.no_grad()
def average_weights(model: nn.Module, base: dict[str, Tensor], share: float) -> None:
    """WiSE-FT: ``share`` of the model's weights and the rest of the base model's, in place.

    Source: Wortsman et al. 2022 (arXiv 2109.01903).
    """
    for name, parameter in model.named_parameters():
        if name in base:
            parameter.lerp_(base[name].to(parameter), 1 - share)
