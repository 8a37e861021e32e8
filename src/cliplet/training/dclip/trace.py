"""One photo and its caption followed through a DCLIP run: regions, spans, attention, embedding, before and after."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.data.images import load_rgb
from cliplet.data.spans import noun_phrases
from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.regions.base import Regions
from cliplet.regions.registry import make_proposer
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.base import base_name
from cliplet.training.dclip.config import DclipConfig, dclip_config, variant_config
from cliplet.training.dclip.finetuning import run_folder, teacher_folder
from cliplet.training.dclip.teacher import make_teacher, scaled
from cliplet.training.dclip.trainable import TrainableClip, crop_embedder, open_trainable
from cliplet.training.fit import BEST


@dataclass(frozen=True)
class Trace:
    """What happened to one pair."""

    caption: str
    """The caption."""
    regions: Regions
    """The regions that the teacher saw."""
    region_weights: list[float]
    """Share of each in the pooled photo."""
    spans: list[str]
    """The caption's spans."""
    span_weights: list[float]
    """Share of each in the pooled caption."""
    attention: NDArray[np.float32]
    """``[spans, regions]``: how much each span looks at each region, mean over heads."""
    cosines: dict[str, float]
    """Cosines between what was embedded."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        boxes = [[round(float(v), 1) for v in box] for box in self.regions.boxes]
        return {
            "caption": self.caption,
            "regions": [
                {"box": box, "label": self.regions.label(i), "score": round(float(self.regions.scores[i]), 4),
                 "weight": round(self.region_weights[i], 4)}
                for i, box in enumerate(boxes)
            ],
            "spans": [{"text": s, "weight": round(w, 4)} for s, w in zip(self.spans, self.span_weights, strict=True)],
            "attention": [[round(float(v), 4) for v in row] for row in self.attention],
            "cosines": {k: round(v, 4) for k, v in self.cosines.items()},
        }  # fmt: skip


def follow(
    run: str | Path, photo: str | Path, caption: str, seed: int | None = None, variant: str | None = None
) -> Trace:
    """Follow a photo and a caption through the teacher and the student of a finished run.

    Args:
        run: the run's folder (``out`` of the recipe).
        photo: the photo.
        caption: its caption.
        seed: which of the run's seeds; its first by default.
        variant: which of the run's variants; its ``main`` one by default.

    Raises:
        InputError: the folder holds no finished run of DCLIP, or that variant has no cross-modal teacher.
    """
    run = Path(run)
    try:
        recipe = dclip_config(json.loads((run / "recipe.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} holds no run of DCLIP: {error}") from error
    name = variant or recipe.main or recipe.variants[0].name
    chosen = [v for v in recipe.variants if v.name == name]
    if not chosen:
        raise InputError(f"{run} has no variant {name}; it has {', '.join(v.name for v in recipe.variants)}")
    recipe = dataclasses.replace(recipe, out=str(run), features=recipe.features or str(run / "features"))
    config = variant_config(recipe, chosen[0])
    seed = config.seeds[0] if seed is None else seed
    weights = teacher_folder(config, seed) / BEST
    if not weights.exists():
        raise InputError(
            f"{run} has no trained teacher of variant {name}, seed {seed}; run cliplet distill on its recipe first"
        )
    base = open_trainable(base_name(config))
    trace = _teach(config, base, weights, Path(photo), caption)
    tuned = run_folder(config, seed) / "model"
    if (tuned / "model.safetensors").exists():
        student = open_trainable(str(tuned)).encoder
        image, text = student.encode_images([str(photo)])[0], student.encode_texts([caption])[0]
        trace.cosines["photo, tuned - caption, tuned"] = float(image @ text)
    return trace


@torch.inference_mode()
def _teach(config: DclipConfig, base: TrainableClip, weights: Path, photo: Path, caption: str) -> Trace:
    """The teacher's part."""
    image = load_rgb(photo)
    proposer = make_proposer(config.regions.proposer, config.regions.score, config.regions.iou)
    found = config.regions.choose(proposer.propose(image, photo.name), image)
    width = base.encoder.card.embedding_dim
    crops = np.zeros((1, width), dtype=np.float32)  # no region: one zero vector, as released
    if len(found):
        crops = crop_embedder(base, base.encoder, config.regions.raw_crops)(found.crops(image))
    if config.spans == "phrases":
        spans = [s.text for s in noun_phrases(caption)] or [caption]
        states = base.encoder.encode_texts(spans)
    else:
        tokens, found_states = base.token_states([caption], padding=not config.teacher.mask)
        states = unit_norm(found_states[0].numpy())
        spans = [*tokens[0], *["(padding)"] * (len(states) - len(tokens[0]))]
    teacher = make_teacher(config.teacher, width)
    teacher.load_state_dict(read_weights(weights))
    teacher.eval()
    x, y = (torch.from_numpy(scaled(np.asarray(v, dtype=np.float32)))[None] for v in (states, crops))
    out = teacher(x, torch.ones(x.shape[:2], dtype=torch.bool), y, torch.ones(y.shape[:2], dtype=torch.bool))
    whole, text = base.encoder.encode_images([image])[0], base.encoder.encode_texts([caption])[0]
    fused, pooled = (unit_norm(v.numpy())[0] for v in (out.fused, out.image))
    cosines = {
        "photo - caption (before tuning)": float(whole @ text),
        "photo - teacher's embedding": float(whole @ fused),
        "caption - teacher's embedding": float(text @ fused),
        "caption - teacher's photo part": float(text @ pooled),
    }
    return Trace(
        caption, found, out.region_weights[0].tolist(), spans, out.span_weights[0].tolist(),
        out.attention[0].numpy(), cosines,
    )  # fmt: skip


def trace_text(trace: Trace) -> str:
    """For a terminal."""
    lines = [f"caption: {trace.caption}", "", "regions (box, class, score, share in the pooled photo):"]
    for i, box in enumerate(trace.regions.boxes):
        place = " ".join(f"{v:5.0f}" for v in box)
        label = trace.regions.label(i) or ("whole photo" if i == 0 else "")
        lines.append(
            f"  {i + 1:>2}  {place}  {label:<14} {trace.regions.scores[i]:.2f}  {trace.region_weights[i]:6.1%}"
        )
    count = max(1, trace.attention.shape[1])
    head = " ".join(f"{i + 1:>5}" for i in range(count))
    lines += [
        "",
        "spans (share in the pooled caption; attention to each region, in %):",
        f"  {'':<18} share  {head}",
    ]
    for span, weight, row in zip(trace.spans, trace.span_weights, trace.attention, strict=True):
        looks = " ".join(f"{100 * v:5.0f}" for v in row)
        lines.append(f"  {span[:18]:<18} {weight:5.1%}  {looks}")
    lines += ["", "cosines:"]
    lines += [f"  {name:<34} {value:+.3f}" for name, value in trace.cosines.items()]
    return "\n".join(lines)
