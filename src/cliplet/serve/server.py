"""The web server around the application: JSON logs, a shutdown that finishes what was taken, status 0."""

import contextlib
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn

from cliplet.errors import InputError
from cliplet.serve.limits import App
from cliplet.serve.logs import log, set_up_logs
from cliplet.serve.settings import Settings, is_loopback


class Server(uvicorn.Server):
    """uvicorn's server, whose process ends with status 0 after a signal (its own raises the signal again)."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGTERM and SIGINT while the server runs."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int, settings: Settings) -> socket.socket:
    """An open socket, so that a port in use is told before anything else is done.

    Raises:
        InputError: the address cannot be used, or others could reach it and no key is asked for.
    """
    if not is_loopback(host) and not settings.keys:
        raise InputError(
            f"{host} can be reached by others: give --api-key-file FILE (one key a line), or listen on 127.0.0.1"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return found


def run(app: App, at: socket.socket, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; 0 when all went well."""
    set_up_logs()
    config = uvicorn.Config(
        app, loop="auto", http="auto", ws="none", lifespan="on", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, backlog=2048, timeout_keep_alive=5,
        timeout_graceful_shutdown=int(settings.shutdown_seconds) or 1,
    )  # fmt: skip
    server = Server(config)
    host, port = at.getsockname()[:2]
    log("listening", address=f"http://{host}:{port}", page=str(Path("/")))
    server.run(sockets=[at])
    log("stopped")
    return 0 if server.started else 1
