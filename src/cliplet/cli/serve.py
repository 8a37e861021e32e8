"""``cliplet serve``: the service and its page."""

import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from cliplet.cli import options
from cliplet.errors import MissingExtraError

if TYPE_CHECKING:
    from cliplet.encoders.base import Encoder
    from cliplet.search.index import Index

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@click.command()
@options.model
@options.computing
@click.option("--index", metavar="DIR", help="Index of photos to search, made by `cliplet index`.")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen on; another than this machine's own needs --api-key-file.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="Port to listen on; 0 for any that is free.")  # fmt: skip
@click.option("--api-key-file", metavar="FILE",
              help="File of keys, one a line; a request must bring one of them.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=0,
              help="Number of threads that score; default: one a core.")  # fmt: skip
@click.option("--max-body", metavar="SIZE", default="16M", show_default=True,
              help="Largest body of a request, such as 500K or 16M.")  # fmt: skip
@click.option("--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True,
              help="Largest photo, in pixels.")  # fmt: skip
@click.option("--max-captions", type=click.IntRange(1), default=64, show_default=True,
              help="Largest number of captions in a request.")  # fmt: skip
@click.option("--max-caption-length", type=click.IntRange(1), default=2000, show_default=True,
              help="Longest caption, in characters.")  # fmt: skip
@click.option("--max-references", type=click.IntRange(1), default=64, show_default=True,
              help="Largest number of references in a request.")  # fmt: skip
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True,
              help="Largest number of requests that are read, wait or are worked on; more get 503.")  # fmt: skip
@click.option("--per-client", type=click.IntRange(0), default=0,
              help="Largest number of them of one key or address; more get 429. Default: any.")  # fmt: skip
@click.option("--body-timeout", type=click.FloatRange(0.1), default=10, show_default=True,
              help="Seconds in which a body must arrive.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0.1), default=20, show_default=True,
              help="Seconds in which a request must be answered.")  # fmt: skip
@click.option("--root-path", metavar="PATH", default="", help="Path under which a proxy shows the service.")
@click.option("--cors-origin", metavar="ORIGIN", multiple=True,
              help="Origin of a web page that may call the service; may be given several times.")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Engine that runs it: this process, or Ray Serve with replicas.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True,
              help="Number of replicas with --engine ray.")  # fmt: skip
def serve(
    model: str | None,
    device: str | None,
    precision: str | None,
    index: str | None,
    host: str,
    port: int,
    api_key_file: str | None,
    workers: int,
    max_body: str,
    max_pixels: int,
    max_captions: int,
    max_caption_length: int,
    max_references: int,
    queue: int,
    per_client: int,
    body_timeout: float,
    timeout: float,
    root_path: str,
    cors_origin: tuple[str, ...],
    engine: str,
    replicas: int,
) -> None:
    """Serve scores, embeddings and search over HTTP, with a page to try them.

    \b
    cliplet serve                                  http://127.0.0.1:8000
    cliplet serve --index photos.lance             with search
    cliplet serve --host 0.0.0.0 --api-key-file keys.txt

    The page is at /, the API under /v1/, its description at /openapi.json.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError("cliplet serve", "serve")
    from cliplet.serve.settings import Settings, read_keys

    settings = Settings(
        max_body=_size(max_body), max_pixels=max_pixels, max_captions=max_captions,
        max_caption_length=max_caption_length, max_references=max_references, queue=queue, per_client=per_client,
        body_seconds=body_timeout, wait_seconds=timeout, workers=workers,
        keys=read_keys(api_key_file) if api_key_file else (), cors_origins=cors_origin, root_path=root_path,
    )  # fmt: skip
    if engine == "ray":
        if find_spec("ray") is None:
            raise MissingExtraError("--engine ray", "ray")
        from cliplet.serve.ray import run_on_ray

        opened = partial(open_index, index) if index else None
        sys.exit(run_on_ray(model, settings, opened, host, port, replicas, device, precision))
    from cliplet.encoders.registry import load

    encoder = load(model, device, precision)
    encoder.preload()  # beside the imports below
    from cliplet.serve.app import build_app
    from cliplet.serve.server import listen, run

    at = listen(host, port, settings)
    app = build_app(encoder, settings, open_index(index, encoder) if index else None)
    sys.exit(run(app, at, settings))


def open_index(path: str, encoder: "Encoder") -> "Index":
    """The index at ``path``, which this model must have made."""
    from cliplet.search.index import Index

    index = Index.open(path, encoder)
    index.refresh()  # its vectors are in memory before the first query
    return index


def _size(text: str) -> int:
    """Bytes of a size such as 500K, 16M or 1G."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1)
    if not digits.isdigit() or not int(digits):
        raise click.BadParameter(f"{text!r} is no size: write it like 500K or 16M", param_hint="--max-body")
    return int(digits) * factor
