"""The only place that opens an ONNX Runtime session, with the settings that keep integer graphs right everywhere."""

import os
import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

from numpy.typing import NDArray

from cliplet.errors import ModelError


class Session:
    """An ONNX graph, opened on the CPU; a forked or unpickled process has its own."""

    def __init__(self, model: str | Path | bytes, threads: int, name: str, exact: bool = False) -> None:
        self.name, self._model, self._threads, self._exact = name, model, threads, exact
        self._session: Any = self._open()
        _LIVE.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self._model, self._threads, self.name, self._exact)

    @property
    def opened(self) -> Any:
        """This process's ``onnxruntime.InferenceSession``."""
        if self._session is None:
            self._session = self._open()
        return self._session

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The outputs of these names, or all, for arrays by input name; raises ModelError where the graph fails."""
        try:
            return self.opened.run(outputs, inputs)  # type: ignore[no-any-return]
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ModelError(f"{self.name} cannot run on these inputs: {error}") from error

    def get_inputs(self) -> list[Any]:
        """Inputs with ``name``, ``shape`` and ``type``."""
        return self.opened.get_inputs()  # type: ignore[no-any-return]

    def get_outputs(self) -> list[Any]:
        """Outputs with ``name``, ``shape`` and ``type``."""
        return self.opened.get_outputs()  # type: ignore[no-any-return]

    def get_modelmeta(self) -> Any:
        """What the file says of itself, such as ``custom_metadata_map``."""
        return self.opened.get_modelmeta()

    def _open(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # errors: its warnings are about its own optimisations
        if not self._exact and integer_products_may_overflow():
            options.add_session_config_entry("session.x64quantprecision", "1")  # slower there, but right
        model = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ModelError(f"{self.name} cannot be loaded: {error}") from error


_LIVE: "WeakSet[Session]" = WeakSet()


def _forget_in_child() -> None:
    """A forked child has not the threads of its parent's sessions: to use or even to destroy one would hang."""
    import ctypes

    for session in _LIVE:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))  # never destroyed
        session._session = None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_in_child)


def open_session(
    model: str | Path | bytes, threads: int = 0, name: str = "the graph", exact: bool = False
) -> Session:
    """Open an ONNX graph.

    Args:
        model: path of the file, or its content.
        threads: threads inside one call; 0: as many as cores; 1 where callers run whole batches beside each other.
        name: what errors call a graph that is given by its content.
        exact: no sum of its integer products leaves 16 bits, so that it needs no slower products anywhere.

    Raises:
        ModelError: no such file, or ONNX Runtime cannot load it.
    """
    return Session(model, threads, name if isinstance(model, bytes) else str(model), exact)


@lru_cache(maxsize=1)
def integer_products_may_overflow() -> bool:
    """True unless the processor is known to add 8-bit products exactly: x86 with VNNI, or another family."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: not known
        return True
