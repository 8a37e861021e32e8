"""The student of DCLIP: a copy of the base model, some of whose parameters learn, with the hybrid loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.training import losses
from cliplet.training.dclip.config import StudentSettings
from cliplet.training.dclip.inputs import Captions, Floats, Ints, Learner, PhotoBatches, Photos
from cliplet.training.dclip.low_rank import LowRank
from cliplet.training.objectives.base import Drawn, Objective, Step, of, under
from cliplet.training.pairs import PairSet
from cliplet.training.task import Task


class DclipStudent(Task):
    """The model in training.

    ``L = a (1 - cos(s_img, g)) + b (1 - cos(s_txt, t_txt)) + c InfoNCE(s_img, s_txt)``, the hybrid loss as published,
    with ``r H(softmax(g g^T / t_r), softmax(s_img s_txt^T / t))``, both ways, the teacher's relations between pairs,
    and four terms that keep what the base model knows: ``d (1 - cos(s_img, b_img))``, ``e KL(classes seen by the base
    model || classes seen by the student)``, ``n H(class, classes seen in its prototype)`` (class-name anchoring) and
    ``f |w - w_base|^2 / |w_base|^2`` over the learning weights (L2-SP). g is the teacher's embedding, t and b the base
    model's.

    Args:
        learner: the model.
        settings: the student's.
        prompts: the classes for ``prompts``: ``base_text`` ``[K, d]`` and what :meth:`Captions.batch` gives of them;
            None without the term.
        objectives: weight and objective by name.
    """

    def __init__(
        self,
        learner: Learner,
        settings: StudentSettings,
        prompts: dict[str, Tensor] | None,
        objectives: Mapping[str, tuple[float, Objective]] = {},
    ) -> None:
        super().__init__()
        self.weight_of = {name: weight for name, (weight, _) in objectives.items()}
        self.objectives = nn.ModuleDict(
            {_key(name): objective for name, (_, objective) in objectives.items()}
        )
        self.contrastive = bool(settings.weights.contrastive) and not any(
            objective.contrastive for _, objective in objectives.values()
        )
        self.learner, self.settings, self.prompts = learner, settings, prompts or {}
        own = dict(learner.clip.model.named_parameters())
        rank, alpha = settings.low_rank.rank, settings.low_rank.alpha
        self.adapters = LowRank(learner.clip.model, learner.names, rank, alpha) if rank else None
        learning = [] if rank else learner.names
        for name, parameter in own.items():
            parameter.requires_grad_(name in set(learning))
        # Only what learns is this module's: checkpoints and moving averages leave the frozen rest alone.
        self.model = nn.ParameterDict({_key(name): own[name] for name in learning})
        self.start: Mapping[str, Tensor] = {}
        """The learning weights as they were, for L2-SP."""
        if settings.weights.l2_sp:
            self.start = (
                self.adapters.base if self.adapters else {n: own[n].detach().clone() for n in learner.names}
            )
        self._merged = False

    def train(self, mode: bool = True) -> "DclipStudent":
        """The model itself stays in evaluation mode: batch statistics and dropout as they were in the base model."""
        self.training = mode
        self.learner.clip.model.eval()
        self.objectives.train(mode)
        return self

    def weights(self) -> dict[str, Tensor]:
        """The parameters that learn, by the model's own names; with adapters the matrices that these are added to."""
        if self.adapters is None:
            return {name.replace("/", "."): value for name, value in self.model.items()}
        if (
            not self._merged
        ):  # once after a step: what is put into them later, such as a moving average, stays
            self.adapters.merge()
            self._merged = True
        return dict(self.adapters.parameter)

    def images(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's photos ``[B, d]``, unit norm."""
        dropout = self.settings.dropout if self.training else 0.0
        return F.normalize(self.learner.encode_images(batch, dropout, quick=True), dim=1)

    def texts(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's captions ``[B, d]``, unit norm."""
        found = self.learner.encode_texts(batch)
        return found if self.learner.text_mode == "frozen" else F.normalize(found, dim=1)

    def classes_seen(self, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The student's cosines of photos ``[B, d]`` to the classes of ``prompts`` and the base model's.

        ``prompt_classes`` of the K classes, drawn for each batch where the student reads them word by word.

        Args:
            image: the student's embeddings.
            known: the base model's cosines to all classes ``[B, K]``.
        """
        prompts = {k: v.to(image.device) for k, v in self.prompts.items()}
        count = self.settings.prompt_classes
        if self.learner.text_mode == "all" and 0 < count < known.shape[1]:
            rows = torch.randperm(known.shape[1])[:count].to(image.device)
            prompts, known = {k: v[rows] for k, v in prompts.items()}, known[:, rows]
        return image @ self.texts(prompts).T, known

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and each of its terms, unweighted.

        ``maps`` or ``pixels``; ``target`` ``[B, d]`` where distilled; ``base_text`` ``[B, d]``, and ``text_states`` or
        ids and mask where the text tower learns; ``base_image`` ``[B, d]`` for the anchors; ``base_classes``
        ``[B, K]``, the base model's cosines to the classes, for ``prompts``.
        """
        if self.adapters is None:
            return self._terms(batch, self.weights())
        self._merged = False
        current = self.adapters.merged()
        with self.adapters.in_place(current):
            return self._terms(batch, current)

    def _terms(self, batch: dict[str, Tensor], current: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss and its terms, of a model with the current weights."""
        w, terms = self.settings.weights, {}
        image, text = self.images(batch), self.texts(batch)
        if w.image:
            terms["image"] = losses.cosine(image, batch["target"])
        if w.text and self.learner.text_mode != "frozen":
            terms["text"] = losses.cosine(text, batch["base_text"])
        if self.contrastive:
            terms["contrastive"] = losses.contrastive(image, text, 1 / self.settings.temperature)
        if w.relation:
            terms["relation"] = losses.affinity_mimicking(
                image, text, batch["target"], batch["target"],
                1 / self.settings.temperature, 1 / self.settings.relation_temperature,
            )  # fmt: skip
        if w.keeps:
            terms |= self._anchor_terms(image, batch)
        if w.l2_sp:
            terms["l2_sp"] = self._distance(current)
        parts = [getattr(w, name) * value for name, value in terms.items()]
        for name, weight in self.weight_of.items():
            found = self._objective(name, image, text, batch)
            parts.append(weight * found.pop("loss"))
            terms |= found
        return {"loss": torch.stack(parts).sum(), **{k: v.detach() for k, v in terms.items()}}

    def _objective(
        self, name: str, image: Tensor, text: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """An objective's ``loss``, itself again under its name, and what else it logs."""
        columns = of(f"{name}.", batch)
        step = Step(
            image, text, 1 / self.settings.temperature, columns, self._further_images, self._further_texts
        )
        found = self.objectives[_key(name)](step)
        values = found if isinstance(found, dict) else {"loss": found}
        _check_scalars(name, values)
        values = {k: v.reshape(()) for k, v in values.items()}
        loss = values.pop("loss")
        return {"loss": loss, name: loss, **{f"{name}.{k}": v for k, v in values.items()}}

    def _further_images(self, columns: Mapping[str, Tensor]) -> Tensor:
        return self.images(dict(columns))

    def _further_texts(self, columns: Mapping[str, Tensor]) -> Tensor:
        return self.texts(dict(columns))

    def _anchor_terms(self, image: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``anchor`` and ``prompts``, over the batch's photos and the further ones together, and ``anchoring``."""
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
        if w.anchoring:
            typical = further["label"] >= 0
            cosine, _ = self.classes_seen(others[typical], further["classes"][typical])
            terms["anchoring"] = F.cross_entropy(
                self.settings.prompt_scale * cosine, further["label"][typical]
            )
        return terms

    def _distance(self, current: Mapping[str, Tensor]) -> Tensor:
        """How far the learning weights are from the base model's, relative and squared."""
        moved = [(p - self.start[n]).square().sum() for n, p in current.items()]
        length = torch.stack([s.square().sum() for s in self.start.values()]).sum()
        return torch.stack(moved).sum() / length


def _check_scalars(name: str, values: Mapping[str, Any]) -> None:
    """Raise an InputError where an objective gives something else than a loss and scalars."""
    if "loss" not in values:
        raise InputError(f"objective {name!r} gave {', '.join(values) or 'nothing'}, but no loss")
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"objective {name!r}: its {key} is no tensor with one number, but {shape}")


def _key(name: str) -> str:
    """A name as a module's, without the dots of ``module:attribute`` and of parameters."""
    return name.replace(".", "/")


@dataclass(frozen=True)
class Anchors:
    """Photos without captions that the student shall see as the base model does."""

    photos: Photos
    """The photos, or class prototypes, or both."""
    base: Floats
    """The base model's embedding of each ``[photos, d]``."""
    label: Ints
    """The ImageNet class of a prototype ``[photos]``, -1 for a photo."""


@dataclass(frozen=True)
class StudentData:
    """What the student learns from."""

    pairs: PairSet
    """Photos and captions."""
    photos: Photos
    """The photos' views."""
    captions: Captions
    """The captions."""
    base_text: Floats | None
    """The base model's embedding of every caption ``[captions, d]``, where it is compared or stands for them."""
    target: Floats | None
    """The teacher's embedding for every caption ``[captions, d]``."""
    base_image: list[Floats] | None = None
    """The base model's embedding of each view ``[photos, d]``, where an anchor needs it."""
    classes: Floats | None = None
    """The base model's embedding of the classes ``[K, d]``, where ``prompts`` needs them."""
    anchors: Anchors | None = None
    """Further photos for the anchors."""
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    """What else the student learns from, by name."""


class StudentBatches(PhotoBatches):
    """Random views of the batch's photos, each with one of its captions, and as many anchors.

    Args:
        data: what to learn from.
        size: photos a batch.
        seed: of everything.
    """

    def __init__(self, data: StudentData, size: int, seed: int) -> None:
        super().__init__(data.pairs, size, seed)
        self.data = data

    def batch(
        self, photos: Ints, rng: np.random.Generator, together: Ints | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`DclipStudent.forward`."""
        d, augment, photos = self.data, self.data.photos.augment, np.sort(photos)
        captions = np.array([rng.choice(self.captions_of[p]) for p in photos])
        views = rng.integers(augment.views, size=len(photos))
        mirrored = torch.from_numpy(rng.random(len(photos)) < (0.5 if augment.flip else 0.0))
        batch = d.photos.batch(photos, views) | d.captions.batch(captions)
        if augment.views > 1 and "maps" in batch and batch["maps"].ndim == 4:
            maps = batch["maps"]
            batch["maps"] = torch.where(mirrored[:, None, None, None], maps.flip(3), maps)
        if d.base_text is not None:
            batch["base_text"] = torch.from_numpy(d.base_text[captions])
        if d.target is not None:
            batch["target"] = torch.from_numpy(d.target[captions])
        if d.base_image is not None:
            base = np.stack([d.base_image[v][p] for v, p in zip(views, photos, strict=True)])
            batch |= self._seen("base_image", "base_classes", base)
        drawn = Drawn(photos, captions, views, mirrored.numpy(), rng, together)
        for name, objective in d.objectives.items():
            columns = objective.batch(drawn)
            wrong = [key for key, value in columns.items() if not isinstance(value, Tensor)]
            if wrong:
                raise InputError(f"objective {name!r}: column {wrong[0]!r} of its batch is no tensor")
            batch |= under(f"{name}.", columns)
        return batch | self._anchors(rng)

    def _seen(self, name: str, classes: str, base: Floats) -> dict[str, Tensor]:
        """The base model's embeddings, and their cosines to the classes where they are wanted."""
        found = {name: torch.from_numpy(base)}
        if self.data.classes is not None:
            found[classes] = torch.from_numpy(base @ self.data.classes.T)
        return found

    def _anchors(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """As many of the further photos as there are training photos in a batch."""
        anchors = self.data.anchors
        if anchors is None:
            return {}
        count = len(anchors.base)
        rows = np.sort(rng.choice(count, min(self.size, count), replace=False))
        inputs = anchors.photos.batch(rows, np.zeros(len(rows), dtype=np.int64))
        batch = {f"anchor_{k}": v for k, v in inputs.items()}
        batch["anchor_label"] = torch.from_numpy(anchors.label[rows])
        return batch | self._seen("anchor_base", "anchor_classes", anchors.base[rows])


@torch.no_grad()
def average_weights(model: nn.Module, base: dict[str, Tensor], share: float) -> None:
    """WiSE-FT: ``share`` of the model's weights and the rest of the base model's, in place.

    Source: Wortsman et al. 2022 (arXiv 2109.01903).
    """
    for name, parameter in model.named_parameters():
        if name in base:
            parameter.lerp_(base[name].to(parameter), 1 - share)
