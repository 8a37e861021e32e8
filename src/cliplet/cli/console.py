"""What commands share: options, help that reads tables, talking to the terminal."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click


class Names(click.ParamType):
    """One of a table's names; the table is imported when a value is given or the help is shown.

    Args:
        names: gives the names.
        own: whether a user's own ``module:attribute`` may stand in their place, to be checked where it is used.
    """

    name = "name"

    def __init__(self, names: Callable[[], Iterable[str]], own: bool = False) -> None:
        self.names, self.own = names, own

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, for the help."""
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it is one."""
        names = list(self.names())
        if value not in names and not (self.own and ":" in value):
            self.fail(
                f"{value!r} is not one of {', '.join(names)}{' and no module:attribute' * self.own}",
                param,
                ctx,
            )
        return str(value)


class TableOption(click.Option):
    """An option whose help names what a table holds: ``fill()`` gives values for the braces in ``help``."""

    def __init__(self, *args: Any, fill: Callable[[], dict[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fill = fill

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].format(**self.fill()))


def preset_names() -> Iterable[str]:
    """Scales of a model's score."""
    from cliplet.metrics.clipscore import PRESETS

    return PRESETS


def metric_table() -> dict[str, str]:
    """Names of the metrics that compare with references, for help lines."""
    from cliplet.metrics.registry import METRICS

    default = [name for name, metric in METRICS.items() if metric.default]
    return {"names": ", ".join(METRICS), "default": ",".join(default)}


def metric_names(text: str | None) -> list[str] | None:
    """The value of ``--metrics``: None for the default, an empty list for ``none``."""
    if text is None:
        return None
    return [] if text.lower() == "none" else [name.strip() for name in text.split(",") if name.strip()]


model_option = click.option(
    "--model",
    metavar="NAME|DIR",
    help="Model: a packaged name, a folder, open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME or your own module:attribute; "
    "default: the packaged one.",
)
preset_option = click.option(
    "--preset",
    type=Names(preset_names),
    default="paper",
    show_default=True,
    help="Scale of the model's score: paper is CLIPScore, w * max(cos, 0); torchmetrics is 100 * cos; cosine is the "
    "cosine.",
)
metrics_option = click.option(
    "--metrics",
    cls=TableOption,
    fill=metric_table,
    metavar="LIST",
    help="Metrics that compare with references, parted by commas: {names}, your own module:attribute, or none; "
    "default: {default}.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
cache_option = click.option(
    "--cache", is_flag=True, help="Keep embeddings on disk: photos seen before cost nothing."
)
cache_dir_option = click.option(
    "--cache-dir",
    metavar="DIR",
    help="Folder of the embeddings kept; default: $CLIPLET_CACHE or ~/.cache/cliplet.",
)


class progress_bar:
    """A bar on standard error while it is a terminal; nothing when piped."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        self.bar.start()
        task = self.bar.add_task(self.what, total=None)
        return lambda done, total: self.bar.update(task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def one_line(text: str) -> str:
    """The text with newlines and control characters shown as spaces, and broken characters replaced."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean.encode("utf-8", "replace").decode()


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(content, ensure_ascii=True))
