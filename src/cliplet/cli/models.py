"""``cliplet models``: what is packaged, what a model says of itself, what this machine lacks."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click


class _ModelsGroup(click.Group):
    """Adds ``doctor`` from its own module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "doctor"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "doctor":
            command: click.Command = import_module("cliplet.cli.doctor").doctor
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_ModelsGroup)
def models() -> None:
    """List, show and check models and what they need."""


@models.command("list")
def list_models() -> None:
    """List the packaged models."""
    from cliplet.encoders.card import ModelCard
    from cliplet.encoders.registry import packaged_models

    for folder in packaged_models():
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        line = f"{folder.name:<20} {size:5.1f} MB  {ModelCard.load(folder).description}"
        click.echo(textwrap.shorten(line, shutil.get_terminal_size().columns, placeholder=" …"))


@models.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the card as one JSON object.")
def show(model: str | None, as_json: bool) -> None:
    """Show a model's card: what it is, how it was made, how well it does. Default: the packaged model."""
    from cliplet.encoders.registry import load

    encoder = load(model)
    card = encoder.card
    content = card.to_dict() | {"fingerprint": card.fingerprint} | _integer_products(encoder)
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=True))
        return
    width = shutil.get_terminal_size().columns
    for indent, line in _card_lines(content):
        click.echo(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=" " * len(indent) + "    ",
                                 break_long_words=False, break_on_hyphens=False))  # fmt: skip


def _card_lines(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A card for people: (indent, line); what says nothing is left out, and long lists are counted."""
    for name, value in content.items():
        if isinstance(value, dict):
            if any(value.values()):
                yield "", f"{name}:"
                yield from _block_lines(value)
        elif isinstance(value, list):
            if value:
                yield "", f"{name}:"
                yield from (("  - ", str(item)) for item in value)
        elif value not in ("", None):
            yield "", f"{name}: {value}"


def _block_lines(block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A block of a card; commands that printed its figures stand once, at its end."""
    commands: dict[str, None] = {}
    for name, value in block.items():
        if isinstance(value, dict) and "command" in value:
            commands[str(value["command"])] = None
            value = value.get("value", "")
        if value not in ("", None, [], {}):
            yield "  ", f"{name}: {_in_words(value)}"
    for command in commands:
        yield "  ", f"measured by: {command}"


def _in_words(value: Any) -> str:
    """A value of a card in a line."""
    if isinstance(value, dict):
        if any(isinstance(item, (dict, list)) for item in value.values()):
            return f"{len(value)} settings; --json has them"
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{len(value)} numbers from {value[0]} to {value[-1]}; --json has them"
    return str(value)


def _integer_products(encoder: Any) -> dict[str, str]:
    """What a model folder's ONNX files say of their 8-bit products; nothing for other models."""
    from cliplet.encoders.base import adapt
    from cliplet.encoders.saturation import integer_products
    from cliplet.errors import MissingExtraError

    folder = adapt(encoder).folder
    if folder is None:
        return {}
    try:
        return {"integer_products": str(integer_products(folder))}
    except MissingExtraError as error:
        return {"integer_products": f"not checked: {error}"}
