"""Options that several commands have; what a table holds is read from it when the help is shown or a value is given."""

from collections.abc import Callable, Iterable
from typing import Any

import click


class Names(click.ParamType):
    """One of a table's names.

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


class DeviceName(click.ParamType):
    """A device by its name; whether this machine has it is asked before weights are loaded."""

    name = "device"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, for the help."""
        return "auto|cpu|cuda[:N]|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it is one; else an InputError."""
        from cliplet.encoders.devices import read_device

        return str(read_device(value))


def _precisions() -> Iterable[str]:
    from cliplet.encoders.devices import PRECISIONS

    return PRECISIONS


def _presets() -> Iterable[str]:
    from cliplet.metrics.clipscore import PRESETS

    return PRESETS


def _metrics() -> dict[str, str]:
    from cliplet.metrics.registry import METRICS

    default = [name for name, metric in METRICS.items() if metric.default]
    return {"names": ", ".join(METRICS), "default": ",".join(default)}


def _tokenizers() -> Iterable[str]:
    from cliplet.metrics.tokenizer.names import TOKENIZERS

    return TOKENIZERS


def alignments() -> Iterable[str]:
    """The methods of ``cliplet align``."""
    from cliplet.encoders.fits import METHODS

    return METHODS


def metric_names(text: str | None) -> list[str] | None:
    """The value of ``--metrics``: None for the default, an empty list for ``none``."""
    if text is None:
        return None
    return [] if text.lower() == "none" else [name.strip() for name in text.split(",") if name.strip()]


def out(files: str) -> Callable[[Any], Any]:
    """``--out`` of a command that writes these files."""
    return click.option("--out", metavar="DIR", help=f"Folder for {files}.")


def resamples(default: int, least: int) -> Callable[[Any], Any]:
    """``--resamples``, formerly ``--draws``."""
    more = "" if least else "; 0 for no intervals"
    return click.option("--resamples", "--draws", "resamples", type=click.IntRange(least), default=default,
                        show_default=True, help=f"Number of bootstrap resamples and permutations{more}.")  # fmt: skip


refs = click.option(
    "--refs", metavar="FILE", help="File of reference captions, in any format that captions may have."
)
storage = click.option(
    "--storage",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the object storage, as LanceDB takes it; may be repeated.",
)
image_column = click.option("--image-column", metavar="NAME", help="Column of the image in a captions file.")
caption_column = click.option(
    "--caption-column", metavar="NAME", help="Column of the caption in a captions file."
)
separator = click.option(
    "--separator", metavar="CHAR", help="Character between the cells of a CSV; default: from its header."
)
metrics = click.option(
    "--metrics", cls=TableOption, fill=_metrics, metavar="LIST",
    help="Metrics that compare with references, parted by commas: {names}, your own module:attribute, or none; "
         "default: {default}.",
)  # fmt: skip
tokenizer = click.option(
    "--tokenizer", type=Names(_tokenizers), default="ptb", show_default=True,
    help="Tokens that metrics on references count: ptb drops punctuation, as is usual; ptb-punctuation keeps it.",
)  # fmt: skip
df = click.option(
    "--df", metavar="FILE", help="File of CIDEr-D's document frequencies, as `cliplet df` saves it."
)
model = click.option(
    "--model", metavar="NAME|DIR",
    help="Model: a packaged name, a folder, open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME or your own module:attribute; "
         "default: the packaged one.",
)  # fmt: skip
device = click.option(
    "--device", type=DeviceName(),
    help="Device that the model computes on; a model folder also takes coreml, directml or openvino; default: cpu.",
)  # fmt: skip
precision = click.option(
    "--precision", type=Names(_precisions),
    help="Precision that the model computes in; default: fp32, or what a model folder was exported in.",
)  # fmt: skip


def computing(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--device`` and ``--precision``, for commands that load a model."""
    return device(precision(command))


preset = click.option(
    "--preset", type=Names(_presets), default="paper", show_default=True,
    help="Scale of the model's score: paper is CLIPScore, w * max(cos, 0); torchmetrics is 100 * cos; cosine is the "
         "cosine.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
cache = click.option(
    "--cache", is_flag=True, help="Keep embeddings on disk: photos seen before cost nothing."
)
cache_dir = click.option(
    "--cache-dir",
    metavar="DIR",
    help="Folder of the embeddings kept; default: $CLIPLET_CACHE or ~/.cache/cliplet.",
)
