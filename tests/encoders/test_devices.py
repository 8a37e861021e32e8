"""Where a model computes and in which precision: names, the choice, errors before work, halved batches."""

import os
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, save

import cliplet
from cliplet.cli.main import cli
from cliplet.encoders import providers
from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.cache import CachedEncoder, EmbeddingCache
from cliplet.encoders.card import ModelCard
from cliplet.encoders.devices import Device, read_device, stored_precision
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.providers import choose_provider, computes_in_integers
from cliplet.encoders.sessions import CPU, open_session, start_provider
from cliplet.errors import ClipletError, DeviceMemoryError, InputError
from cliplet.scoring.scorer import Scorer
from cliplet.versions import versions
from tests.tiny_model import build_tiny_model

PHOTOS = [np.full((9, 9, 3), 20 * i, np.uint8) for i in range(12)]
TEXTS = ["a dog", "a red cat", "the grass", "a car", "two men on the beach"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("devices") / "model")


def test_names_of_devices_are_read():
    assert [str(read_device(t)) for t in ("auto", "CPU", " cuda ", "cuda:1", "mps", "openvino")] == [
        "auto", "cpu", "cuda", "cuda:1", "mps", "openvino"
    ]  # fmt: skip
    assert read_device("cuda:12") == Device("cuda", 12)
    for text in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "", "cuda:1:2"):
        with pytest.raises(InputError, match="give auto, cpu, cuda, cuda:0"):
            read_device(text)


@pytest.mark.parametrize(
    ("spoken", "stored"),
    [
        ("fp32", {"fp32"}),
        ("fp16 weights, fp32 compute", {"fp16"}),
        ("image: int8 weights, fp32 compute but for int8 convolutions (w8a8); text: int8 weights", {"int8"}),
        ("image: fp16 weights, fp32 compute; text: int8 weights, fp32 compute", {"fp16", "int8"}),
    ],
)  # fmt: skip
def test_the_precision_of_a_folder_is_that_of_its_weights(spoken, stored):
    assert stored_precision(spoken) == stored


# ---------------------------------------------------------------- ONNX Runtime
class Runtime:
    """Stands for an ONNX Runtime and a machine: what its wheel has, and what starts."""

    def __init__(self, monkeypatch, has=(), starts=(), system="Linux"):
        self.tried: list[tuple[str, dict[str, str]]] = []
        self.starts = starts
        monkeypatch.setattr(providers, "available_providers", lambda: [*has, CPU])
        monkeypatch.setattr(providers, "start_provider", self.start)
        monkeypatch.setattr(providers.platform, "system", lambda: system)

    def start(self, provider, options):
        self.tried.append((provider, dict(options)))
        return None if provider in self.starts else "no such device"


CUDA, COREML, DML, OPENVINO = (f"{n}ExecutionProvider" for n in ("CUDA", "CoreML", "Dml", "OpenVINO"))


@pytest.mark.parametrize(
    ("system", "has", "starts", "expected"),
    [
        ("Linux", (OPENVINO, CUDA), (OPENVINO, CUDA), "cuda:0"),
        ("Linux", (OPENVINO, CUDA), (OPENVINO,), "openvino"),
        ("Linux", (CUDA,), (), "cpu"),
        ("Darwin", (COREML,), (COREML,), "coreml"),
        ("Windows", (DML, OPENVINO), (DML, OPENVINO), "directml:0"),
        ("Linux", (), (), "cpu"),
    ],
)
def test_auto_takes_the_first_that_starts(monkeypatch, system, has, starts, expected):
    Runtime(monkeypatch, has, starts, system)
    choice = choose_provider("auto")
    assert choice.device == expected
    assert choice.accelerated == (expected != "cpu")


def test_a_number_goes_to_the_provider(monkeypatch):
    runtime = Runtime(monkeypatch, (CUDA,), (CUDA,))
    assert choose_provider("cuda:2").device == "cuda:2"
    assert runtime.tried[0][0] == CUDA
    assert runtime.tried[0][1]["device_id"] == "2"


