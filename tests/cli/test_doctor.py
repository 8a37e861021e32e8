"""``cliplet models doctor``: what it finds, and what it says to install."""

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from cliplet.cli import doctor as module
from cliplet.cli.doctor import doctor
from cliplet.metrics.registry import METRICS


def parts() -> dict[str, dict[str, object]]:
    result = CliRunner().invoke(doctor, ["--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return {part["name"]: part for part in json.loads(result.output)}


@pytest.fixture(autouse=True)
def no_torch_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_torch", lambda: ("", []))


def test_every_extra_is_looked_at() -> None:
    found = parts()
    extras = set(metadata.metadata("cliplet").get_all("Provides-Extra") or []) - {"dev"}
    assert {f"[{extra}]" for extra in extras} <= set(found)
    assert {"cliplet", "METEOR", "SPICE", "PyTorch"} <= set(found)
    assert f"numpy {metadata.version('numpy')}" in str(found["cliplet"]["found"])


def test_what_is_missing_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        if name == "pyarrow":
            raise metadata.PackageNotFoundError(name)
        return {"transformers": "4.2.1"}.get(name, "99.0")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("CLIPLET_JAVA", str(tmp_path / "none"))
    result = CliRunner().invoke(doctor, catch_exceptions=False)
    assert result.exit_code == 0
    assert "missing: pyarrow: pip install 'cliplet[parquet]'" in result.output
    assert "(here is 4.2.1): pip install -U 'cliplet[hub]'" in result.output
    assert "missing: Java, version 8 or later" in result.output


def test_two_wheels_of_onnx_runtime_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name.startswith("onnxruntime"):
            if name not in here:
                raise metadata.PackageNotFoundError(name)
            return "1.99"
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    here = {"onnxruntime", "onnxruntime-gpu"}
    (wrong,) = parts()["ONNX Runtime"]["missing"]
    assert "onnxruntime, onnxruntime-gpu have the same files and break each other" in wrong
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu" in wrong
    here = {"onnxruntime-openvino"}
    found = parts()
    assert found["ONNX Runtime"]["missing"] == []
    assert str(found["ONNX Runtime"]["found"]).startswith("onnxruntime-openvino; runs on ")
    assert found["cliplet"]["missing"] == []  # one that replaces onnxruntime will do
    here = set()
    assert any("onnxruntime" in line for line in found["cliplet"]["missing"]) is False
    assert "onnxruntime: pip install 'cliplet'" in parts()["cliplet"]["missing"]


def test_a_provider_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from cliplet.encoders import providers

    found = {"CUDAExecutionProvider": "no driver", "CPUExecutionProvider": None}
    monkeypatch.setattr(providers, "providers_here", lambda: found)
    runtime = parts()["ONNX Runtime"]
    assert str(runtime["found"]).endswith("runs on CPU")
    assert runtime["missing"] == ["CUDAExecutionProvider does not start: no driver"]
    monkeypatch.setattr(providers, "providers_here", dict)
    (wrong,) = parts()["ONNX Runtime"]["missing"]
    assert wrong == "onnxruntime has lost its files: pip install --force-reinstall onnxruntime"


@pytest.mark.parametrize(
    ("have", "want", "enough"),
    [("2.13.0+cpu", "2.2", True), ("2.2", "2.2.0", True), ("2.1.9", "2.2", False), ("10.0", "9.9", True)],
)
def test_versions_are_compared_by_number(have: str, want: str, enough: bool) -> None:
    assert (module._numbers(have) >= module._numbers(want)) is enough


def test_a_part_that_cannot_be_looked_at_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[str, list[str]]:
        raise OSError("disk on fire")

    monkeypatch.setitem(METRICS, "spice", replace(METRICS["spice"], needs=broken))
    assert parts()["SPICE"]["missing"] == ["disk on fire"]
