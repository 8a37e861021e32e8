"""Ray on a local cluster of two nodes: the same bytes as without it, also where a node is killed in the middle."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray")

from cliplet.stream.score import score_stream
from cliplet.stream.wanted import Wanted
from tests.stream.conftest import caption, contents, rows
from tests.stream.test_run import drive, wait_for_parts, whole  # noqa: F401
from tests.stream.works import SlowWork

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and a node with one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def work(here):
    return SlowWork(str(here / "tiny"), images=str(here / "photos"))


def test_one_actor_writes_the_bytes_of_a_run_without_ray(here, whole, work, cluster, tmp_path):  # noqa: F811
    done = score_stream(
        [str(here / "captions.csv")], tmp_path, work, engine="ray", workers=0, part_rows=10, quiet=True
    )
    assert not done.run.failed
    assert contents(tmp_path) == contents(whole)
    assert (tmp_path / "summary.json").read_text() == (whole / "summary.json").read_text()


def test_references_and_diversity_on_ray_are_those_of_a_run_without_it(here, work, cluster, tmp_path):
    (tmp_path / "refs.json").write_text(
        json.dumps({f"{i}.jpg": [caption(i), "a dog runs"] for i in range(7)})
    )
    more = {"part_rows": 20, "quiet": True, "wanted": Wanted(str(tmp_path / "refs.json"), diversity=True)}
    given = [str(here / "captions.csv")]
    done = score_stream(given, tmp_path / "ray", work, engine="ray", workers=1, **more)
    assert not done.run.failed
    score_stream(given, tmp_path / "local", work, workers=0, **more)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert (tmp_path / "ray" / "summary.json").read_text() == (
        tmp_path / "local" / "summary.json"
    ).read_text()


def test_a_killed_node_loses_and_repeats_nothing(here, whole, work, cluster, tmp_path):  # noqa: F811
    """The third kill: a node of the cluster, with an actor on it."""
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    killed = []

    def kill() -> None:
        wait_for_parts(tmp_path, 3)
        cluster.remove_node(node, allow_graceful=False)
        killed.append(len(list((tmp_path / "parts").glob("part-*.parquet"))))

    killer = threading.Thread(target=kill)
    killer.start()
    slow = replace(work, seconds=0.5)
    done = score_stream(
        [str(here / "captions.csv")], tmp_path, slow, engine="ray", workers=2, part_rows=10, quiet=True
    )
    killer.join()
    assert killed
    assert killed[0] < 10
    assert not done.run.failed
    assert contents(tmp_path) == contents(whole)


def test_a_part_that_kills_its_actor_is_given_up_after_three_attempts(here, work, cluster, tmp_path):
    done = score_stream([str(here / "captions.csv")], tmp_path, replace(work, kills=2), engine="ray", workers=1,
                        part_rows=20, quiet=True)  # fmt: skip
    about = json.loads((tmp_path / "failed" / "part-00002.json").read_text())
    assert about["attempts"] == 3
    assert "its process on Ray ended" in about["reason"]
    assert list(done.run.failed) == [2]
    assert len(rows(tmp_path)) == 80


def test_it_is_said_where_the_cluster_has_no_room(here, work, cluster, tmp_path):
    from cliplet.stream.ray import RayPool

    pool = RayPool(1, replace(work, threads=9), tmp_path, "parquet", 5)
    try:
        assert pool.wait(0.5) == []
        assert not pool.free()
        assert pool.waiting_for().startswith("waiting for 9 CPU of Ray, of whose ")
    finally:
        pool.close()


def test_a_folder_that_is_not_shared_is_said_before_any_part(here, work, cluster, tmp_path, monkeypatch):
    from cliplet.stream.ray import Actor

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # an actor sets them for its process, which is this one here
    wrong = Actor(work, Path(tmp_path), "parquet").begin()
    assert "does not see the output folder" in str(wrong)


def test_a_killed_driver_on_ray_loses_and_repeats_nothing(here, whole, work, cluster, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv(
        "RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled")
    )  # as the cluster was started
    driver = drive(here, tmp_path, "ray", 1)
    wait_for_parts(tmp_path, 2, 40)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # its actors end by themselves
    there = len(list((tmp_path / "parts").glob("part-*.parquet")))
    assert there < 10
    done = score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, part_rows=10, quiet=True)
    assert done.run.before >= there
    assert contents(tmp_path) == contents(whole)