@pytest.mark.parametrize(
    ("device", "system", "has", "message"),
    [
        ("cuda", "Linux", (), "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
        ("openvino", "Linux", (CUDA,), "pip install onnxruntime-openvino"),
        ("directml", "Windows", (), "pip install onnxruntime-directml"),
        ("cuda:3", "Linux", (CUDA,), "device cuda:3: ONNX Runtime's CUDAExecutionProvider does not start here (no"),
        ("mps", "Linux", (), "device mps exists on macOS alone, not on Linux"),
        ("directml", "Linux", (), "device directml exists on Windows alone"),
        ("gpu", "Linux", (), "device 'gpu': give auto"),
    ],
)  # fmt: skip
def test_a_missing_device_is_one_line_that_says_what_to_do(monkeypatch, folder, device, system, has, message):
    Runtime(monkeypatch, has, (), system)
    with pytest.raises(InputError) as error:
        cliplet.load(folder, device)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_auto_leaves_graphs_of_integers_on_the_cpu(monkeypatch, tmp_path):
    Runtime(monkeypatch, (CUDA,), (CUDA,))
    graphs = {}
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])
        taken = TensorProto.FLOAT if kind == "QuantizeLinear" else TensorProto.UINT8
        given = TensorProto.UINT8 if kind == "QuantizeLinear" else TensorProto.FLOAT
        x, y = helper.make_tensor_value_info("x", taken, [1]), helper.make_tensor_value_info("y", given, [1])
        graph = helper.make_graph([helper.make_node(kind, ["x", "s"], ["y"])], "g", [x], [y], [scale])
        graphs[kind] = tmp_path / f"{kind}.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), graphs[kind])
    assert computes_in_integers(graphs["QuantizeLinear"])
    assert not computes_in_integers(graphs["DequantizeLinear"])  # stored in 8 bits, computed in 32
    assert choose_provider("auto", graphs.values()).device == "cpu"
    assert choose_provider("auto", [graphs["DequantizeLinear"]]).device == "cuda:0"
    assert choose_provider("cuda", graphs.values()).device == "cuda:0"  # asked for by name


def test_the_packaged_model_computes_in_integers():
    packaged = cliplet.load().folder
    assert computes_in_integers(packaged / "image.onnx")


def test_a_provider_that_is_not_there_is_no_silent_cpu(folder):
    """ONNX Runtime itself goes on with the CPU and a warning."""
    assert start_provider(CPU) is None
    with pytest.warns(UserWarning, match="not in available provider names"):
        assert "missing" in str(start_provider("CUDAExecutionProvider"))
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(ClipletError, match="cannot be run by CUDAExecutionProvider"),
    ):
        open_session(folder / "text.onnx", provider="CUDAExecutionProvider")


def test_an_onnx_runtime_without_files_is_said(monkeypatch, folder):
    """What pip leaves when one of two of its wheels is removed: an empty module."""
    import sys
    import types

    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(ClipletError, match="onnxruntime has lost its files.*cliplet models doctor"):
        open_session(folder / "text.onnx")
    assert providers.providers_here() == {}


def test_sessions_open_on_the_provider_that_was_chosen(monkeypatch, folder):
    """Without one here: what ONNX Runtime is given, and what the encoder says of itself."""
    Runtime(monkeypatch, (CUDA,), (CUDA,))
    given = []

    class FakeSession(onnxruntime.InferenceSession):
        def __init__(self, model, sess_options, providers, **more):
            given.append((providers, sess_options.intra_op_num_threads, more))
            super().__init__(model, sess_options, providers=[CPU])

        def get_providers(self):
            return [CUDA, CPU]

    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    encoder = cliplet.load(folder, "cuda:1")
    assert not given
    assert (encoder.device, encoder.provider, encoder.numerics) == ("cuda:1", CUDA, CUDA)
    assert (encoder.batch_size, encoder.tower_threads) == (64, 1)
    result = Scorer(encoder).score(PHOTOS[:2], TEXTS[:2])
    assert (result.provenance["device"], result.provenance["provider"]) == ("cuda:1", CUDA)
    assert [g[0][0] for g in given] == [(CUDA, {"device_id": "1", "use_tf32": "0"})] * 2
    assert all(g[0][1] == CPU and g[1] == 0 and g[2] == {"enable_fallback": 0} for g in given)
    encoder.to("cpu")
    assert (encoder.device, encoder.provider, encoder.numerics) == ("cpu", CPU, "")


