"""Ray as a scheduler of parts: one actor for each group of cores or GPU, on this machine or a cluster.

Ray neither reads, batches nor writes: an actor is given a part's place in the plan and gives back counts. The output
folder and the local sources must be there under the same paths on all machines.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cliplet.errors import ClipletError, InputError, MissingExtraError
from cliplet.stream.engines import ATTEMPTS, Event, outcome, set_threads
from cliplet.stream.part import PARTS, Work
from cliplet.stream.plan import Part, read_plan
from cliplet.stream.source import unchanged
from cliplet.versions import versions

STORE = 200_000_000
"""Bytes of Ray's object store where cliplet starts Ray: what goes through it is tiny."""


class Actor:
    """Runs parts in a process of Ray's."""

    def __init__(self, work: Work, folder: Path, form: str) -> None:
        self.arguments = (folder, form, work)
        set_threads(work.threads)

    def begin(self) -> ClipletError | None:
        """See that the files are here and load what is needed; the reason why that cannot be."""
        folder, _, work = self.arguments
        try:
            plan, host = read_plan(folder), socket.gethostname()
            if plan is None or not (folder / PARTS).is_dir():
                return InputError(
                    f"{host} does not see the output folder {folder}: it must be shared by all machines"
                )
            if not plan.sources[0].remote:
                unchanged(plan.sources[0])
            self.compute = work.begin()
            other = _other_version(plan.settings)
            if other is not None:
                return InputError(
                    f"{host} has {other}: install the same on all machines, or name another --out"
                )
        except ClipletError as error:
            return error
        return None

    def run(self, part: Part) -> Event:
        """Run a part."""
        folder, form, work = self.arguments
        return outcome(part, folder, form, work, self.compute)


def _other_version(settings: Mapping[str, Any]) -> str | None:
    """Which library is here of another version than the plan was made with; None for none."""
    planned, here = {**settings.get("versions", {}), **settings}, versions()
    for name in ("cliplet", "onnxruntime", "torch"):
        if planned.get(name) and here.get(name, planned[name]) != planned[name]:
            return f"{name} {here[name]}, and the run was planned with {planned[name]}"
    return None


class RayPool:
    """Actors on Ray; one that dies, or whose machine does, is replaced."""

    def __init__(self, workers: int, work: Work, folder: Path, form: str, most: int) -> None:
        """Start Ray, or join the one that runs here or at ``$RAY_ADDRESS``, and ask for actors.

        Args:
            workers: how many actors; 0: as many as the cluster's cores (or GPUs) let run.
            work: what they do.
            folder: the output folder.
            form: of the parts' files.
            most: actors of which there need never be more.
        """
        self.stdout = _quiet_stdout()
        try:
            self.ray, self.ours = _begin()
            self.cpus, self.gpus = work.threads, getattr(work, "gpus", 0)
            self.make = self.ray.remote(
                num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, scheduling_strategy="SPREAD"
            )(Actor)
            self.arguments = (self.ray.put(work), folder, form)
            self.count = max(1, min(most, workers or self._room()))
            self.starting: dict[Any, Any] = {}
            self.idle: list[Any] = []
            self.running: dict[Any, tuple[Any, Part]] = {}
            self.deaths = 0
            for _ in range(self.count):
                self._start()
        except BaseException:
            _restore_stdout(self.stdout)
            raise

    def _room(self) -> int:
        has = self.ray.cluster_resources()
        return int(has.get("GPU", 0) // self.gpus if self.gpus else has.get("CPU", 1) // self.cpus)

    def _start(self) -> None:
        actor = self.make.remote(*self.arguments)
        self.starting[actor.begin.remote()] = actor

    def free(self) -> bool:
        """Whether an actor that has begun waits."""
        return bool(self.idle)

    def give(self, part: Part) -> None:
        """Let an actor run the part."""
        actor = self.idle.pop()
        self.running[actor.run.remote(part)] = (actor, part)

    def wait(self, seconds: float) -> list[Event]:
        """What became of parts; actors that died are replaced."""
        waiting = [*self.running, *self.starting]
        first, _ = self.ray.wait(waiting, num_returns=1, timeout=seconds)
        if not first:
            return []
        ready, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)
        found = []
        for ref in ready:
            actor, part = self.running.pop(ref, (None, None))
            if part is None:
                self._begun(ref, self.starting.pop(ref))
                continue
            try:
                found.append(self.ray.get(ref))
                self.idle.append(actor)
            except self.ray.exceptions.RayError as error:
                found.append(Event(part, None, f"its process on Ray ended: {_short(error)}"))
                self._replace(actor)
        return found

    def _begun(self, ref: Any, actor: Any) -> None:
        try:
            wrong = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.deaths += 1
            if self.deaths >= ATTEMPTS * self.count:
                raise ClipletError(
                    f"actors of Ray die while they begin: {_short(error)}. Where all references to them were removed, "
                    "Ray was started with another RAY_AUTH_MODE than the one here"
                ) from error
            self._replace(actor)
            return
        if wrong is not None:
            raise wrong
        self.deaths = 0
        self.idle.append(actor)

    def _replace(self, actor: Any) -> None:
        self.ray.kill(actor)  # it may only have been out of reach
        self._start()

    def waiting_for(self) -> str:
        """That the cluster has no room for an actor, where none has begun."""
        if self.idle or self.running or not self.starting:
            return ""
        has, free = self.ray.cluster_resources(), self.ray.available_resources()
        kind, need = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        return f"waiting for {need:g} {kind} of Ray, of whose {has.get(kind, 0):g} are {free.get(kind, 0):g} free"

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        try:
            if self.ray.is_initialized():
                for actor in [
                    *self.starting.values(),
                    *self.idle,
                    *(actor for actor, _ in self.running.values()),
                ]:
                    self.ray.kill(actor)
                if self.ours:
                    self.ray.shutdown()
        finally:
            _restore_stdout(self.stdout)


def _begin() -> tuple[Any, bool]:
    """Ray, and whether it was started or joined here rather than before."""
    if "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
        os.environ.setdefault(
            "RAY_AUTH_MODE", "token"
        )  # else a driver may join without one, and its actors die
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtraError("--engine ray", "ray") from None
    if ray.is_initialized():
        return ray, False
    address = os.environ.get("RAY_ADDRESS")
    if address != "local":
        try:
            ray.init(address=address or "auto", **_QUIET)
            return ray, True
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            if address:
                raise ClipletError(
                    f"no Ray answers at RAY_ADDRESS={address}, or it takes another token: {_short(error)}. "
                    "RAY_AUTH_MODE and the token (ray get-auth-token) must be those that it was started with"
                ) from error
    ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **_QUIET)
    _close_token()
    return ray, True


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def _close_token() -> None:
    """Let nobody else read the token by which this user's Ray is reached; Ray writes it readable for all."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)


def _quiet_stdout() -> int:
    """Send what Ray's processes print to standard error, so that standard output holds results alone."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _restore_stdout(kept: int) -> None:
    os.dup2(kept, 1)
    os.close(kept)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([*lines[:1], *lines[-1:]] if len(lines) > 1 else lines)[:400] or type(error).__name__
