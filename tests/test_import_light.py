"""The promise of the base install: no PyTorch, and an import that costs next to nothing."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny_model import build_tiny_model

HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "open_clip",
    "timm",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
}


def modules_after(code: str, *arguments: object, whole: bool = False) -> set[str]:
    """Top-level modules imported once ``code`` has run in a fresh interpreter; with ``whole``, all modules."""
    name = "m" if whole else "m.partition('.')[0]"
    report = f"\nimport sys\nprint('MODULES', *sorted({{{name} for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


RUN_CLI = """
import sys
from cliplet.cli.main import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def test_import_and_help_import_nothing_heavy():
    light = modules_after("import cliplet; cliplet.__version__")
    assert not light & (HEAVY | {"numpy", "PIL", "onnxruntime", "rich", "click"})
    shown = modules_after(RUN_CLI, "--help")
    assert not shown & (HEAVY | {"numpy", "PIL", "onnxruntime", "rich"})


def test_a_score_never_imports_pytorch(model, photo):
    single = modules_after(RUN_CLI, "score", photo, "a dog", "--model", model)
    assert "onnxruntime" in single
    assert not single & (HEAVY | {"tempfile", "shutil"})  # writing files is not needed for it


def test_a_file_with_references_and_a_report_never_imports_pytorch(model, photo, tmp_path):
    (tmp_path / "c.json").write_text('{"photo.jpg": "a dog"}')
    arguments = ["score", tmp_path / "c.json", "--images", photo.parent, "--refs", tmp_path / "c.json"]
    assert not modules_after(RUN_CLI, *arguments, "--model", model, "--out", tmp_path / "o") & HEAVY


def test_a_file_without_references_does_without_the_metrics_on_references(model, photo, tmp_path):
    (tmp_path / "c.json").write_text('{"photo.jpg": "a dog"}')
    arguments = ["score", tmp_path / "c.json", "--images", photo.parent, "--model", model]
    found = modules_after(RUN_CLI, *arguments, whole=True)
    assert "cliplet.scoring.file" in found
    assert not found & {"cliplet.metrics.registry", "cliplet.metrics.meteor", "statistics"}


def test_import_costs_under_150_ms_beyond_its_dependencies():
    code = (
        "import numpy, PIL.Image, onnxruntime, tokenizers, click, rich, time\n"
        "start = time.process_time()\n"
        "import cliplet\n"
        "[getattr(cliplet, name) for name in cliplet.__all__]\n"
        "print(time.process_time() - start)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.15, seconds  # seconds of the processor, so that a busy machine does not count
