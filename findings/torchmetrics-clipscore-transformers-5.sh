#!/usr/bin/env bash
# torchmetrics 1.9.0 with transformers 5.24.0: CLIPScore cannot compute any score.
#
# `pip install 'torchmetrics[multimodal]'` asks for transformers>=4.43 and so takes 5.x. There get_image_features and
# get_text_features return a BaseModelOutputWithPooling, where 4.x returned a tensor; torchmetrics divides what it gets
# by `.norm(...)`. A good engineer expects the newest torchmetrics to work with what its own extra installs.
#
# Seen on 2026-11-29 (CPU, Python 3.11):
#   get_image_features returns BaseModelOutputWithPooling
#   CLIPScore: AttributeError: 'BaseModelOutputWithPooling' object has no attribute 'norm'
#   with .pooler_output put in its place: a score between -100 and 100
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 torchmetrics==1.9.0 pillow numpy
cat > "$work/try.py" <<'PY'
import importlib.metadata as metadata

import torch
from transformers import CLIPConfig, CLIPModel
from torchmetrics.multimodal import CLIPScore

wanted = [r for r in metadata.requires("torchmetrics") if r.startswith("transformers") and "multimodal" in r]
assert wanted == ['transformers>=4.43.0; extra == "multimodal"'], wanted

torch.manual_seed(0)
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = CLIPModel(
    CLIPConfig(
        text_config=dict(vocab_size=100, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, **small),
        vision_config=dict(image_size=32, patch_size=8, **small),
        projection_dim=16,
    )
).eval()


def processor(text=None, images=None, **_):
    """Stands for a CLIPProcessor: every image as it is, every text as its letters."""
    if images is not None:
        return {"pixel_values": torch.stack([i.float() / 255 for i in images])}
    ids = torch.tensor([[0, *(2 + ord(c) % 90 for c in t[:10]), 1] for t in text])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
print("get_image_features returns", type(model.get_image_features(image[None] / 255)).__name__)
metric = CLIPScore(lambda: (model, processor))
try:
    metric(image, "a dog runs")
except AttributeError as error:
    print("CLIPScore: AttributeError:", error)
    assert "has no attribute 'norm'" in str(error)
else:
    raise SystemExit("CHANGED: CLIPScore computes a score now")


class Pooled(torch.nn.Module):
    """The same model with tensors for outputs."""

    config = model.config

    def get_image_features(self, *inputs):
        return model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs):
        return model.get_text_features(*inputs).pooler_output


score = CLIPScore(lambda: (Pooled(), processor))(image, "a dog runs").detach().item()
print(f"with .pooler_output in its place: {score:.3f}")
assert -100 <= score <= 100
PY
"$work/venv/bin/python" "$work/try.py"
