"""The bench: every arm in every setting and seed, each in a folder of its own; a run goes on where it stopped."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import load_rgb
from cliplet.errors import ClipletError
from cliplet.evaluation.comparison import Columns, load_columns, save_columns
from cliplet.evaluation.drawn_pairs import drawn_pairs, write_drawn_pairs
from cliplet.evaluation.quartets import natural_quartets, quartet_inputs
from cliplet.files import write_atomically
from cliplet.models.config import to_dict
from cliplet.regions.registry import make_proposer
from cliplet.training.computed import computed
from cliplet.training.config import DataConfig
from cliplet.training.cost import pairs_row
from cliplet.training.dclip.config import DclipConfig, ZeroShotConfig, dclip_config, variant_config
from cliplet.training.dclip.cost import offered
from cliplet.training.dclip.data import RunData, read_labelled
from cliplet.training.dclip.finetuning import FineTuning
from cliplet.training.dclip.inputs import Captions, Floats, Ints, Photos
from cliplet.training.dclip.region_test import RegionTest
from cliplet.training.dclip.run import DclipRun
from cliplet.training.fit import make_accelerator
from cliplet.training.pairs import PairSet, fingerprint, read_pairs
from cliplet.training.run_folder import claim_folder

from .measure import Bench, Detail, agreement
from .recipe import Arm, Domain, Rows, Settings
from .start import make_start

RESULT, FACTS, START, BLIND, JUDGED = "result.npz", "facts.json", "start", "blind.json", "judged.json"
FREE = (
    "out", "features", "arms", "settings", "only", "seeds", "resamples", "judgements", "judged", "report",
)  # fmt: skip
"""Settings that may change when the bench goes on: what is done stays, and an arm is claimed by its own folder."""
KEPT_BACK = 0.1
"""Share of the training photos that choose."""
SURE, KINDS = 0.35, 80
"""Least score of a box that counts as seen, and the detector's kinds."""
DRAWN, NEAR, BANK = 50, 0.02, 200
"""Drawn pairs of each pattern, the share of pairs of photos that are near, and texts of a bank."""
PROBE = 2_000
"""Photos that the linear probe learns from, at most."""


def setting_of(settings: Settings, name: str) -> tuple[Domain, bool]:
    """Its domain, and whether it has few captions."""
    domain = next(d for d in settings.domains if name in (f"{d.name}-few", f"{d.name}-all"))
    return domain, name.endswith("-few")


def reported(settings: Settings, domain: Domain) -> bool:
    """Whether agreement with people is measured: it is about photos of people's daily life."""
    return settings.report and not domain.class_names


