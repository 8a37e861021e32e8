"""What is compared."""

from dataclasses import dataclass
from typing import Literal

from cliplet.classification.multimodal import ClassVectors


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    label: str
    """As the table says it."""
    family: Literal["diffclip", "plain", "scikit-learn"]
    """Whose code it is."""
    vectors: ClassVectors = "words"
    """What stands for a class."""
    pretrained: bool = True
    """Whether the encoder is pretrained."""
    unlabelled: bool = True
    """Whether tuning sees unlabelled samples too."""
    test_inputs: bool = False
    """Whether test samples, without labels, are among the unlabelled ones."""


ARMS = {
    "diffclip": Arm("DiffCLIP, corrected", "diffclip"),
    "svm": Arm("SVM", "scikit-learn"),
    "forest": Arm("random forest", "scikit-learn"),
    "nearest-mean": Arm("nearest mean", "scikit-learn"),
    "self-trained-svm": Arm("SVM, self-trained on the unlabelled pixels", "scikit-learn"),
    "plain": Arm("plain network, labelled pixels only", "plain", unlabelled=False),
    "plain-unlabelled": Arm("plain network, unlabelled pixels too", "plain"),
    "no-pretraining": Arm("DiffCLIP without pretraining", "diffclip", pretrained=False),
    "labelled-only": Arm(
        "DiffCLIP tuned on labelled pixels only, as published", "diffclip", unlabelled=False
    ),
    "shuffled-words": Arm("DiffCLIP, words of other classes", "diffclip", "shuffled"),
    "random-vectors": Arm("DiffCLIP, random class vectors", "diffclip", "random"),
    "one-hot": Arm("DiffCLIP, class numbers (one-hot)", "diffclip", "one-hot"),
    "test-inputs": Arm("DiffCLIP that saw test pixels without labels", "diffclip", test_inputs=True),
}
"""By name, in the order of the table."""
LANGUAGE = ("shuffled-words", "random-vectors", "one-hot")
"""The arms without the classes' own words."""