def test_another_precision_than_the_folders_names_export(folder):
    assert cliplet.load(folder, precision="fp32").card.precision == "fp32"
    for precision in ("int8", "fp16", "bf16"):
        with pytest.raises(
            InputError, match=rf"tiny-0 is a model folder.*{precision}.*cliplet export MODEL OUT"
        ):
            cliplet.load(folder, precision=precision)
        with pytest.raises(InputError, match="cliplet export"):
            Scorer(OnnxEncoder(folder), precision=precision)


def test_a_users_own_encoder_stays_where_it_is():
    class Own:
        card = ModelCard("own", 2)

        def encode_images(self, images):
            return np.ones((len(images), 2))

        def encode_texts(self, texts):
            return np.ones((len(texts), 2))

    assert Scorer(Own(), device="auto", precision="fp32").encoder.device == "cpu"
    with pytest.raises(InputError, match="own computes on cpu alone, not on cuda"):
        Scorer(Own(), device="cuda")
    with pytest.raises(InputError, match="own computes in fp32 alone, not in bf16"):
        Scorer(Own(), precision="bf16")


@pytest.mark.parametrize(
    "command",
    [
        ["score", "photo.jpg", "a dog"], ["compare", "a.json", "b.json"], ["explain", "photo.jpg", "a dog"],
        ["evaluate", "retrieval", "a.json"], ["evaluate", "human", "table", "--data", "x"],
        ["evaluate", "zeroshot", "x"], ["evaluate", "pairs", "x"], ["calibrate", "packaged", "--captions", "x"],
        ["index", "x", "--out", "o.lance"], ["search", "o.lance", "a dog"], ["serve"],
        ["caption", "run", "model", "photo.jpg"], ["regions", "photo.jpg"],
    ],
)  # fmt: skip
def test_every_command_refuses_a_wrong_device_before_anything_else(command):
    result = CliRunner().invoke(cli, [*command, "--device", "gpu"])
    assert isinstance(result.exception, InputError)
    assert "device 'gpu': give auto" in str(result.exception)