def configuration(settings: Settings, name: str, seed: int) -> DclipConfig:
    """The tuning run of a setting with all its arms as variants."""
    domain, few = setting_of(settings, name)
    out = Path(settings.out)
    arms = [a for a in settings.arms if a.fits(name)]
    run = str(out / f"{name}-draw{seed}")

    def placed(change: str) -> str:
        return change.replace("{run}", run).replace("{seed}", str(seed))

    values = {
        **settings.tuning,
        "name": f"{name}-{seed}", "out": run, "features": str(features(settings)),
        "base": str(out / START), "cpu": True, "seeds": [seed], "draw": seed, "held_out": KEPT_BACK,
        "captioned": float(domain.few) if few else 1.0, "train": to_dict(domain.train),
        "tests": [{"name": "test", **to_dict(domain.test)}],
        "variants": [{"name": a.name, "set": [placed(c) for c in a.set]} for a in arms],
    }  # fmt: skip
    photos = len(_captioned(domain.train))
    used = min(domain.few, photos) if few else photos - round(KEPT_BACK * photos)
    epochs = max(1, round(settings.steps / max(1, used // domain.batch_size)))
    stage = {**values.get("student_stage", {}), "batch_size": domain.batch_size, "epochs": epochs}
    return dclip_config({**values, "student_stage": stage, "evaluate_every": max(1, epochs // 5)})


def _captioned(data: DataConfig) -> set[int]:
    return set(read_pairs(data).photo_of.tolist()) - {-1}


def features(settings: Settings) -> Path:
    """Where what is computed once lies."""
    return Path(settings.features or Path(settings.out) / "features")


class Measured:
    """The present weights of a model in tuning, as :class:`~objectives.measure.Model`; what is before them is kept."""

    def __init__(self, tuning: FineTuning) -> None:
        self.tuning = tuning

    def _photos(self, photos: Sequence[Any]) -> Photos:
        return Photos.compute(self.tuning.learner, photos, self.tuning.folder)

    def images(self, photos: Sequence[Any]) -> Floats:
        """``[n, d]``."""
        return self._photos(photos).embeddings()

    def texts(self, texts: Sequence[str]) -> Floats:
        """``[n, d]``."""
        return Captions(self.tuning.learner, texts, self.tuning.folder).embeddings()

    def phrases(self, test: RegionTest, photos: Sequence[Any]) -> tuple[NDArray[Any], Ints]:
        """Right or wrong, and the photo ``[questions]``."""
        return test.wins(self.tuning.learner, self._photos(photos), self.texts)


class Place:
    """A setting and a seed: its data, its questions, its arms."""

    def __init__(self, settings: Settings, name: str, seed: int) -> None:
        self.settings, self.name = settings, name
        self.domain, _ = setting_of(settings, name)
        config = configuration(settings, name, seed)
        self.run = DclipRun(config)
        self.config = self.run.config
        self.questions = self._questions(self.run.data)

    def _questions(self, data: RunData) -> Bench:
        settings, domain = self.settings, self.domain
        classes = json.loads(Path(domain.class_names).read_text()) if domain.class_names else {}
        labelled = (
            read_labelled(ZeroShotConfig(photos=settings.classes, labels="name"))
            if settings.classes
            else None
        )
        train = read_pairs(domain.train)
        step = max(1, len(train.photos) // PROBE)
        probe = train.keep(np.arange(len(train.photos)) % step == 0)
        bench = Bench(
            domain.name, data.sets["test"], labelled, classes, probe, words_seed=settings.words_seed
        )
        if settings.detector and not classes:
            bench.kinds = self._kinds(probe), self._kinds(bench.test)
            spec = self.run.fine_tuning(self.config).base.encoder.card.image
            bench.phrases = RegionTest(
                bench.test, self.config.regions, features(settings), spec, words_seed=settings.words_seed
            )
            bench.details = self._details(bench.test)
        return bench

    def _details(self, test: PairSet) -> tuple[Detail, ...]:
        """Drawn pairs, and pairs of photos that the start finds alike whose captions name other colours or numbers."""
        folder = features(self.settings) / f"drawn-{DRAWN}-{fingerprint(test.photos)}"
        drawn = write_drawn_pairs(folder, drawn_pairs(test.photos, DRAWN))
        texts = quartet_inputs(drawn)[1]
        start = Measured(self.run.fine_tuning(self.config)).images(test.photos)
        natural = natural_quartets(test.names, test.captions, test.photo_of, start, near=NEAR)
        files = {name: folder / name for q in drawn for name in q.images}
        photos = dict(zip(test.names, test.photos, strict=True))
        return (
            Detail("drawn pairs", drawn, files, texts[:BANK]),
            Detail("natural quartets", natural, photos, test.captions[::5][:BANK]),
        )

    def _kinds(self, pairs: PairSet) -> NDArray[np.bool_]:
        """Which of the detector's kinds it sees on each photo ``[photos, 80]``; kept."""
        detector = self.settings.detector
        file = features(self.settings) / f"kinds-{fingerprint([detector, *pairs.photos])}.npy"
        proposer = make_proposer(detector, SURE, 0.45)

        def compute(start: int, stop: int) -> NDArray[np.bool_]:
            there = np.zeros((stop - start, KINDS), dtype=bool)
            for row, (photo, name) in enumerate(
                zip(pairs.photos[start:stop], pairs.names[start:stop], strict=True)
            ):
                there[row, proposer.propose(load_rgb(photo), name).labels] = True
            return there

        return np.array(computed(file, len(pairs.photos), compute, 64, np.bool_, "kinds of things on photos"))

    def measure(self, folder: Path, arm: DclipConfig | None) -> None:
        """Ask a tuned model, or the start, all questions; once."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / RESULT).exists():
            columns = self.questions.columns(self._measured(folder, arm))
            if arm is None:
                write_atomically(folder / BLIND, json.dumps(self.questions.blind(), indent=2) + "\n")
            save_columns(folder / RESULT, columns)
        if reported(self.settings, self.domain) and not (folder / JUDGED).exists():
            found = agreement(
                self._measured(folder, arm), Path(self.settings.judgements), self.settings.judged
            )
            write_atomically(folder / JUDGED, json.dumps(found, indent=2) + "\n")

    def _measured(self, folder: Path, arm: DclipConfig | None) -> Measured:
        tuning = self.run.fine_tuning(arm or self.config)
        tuning.reset() if arm is None else tuning.load_tuned(folder, arm.student.average)
        tuning.base.model.eval()
        return Measured(tuning)

    def do(self, arm: Arm, seed: int) -> None:
        """Train and measure one arm, unless it was."""
        variant = next(v for v in self.config.variants if v.name == arm.name)
        one = variant_config(self.config, variant)
        folder = Path(self.config.out) / f"{arm.name}-seed{seed}"
        if (folder / FACTS).exists():
            self.measure(folder, one)
            return
        begun, cpu = time.perf_counter(), time.process_time()
        tuning = self.run.fine_tuning(one)
        tuning.student(one, seed)
        taken, used = time.perf_counter() - begun, time.process_time() - cpu
        batches = len(self.run.data.train.photos) // self.domain.batch_size
        self.measure(folder, one)
        tuning.reset()
        facts = {
            "setting": self.name, "arm": arm.name, "set": list(arm.set), "seed": seed, "seconds": round(taken, 1),
            "processor_seconds": round(used, 1), "step_seconds": _step_seconds(folder, batches), "learning": sum(
                tuning.base.model.get_parameter(n).numel() for n in tuning.learner.names
            ),
        }  # fmt: skip
        write_atomically(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def _step_seconds(folder: Path, batches: int) -> float:
    """Seconds of a step, the median over the epochs that end with a measurement."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return round(float(np.median([v["seconds"] for v in lines if v["kind"] == "dev"])) / batches, 4)


def run_bench(settings: Settings, restart: bool) -> str:
    """Run what is missing of this call's settings, arms and seeds; returns the tables of all that is done."""
    from .table import tables

    out = Path(settings.out)
    claim_folder(out, settings, FREE, restart)
    _make_start(settings)
    failed: list[str] = []
    for name in settings.settings or settings.known:
        for seed in settings.seeds:
            _run_setting(settings, name, seed, failed)
    text = tables(settings)
    if failed:
        text += "\nNot done:\n\n" + "".join(f"- {line}\n" for line in failed)
    write_atomically(out / "table.md", text)
    return text


def _run_setting(settings: Settings, name: str, seed: int, failed: list[str]) -> None:
    arms = settings.chosen_arms(name)
    root = Path(settings.out) / f"{name}-draw{seed}"
    asked = [JUDGED] if reported(settings, setting_of(settings, name)[0]) else []
    wanted = [root / START / file for file in (RESULT, *asked)]
    wanted += [root / f"{a.name}-seed{seed}" / file for a in arms for file in (FACTS, *asked)]
    if all(file.exists() for file in wanted):
        return
    place = Place(settings, name, seed)
    place.measure(root / START, None)
    for arm in arms:
        print(f"{name}, seed {seed}: {arm.name}", flush=True)
        try:
            place.do(arm, seed)
        except ClipletError as error:  # the other arms go on; the tables name it
            failed.append(f"{name}, seed {seed}: {arm.name}: {error}")
            print(f"{failed[-1]}", file=sys.stderr, flush=True)


def _make_start(settings: Settings) -> None:
    make_start(
        Path(settings.out) / START, settings.start_captions, settings.start_photos, features(settings),
        make_accelerator(cpu=True),
    )  # fmt: skip


def results(settings: Settings, name: str) -> dict[str, dict[int, Columns]]:
    """What is done in a setting: columns of the start and of each arm, by seed."""
    found: dict[str, dict[int, Columns]] = {}
    roots = {int(r.name.rpartition("-draw")[2]): r for r in Path(settings.out).glob(f"{name}-draw*")}
    for arm in (START, *(a.name for a in settings.arms)):
        for seed, root in sorted(roots.items()):
            file = root / (START if arm == START else f"{arm}-seed{seed}") / RESULT
            if file.exists() and (arm == START or (file.parent / FACTS).exists()):
                found.setdefault(arm, {})[seed] = load_columns(file)
    return found


def describe(settings: Settings) -> Rows:
    """What the data offers each arm, and how many trainings there are."""
    return list(_described(settings))


def _described(settings: Settings) -> Iterator[tuple[str, str]]:
    for domain in settings.domains:
        yield pairs_row(f"{domain.name}, train", read_pairs(domain.train))
        yield pairs_row(f"{domain.name}, test", read_pairs(domain.test))
    for arm in settings.arms:
        if not settings.only or arm.name in settings.only:
            yield arm.name, arm.asks
    names = settings.settings or tuple(settings.known)
    for name in names:
        config = configuration(settings, name, settings.seeds[0])
        wanted = tuple(arm.name for arm in settings.chosen_arms(name))
        yield from ((f"{name}, {what}", much) for what, much in offered(replace(config, only=wanted)))
    count = sum(len(settings.chosen_arms(n)) for n in names) * len(settings.seeds)
    yield "trainings", f"{count} of {settings.steps} steps each"
