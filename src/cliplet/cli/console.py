"""What commands share in talking to the terminal."""

import json
import sys
from typing import Any

import click


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
