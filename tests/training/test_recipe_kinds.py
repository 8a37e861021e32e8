"""Kinds of recipes, files and folders of recipes, one folder of data, and the recipes that come with the package."""

import shutil
import sys
import tomllib

import pytest
from click.testing import CliRunner, Result

from cliplet.cli.main import cli
from cliplet.errors import InputError
from cliplet.training.captioner.config import CaptionRecipe
from cliplet.training.config import DistillConfig, load_recipe
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.recipe_file import read_recipe
from cliplet.training.recipes import KINDS, copy_recipe, open_recipe, shipped_recipes
from tests.shared_data import ROOT

OWN = '''
"""Counts to a number."""
from dataclasses import dataclass

from cliplet.training.recipes import Recipe

from .number import GREATEST


@dataclass(frozen=True)
class Settings:
    """Settings of counting."""

    upto: int = 3
    """The last number."""
    file: str = ""
    """A file to read."""


def run(settings, restart):
    return f"counted to {min(settings.upto, GREATEST)}{' again' * restart}"


RECIPE = Recipe(Settings, run, lambda settings: [("numbers", str(settings.upto)), ("file", settings.file)])
'''


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def own(tmp_path, request):
    """A recipe folder with a kind of its own; its name is the test's, for modules stay imported."""
    folder = tmp_path / f"own_{request.node.name.partition('[')[0]}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "number.py").write_text("GREATEST = 5\n")
    (folder / "count.py").write_text(OWN)
    (folder / "recipe.toml").write_text(
        'kind = ".count:RECIPE"\nupto = 9\nfile = "{data}/a.txt"\ndata = "nowhere"\n'
    )
    return folder


# ---------------------------------------------------------------- kinds
def test_every_shipped_recipe_says_its_kind_and_reads():
    found = {}
    for name, (path, line) in shipped_recipes().items():
        file, kind, config = open_recipe(path)
        assert type(config) is kind.settings
        assert "kind" in tomllib.loads(file.path.read_text())
        assert len(line) > 20
        head = file.path.read_text().partition("\n\n")[0]
        assert all(f"\n# {word}: " in head for word in ("Command", "Needs", "Cost", "Result")), name
        assert "data=FOLDER" in head
        found[name] = file.kind
    assert found == {
        "caption_flickr8k": "captioner", "caption_recap": "captioner", "caption_rewards": "captioner",
        "dclip_clip_vit_b32": "dclip",
        "dclip_flickr8k": "dclip", "diffclip_houston": "diffclip_houston.recipe:RECIPE",
        "few_pairs": "tune",
        "lclip_clip_vit_b32": "distill",
        "lclip_everyday": "lclip_everyday.recipe:RECIPE",
        "objectives": "objectives.recipe:RECIPE",
    }  # fmt: skip


def test_without_kind_it_is_a_distillation_or_what_the_command_says(tmp_path):
    (tmp_path / "r.toml").write_text('name = "x"\n')
    assert isinstance(open_recipe(tmp_path / "r.toml")[2], DistillConfig)
    assert isinstance(open_recipe(tmp_path / "r.toml", kind="captioner")[2], CaptionRecipe)
    assert load_recipe(tmp_path / "r.toml").name == "x"
    with pytest.raises(InputError, match="of kind 'dclip', not 'distill'"):
        load_recipe(ROOT / "recipes" / "dclip_clip_vit_b32.toml")
    with pytest.raises(
        InputError, match=r"unknown kind of recipe 'clip': choose from distill, dclip, tune, captioner"
    ):
        open_recipe(tmp_path / "r.toml", ["kind=clip"])
    with pytest.raises(InputError, match=r"is a dict, no cliplet\.training\.recipes\.Recipe"):
        open_recipe(tmp_path / "r.toml", ["kind=cliplet.training.recipes:KINDS"])


def test_a_folders_own_kind_runs_is_described_and_listed(own):
    where = f"data={own}"
    (own / "a.txt").write_text("")
    assert call("distill", own, where).output == "counted to 5\n"
    assert call("distill", own, where, "upto=4", "--restart").output == "counted to 4 again\n"
    assert call("distill", own, where, "--dry-run").output == f"numbers  9\nfile     {own}/a.txt\n"
    assert call("distill", own, "--settings").output.endswith("file = ''\n    A file to read.\n")
    assert call("distill", "--settings", f"{own.name}.count:RECIPE").output.startswith(
        f"kind = '{own.name}.count:RECIPE'\n"
    )
    assert "did you mean upto" in str(call("distill", own, where, "upt=4").exception)


def test_a_folder_goes_by_its_old_file_and_a_users_module_by_its_name(own, tmp_path, monkeypatch):
    assert read_recipe(f"{own}.toml").path == own / "recipe.toml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(f'kind = "{own.name}.count:RECIPE"\n')
    assert call("distill", "r.toml").output == "counted to 3\n"


def test_a_folders_name_must_be_importable_and_free(own, tmp_path):
    named = own.rename(tmp_path / "my-recipe")
    with pytest.raises(InputError, match="my-recipe holds code, so Python must be able to import it"):
        read_recipe(named)
    taken = named.rename(tmp_path / "json")
    with pytest.raises(InputError, match="the name json is taken by"):
        read_recipe(taken)
    assert str(tmp_path) not in sys.path


