"""How SPICE's Java program is run and read, with a stand-in for Java; with the real one as far as it is here.

CoreNLP's models (384 MB) are on few machines: where they are, the last test runs SPICE itself, elsewhere it is skipped
and says what is missing.
"""

import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cliplet.errors import InputError, ModelError
from cliplet.metrics import spice as module
from cliplet.metrics._java import find_java, run_java
from cliplet.metrics.registry import reference_scores
from cliplet.metrics.spice import CORENLP_JARS, SpiceOptions, check_spice, spice
from cliplet.scoring.file import score_file
from cliplet.statistics.corpus import corpus_interval

# A Java that is a Python script: it knows -version and --list-modules, and else writes down how it was called and
# does as its environment says.
FAKE_JAVA = r"""#!{python} -IS
import json, os, subprocess, sys, time
a = sys.argv[1:]
if a == ["-version"]:
    print('openjdk version "{version}" 2025-04-15', file=sys.stderr)
    sys.exit(0)
if a == ["--list-modules"]:
    print("java.base@17\n{module}@17")
    sys.exit(0)
print("Parsing reference captions — référence", file=sys.stderr, flush=True)
given = json.load(open(next(x for x in a if x.endswith("captions.json")), encoding="ascii"))
made = next(x for x in a if x.endswith("scores.json"))
json.dump({{"arguments": a, "given": given, "environment": dict(os.environ)}}, open({log!r}, "w"))
mode = os.environ.get("FAKE_JAVA", "")
if mode == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open({log!r} + ".child", "w").write(str(child.pid))
    time.sleep(60)
if mode == "crash":
    print("Exception in thread main java.lang.OutOfMemoryError: Java heap space", file=sys.stderr)
    sys.exit(3)
if mode == "silent":
    sys.exit(0)
def scores(f):
    return {{"f": f, "pr": f, "re": f, "fn": 1.0, "numImages": 1}}
rows = [
    {{"image_id": row["image_id"],
      "scores": {{"All": scores(None if not row["test"] else len(row["test"].split()) / 10), "Object": scores(0.5)}}}}
    for row in reversed(given)
]
text = {{"garbage": "<html>", "short": json.dumps(rows[:1]), "shape": '{{"a": 1}}'}}.get(mode, json.dumps(rows))
open(made, "w", encoding="utf-8").write(text)
"""

