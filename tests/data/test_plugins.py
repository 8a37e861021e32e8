"""``module:attribute``: found from the working directory, and errors that say what is missing."""

import sys
from types import SimpleNamespace

import pytest

from cliplet.data.plugins import is_own, known_or_own, resolve, table
from cliplet.errors import InputError

MODULE = """
import json
from own_neighbour_{n} import NUMBER

class Holder:
    inner = "found"

def metric():
    import own_late_{n}
    return own_late_{n}.NUMBER + NUMBER
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """The name of a module that lies in the working directory, new for every test."""
    number = abs(hash(request.node.name))
    (tmp_path / f"own_{number}.py").write_text(MODULE.format(n=number))
    (tmp_path / f"own_neighbour_{number}.py").write_text("NUMBER = 3")
    (tmp_path / f"own_late_{number}.py").write_text("NUMBER = 4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    return f"own_{number}"


def test_the_working_directory_is_importable_at_once_and_later(module):
    assert resolve(f"{module}:Holder.inner", "thing") == "found"
    assert resolve(f"{module}:metric", "thing")() == 7
    assert resolve("os.path:join", "thing")("a", "b").startswith("a")


def test_the_working_directory_stands_last_afterwards(module, tmp_path):
    (tmp_path / "colorsys.py").write_text("shadow = True")
    before = list(sys.path)
    resolve(f"{module}:Holder", "thing")
    resolve(f"{module}:metric", "thing")
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{m}:metrik", "has no attribute 'metrik'; it has metric"),
        ("{m}:Holder.outer", "has no attribute 'Holder.outer'; it has inner"),
        ("{m}:qq", "it has json, NUMBER, Holder, metric"),
        (
            "no_such_module_here:x",
            "there is no module 'no_such_module_here': install it, or run from the folder",
        ),
        ("{m}.inside:x", "there is no module '{m}.inside'"),
        ("broken:x", "broken cannot be imported: SyntaxError"),
        ("hungry:x", "hungry needs the module 'not_installed_here': install it"),
        ("angry:x", "angry cannot be imported: ZeroDivisionError: division by zero"),
        ("mine", "name your own as module:attribute"),
        ("a b:c", "name your own as module:attribute"),
    ],
)
def test_errors_name_the_module_the_attribute_and_what_to_do(module, tmp_path, name, said):
    (tmp_path / "broken.py").write_text("def x(:")
    (tmp_path / "hungry.py").write_text("import not_installed_here")
    (tmp_path / "angry.py").write_text("1 / 0")
    with pytest.raises(InputError) as error:
        resolve(name.format(m=module), "metric")
    assert said.format(m=module) in str(error.value)
    assert str(error.value).startswith(f"metric '{name.format(m=module)}'")


def test_what_looks_like_an_own_name():
    assert is_own("mine:metric")
    assert is_own("package.mine:Class.method")
    for other in (
        "bleu",
        "hf:owner/name",
        "open_clip:B/openai",
        r"C:\models",
        "C:/models",
        "grid:1,2",
        ":",
        "a:",
    ):
        assert not is_own(other), other


def test_a_table_comes_before_own_names():
    table = {"bleu": SimpleNamespace(n=1), "os:name": SimpleNamespace(n=2)}
    assert known_or_own("bleu", table, "metric").n == 1
    assert known_or_own("os:name", table, "metric").n == 2
    assert known_or_own("os.path:sep", table, "metric")
    with pytest.raises(
        InputError, match="unknown metric 'blue': choose from bleu, os:name, or name your own"
    ):
        known_or_own("blue", table, "metric")


def test_two_rows_of_one_name_make_no_table():
    rows = [SimpleNamespace(name="a"), SimpleNamespace(name="b")]
    assert list(table(rows, "metric")) == ["a", "b"]
    with pytest.raises(InputError, match="two rows of the metric 'a'"):
        table([*rows, rows[0]], "metric")
