"""DCLIP's teacher: the spans and regions that it reads, its training, and the embeddings that it sets as targets."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.data.ragged import Arrays, Ragged, kept_blocks
from cliplet.data.spans import noun_phrases
from cliplet.encoders.base import unit_norm
from cliplet.encoders.batching import BatchedEncoder
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.files import whole
from cliplet.models.config import to_dict
from cliplet.models.cross_modal import CrossModalTeacher
from cliplet.regions.registry import make_proposer
from cliplet.regions.store import RegionSettings, StoredRegions, compute_regions
from cliplet.training import losses
from cliplet.training.checkpoint import read_weights
from cliplet.training.computed import computed
from cliplet.training.dclip.base import base_name
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.inputs import Captions, Floats, Ints, Learner, PhotoBatches
from cliplet.training.dclip.trainable import TrainableClip, crop_embedder
from cliplet.training.fit import BEST
from cliplet.training.logs import Progress
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.processes import first_alone, of_first
from cliplet.training.task import Task, put_weights


class TeacherTask(Task):
    """The teacher with its loss: InfoNCE between its embedding of a pair and the frozen embedding of a caption.

    Args:
        model: the teacher.
        temperature: of the InfoNCE.
    """

    def __init__(self, model: CrossModalTeacher, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``spans`` ``[B, M, d]``, ``regions`` ``[B, N, d]``, their masks, and ``target`` ``[B, d]``."""
        out = self.model(batch["spans"], batch["span_mask"], batch["regions"], batch["region_mask"])
        loss = losses.contrastive(out.fused, batch["target"], 1 / self.temperature)
        cosine = F.cosine_similarity(out.fused, batch["target"]).mean()
        return {"loss": loss, "cosine": cosine.detach()}


def scaled(vectors: Floats) -> Floats:
    """Unit vectors ``[..., d]`` at the length ``sqrt(d)``: as short as 1, all attention logits would be near 0."""
    result: Floats = vectors * np.float32(np.sqrt(vectors.shape[-1]))
    return result


def caption_spans(
    clip: TrainableClip, captions: Sequence[str], kind: str, padding: bool, folder: Path
) -> Ragged:
    """Embeddings of every caption's spans, at least one each, unit norm; computed once.

    Args:
        clip: the base model.
        captions: the captions.
        kind: ``tokens`` or ``phrases``.
        padding: the positions after a text are tokens too.
        folder: where to keep them.
    """
    key = f"{fingerprint([clip.encoder.card.fingerprint])}-{fingerprint(captions)}"
    name = f"{kind}{'-padded' if padding else ''}-{key}"
    if kind == "phrases":
        phrases = [[s.text for s in noun_phrases(c)] or [c] for c in captions]
        distinct = list(dict.fromkeys(p for several in phrases for p in several))
        number = {p: i for i, p in enumerate(distinct)}
        rows = computed(
            folder / f"{name}.npy", len(distinct), lambda a, b: clip.encoder.encode_texts(distinct[a:b]), 2048,
            np.float16, "noun phrases",
        )  # fmt: skip
        order = [number[p] for several in phrases for p in several]
        return Ragged.of(np.asarray(rows)[order], np.array([len(p) for p in phrases]))

    def states(start: int, stop: int) -> Arrays:
        """Captions of like length are computed together."""
        block = captions[start:stop]
        order = sorted(range(len(block)), key=lambda i: len(block[i]))
        found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(block)
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            for i, own in zip(rows, clip.token_states([block[i] for i in rows], padding)[1], strict=True):
                found[i] = unit_norm(own.numpy())
        counts = np.array([len(f) for f in found], dtype=np.int64)
        return {"rows": np.concatenate(found).astype(np.float16), "counts": counts}

    progress = Progress("token states", len(captions)).done
    with first_alone():
        blocks = list(kept_blocks(folder / name, len(captions), 1024, states, progress))
    return Ragged.of(*(np.concatenate([b[k] for b in blocks]) for k in ("rows", "counts")))


def photo_regions(
    clip: TrainableClip, encoder: BatchedEncoder, pairs: PairSet, settings: RegionSettings, folder: Path
) -> StoredRegions:
    """Regions of every photo with their crops' embeddings by ``encoder``, which is the base model; computed once."""
    proposer = make_proposer(settings.proposer, settings.score, settings.iou)
    progress = Progress(f"regions, {settings.proposer.rsplit('/', 1)[-1]}", len(pairs.photos)).done
    embed = crop_embedder(clip, encoder, settings.raw_crops)
    key = clip.encoder.card.fingerprint
    with first_alone():
        return compute_regions(
            folder, pairs.photos, pairs.names, proposer, settings, embed, key, progress=progress
        )


class TeacherData:
    """Pairs as the teacher reads them.

    Args:
        pairs: photos and captions.
        spans: of every caption.
        regions: of every photo.
        texts: the base model's embedding of every caption ``[captions, d]``.
    """

    def __init__(self, pairs: PairSet, spans: Ragged, regions: StoredRegions, texts: Floats) -> None:
        self.pairs, self.spans, self.regions, self.texts = pairs, spans, regions, texts

    def inputs(self, captions: Ints) -> dict[str, Tensor]:
        """Spans of some captions with the regions of their photos."""
        spans, span_mask = self.spans.padded(captions)
        regions, region_mask = self.regions.padded(self.pairs.photo_of[captions])
        arrays = {
            "spans": scaled(spans), "span_mask": span_mask, "regions": scaled(regions), "region_mask": region_mask
        }  # fmt: skip
        return {k: torch.from_numpy(v) for k, v in arrays.items()}


