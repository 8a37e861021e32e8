"""The order of the rooms: each imports only rooms above it, no files import each other, PyTorch stays where it may."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cliplet

SOURCE = Path(cliplet.__file__).parent
FILES = ("errors", "files", "versions")
"""Files that stand in no room, besides ``__init__`` and ``__main__``."""
ROOMS = (
    "data", "statistics", "metrics", "models", "encoders", "regions", "scoring", "export", "classification",
    "evaluation", "rewards", "captioner", "training", "reports", "stream", "curate", "search", "serve", "cli",
)  # fmt: skip
"""From the lowest to the highest."""
TORCH = (
    "models", "training", "export", "encoders.torch", "encoders.open_clip", "encoders.transformers",
    "encoders._torch_common", "encoders.timm", "encoders.sentence", "regions.transformers",
    "regions.ultralytics", "cli.doctor",
)  # fmt: skip
"""Who may import PyTorch and the libraries that stand on it."""
TORCH_LIBRARIES = {
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "transformers",
    "accelerate",
    "ultralytics",
    "diffusers",
}


def modules(source: Path) -> dict[str, ast.Module]:
    """Every module below the package by its name without the package's."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, those inside functions and for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def inner_imports(found: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which of the package's modules each of them imports."""
    edges: dict[str, set[str]] = {}
    for name, tree in found.items():
        edges[name] = set()
        for module, item in imports(tree):
            if module.split(".")[0] == "cliplet":
                inner = module.partition(".")[2]
                longer = f"{inner}.{item}" if inner else item
                edges[name].add(longer if longer in found else inner or "__init__")
        edges[name].discard(name)
    return edges


def problems(source: Path) -> list[str]:
    """Every breach of the order in a package's folder."""
    found = modules(source)
    order = {name: i for i, name in enumerate((*FILES, *ROOMS))}
    edges = inner_imports(found)
    wrong = []
    for name in found:
        room = name.split(".")[0]
        if name in ("__init__", "__main__"):
            continue
        if room not in order:
            wrong.append(f"{name} stands in no room")
            continue
        for target in edges[name]:
            above = target.split(".")[0]
            if above in ("__init__", "__main__"):
                if (above, room) != ("__init__", "cli"):
                    wrong.append(f"{name} imports the package itself")
            elif order[above] > order[room]:
                wrong.append(f"{name} imports {target}, which stands below it")
        libraries = {module.split(".")[0] for module, _ in imports(found[name])} & TORCH_LIBRARIES
        if libraries and not any(name == place or name.startswith(place + ".") for place in TORCH):
            wrong.append(f"{name} imports {', '.join(sorted(libraries))}")
    return wrong + [f"circle: {' -> '.join(circle)}" for circle in circles(edges)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """One circle of imports for each set of files that import each other."""
    done: set[str] = set()
    found = []

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(edges.get(name, ())):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        if name != "__init__":  # it names its homes for type checkers alone
            walk(name, ["__init__"] if name == "__init__" else [])
    return found


def test_rooms_import_only_what_stands_above_them():
    assert problems(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("data/spans.py", "from cliplet.metrics.bleu import bleu", "data.spans imports metrics.bleu"),
        ("metrics/rouge.py", "def f():\n    import cliplet.cli.score", "metrics.rouge imports cli.score"),
        ("scoring/scorer.py", "import torch", "scoring.scorer imports torch"),
        ("stray.py", "", "stray stands in no room"),
        ("data/images.py", "from cliplet.data.photos import PhotoTar", "circle: data."),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, line, complaint):
    import shutil

    copy = tmp_path / "cliplet"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    with (copy / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    assert any(found.startswith(complaint) for found in problems(copy))
