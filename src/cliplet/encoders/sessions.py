"""The only place that opens an ONNX Runtime session, with the settings that keep integer graphs right everywhere."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

from numpy.typing import NDArray

from cliplet.errors import DeviceMemoryError, ModelError

CPU = "CPUExecutionProvider"
"""ONNX Runtime's own provider, which every one of its wheels has."""
ProviderOptions = tuple[tuple[str, str], ...]
"""Names and values of a provider's options."""
_NO_MEMORY = re.compile(
    r"allocate memory|bad.alloc|bad allocation|out of memory|smaller than requested bytes|ALLOC_FAILED|8007000E",
    re.IGNORECASE,
)
"""How ONNX Runtime and its providers say that there is too little memory."""
_ONE_OPERATION = (  # a graph of ONNX, y = Identity(x) for float32 [1]
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0d"
)


class Session:
    """An ONNX graph, opened on one provider; a forked or unpickled process has its own."""

    def __init__(
        self,
        model: str | Path | bytes,
        threads: int,
        name: str,
        provider: str = CPU,
        provider_options: ProviderOptions = (),
        exact: bool = False,
    ) -> None:
        self.name, self._model, self._threads, self._exact = name, model, threads, exact
        self._provider, self._provider_options = provider, provider_options
        self._session: Any = self._open()
        _LIVE.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        opened = (self._model, self._threads, self.name, self._provider, self._provider_options, self._exact)
        return Session, opened

    @property
    def opened(self) -> Any:
        """This process's ``onnxruntime.InferenceSession``."""
        if self._session is None:
            self._session = self._open()
        return self._session

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The outputs of these names, or all, for arrays by input name.

        Raises:
            DeviceMemoryError: the memory does not suffice for these inputs.
            ModelError: the graph fails otherwise.
        """
        try:
            return self.opened.run(outputs, inputs)  # type: ignore[no-any-return]
        except Exception as error:  # onnxruntime raises its own unrelated classes
            if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                raise DeviceMemoryError(f"{self.name}: {error}") from error
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
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # errors: its warnings are about its own optimisations
        if not self._exact and integer_products_may_overflow():
            options.add_session_config_entry("session.x64quantprecision", "1")  # slower there, but right
        model = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            session = onnxruntime.InferenceSession(model, **self._placed(options))
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise ModelError(f"{self.name} cannot be loaded: {error}") from error
        if (
            self._provider not in session.get_providers()
        ):  # it goes on with the CPU and only says so in its log
            raise ModelError(
                f"{self.name} cannot be run by {self._provider}: give another device, such as cpu"
            )
        return session

    def _placed(self, options: Any) -> dict[str, Any]:
        """Arguments that open a session on the provider, with the CPU for operations that it lacks."""
        if self._provider == CPU:
            return {"sess_options": options, "providers": [CPU]}
        if self._provider == "DmlExecutionProvider":  # it can do neither
            options.enable_mem_pattern, options.execution_mode = False, type(options.execution_mode)(0)
        wanted = (self._provider, dict(self._provider_options))
        return {"sess_options": options, "providers": [wanted, CPU], "enable_fallback": 0}


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
    model: str | Path | bytes,
    threads: int = 0,
    name: str = "the graph",
    provider: str = CPU,
    provider_options: ProviderOptions = (),
    exact: bool = False,
) -> Session:
    """Open an ONNX graph.

    Args:
        model: path of the file, or its content.
        threads: threads inside one call; 0: as many as cores; 1 where callers run whole batches beside each other.
        name: what errors call a graph that is given by its content.
        provider: ONNX Runtime's execution provider; :mod:`cliplet.encoders.providers` chooses one.
        provider_options: what it is given.
        exact: no sum of its integer products leaves 16 bits, so that it needs no slower products anywhere.

    Raises:
        ModelError: no such file, or ONNX Runtime cannot load it, or not with this provider.
    """
    called = name if isinstance(model, bytes) else str(model)
    return Session(model, threads, called, provider, provider_options, exact)


def runtime() -> Any:
    """ONNX Runtime's module.

    Raises:
        ModelError: its files are gone, as after one of two of its wheels was removed: they share them.
    """
    import onnxruntime

    if not hasattr(onnxruntime, "InferenceSession"):
        raise ModelError(
            "onnxruntime has lost its files, as happens when one of two of its packages is removed: cliplet models "
            "doctor names the one that is left; pip install --force-reinstall it"
        )
    return onnxruntime


def available_providers() -> list[str]:
    """The providers that the installed ONNX Runtime was built with; whether they start is another question."""
    return runtime().get_available_providers()  # type: ignore[no-any-return]


def start_provider(provider: str, provider_options: ProviderOptions = ()) -> str | None:
    """Run a graph of one operation on a provider: None when it works, else why not, in one line."""
    import numpy as np

    onnxruntime = runtime()
    one = np.ones(1, dtype=np.float32)
    onnxruntime.set_default_logger_severity(4)  # what is missing is said once, by whoever asked
    try:
        if provider == "CUDAExecutionProvider":
            _load_cuda()
        session = Session(_ONE_OPERATION, 1, "a trial", provider, provider_options)
        return None if session.run(None, {"x": one})[0] == one else "it gives wrong numbers"
    except ModelError as error:
        why = error.__cause__ or "its libraries or its device are missing"
        return " ".join(str(why).split())[:300]
    finally:
        onnxruntime.set_default_logger_severity(2)


def _load_cuda() -> None:
    """CUDA's libraries from PyTorch or from NVIDIA's packages, where they are installed and the system has none."""
    import contextlib
    import io

    onnxruntime = runtime()
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


@lru_cache(maxsize=1)
def integer_products_may_overflow() -> bool:
    """True unless the processor is known to add 8-bit products exactly: x86 with VNNI, or another family."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: not known
        return True
