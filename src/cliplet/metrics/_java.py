"""Finding a Java runtime and running a Java program: with a time limit, and with its last words kept."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from cliplet.errors import ModelError

_LAST_LINES = 20


@dataclass(frozen=True)
class Java:
    """A Java runtime."""

    command: str
    version: int
    """8, 11, 17, ..."""
    has_compiler: bool
    """It comes with the compiler (a JDK), so that it can run a program given as source."""


def find_java() -> Java | None:
    """The Java that ``$CLIPLET_JAVA`` names, else that of ``$JAVA_HOME`` or on the PATH; None without one.

    Raises:
        ModelError: it is there but does not run.
    """
    asked = [os.environ.get("CLIPLET_JAVA")]
    if not asked[0]:
        home = os.environ.get("JAVA_HOME")
        asked = [str(Path(home, "bin", "java")) if home else None, "java"]
    command = next(filter(None, (shutil.which(name) for name in asked if name)), None)
    return _probe(command, os.stat(command).st_mtime_ns) if command else None


@lru_cache(maxsize=4)
def _probe(command: str, changed: int) -> Java:
    """Ask a Java what it is; ``changed`` tells one from another that took its place."""
    try:
        # the version goes to the error stream: openjdk version "17.0.15" 2025-04-15, java version "1.8.0_402"
        text = _output(command, "-version")
        found = re.search(r'version "(?:1\.)?(\d+)', text)
        if not found:
            raise ModelError(f"{command} -version says {text[:200]!r}: is it Java? Set CLIPLET_JAVA to one")
        version = int(found[1])
        return Java(command, version, version >= 11 and "jdk.compiler" in _output(command, "--list-modules"))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"Java does not run: {error}. Set CLIPLET_JAVA to one that does") from error


def _output(command: str, option: str) -> str:
    done = subprocess.run(
        [command, option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, env=_environment()
    )
    return done.stdout.decode("utf-8", "replace")


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, in a locale that no file name or message can break."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(extra or {})}


def run_java(
    arguments: Sequence[str],
    *,
    java: Java,
    what: str,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a Java program to its end.

    Args:
        arguments: what follows ``java``.
        java: from ``find_java``.
        what: its name in messages.
        timeout: seconds after which it, and all that it started, is ended.
        environment: added to ours.

    Raises:
        ModelError: it failed or took too long; the message ends with the last lines that it printed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [java.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise ModelError(
                f"{what} did not finish in {timeout:g} s and was ended; give it a longer timeout or fewer captions."
                f"{_last_words(output)}"
            ) from None
        except BaseException:  # also an interrupt: leave no Java behind
            _end(process)
            raise
        if status != 0:
            ended = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
            raise ModelError(f"{what} {ended}.{_last_words(output)}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last_words(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - 8192))
    lines = output.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    text = "\n".join(lines)
    hint = "\nJava ran out of memory: give it a larger heap." if "OutOfMemoryError" in text else ""
    return f" It printed last:\n{text}{hint}" if lines else " It printed nothing."
