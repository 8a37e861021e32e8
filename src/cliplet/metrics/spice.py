"""SPICE (Anderson et al., ECCV 2016): the F-score of the objects, attributes and relations that captions name.

This runs the Java program that its authors published and pycocoevalcap ships; it parses captions with Stanford
CoreNLP 3.6.0, a download of 384 MB. There is no other implementation of SPICE, and cliplet calls nothing else so.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cliplet.errors import ModelError
from cliplet.metrics._java import Java, find_java, run_java
from cliplet.metrics.base import Corpus, ReferenceScores
from cliplet.metrics.meteor.tables import cache_root
from cliplet.metrics.ngrams import Caption, Floats, check_captions
from cliplet.metrics.tokenizer.ptb import tokenize

CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_LAST_WITH_JAVASCRIPT = 14  # Java up to here has the engine that SPICE's own way to write its scores needs

# what SPICE's cache looks into, which Java allows only when asked since version 16; Java 8 ignores this variable
_OPENED = ("lang", "util", "util.concurrent", "math", "net", "text", "io")
_ENVIRONMENT = {"JDK_JAVA_OPTIONS": " ".join(f"--add-opens=java.base/java.{p}=ALL-UNNAMED" for p in _OPENED)}


@dataclass(frozen=True)
class SpiceOptions:
    """How the Java program is run."""

    heap: str = "8G"
    """Java's largest heap (-Xmx): 8G as in pycocoevalcap."""
    timeout: float = 7200.0
    """Seconds after which it is ended."""
    threads: int | None = None
    """Its threads; None: as many as the machine has processors."""
    cache: Path | None = None
    """Folder that keeps parsed references for later runs; None: ``spice`` in cliplet's cache folder."""


@dataclass(frozen=True)
class SpiceScore:
    """SPICE, in [0, 1]."""

    corpus: float
    """Mean over the captions that have a score."""
    per_caption: Floats
    """[captions] F-score over all tuples; NaN where neither candidate nor references name anything."""
    subsets: dict[str, Floats]
    """[captions] F-score over tuples of one kind: Object, Attribute, Relation, Cardinality, Color, Size."""


def check_spice() -> list[str]:
    """What SPICE needs and this machine lacks, each with what to do; empty when it can run."""
    missing = []
    try:
        java = find_java()
    except ModelError as error:
        missing.append(str(error))
    else:
        if java is None:
            missing.append(
                "Java, version 8 or later: apt install default-jdk-headless, or set CLIPLET_JAVA or JAVA_HOME"
            )
        elif java.version > _LAST_WITH_JAVASCRIPT and not java.has_compiler:
            missing.append(
                f"a Java that SPICE can use: Java {java.version} at {java.command} has neither the JavaScript engine "
                "that SPICE writes its scores with nor the compiler that cliplet goes around that with: install a "
                "JDK (apt install default-jdk-headless) or Java 8 to 14, or set CLIPLET_JAVA to one"
            )
    folder = _spice_folder()
    if folder is None:
        missing.append("SPICE's program, which comes with pycocoevalcap: pip install 'cliplet[meteor]'")
    else:
        lacking = [name for name in CORENLP_JARS if not (folder / "lib" / name).is_file()]
        if lacking:
            missing.append(
                f"{' and '.join(lacking)} in {folder / 'lib'}: python -m pycocoevalcap.spice.get_stanford_models "
                "downloads them (384 MB)"
            )
    return missing


