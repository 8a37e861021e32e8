#!/usr/bin/env bash
# diffusers 0.42.1, StableUnCLIPImageNormalizer (the mean and deviation of CLIP image embeddings in Stable unCLIP):
# its .to(...) does not move the parameters in place, as torch.nn.Module.to does for every module of CPU tensors that stays
# on the CPU; it puts new nn.Parameters in their place, and a new Parameter wants a gradient. So a frozen normalizer is
# trainable again after .to(device), also where device is the one that it is on, and an optimiser that was made before
# holds tensors that nobody uses. Freeze after the last .to().
#
# Seen on 2026-11-29 (torch 2.13.0 on the CPU, Python 3.11):
#   requires_grad after freezing        [False, False]
#   after .to("cpu")                    [True, True], other parameters than before
#   nn.Linear, frozen, after .to("cpu") [False, False], the same parameters
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 --no-deps
"$work/venv/bin/pip" install -q filelock fsspec jinja2 networkx sympy typing-extensions "setuptools>=77.0.3" \
    diffusers==0.42.1 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import torch
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer


def moved(module):
    module.requires_grad_(False)
    before = list(module.parameters())
    frozen = [p.requires_grad for p in before]
    module.to("cpu")
    after = list(module.parameters())
    return frozen, [p.requires_grad for p in after], all(a is b for a, b in zip(before, after))


own, plain = moved(StableUnCLIPImageNormalizer(embedding_dim=4)), moved(torch.nn.Linear(4, 4))
print("StableUnCLIPImageNormalizer: frozen, after .to('cpu'), the same parameters:", *own)
print("nn.Linear:                   frozen, after .to('cpu'), the same parameters:", *plain)
assert own == ([False, False], [True, True], False)
assert plain == ([False, False], [False, False], True)
PY
"$work/venv/bin/python" "$work/try.py"
