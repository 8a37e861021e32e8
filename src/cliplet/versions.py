"""Which versions of cliplet, Python and the libraries that numbers depend on are at work."""

import platform
import sys

RUNTIME_WHEELS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx",
    "onnxruntime-qnn", "onnxruntime-training",
)  # fmt: skip
"""Packages that put the same module ``onnxruntime`` in place: each is to be installed alone."""


_MODULES = {"cliplet": "cliplet", "numpy": "numpy", "pillow": "PIL", "tokenizers": "tokenizers"}


def versions() -> dict[str, str]:
    """Versions of cliplet, Python and the libraries that scores depend on."""
    found = {"python": platform.python_version()}
    names = ["cliplet", "numpy", "pillow", "onnxruntime", "tokenizers"]
    if "torch" in sys.modules:  # a PyTorch encoder is at work
        names += [
            n for n in ("torch", "transformers", "open_clip_torch") if n.removesuffix("_torch") in sys.modules
        ]
    for name in names:
        found[name] = _loaded(name) or _installed(name)
    return found


def _loaded(name: str) -> str | None:
    """What a module that is in use says of itself; None if it is not in use."""
    if name == "onnxruntime":
        facts = sys.modules.get("onnxruntime.capi.build_and_package_info")
        number, wheel = getattr(facts, "__version__", None), getattr(facts, "package_name", None)
        return None if not number or not wheel else number if wheel == name else f"{number} ({wheel})"
    return getattr(sys.modules.get(_MODULES.get(name, "")), "__version__", None)


def _installed(name: str) -> str:
    """What the installed package says of itself."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely needed

    for wheel in RUNTIME_WHEELS if name == "onnxruntime" else (name,):
        try:
            return version(wheel) if wheel == name else f"{version(wheel)} ({wheel})"
        except PackageNotFoundError:
            continue
    return "unknown"