def spice(
    candidates: Sequence[str | Caption],
    references: Sequence[Sequence[str | Caption]],
    options: SpiceOptions | None = None,
) -> SpiceScore:
    """SPICE of candidates, each against the references of its image.

    A caption is its text, which is tokenised here, or its PTB tokens; ``references[i]`` holds at least one.

    Reference implementation: pycocoevalcap 1.2 ``Spice()``, which runs the same program on the same text. One known
    deviation: captions without a score (NaN) are left out of the mean, as the program itself does, where
    pycocoevalcap's mean becomes NaN.

    Raises:
        InputError: the numbers of candidates and images differ, or an image has no reference.
        ModelError: something is missing (``check_spice`` says what), or the program failed or took too long.
    """
    words, reference_words = _tokens(candidates), [_tokens(group) for group in references]
    check_captions(words, reference_words)
    if missing := check_spice():
        raise ModelError("SPICE cannot run here. Missing: " + "; ".join(missing))
    java, folder = find_java(), _spice_folder()
    assert java is not None
    assert folder is not None
    options = options or SpiceOptions()
    # numbers as names: nothing of the caller's can collide or be misread
    rows = [
        {"image_id": k, "test": " ".join(candidate), "refs": [" ".join(words) for words in group]}
        for k, (candidate, group) in enumerate(zip(words, reference_words, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="cliplet-spice-") as work:
        given, made = Path(work, "captions.json"), Path(work, "scores.json")
        given.write_text(json.dumps(rows, ensure_ascii=True), encoding="ascii")  # readable in any locale
        run_java(
            _arguments(java, folder, given, made, options),
            java=java,
            what="SPICE",
            timeout=options.timeout,
            environment=_ENVIRONMENT,
        )
        return _read_scores(made, len(rows))


def look() -> tuple[str, list[str]]:
    """What SPICE has here, and what it lacks."""
    missing = check_spice()
    java = find_java()
    return f"Java {java.version} at {java.command}" if java else "", missing


def columns(corpus: Corpus) -> ReferenceScores:
    """SPICE for the table of metrics."""
    found = ReferenceScores()
    found.add("SPICE", corpus.once(of_corpus).per_caption)
    return found


def of_corpus(corpus: Corpus) -> SpiceScore:
    """SPICE of a corpus, each caption tokenised on its own; for ``corpus.once``, since Java takes its time."""
    references = [_tokens(group, corpus.tokenizer) for group in corpus.references]
    return spice(_tokens(corpus.captions, corpus.tokenizer), references)


def _tokens(captions: Sequence[str | Caption], tokenizer: str = "ptb") -> list[Caption]:
    return [tokenize(caption, tokenizer) if isinstance(caption, str) else caption for caption in captions]


def _spice_folder() -> Path | None:
    """Where pycocoevalcap keeps SPICE."""
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, "spice", "spice-1.0.jar").is_file():
            return Path(folder, "spice")
    return None


def _arguments(java: Java, folder: Path, given: Path, made: Path, options: SpiceOptions) -> list[str]:
    cache = options.cache or cache_root() / "spice"
    cache.mkdir(parents=True, exist_ok=True)
    own = [str(given), "-cache", str(cache), "-subset", "-silent"]
    if options.threads is not None:
        own += ["-threads", str(options.threads)]
    start = [f"-Xmx{options.heap}", "-Dfile.encoding=UTF-8", "-cp", f"{folder / 'spice-1.0.jar'}"]
    if java.version <= _LAST_WITH_JAVASCRIPT:
        return [*start, "edu.anu.spice.SpiceScorer", *own, "-out", str(made)]
    return [*start, str(Path(__file__).with_name("SpiceToJson.java")), str(made), *own]


def _read_scores(path: Path, count: int) -> SpiceScore:
    """The program's JSON: a list of {"image_id": 0, "scores": {"All": {"f": 0.5, "pr": ..., "re": ...}, ...}}."""
    try:
        rows = {row["image_id"]: row["scores"] for row in json.loads(path.read_text(encoding="utf-8"))}
        kinds = list(rows[0])
        scores = {
            kind: np.array([_number(rows[k][kind]["f"]) for k in range(count)], dtype=np.float64)
            for kind in kinds
        }
        everything = scores.pop("All")
    except OSError as error:
        raise ModelError(f"SPICE ended without writing its scores ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"SPICE wrote something else than its scores: {error!r}") from error
    known = everything[~np.isnan(everything)]
    return SpiceScore(float(known.mean()) if len(known) else float("nan"), everything, scores)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
