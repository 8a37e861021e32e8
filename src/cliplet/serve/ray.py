"""The same application as a Ray Serve deployment with replicas.

Ray's usage statistics are off unless the user has set them. Every replica has the model in memory, its own queue and
its own counters; Ray's proxy spreads the requests over them.
"""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable
from typing import Any

from cliplet.errors import InputError
from cliplet.serve.settings import Settings


def run_on_ray(
    model: str | None,
    settings: Settings,
    open_index: Callable[[Any], Any] | None,
    host: str,
    port: int,
    replicas: int,
    device: str | None = None,
    precision: str | None = None,
) -> int:
    """Serve with ``replicas`` replicas until SIGTERM or SIGINT; 0 when all went well.

    On ``device`` cuda each replica has a GPU of its own, which Ray hands out.

    ``open_index`` opens the index for a replica's encoder, where there is one.

    A running cluster is used where ``RAY_ADDRESS`` names one; otherwise Ray is started on this machine.

    Raises:
        InputError: the address cannot be used, or others could reach it and no key is asked for; or ``device`` names
            one GPU for all replicas.
    """
    if device is not None and ":" in device:
        raise InputError(
            f"device {device}: Ray hands out the GPUs; with --engine ray give cuda, without a number"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from cliplet.serve.server import listen

    probe = listen(host, port, settings)  # a port in use is told before Ray starts
    port = probe.getsockname()[1]
    probe.close()

    import ray
    from ray import serve

    from cliplet.serve.logs import log, set_up_logs

    set_up_logs()
    ended = threading.Event()
    own = not os.environ.get("RAY_ADDRESS")
    ray.init(**(_alone(settings, replicas) if own else {}), log_to_driver=False, logging_level=logging.ERROR)
    try:
        serve.start(http_options=http_options(host, port, settings))
        application = deployment(model, settings, open_index, replicas, device, precision)
        serve.run(application, name="cliplet", route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())  # now: Ray sets its own when it starts
        log("listening", address=f"http://{host}:{port}", engine="ray", replicas=replicas)
        ended.wait()
    finally:
        serve.delete("cliplet") if not own else serve.shutdown()
        ray.shutdown()
    log("stopped")
    return 0


def http_options(host: str, port: int, settings: Settings) -> Any:
    """Ray's proxy on one address alone."""
    from ray.serve.config import HTTPOptions

    return HTTPOptions(host=host, port=port, request_timeout_s=settings.body_seconds + settings.wait_seconds)


def deployment(
    model: str | None,
    settings: Settings,
    open_index: Callable[[Any], Any] | None,
    replicas: int,
    device: str | None = None,
    precision: str | None = None,
) -> Any:
    """The application, bound to Ray Serve: each replica loads the model and opens the index by itself."""
    from ray import serve

    secret = secrets.token_bytes(32)

    def build() -> Any:
        from cliplet.encoders.registry import load
        from cliplet.serve.app import build_app
        from cliplet.serve.logs import set_up_logs

        set_up_logs()
        encoder = load(model, device, precision)
        return build_app(encoder, settings, open_index(encoder) if open_index else None, secret)

    @serve.deployment(
        name="cliplet",
        num_replicas=replicas,
        max_ongoing_requests=settings.queue + 16,  # the service's own admission answers, with Retry-After
        ray_actor_options={"num_cpus": settings.workers or 1, "num_gpus": int(device == "cuda")},
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
    )
    @serve.ingress(build)
    class Cliplet:
        """One replica."""

    return Cliplet.bind()  # type: ignore[attr-defined]


def _alone(settings: Settings, replicas: int) -> dict[str, Any]:
    """Ray on this machine alone: no dashboard, a small object store (photos never travel through it)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "address": "local",
        "num_cpus": max(cores, replicas * (settings.workers or 1)),
        "include_dashboard": False,
        "object_store_memory": 200 * 2**20,
    }
