"""``cliplet models doctor``: which optional parts are here, and what to install for those that are not."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

import click

from cliplet.errors import ClipletError


@dataclass(frozen=True)
class Part:
    """Something that cliplet can use."""

    name: str
    purpose: str
    found: str
    """What is here: version, place; empty when nothing is."""
    missing: list[str]
    """What is not, each with what to do."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list and nothing else.")
def doctor(as_json: bool) -> None:
    """Say which optional parts are here, and what to install for those that are not."""
    parts = list(_parts())
    if as_json:
        click.echo(json.dumps([asdict(part) for part in parts], ensure_ascii=True))
        return
    for part in parts:
        click.echo(f"{'--' if part.missing else 'ok'}  {part.name:<14} {part.found or part.purpose}")
        for line in part.missing:
            click.echo(f"      missing: {line}")
    lacking = [part.name for part in parts if part.missing]
    click.echo(
        f"{len(parts) - len(lacking)} of {len(parts)} parts are complete; all are optional but cliplet itself."
    )


def _parts() -> Iterator[Part]:
    from cliplet.metrics.registry import METRICS

    required = _requirements()
    yield _packages("cliplet", "scores captions and runs models", required.pop("", []), "cliplet")
    yield _check("ONNX Runtime", "runs model folders", _runtime)
    for metric in METRICS.values():
        if metric.needs is not None:
            yield _check(metric.columns[0], f"the metric {metric.name}", metric.needs)
    yield _check("PyTorch", "training, and models that run on it", _torch)
    for extra, purpose in _PURPOSES.items():
        if extra in required:
            yield _packages(f"[{extra}]", purpose, required.pop(extra), f"cliplet[{extra}]")
    for extra, packages in required.items():
        if extra != "dev":
            yield _packages(f"[{extra}]", "", packages, f"cliplet[{extra}]")


_PURPOSES = {
    "meteor": "METEOR's and SPICE's data (pycocoevalcap)",
    "parquet": "captions in Parquet files",
    "demo": "real photos for cliplet demo",
    "open-clip": "models of open_clip",
    "hub": "models of Transformers",
    "train": "training, distillation, export",
}


def _requirements() -> dict[str, list[str]]:
    """Extra -> its requirements (``torch>=2.2``), from the installed package's metadata; "" for the base ones."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("cliplet") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        found.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return found


def _packages(name: str, purpose: str, requirements: list[str], install: str) -> Part:
    found, missing = [], []
    if name == "cliplet":
        found.append(f"cliplet {metadata.version('cliplet')}")
    for requirement in requirements:
        package = re.split(r"[\s<>=!~\[]", requirement, maxsplit=1)[0]
        try:
            if package == "onnxruntime":
                package = next(iter(_runtime_wheels()), package)
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(f"{package}: pip install '{install}'")
            continue
        least = re.search(r">=\s*([\d.]+)", requirement)
        if least and _numbers(version) < _numbers(least[1]):
            missing.append(f"{package} {least[1]} or later (here is {version}): pip install -U '{install}'")
        else:
            found.append(f"{package} {version}")
    return Part(name, purpose, ", ".join(found), missing)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, for comparing: 2.13.0+cpu -> (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _check(name: str, purpose: str, look: Callable[[], tuple[str, list[str]]]) -> Part:
    """A part that needs more than packages; what goes wrong while looking is said too, and ends nothing."""
    try:
        found, missing = look()
    except (ClipletError, OSError, ImportError) as error:
        found, missing = "", [str(error)]
    return Part(name, purpose, found, missing)


def _runtime_wheels() -> list[str]:
    """The packages here that have ONNX Runtime in them; more than one break each other."""
    from cliplet.versions import RUNTIME_WHEELS

    found = []
    for name in RUNTIME_WHEELS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _runtime() -> tuple[str, list[str]]:
    """The wheel, the providers that start, and whether two wheels lie over each other."""
    from cliplet.encoders.providers import providers_here

    wheels = _runtime_wheels()
    wrong = []
    if len(wheels) > 1:
        both = " ".join(wheels)
        wrong.append(
            f"{', '.join(wheels)} have the same files and break each other: "
            f"pip uninstall -y {both} && pip install {wheels[-1]} (the one that you want, alone)"
        )
    tried = providers_here()
    names = [name.removesuffix("ExecutionProvider") for name, why in tried.items() if why is None]
    wrong += [f"{name} does not start: {why}" for name, why in tried.items() if why is not None]
    if not names:
        again = f"{wheels[0]} has lost its files: pip install --force-reinstall {wheels[0]}" if wheels else ""
        return "", wrong or [again or "onnxruntime: pip install onnxruntime"]
    return f"{', '.join(wheels) or 'onnxruntime'}; runs on {', '.join(names)}", wrong


def _torch() -> tuple[str, list[str]]:
    """Asks PyTorch, when it is installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return "", ["PyTorch: pip install 'cliplet[train]'"]
    import torch

    if torch.cuda.is_available():
        gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
        return f"{torch.__version__} on {', '.join(gpus)}", []
    if torch.backends.mps.is_available():
        return f"{torch.__version__} on mps, Apple's GPU", []
    return f"{torch.__version__} on the CPU", []