def test_settings_of_a_kind_need_no_recipe():
    for kind, settings in (
        ("distill", DistillConfig),
        ("dclip", DclipConfig),
        ("tune", DclipConfig),
        ("captioner", CaptionRecipe),
    ):
        assert KINDS[kind].settings is settings
        shown = call("distill", "--settings", kind)
        assert shown.output.startswith(f"kind = '{kind}'\n    Which kind of recipe: this one.\ndata = ''\n")
    assert call("caption", "train", "--settings").output == shown.output
    assert call("distill", "--settings").output.endswith("--settings dclip or tune or captioner\n")
    assert "there is no recipe clip" in str(call("distill", "--settings", "clip").exception)
    assert "name a RECIPE" in call("distill").output
    assert (
        "run it with cliplet distill"
        in call("caption", "train", ROOT / "recipes/lclip_clip_vit_b32.toml").output
    )


def test_a_table_keeps_what_it_does_not_say():
    recipe = ROOT / "recipes" / "dclip_clip_vit_b32.toml"
    stage = open_recipe(recipe, ["student_stage={epochs=3}"])[2].student_stage
    assert (stage.epochs, stage.lr, stage.accumulate, stage.clip) == (3, 1e-6, 4, 0.5)


# ---------------------------------------------------------------- data
def test_data_is_one_folder_and_the_first_that_is_there_counts(tmp_path):
    (tmp_path / "r.toml").write_text(
        'data = "d"\n[train]\ncaptions = ["{data}/a.json | {data}/b.json", "{data}/*.tar", "own/c.json"]\n'
        'photos = ["{data}"]\n'
    )
    (tmp_path / "b.json").write_text("[]")
    train = load_recipe(tmp_path / "r.toml", [f"data={tmp_path}/"]).train
    assert train.captions == (f"{tmp_path}/b.json", f"{tmp_path}/*.tar", "own/c.json")
    assert train.photos == (str(tmp_path),)
    (tmp_path / "a.json").write_text("[]")
    assert load_recipe(tmp_path / "r.toml", [f"data={tmp_path}"]).train.captions[0] == f"{tmp_path}/a.json"


def test_home_is_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "r.toml").write_text('train = {captions = ["{data}/a.json"]}\n')
    assert load_recipe(tmp_path / "r.toml", ["data=~/d"]).train.captions == (f"{tmp_path}/d/a.json",)


def test_missing_data_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = call(
        "distill", ROOT / "recipes" / "caption_flickr8k.toml", "dev.names=''", "data=~/none", "--dry-run"
    )
    assert str(shown.exception) == (
        "data=~/none lacks Flickr8k.token.txt (train.captions, dev.captions), images_train.tar or Flicker8k_Dataset "
        "(train.photos), split_train.txt or Flickr_8k.trainImages.txt (train.names), images_dev.tar or "
        "Flicker8k_Dataset (dev.photos); docs/data.md (data.md beside a copied recipe) says how to lay it out, and the "
        "settings in brackets take other places"
    )
    with pytest.raises(InputError, match="give data=FOLDER"):
        read_recipe(ROOT / "recipes" / "caption_flickr8k.toml", ["data=''"])
    with pytest.raises(InputError, match="data=3 must be text"):
        read_recipe(ROOT / "recipes" / "caption_flickr8k.toml", ["data=3"])


def test_the_page_on_data_names_all_that_recipes_need():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for path, _ in shipped_recipes().values():
        for what in read_recipe(path, ["data=/nowhere"]).missing:
            for name in what.partition(" (")[0].split(" or "):
                assert name.rpartition("/")[2] in page, (path, name)


# ---------------------------------------------------------------- those that come with the package
def test_recipes_are_listed_and_copied(tmp_path):
    listed = call("recipes", "list").output
    assert all(name in listed for name in shipped_recipes())
    assert "The packaged model: " in listed
    done = call("recipes", "copy", "lclip_everyday", tmp_path / "a")
    assert f"cliplet distill {tmp_path}/a/lclip_everyday data=FOLDER" in done.output
    assert (tmp_path / "a" / "lclip_everyday" / "run.py").is_file()
    assert (tmp_path / "a" / "data.md").read_text() == (ROOT / "docs" / "data.md").read_text()
    assert copy_recipe("caption_rewards", tmp_path) == [tmp_path / "caption_rewards.toml"]
    with pytest.raises(InputError, match="already there"):
        copy_recipe("caption_rewards", tmp_path)
    with pytest.raises(InputError, match="no recipe 'caption'; choose from caption_flickr8k, "):
        copy_recipe("caption", tmp_path)


@pytest.mark.parametrize("name", ["few_pairs", "objectives"])
def test_a_recipe_brings_the_one_whose_code_it_uses(tmp_path, name):
    done = call("recipes", "copy", name, tmp_path)
    assert f"{tmp_path / 'dclip_flickr8k'}: {name} uses its code" in done.output
    assert (tmp_path / "dclip_flickr8k" / "lite_base.py").is_file()
    shutil.rmtree(tmp_path / name)
    (tmp_path / "dclip_flickr8k" / "recipe.toml").write_text("mine")
    assert copy_recipe(name, tmp_path) == [tmp_path / name]
    assert (tmp_path / "dclip_flickr8k" / "recipe.toml").read_text() == "mine"


def test_the_wheel_carries_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {
        "recipes": "cliplet/recipes", "docs/data.md": "cliplet/recipes/data.md",
    }  # fmt: skip
    assert {"recipes", "docs/data.md"} <= set(targets["sdist"]["include"])
