"""Which versions of cliplet, Python and the libraries that numbers depend on are at work."""

import platform
import sys

RUNTIME_WHEELS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx",
    "onnxruntime-qnn", "onnxruntime-training",
)  # fmt: skip
"""Packages that put the same module ``onnxruntime`` in place: each is to be installed alone."""


def versions() -> dict[str, str]:
    """Versions of cliplet, Python and the libraries that scores depend on."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely needed

    found = {"python": platform.python_version()}
    names = ["cliplet", "numpy", "pillow", "onnxruntime", "tokenizers"]
    if "torch" in sys.modules:  # a PyTorch encoder is at work
        names += [
            n for n in ("torch", "transformers", "open_clip_torch") if n.removesuffix("_torch") in sys.modules
        ]
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    if found["onnxruntime"] == "unknown":  # one of the wheels that replace it
        for name in RUNTIME_WHEELS:
            try:
                found["onnxruntime"] = f"{version(name)} ({name})"
            except PackageNotFoundError:
                continue
    return found