class TeacherBatches(PhotoBatches):
    """A random caption of each photo of the batch; its own embedding as target, or another caption's.

    Args:
        data: training pairs.
        config: the recipe.
        seed: of order and choice.
    """

    def __init__(self, data: TeacherData, config: DclipConfig, seed: int) -> None:
        super().__init__(data.pairs, config.teacher_stage.batch_size, seed)
        self.data, self.other = data, int(config.teacher.target == "other")

    def batch(
        self, photos: Ints, rng: np.random.Generator, together: Ints | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`TeacherTask.forward`."""
        captions = [self.captions_of[p] for p in photos]
        two = np.array([rng.choice(rows, 2, replace=len(rows) < 2) for rows in captions])
        return {
            **self.data.inputs(two[:, 0]),
            "target": torch.from_numpy(self.data.texts[two[:, self.other]]),
        }


def teacher_folder(config: DclipConfig, seed: int, base: str = "") -> Path:
    """Where the teacher of a variant and a seed is trained; variants whose teachers are alike share it.

    ``base`` spares finding out what the base model is called.
    """
    made_of = [config.spans, *map(to_dict, (config.regions, config.teacher, config.teacher_stage))]
    key = fingerprint([base or base_name(config), json.dumps(made_of)])[:8]
    return Path(config.out) / f"teacher-{key}-seed{seed}"


class Teachers:
    """Cross-modal teachers over one base model, which must have its own weights whenever they are asked.

    Args:
        learner: the base model.
        train: training photos and captions.
        dev: those that choose the best epoch, or None.
        folder: of what is computed once.
        fit: trains.
    """

    def __init__(
        self, learner: Learner, train: Captions, pairs: PairSet, dev: PairSet | None, folder: Path, fit: Any
    ) -> None:
        self.learner, self.captions, self.pairs, self.dev = learner, train, pairs, dev
        self.folder, self.fit = folder, fit
        self._read: dict[str, TeacherData] = {}

    def data(self, config: DclipConfig, pairs: PairSet, captions: Captions) -> TeacherData:
        """Spans, regions and caption embeddings of a set."""
        key = fingerprint([config.spans, config.teacher.mask, config.regions, *pairs.photos])
        if key not in self._read:
            clip = self.learner.clip
            spans = caption_spans(clip, pairs.captions, config.spans, not config.teacher.mask, self.folder)
            encoder = clip.frozen_encoder(self.folder, self.pairs)
            regions = photo_regions(clip, encoder, pairs, config.regions, self.folder)
            self._read[key] = TeacherData(pairs, spans, regions, captions.base)
        return self._read[key]

    def trained(self, config: DclipConfig, seed: int) -> CrossModalTeacher:
        """The trained teacher of a seed."""
        folder = teacher_folder(config, seed)
        torch.manual_seed(seed)
        teacher = CrossModalTeacher(config.teacher, self.learner.clip.encoder.card.embedding_dim)
        task = TeacherTask(teacher, config.teacher.temperature)
        if (folder / BEST).exists():
            put_weights(task, read_weights(folder / BEST))
        else:
            data, dev = self.data(config, self.pairs, self.captions), None
            if self.dev is not None:
                dev = self.data(config, self.dev, Captions(self.learner, self.dev.captions, self.folder))
            evaluate = partial(teacher_on_dev, teacher, dev) if dev else None
            self.fit(folder, task, config.teacher_stage, TeacherBatches(data, config, seed), evaluate)
        return teacher.to(self.learner.clip.device)

    def target(self, config: DclipConfig, seed: int) -> Floats:
        """The embedding of every training caption with its photo ``[captions, d]``, unit norm."""
        file = teacher_folder(config, seed) / "target.npy"
        if of_first(not file.exists()):
            teacher = self.trained(config, seed)
            data = self.data(config, self.pairs, self.captions)
            fused = teach(teacher, data, np.arange(len(self.pairs.captions)), "teacher's embeddings")
            with first_alone():
                if not file.exists():
                    with whole(file) as part, part.open("wb") as stream:
                        np.save(stream, fused.astype(np.float16))
        return unit_norm(np.load(file, allow_pickle=False))


@torch.inference_mode()
def teach(
    model: CrossModalTeacher, data: TeacherData, captions: Ints, what: str = "", step: int = 256
) -> Floats:
    """The teacher's embedding of some captions with their photos: ``[n, d]``, unit norm."""
    model.eval()
    device = next(model.parameters()).device
    blocks = []
    bar = Progress(what, len(captions), silent=not what)
    for start in range(0, len(captions), step):
        rows = captions[start : start + step]
        out = model(**{k: v.to(device) for k, v in data.inputs(rows).items()})
        blocks.append(out.fused.float().cpu().numpy())
        bar.update(start + len(rows))
    return unit_norm(np.concatenate(blocks))


def teacher_on_dev(model: CrossModalTeacher, data: TeacherData) -> dict[str, float]:
    """How well the teacher's embedding of a photo with its first caption finds the photo's *other* captions.

    ``score`` is that R@1 over all other captions of dev; ``cosine`` the mean cosine to the caption's own embedding.
    A photo with one caption is left out.
    """
    several = [rows for rows in data.pairs.captions_of() if len(rows) > 1]
    if not several:
        return {}
    first, others = [rows[0] for rows in several], np.concatenate([rows[1:] for rows in several])
    number = {int(data.pairs.photo_of[c]): i for i, c in enumerate(first)}
    rows = np.array(first)
    fused = teach(model, data, rows)
    owner = np.array([number[int(p)] for p in data.pairs.photo_of[others]])
    recall = recall_at_k(fused, data.texts[others], owner, ks=(1,))
    return {
        "score": recall["image-to-text R@1"],
        "cosine": float((fused * data.texts[rows]).sum(axis=1).mean()),
    }
