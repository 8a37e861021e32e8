"""ONNX Runtime's sessions: opened in one place, right on every processor, good in forked and unpickled processes."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import cliplet
from cliplet.encoders import sessions
from cliplet.encoders.sessions import open_session
from cliplet.errors import ModelError
from tests.tiny_model import DIM, build_tiny_model

PACKAGE = Path(cliplet.__file__).parent


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("sessions") / "model") / "text.onnx"


@pytest.fixture
def anew():
    """The processor is asked again, before and after."""
    sessions.integer_products_may_overflow.cache_clear()
    yield
    sessions.integer_products_may_overflow.cache_clear()


def feed() -> dict[str, np.ndarray]:
    ids = np.array([[2, 5, 6, 3]], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_no_other_file_opens_a_session():
    opened = re.compile(r"InferenceSession|SessionOptions")
    found = {
        str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if opened.search(p.read_text("utf-8"))
    }
    assert found == {"encoders/sessions.py"}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [("x86_64", "avx2 avx512_vnni", False), ("AMD64", "avx2 fma", True), ("arm64", "", False)],
)
def test_integer_products_are_made_exact_where_they_could_overflow(
    monkeypatch, anew, graph, machine, flags, expected
):
    monkeypatch.setattr(sessions.platform, "machine", lambda: machine)
    monkeypatch.setattr(sessions.Path, "read_text", lambda *_, **__: f"flags : {flags}")
    assert sessions.integer_products_may_overflow() is expected
    options = open_session(graph).opened.get_session_options()
    if expected:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have"):
            options.get_session_config_entry("session.x64quantprecision")


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_path_and_a_content_give_what_onnxruntime_gives(graph, threads):
    expected = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feed())[0]
    for model in (graph, str(graph), graph.read_bytes()):
        session = open_session(model, threads)
        np.testing.assert_array_equal(session.run(["embedding"], feed())[0], expected)
        assert session.opened.get_session_options().intra_op_num_threads == threads
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert session.get_outputs()[0].shape == ["n", DIM]
    assert session.get_modelmeta().custom_metadata_map == {}


def test_what_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be loaded"):
        open_session(tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match=r"gone\.onnx cannot be loaded"):
        open_session(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="yolo cannot be loaded"):
        open_session(b"no graph", name="yolo")


def test_a_pickled_session_is_opened_where_it_is_used(graph):
    session = open_session(graph)
    again = pickle.loads(pickle.dumps(session))
    np.testing.assert_array_equal(again.run(None, feed())[0], session.run(None, feed())[0])


FORK = """
import os, sys
import numpy as np
from cliplet.encoders.sessions import open_session

session = open_session(sys.argv[1], 4)
ids = np.array([[2, 5, 6, 3]], dtype=np.int64)
feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
before = session.run(None, feed)[0]
child = os.fork()
if not child:
    if sys.argv[2] == "use":
        assert (session.run(None, feed)[0] == before).all()
    elif sys.argv[2] == "drop":
        del session
    os._exit(7)  # as multiprocessing's and DataLoader's workers do: ONNX Runtime itself hangs at another exit
assert (session.run(None, feed)[0] == before).all()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("what", ["use", "drop"])
def test_a_forked_process_opens_its_own(graph, what):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, graph, what], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout.strip(), done.stderr) == ("7", "")
