"""``cliplet models`` and ``cliplet demo``."""

import json
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from cliplet.cli import main as cli_main
from cliplet.cli.main import COMMANDS, cli
from tests.tiny_model import build_tiny_model


def run(*arguments, status=0):
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name):
    assert "Usage:" in run(name, "--help")
    assert cli_main.cli.get_command(None, name) is not None


def test_help_fits_80_columns():
    for arguments in ([], *([name] for name in COMMANDS)):
        done = CliRunner().invoke(cli, [*arguments, "--help"], terminal_width=80)
        assert max(map(len, done.output.splitlines())) <= 80, arguments


def test_show_prints_the_card(tmp_path):
    model = build_tiny_model(tmp_path / "m", seed=4)
    text = run("models", "show", model)
    assert "name: tiny-4" in text
    content = json.loads(run("models", "show", model, "--json"))
    assert content["embedding_dim"] == 16
    assert len(content["fingerprint"]) == 16


def test_the_packaged_card_is_read_at_80_columns(monkeypatch):
    """Lines fit, long lists and the recipe's settings are counted, nothing is cut, empty parts are left out."""
    monkeypatch.setenv("COLUMNS", "80")
    text, card = run("models", "show"), json.loads(run("models", "show", "--json"))
    assert max(map(len, text.splitlines())) <= 80
    assert "cosines: 20 numbers from -1.0 to 1.0; --json has them" in text
    assert f"recipe: {len(card['training']['recipe'])} settings; --json has them" in text
    assert "alignment:" not in text
    assert text.count("measured by: ") == 2
    found = " ".join(text.split())
    assert " ".join(card["description"].split()) in found
    for item in (*card["good_at"], *card["bad_at"]):
        assert f"- {' '.join(item.split())}" in found
    for name, result in card["results"].items():
        if isinstance(result, dict) and not isinstance(result["value"], dict):
            assert f"{name}: {result['value']}" in found


def test_show_says_whether_integer_products_may_saturate(tmp_path, monkeypatch):
    model = build_tiny_model(tmp_path / "m")
    assert "integer_products: none" in run("models", "show", model)
    value, weight = helper.make_tensor_value_info, np.full((4, 2), 127, dtype=np.int8)
    ends = [value("x", TensorProto.UINT8, [1, 4])], [value("y", TensorProto.INT32, [1, 2])]
    nodes, stored = (
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(helper.make_graph(nodes, "eight bits", *ends, stored)), model / "image.onnx")
    said = "may saturate in 16 bits on processors without VNNI: 1 of 1 products"
    assert json.loads(run("models", "show", model, "--json"))["integer_products"] == said
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "integer_products: not checked: " in run("models", "show", model)


def test_list_names_what_is_packaged():
    assert "MB" in run("models", "list")


def test_doctor_is_there():
    assert run("models", "doctor")


def test_demo_scores_real_photos_and_writes_a_report(tmp_path):
    pytest.importorskip("skimage")
    text = run("demo", "--out", tmp_path / "demo")
    rows = [json.loads(line) for line in (tmp_path / "demo/rows.jsonl").read_text().splitlines()]
    fails = []
    for right, wrong in zip(rows[::2], rows[1::2], strict=True):
        assert right["image"] == wrong["image"]
        fails += [right["image"]] * (right["cosine"] <= wrong["cosine"])
    assert fails == ["astronaut.png"]
    assert "has the highest score on 5 of 6 photos; not on astronaut.png." in " ".join(text.split())
    assert all(row["caption"] in text for row in rows)
    assert "mean" not in text
    page = (tmp_path / "demo/report.html").read_text()
    assert "data:image/jpeg" in page
    assert "has the highest score on" in page
    assert "<th>mean</th>" not in page  # right and wrong captions: no means
