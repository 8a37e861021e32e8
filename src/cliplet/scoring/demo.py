"""A demonstration on real photos that another package ships: right captions beside near-wrong ones."""

import json
from importlib.util import find_spec
from pathlib import Path

from cliplet.errors import MissingExtraError
from cliplet.files import write_atomically

CAPTIONS: dict[str, list[str]] = {
    "astronaut.png": [
        "a smiling woman in an orange space suit in front of a flag",
        "a boy in an orange shirt in front of a flag",
    ],
    "chelsea.png": ["a close up of a cat with orange fur", "a close up of a dog with brown fur"],
    "coffee.png": ["a cup of coffee on a saucer with a spoon", "a bowl of soup on a table with a spoon"],
    "motorcycle_left.png": ["a motorcycle is parked in a garage", "a bicycle is parked in a garage"],
    "rocket.jpg": ["a rocket stands on its launch pad", "an airplane stands on the runway"],
    "camera.png": ["a man looks through a camera on a tripod", "a man looks through a telescope on a tripod"],
}
"""Photos shipped inside scikit-image, each with a true caption and one that is nearly true."""

GOOD_SCORE = (
    "What is a good score? With the packaged model, of 1,000 photos of people, dogs, sport and outdoor scenes "
    "(Flickr8k's dev split) nine in ten captions that people wrote for the photo score 0.50 or more and half "
    "of them 0.82 or more; of captions of another photo half score 0.02 or less and nine in ten less than "
    "0.48. On 178 COCO photos it is 0.58 and 0.90, and 0.00 and 0.30. So 0.8 is good, below 0.5 something is "
    "probably wrong, and near 0 the caption is of something else. Photos unlike these (drawings, products, "
    "aerial photos) score lower, and another model has another scale."
)
"""Printed by ``python -m benchmarks.explain --data DIR --level score``."""


def demo_photos() -> Path:
    """The folder of photos inside the installed scikit-image, found without importing it.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the demo's photos", "demo")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def write_demo_captions(folder: Path) -> Path:
    """Write the demo's captions file into ``folder`` and return its path."""
    path = folder / "captions.json"
    write_atomically(path, json.dumps(CAPTIONS, indent=2) + "\n")
    return path
