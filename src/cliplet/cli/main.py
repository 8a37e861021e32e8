"""The command line: a group whose commands are imported only when they are called."""

import os
import sys
from importlib import import_module

import click

from cliplet import __version__
from cliplet.errors import ClipletError

COMMANDS = {
    "score": ("cliplet.cli.score", "Score captions against their images."),
    "explain": ("cliplet.cli.explain", "Say why a caption has its score: words, regions, sentences."),
    "demo": ("cliplet.cli.demo", "Score a few real photos and write a report."),
    "classify": ("cliplet.cli.classify", "Say which of your classes photos show."),
    "compare": ("cliplet.cli.compare", "Say which of several captioners is better."),
    "evaluate": ("cliplet.cli.evaluate", "Measure a metric or a model on the field's benchmarks."),
    "calibrate": ("cliplet.cli.calibrate", "Make a model's score a match between 0 and 1."),
    "df": ("cliplet.cli.df", "Count document frequencies for CIDEr and save them."),
    "align": ("cliplet.cli.align", "Fit a map between photos and texts, without training."),
    "export": ("cliplet.cli.export", "Export a model to a folder that runs without PyTorch."),
    "distill": ("cliplet.cli.distill", "Train a small CLIP from a teacher and image-caption pairs."),
    "recipes": ("cliplet.cli.recipes", "List and copy the recipes that come with cliplet."),
    "caption": ("cliplet.cli.caption", "Caption photos, and train captioners with a reward."),
    "index": ("cliplet.cli.index", "Keep the embeddings of photos, to search them."),
    "search": ("cliplet.cli.search", "Find photos by words, or by a photo."),
    "curate": ("cliplet.cli.curate", "Remove bad pairs and copies from image-text data."),
    "regions": ("cliplet.cli.regions", "Find regions in photos and phrases in captions."),
    "serve": ("cliplet.cli.serve", "Serve scores, embeddings and search over HTTP, with a page."),
    "models": ("cliplet.cli.models", "List, show and check models and what they need."),
}
"""Each command's module (which holds a click command of that name) and its one line of help."""


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command runs, not for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands from the table above, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="cliplet")
def cli() -> None:
    """Judge image captions, and make the small CLIP models that judge them."""


def main() -> None:
    """Run the command line, and end at once where LanceDB was used: its threads may keep Python 3.13 from ending."""
    try:
        _run()
    except SystemExit as end:
        if "lancedb" not in sys.modules:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _run() -> None:
    """Every way out is a SystemExit; errors that the user can put right are one line, without a traceback."""
    try:
        status = cli(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ClipletError as error:
        _say(f"Error: {error}")
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        _say("Interrupted.")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _say(f"Error: {error.filename or 'output'}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush to a full disk
        sys.exit(2)


def _say(line: str) -> None:
    print(line.encode("utf-8", "replace").decode(), file=sys.stderr)
