"""What a service allows: every bound with its default."""

import ipaddress
from dataclasses import dataclass

from cliplet.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Bounds and options of one service."""

    max_body: int = 16 * 2**20
    """Bytes of one request's body; more is refused with 413."""
    max_header: int = 16 * 2**10
    """Bytes of a request's headers; more is refused with 431."""
    max_url: int = 4 * 2**10
    """Bytes of path and query; more is refused with 414."""
    max_pixels: int = 50_000_000
    """Pixels of one photo; more is refused with 413 before it is decoded."""
    max_captions: int = 64
    """Captions of one request, and texts of ``/v1/embed``."""
    max_caption_length: int = 2_000
    """Characters of one caption, reference, text or query."""
    max_references: int = 64
    """References of one request."""
    max_photos: int = 16
    """Photos of one ``/v1/embed``."""
    max_top: int = 200
    """Photos that one search may ask for."""
    queue: int = 64
    """Requests that are read, wait or are worked on at one time; more are refused with 503."""
    queue_bytes: int = 256 * 2**20
    """Bytes of all their bodies together; more are refused with 503."""
    per_client: int = 0
    """Requests that one key, or one address where there are no keys, may have in the queue; more are refused with 429.
    0: no bound of its own."""
    body_seconds: float = 10.0
    """Time in which a body must have arrived; 408 after it."""
    wait_seconds: float = 20.0
    """Time in which a request must be answered; 503 after it."""
    shutdown_seconds: float = 30.0
    """Time that a shutdown gives to the requests that were taken."""
    workers: int = 0
    """Threads that decode photos and run the towers; 0: as many as the model takes (cores for model folders)."""
    keys: tuple[str, ...] = ()
    """Keys, one of which every request but ``/healthz`` and the page must bring; empty: none is asked for."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages that may call the service from a browser; empty: none."""
    root_path: str = ""
    """Path under which a proxy shows the service, such as ``/cliplet``."""
    explain: bool = True
    """Whether ``/v1/explain`` is there."""

    def __post_init__(self) -> None:
        positive = (
            "max_body", "max_header", "max_url", "max_pixels", "max_captions", "max_caption_length",
            "max_references", "max_photos", "max_top", "queue", "queue_bytes", "body_seconds", "wait_seconds",
            "shutdown_seconds",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be more than 0, not {getattr(self, name)}")
        if self.workers < 0 or self.per_client < 0:
            raise InputError("workers and per_client must not be negative")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise InputError(f"the root path must look like /cliplet, not {self.root_path!r}")
        for origin in self.cors_origins:
            if origin == "*" or "://" not in origin or origin.endswith("/"):
                raise InputError(f"a CORS origin must look like https://example.org, not {origin!r}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: str) -> tuple[str, ...]:
    """The keys of a file, one a line; lines that start with ``#`` are left out.

    Raises:
        InputError: the file cannot be read, holds no key, or one that is short or no plain ASCII.
    """
    from cliplet.data.text import text_lines

    lines = [line.strip() for _, line in text_lines(path)]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path} holds no key: write one a line, such as what `openssl rand -hex 32` prints")
    for number, key in enumerate(keys, 1):
        if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"{path}: key {number} must have 16 characters of plain ASCII or more, without spaces"
            )
    return keys