CAPTIONS = [["a", "brown", "dog"], ["żółw", "🐢"], []]
REFERENCES = [[["a", "dog"], ["the", "dog", "runs"]], [["a", "turtle"]], [["nothing"]]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Java 17 and for SPICE's folder; gives the file in which it writes how it was called."""
    folder = tmp_path / "spice"
    (folder / "lib").mkdir(parents=True)
    for name in CORENLP_JARS:
        (folder / "lib" / name).touch()
    monkeypatch.setattr(module, "_spice_folder", lambda: folder)
    monkeypatch.setenv("CLIPLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FAKE_JAVA", raising=False)
    log = tmp_path / "log.json"
    use_java(tmp_path, monkeypatch, log, version="17.0.15")
    return log


def use_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path, version: str, module: str = "jdk.compiler"
) -> None:
    command = tmp_path / "bin" / "java"
    command.parent.mkdir(exist_ok=True)
    command.write_text(
        FAKE_JAVA.format(python=sys.executable, version=version, log=str(log), module=module),
        encoding="utf-8",
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("CLIPLET_JAVA", raising=False)
    monkeypatch.setenv("PATH", str(command.parent) + os.pathsep + os.environ["PATH"])


def test_scores_come_back_in_order(fake: Path) -> None:
    result = spice(CAPTIONS, REFERENCES)
    np.testing.assert_array_equal(result.per_caption, [0.3, 0.2, np.nan])
    assert result.corpus == pytest.approx(0.25)
    assert list(result.subsets) == ["Object"]
    assert result.subsets["Object"].tolist() == [0.5, 0.5, 0.5]


def test_java_is_called_with_our_limits(fake: Path, tmp_path: Path) -> None:
    spice(CAPTIONS, REFERENCES, SpiceOptions(heap="3G", threads=2, cache=tmp_path / "parses"))
    called = json.loads(fake.read_text())
    arguments, environment = called["arguments"], called["environment"]
    assert "-Xmx3G" in arguments
    assert arguments[arguments.index("-cache") + 1] == str(tmp_path / "parses")
    assert (tmp_path / "parses").is_dir()
    assert arguments[arguments.index("-threads") + 1] == "2"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert "java.base/java.lang=ALL-UNNAMED" in environment["JDK_JAVA_OPTIONS"]
    assert [row["test"] for row in called["given"]] == ["a brown dog", "żółw 🐢", ""]
    assert called["given"][0]["refs"] == ["a dog", "the dog runs"]


def test_text_is_tokenised_as_pycocoevalcap_does(fake: Path) -> None:
    spice(["A brown dog, it's running!"], [["The dog runs.", ["a", "dog"]]])
    (row,) = json.loads(fake.read_text())["given"]
    assert row["test"] == "a brown dog it 's running"
    assert row["refs"] == ["the dog runs", "a dog"]


@pytest.mark.parametrize(
    ("version", "direct"), [("1.8.0_402", True), ("11.0.2", True), ("17.0.15", False), ("25", False)]
)
def test_each_java_is_used_as_it_can_be(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, direct: bool
) -> None:
    use_java(tmp_path, monkeypatch, fake, version)
    spice(CAPTIONS, REFERENCES)
    arguments = json.loads(fake.read_text())["arguments"]
    assert ("edu.anu.spice.SpiceScorer" in arguments) is direct
    assert ("-out" in arguments) is direct
    assert any(a.endswith("SpiceToJson.java") and Path(a).is_file() for a in arguments) is not direct


def test_a_hanging_java_is_ended_with_all_that_it_started(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_JAVA", "hang")
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"did not finish in 1\.5 s[^$]*référence"):
        spice(CAPTIONS, REFERENCES, SpiceOptions(timeout=1.5))
    assert time.monotonic() - began < 20
    child = int(Path(f"{fake}.child").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("crash", r"failed with status 3[^$]*OutOfMemoryError[^$]*larger heap"),
        ("silent", "without writing its scores"),
        ("garbage", "something else than its scores"),
        ("short", "something else than its scores"),
        ("shape", "something else than its scores"),
    ],
)
def test_failures_are_said_with_their_cause(
    fake: Path, monkeypatch: pytest.MonkeyPatch, mode: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_JAVA", mode)
    with pytest.raises(ModelError, match=message):
        spice(CAPTIONS, REFERENCES)


def test_everything_that_is_missing_is_said_before_any_work(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_spice() == []
    (tmp_path / "spice" / "lib" / CORENLP_JARS[1]).unlink()
    monkeypatch.setenv("CLIPLET_JAVA", str(tmp_path / "no-java"))
    missing = check_spice()
    assert len(missing) == 2
    assert "default-jdk-headless" in missing[0]
    assert CORENLP_JARS[1] in missing[1]
    assert CORENLP_JARS[0] not in missing[1]
    assert "get_stanford_models" in missing[1]
    with pytest.raises(ModelError, match=r"SPICE cannot run here.*default-jdk-headless.*models\.jar"):
        spice(CAPTIONS, REFERENCES)
    monkeypatch.setattr(module, "_spice_folder", lambda: None)
    assert "cliplet[meteor]" in check_spice()[1]
    assert not fake.exists(), "Java ran"


def test_spider_is_the_mean_of_spice_and_cider(fake: Path) -> None:
    """One run of Java for both; SPICE without a score of a caption leaves it out, and SPIDEr has none there."""
    captions = ["A brown dog runs.", "two dogs play", "a red car", ""]
    references = [["a brown dog runs"], ["two dogs run", "dogs play"], ["a blue car"], ["nothing"]]
    images = ["a", "b", "c", "d"]
    names = ["cider", "spice", "spider"]
    found = reference_scores(captions, references, images, names)
    spice_, cider = found.per_caption["SPICE"], found.per_caption["CIDEr-D"]
    np.testing.assert_array_equal(spice_, [0.4, 0.3, 0.3, np.nan])  # words / 10, as the stand-in says
    assert cider.max() > 1
    np.testing.assert_array_equal(found.per_caption["SPIDEr"], (spice_ + cider) / 2)
    corpus = {name: statistic.corpus() for name, statistic in found.statistics.items()}
    assert corpus["SPIDEr"] == (corpus["SPICE"] + corpus["CIDEr-D"]) / 2
    assert corpus["SPICE"] == pytest.approx(1 / 3)
    assert corpus["CIDEr-D"] == pytest.approx(cider.mean())
    fake.unlink()
    alone = reference_scores(captions, references, images, ["spider"])
    assert fake.exists()
    np.testing.assert_array_equal(alone.per_caption["SPIDEr"], found.per_caption["SPIDEr"])
    assert list(alone.per_caption) == ["SPIDEr"]
    low = corpus_interval(found.statistics["SPIDEr"], np.arange(4)).low
    assert low < corpus["SPIDEr"]


def test_spice_and_spider_run_java_once(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(module, "spice", lambda *given: runs.append(given) or spice(*given))
    reference_scores(["a dog"], [["a dog"]], ["a"], ["spider", "spice"])
    assert len(runs) == 1


def test_spice_and_spider_in_a_file(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"1.jpg": "a dog runs", "2.jpg": "a red car", "3.jpg": "two cats"}')
    (tmp_path / "r.json").write_text(
        '{"1.jpg": ["a dog is running"], "2.jpg": ["a red car"], "3.jpg": ["cats"]}'
    )
    table = score_file(tmp_path / "c.json", None, None, tmp_path / "r.json", ["spice", "spider", "cider"])
    assert list(table.intervals) == ["CIDEr-D", "SPICE", "SPIDEr"]
    assert [row["spice"] for row in table.rows] == [0.3, 0.3, 0.2]
    for row in table.rows:
        assert row["spider"] == pytest.approx((row["spice"] + row["cider_d"]) / 2, abs=1e-6)


def test_with_punctuation_spice_gets_it_too(fake: Path) -> None:
    reference_scores(["A dog, running."], [["A dog runs."]], ["a"], ["spice"], tokenizer="ptb-punctuation")
    (row,) = json.loads(fake.read_text())["given"]
    assert (row["test"], row["refs"]) == ("a dog , running .", ["a dog runs ."])


def test_a_java_without_compiler_is_enough_up_to_14(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_java(tmp_path, monkeypatch, fake, "11.0.2", module="java.xml")
    assert check_spice() == []
    use_java(tmp_path, monkeypatch, fake, "17.0.15", module="java.xml")
    (missing,) = check_spice()
    assert "Java 17" in missing
    assert "8 to 14" in missing


def test_a_java_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "java"
    command.write_text("#!/bin/sh\necho nothing\n")
    command.chmod(0o755)
    monkeypatch.setenv("CLIPLET_JAVA", str(command))
    assert any("is it Java?" in line for line in check_spice())


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="has no reference"):
        spice([["a"]], [[]])


def test_the_program_around_javascript_reaches_spice(tmp_path: Path) -> None:
    """On a Java that has a compiler: our launcher starts the real SPICE, which asks for CoreNLP, or runs."""
    java, folder = find_java(), module._spice_folder()
    if java is None or not java.has_compiler or folder is None:
        pytest.skip("needs a JDK of version 11 or later and pycocoevalcap")
    if not check_spice():
        pytest.skip("SPICE is complete here and has its own test")
    given = tmp_path / "captions.json"
    given.write_text('[{"image_id": 0, "test": "a dog", "refs": ["a dog"]}]')
    jar, launcher = folder / "spice-1.0.jar", Path(module.__file__).with_name("SpiceToJson.java")
    with pytest.raises(ModelError, match="NoClassDefFoundError: edu/stanford/nlp"):
        run_java(
            ["-cp", str(jar), str(launcher), str(tmp_path / "out.json"), str(given), "-silent"],
            java=java, what="SPICE", timeout=120,
        )  # fmt: skip


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_spice_itself() -> None:
    if missing := check_spice():
        pytest.skip("SPICE cannot run here. Missing: " + "; ".join(missing))
    result = spice([["a", "brown", "dog", "runs"]], [[["a", "brown", "dog", "runs"]]])
    assert result.corpus == pytest.approx(1.0)
