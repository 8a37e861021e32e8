#!/usr/bin/env bash
# transformers 5.24.0 lays transparent pixels on white; Pillow's convert("RGB"), which open_clip's transform and most
# scripts use, shows the colour hidden behind them. So the same PNG is two pictures for two libraries that hold the
# same CLIP. transformers 4.57.6 did as Pillow does: the change came with 5.
#
# Seen on 2026-11-29 (CPU, Python 3.11), a wholly transparent red pixel, values 0..1 before normalisation:
#   transformers 5.24.0: RGBA white, LA white, palette with transparency white; half transparent red -> 1.00 0.50 0.50
#   transformers 4.57.6: RGBA red (1 0 0)
#   Pillow convert("RGB"): (255, 0, 0)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import sys

import numpy as np
import transformers
from PIL import Image

try:  # the class that needs no torchvision
    from transformers import CLIPImageProcessorPil as Processor
except ImportError:
    from transformers import CLIPImageProcessor as Processor


def colour(image):
    return Processor()(image, return_tensors="np", do_normalize=False)["pixel_values"][0, :, 100, 100].round(2)


red = Image.new("RGBA", (224, 224), (255, 0, 0, 0))
half = Image.new("RGBA", (224, 224), (255, 0, 0, 128))
grey = Image.new("LA", (224, 224), (10, 0))
palette = Image.new("P", (224, 224), 0)
palette.putpalette([255, 0, 0])
palette.info["transparency"] = 0
print("transformers", transformers.__version__, "RGBA", colour(red))
assert np.asarray(red.convert("RGB"))[0, 0].tolist() == [255, 0, 0]
if sys.argv[1] == "new":
    print("half", colour(half), "LA", colour(grey), "palette", colour(palette))
    assert all((colour(i) == 1).all() for i in (red, grey, palette)), "CHANGED"
    assert colour(half).tolist() == [1.0, np.float32(0.5).item(), np.float32(0.5).item()], "CHANGED"
else:
    assert colour(red).tolist() == [1.0, 0.0, 0.0], "CHANGED"
PY
for pair in new:5.24.0 old:4.57.6; do
    python3 -m venv "$work/${pair%%:*}"
    "$work/${pair%%:*}/bin/pip" install -q torch==2.13.0 "transformers==${pair##*:}" pillow numpy
    "$work/${pair%%:*}/bin/python" "$work/try.py" "${pair%%:*}"
done