def test_the_command_line_ends_with_status_2_and_one_line(folder, tmp_path):
    import subprocess
    import sys

    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.jpg")
    run = [
        sys.executable,
        "-m",
        "cliplet",
        "score",
        str(tmp_path / "photo.jpg"),
        "a dog",
        "--model",
        str(folder),
    ]
    for options, said in (
        (["--device", "gpu"], "device 'gpu'"),
        (["--device", "mps"], "device mps exists on macOS alone"),
        (["--precision", "bf16"], "cliplet export"),
    ):
        if sys.platform == "darwin" and "mps" in options:
            continue
        done = subprocess.run([*run, *options], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr


def test_provenance_says_where_and_how(folder):
    facts = Scorer(folder, device="cpu").score(PHOTOS[:1], ["a dog"]).provenance
    assert (facts["device"], facts["provider"], facts["precision"]) == ("cpu", CPU, "fp32")
    from cliplet.evaluation.model_runs import model_facts

    assert {"device": "cpu", "provider": CPU}.items() <= model_facts(OnnxEncoder(folder)).items()


def test_versions_name_the_wheel_that_replaces_onnxruntime(monkeypatch):
    def version(name):
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1.31.1" if name == "onnxruntime-gpu" else real(name)

    real = metadata.version
    facts = "onnxruntime.capi.build_and_package_info"
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.delitem(sys.modules, facts, raising=False)
    assert versions()["onnxruntime"] == "1.31.1 (onnxruntime-gpu)"
    monkeypatch.setitem(
        sys.modules, facts, SimpleNamespace(__version__="1.31.2", package_name="onnxruntime-gpu")
    )
    assert versions()["onnxruntime"] == "1.31.2 (onnxruntime-gpu)"


def test_versions_of_what_is_in_use_are_those_installed():
    assert {"numpy", "PIL", "onnxruntime", "tokenizers"} <= set(sys.modules)
    found = versions()
    for name in ("cliplet", "numpy", "pillow", "onnxruntime", "tokenizers"):
        assert found[name] == metadata.version(name)


BY_OPENVINO = """
import sys
import numpy as np
import cliplet
encoder = cliplet.load(sys.argv[1], sys.argv[2])
photos = [np.full((40, 40, 3), 20 * i, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None] for i in range(12)]
np.savez(sys.argv[3], images=encoder.encode_images(photos), texts=encoder.encode_texts(["a dog", "a red cat", "two"]))
print(encoder.device, encoder.provider)
"""


@pytest.mark.skipif(
    "CLIPLET_OPENVINO_PYTHON" not in os.environ, reason="names no Python with onnxruntime-openvino"
)
def test_openvino_gives_the_cpus_embeddings(folder, tmp_path):
    """$CLIPLET_OPENVINO_PYTHON is a Python of an environment of its own, with onnxruntime-openvino and tokenizers."""
    import subprocess

    found = {}
    for device, said in (
        ("cpu", f"cpu {CPU}"),
        ("openvino", f"openvino {OPENVINO}"),
        ("auto", f"openvino {OPENVINO}"),
    ):
        done = subprocess.run(
            [os.environ["CLIPLET_OPENVINO_PYTHON"], "-c", BY_OPENVINO, folder, device, tmp_path / "rows.npz"],
            capture_output=True, text=True, timeout=120,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(cliplet.__file__).parents[1])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == said
        with np.load(tmp_path / "rows.npz") as rows:
            found[device] = rows["images"], rows["texts"]
    for device in ("openvino", "auto"):
        for expected, rows in zip(found["cpu"], found[device], strict=True):
            np.testing.assert_allclose(rows, expected, atol=1e-5)


# ---------------------------------------------------------------- memory
class Small(BatchedEncoder):
    """Vectors of a photo's mean and a text's length, by a device that holds only so many at once."""

    def __init__(self, holds: int, bad: float = -1.0) -> None:
        self.card = ModelCard("small", 2, fingerprint_of=lambda: "0123456789abcdef")
        self.holds, self.bad, self.batches = holds, bad, []

    def prepare_image(self, source):
        return float(np.asarray(source).mean())

    def embed_images(self, prepared):
        self.batches.append(len(prepared))
        if len(prepared) > self.holds or self.bad in prepared:
            raise DeviceMemoryError("16 GiB wanted, 1 GiB is there")
        return np.array([[p + 1.0, 4.0] for p in prepared])

    def tokenize(self, texts):
        return [list(text) for text in texts], np.zeros(len(texts), dtype=bool)

    def embed_tokens(self, tokens):
        if len(tokens) > self.holds:
            raise DeviceMemoryError("no")
        return np.array([[1.0, len(t)] for t in tokens])


@pytest.mark.parametrize("holds", [1, 2, 3, 7, 100])
def test_batches_are_halved_until_they_fit(holds):
    small, large = Small(holds), Small(100)
    small.batch_size = large.batch_size = 8
    np.testing.assert_array_equal(small.encode_images(PHOTOS), large.encode_images(PHOTOS))
    np.testing.assert_array_equal(small.encode_texts(TEXTS * 4), large.encode_texts(TEXTS * 4))
    failed = sum(b > holds for b in small.batches)
    assert failed <= 3  # what fits is remembered
    assert small.encode_here(PHOTOS, TEXTS)[0].shape == (12, 2)


def test_a_photo_that_does_not_fit_alone_is_reported():
    encoder = Small(100, bad=60.0)
    vectors, reasons = encoder.encode_images_safely(PHOTOS)
    assert list(reasons) == [3]
    assert reasons[3] == "one image alone does not fit the memory of cpu: 16 GiB wanted, 1 GiB is there"
    assert np.isnan(vectors).any(axis=1).tolist() == [i == 3 for i in range(12)]
    result = Scorer(encoder).score(PHOTOS, ["a dog"] * 12)
    assert [bool(f) for f in result.failures] == [i == 3 for i in range(12)]


def test_onnx_runtimes_own_failure_to_allocate_is_known(tmp_path):
    """A graph whose output is larger than any address space."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [1 << 20, 1 << 20, 1 << 17])],
    )  # fmt: skip
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "g.onnx",
    )
    session = open_session(tmp_path / "g.onnx")
    with pytest.raises(DeviceMemoryError):
        session.run(None, {"x": np.ones(1, np.float32)})


# ---------------------------------------------------------------- kept embeddings
def test_what_changes_numbers_changes_the_key(tmp_path):
    class Towers(Small):
        how = ""

        @property
        def numerics(self):
            return self.how

    made = []
    for how in ("", "cpu bf16", "cuda bf16", "", "cpu bf16"):
        inner = Towers(100)
        inner.how = how
        CachedEncoder(inner, EmbeddingCache(tmp_path)).encode_images(PHOTOS)
        made.append(sum(inner.batches))
    assert made == [12, 12, 12, 0, 0]
