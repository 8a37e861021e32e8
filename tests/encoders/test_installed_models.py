"""Models that other installed packages ship, the former packaged model among them."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cliplet.encoders import registry
from cliplet.encoders.registry import load
from cliplet.errors import ModelError
from tests.shared_data import ROOT

FORMER = ROOT / "models" / "lclip-flickr8k"
repository = pytest.mark.skipif(not FORMER.is_dir(), reason="models/ is in the repository alone")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The former model as if its package were installed."""
    project = tomllib.loads((FORMER / "pyproject.toml").read_text())["project"]
    (group, named), *_ = project["entry-points"].items()
    assert group == registry.ENTRY_POINTS
    points = [EntryPoint(name, value, group) for name, value in named.items()]

    def entry_points(group: str, name: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group and point.name == name]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    monkeypatch.syspath_prepend(str(FORMER))


@repository
@pytest.mark.usefixtures("installed")
def test_the_former_model_is_found_by_its_name_and_gives_its_scores() -> None:
    found = load("lclip-flickr8k")
    assert found.card.name == "lclip-flickr8k"
    assert found.card.fingerprint == "15544785ccfa92e7"
    folder = FORMER / "cliplet_lclip_flickr8k" / "lclip-flickr8k"
    assert load(folder).card.fingerprint == found.card.fingerprint
    with pytest.raises(ModelError, match="no model 'lclip-other'"):
        load("lclip-other")


def test_without_its_package_the_message_says_where_it_is() -> None:
    with pytest.raises(ModelError, match=r"lclip-flickr8k.*pip install models/lclip-flickr8k"):
        load("lclip-flickr8k")


def test_a_package_without_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shipping.py").write_text("")
    point = EntryPoint("small", "shipping", registry.ENTRY_POINTS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [point])
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="small"):
        load("small")
