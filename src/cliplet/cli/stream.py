"""The options of `cliplet score` that make it a stream, and what they start."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cliplet.data.captions import Columns
    from cliplet.stream.report import StreamScores
    from cliplet.stream.wanted import Wanted


@dataclass(frozen=True)
class Streaming:
    """The options of a stream as they were given; None: not given."""

    parts: str | None
    """Form of the parts' files."""
    engine: str | None
    """Who runs the parts."""
    workers: int | None
    """Processes."""
    threads: int | None
    """Threads of each."""
    part_rows: int | None
    """Rows of a part."""
    retry_failed: bool
    """Whether parts that were given up are tried again."""

    def wanted(self, arguments: Sequence[str], beside: Sequence[str | None] = ()) -> bool:
        """Whether the options or the arguments ask for a stream; ``beside``: what else may be at an address."""
        if any((self.parts, self.engine, self.workers, self.threads, self.part_rows, self.retry_failed)):
            return True
        from cliplet.data.names import is_photo_path

        if not arguments or is_photo_path(arguments[0]):
            return False
        from cliplet.stream.sources import holds_shards, is_remote

        remote = any(text is not None and is_remote(text) for text in beside)
        return remote or any(is_remote(text) or holds_shards(text) for text in arguments)

    def shared_out(self) -> tuple[str, int, int]:
        """Engine, workers and threads of each, with what holds where they are not given."""
        from cliplet.stream.engines import cores

        engine = self.engine or "local"
        workers = self.workers or (1 if engine == "local" else 0)
        return engine, workers, self.threads or (max(1, cores() // workers) if engine == "local" else 1)


_OPTIONS = (
    click.option("--parts", type=click.Choice(["parquet", "jsonl"]),
                 help="Form of the parts' files; makes the run a stream, which goes on where it stopped."),
    click.option("--engine", type=click.Choice(["local", "ray"]),
                 help="Runs the parts of a stream; default: local."),
    click.option("--workers", type=click.IntRange(1), metavar="N",
                 help="Number of worker processes of a stream; default: 1, with Ray one a core."),
    click.option("--threads", type=click.IntRange(1), metavar="N",
                 help="Number of threads of each worker; default: the cores shared out, with Ray 1."),
    click.option("--part-rows", type=click.IntRange(1), metavar="N",
                 help="Number of rows of a part, about; default: 10000."),
    click.option("--retry-failed", is_flag=True, help="Try parts again that an earlier run gave up."),
)  # fmt: skip


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a stream, as one argument ``streaming``."""
    return _with_options(command, _OPTIONS)


def curate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`options`, for a command that is always a stream and has its own form of parts."""
    return _with_options(command, _OPTIONS[1:])


def _with_options(command: Callable[..., Any], chosen: Sequence[Any]) -> Callable[..., Any]:
    @wraps(command)
    def called(**given: Any) -> Any:
        streaming = Streaming(*(given.pop(name, None) for name in Streaming.__dataclass_fields__))
        return command(streaming=streaming, **given)

    for option in reversed(chosen):
        called = option(called)
    return called


def score_parts(
    streaming: Streaming,
    arguments: Sequence[str],
    out: str | None,
    model: str | None,
    preset: str,
    match: str | None,
    images: str | None,
    columns: "Columns",
    wanted: "Wanted",
    cache: bool | str,
    as_json: bool,
    strict: bool,
    device: str | None = None,
    precision: str | None = None,
) -> None:
    """Score as a stream and print what came of it; ``wanted``: what is computed beside the model's scores."""
    if out is None:
        raise click.UsageError("a stream writes its parts: name their folder with --out DIR")
    from cliplet.stream.plan import PART_ROWS
    from cliplet.stream.score import score_stream
    from cliplet.stream.scores import ScoreWork

    engine, workers, threads = streaming.shared_out()
    work = ScoreWork(
        model,
        preset,
        match,
        images,
        columns,
        threads=threads,
        device=device,
        precision=precision,
        cache=cache,
    )
    done = score_stream(
        arguments,
        out,
        work,
        form=streaming.parts or "parquet",
        engine=engine,
        workers=workers,
        part_rows=streaming.part_rows or PART_ROWS,
        retry_failed=streaming.retry_failed,
        wanted=wanted,
    )
    _show(done, as_json)
    if done.run.failed or (strict and (done.table.failed or done.table.without_references)):
        sys.exit(1)


def _show(done: "StreamScores", as_json: bool) -> None:
    from cliplet.cli.console import print_json
    from cliplet.cli.scores import print_table

    if as_json:
        parts = {done.run.plan.part(number).name: reason for number, reason in done.run.failed.items()}
        print_json({"summary": done.table.summary() | {"quantiles": done.summary.quantiles()},
                    "failed_parts": parts, "provenance": done.table.provenance})  # fmt: skip
        return
    print_table(done.table, done.run.folder)
    for number, reason in done.run.failed.items():
        click.echo(f"{done.run.plan.part(number).name} was given up: {reason}")
    if done.run.failed:
        click.echo("the same command with --retry-failed tries these parts again")
