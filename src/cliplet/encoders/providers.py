"""Which of ONNX Runtime's execution providers runs a model folder.

``auto`` tries them in the order of :data:`PROVIDERS`. A graph that computes in 8-bit integers stays on the CPU under
``auto``: only there its products are known to be right on every processor (:mod:`cliplet.encoders.sessions`).
"""

import mmap
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cliplet.encoders.devices import Device, read_device
from cliplet.encoders.sessions import CPU, ProviderOptions, available_providers, start_provider
from cliplet.errors import InputError, ModelError

_INTEGER_OPERATIONS = (b"QLinear", b"QuantizeLinear", b"MatMulInteger", b"ConvInteger", b"DynamicQuantize", b"QGemm",
                       b"QAttention")  # fmt: skip
"""What the names of operations on 8-bit activations hold. ``DequantizeLinear`` alone, on weights, is none of them."""


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    device: str
    """What ``--device`` calls it."""
    name: str
    """What ONNX Runtime calls it."""
    wheel: str
    """The package that has it. Each of them replaces the others: two at once break each other."""
    systems: tuple[str, ...]
    """Systems that it exists on, as :func:`platform.system` names them."""
    options: ProviderOptions = ()
    """What it is given."""


PROVIDERS = (
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", ("Linux", "Windows"), (("use_tf32", "0"),)),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime", ("Darwin",)),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml", ("Windows",)),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", ("Linux", "Windows"),
             (("device_type", "CPU"), ("precision", "FP32"))),
    Provider("cpu", CPU, "onnxruntime", ("Linux", "Windows", "Darwin")),
)  # fmt: skip
"""In the order that ``auto`` tries them."""


@dataclass(frozen=True)
class Choice:
    """The provider that runs a folder; it has started on this machine."""

    device: str
    """Such as ``cpu``, ``cuda:0`` or ``openvino``."""
    provider: str = CPU
    """What ONNX Runtime calls it."""
    options: ProviderOptions = ()
    """What it is given."""

    @property
    def accelerated(self) -> bool:
        """Whether it is another than ONNX Runtime's own for the CPU."""
        return self.provider != CPU


def choose_provider(device: str | None, graphs: Iterable[Path] = ()) -> Choice:
    """The provider for a device's name, tried on a graph of one operation.

    Args:
        device: as :func:`~cliplet.encoders.devices.read_device` takes it; None is the CPU.
        graphs: the ONNX files that it is to run.

    Raises:
        InputError: this machine, or the installed ONNX Runtime, has no such device.
    """
    asked = read_device(device or "cpu")
    if asked.kind == "cpu":
        return Choice("cpu")
    if asked.kind == "auto":
        return _best(tuple(graphs))
    kind = "coreml" if asked.kind == "mps" else asked.kind
    provider = next(p for p in PROVIDERS if p.device == kind)
    if platform.system() not in provider.systems:
        systems = " and ".join("macOS" if s == "Darwin" else s for s in provider.systems)
        raise InputError(
            f"device {asked} exists on {systems} alone, not on {platform.system()}: give auto or cpu"
        )
    if provider.name not in available_providers():
        raise InputError(
            f"device {asked} needs ONNX Runtime's {provider.name}, which the one installed lacks: "
            f"{_advice(provider)}; or give auto or cpu"
        )
    choice = _numbered(provider, asked)
    wrong = start_provider(choice.provider, choice.options)
    if wrong is not None:
        raise InputError(
            f"device {asked}: ONNX Runtime's {provider.name} does not start here ({wrong}); give auto or cpu"
        )
    return choice


def providers_here() -> dict[str, str | None]:
    """Those of :data:`PROVIDERS` that the installed ONNX Runtime has, and why they do not start; None: they do."""
    try:
        there = available_providers()
    except (ImportError, ModelError):
        return {}
    tried = (p for p in PROVIDERS if p.name in there and platform.system() in p.systems)
    choices = (_numbered(p, Device(p.device)) for p in tried)
    return {c.provider: start_provider(c.provider, c.options) for c in choices}


def _best(graphs: tuple[Path, ...]) -> Choice:
    there = available_providers()
    if any(map(computes_in_integers, graphs)):
        return Choice("cpu")
    for provider in PROVIDERS:
        if provider.name == CPU:
            break
        if provider.name not in there or platform.system() not in provider.systems:
            continue
        choice = _numbered(provider, Device(provider.device))
        if start_provider(choice.provider, choice.options) is None:
            return choice
    return Choice("cpu")


def _numbered(provider: Provider, asked: Device) -> Choice:
    if provider.device not in ("cuda", "directml"):
        return Choice(provider.device, provider.name, provider.options)
    index = asked.index or 0
    return Choice(f"{provider.device}:{index}", provider.name, (("device_id", str(index)), *provider.options))


def _advice(provider: Provider) -> str:
    if provider.wheel == "onnxruntime":
        return "pip install --force-reinstall onnxruntime"
    return f"pip uninstall -y onnxruntime && pip install {provider.wheel} (it replaces onnxruntime)"


def computes_in_integers(graph: Path) -> bool:
    """Whether an ONNX file names operations on 8-bit activations; when in doubt it does."""
    with graph.open("rb") as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return False
        with content:
            return any(content.find(name) >= 0 for name in _INTEGER_OPERATIONS)
