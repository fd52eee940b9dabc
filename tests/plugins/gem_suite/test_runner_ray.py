"""The suite on Ray: the same file as one process writes, also where workers die in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gem_suite import runner_ray, runner_tasks
from gem_suite.engines import CompiledEngine, EngineChoice
from gem_suite.runner import SuiteRun, run_suite, work_here
from gem_suite.runner_engine import Workforce
from gem_suite.runner_model import describe_bundle
from gem_suite.runner_pool import WorkerSetup
from gem_suite.runner_ray import work_on_ray
from gem_suite.runner_tasks import SuiteSettings
from gem_suite.store import journal_path
from gemcore.errors import GemError, UsageError

ITEMS = 6
TIMES = (b'"date"', b'"total_evaluation_time_seconds"')


class Silence:
    """Shows nothing."""

    def begin(self, total, done, tasks):
        self.before = done

    def advance(self, task, cost): ...

    def finish(self, task, items): ...

    def fail(self, task, problem): ...


@pytest.fixture(scope="module")
def ray():
    """Ray with a cluster of two cores on this machine."""
    module = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gemcore[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    module.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**27,
    )
    yield module
    module.shutdown()


@pytest.fixture
def data(tmp_path, items):
    """Three tasks of a domain called tests."""
    for kind in ("multiple_choice", "classification", "generation_qa"):
        folder = tmp_path / "data" / "tests" / kind
        folder.mkdir(parents=True)
        key = "text" if "text" in items[kind] else "question"
        rows = [{**items[kind], key: f"{items[kind][key]} {n}"} for n in range(ITEMS)]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "SOURCE.json").write_text(json.dumps({"task_type": kind, "license": "MIT"}))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(runner_tasks, "PIECE_ITEMS", 2)


@pytest.fixture
def setup(data, tiny_bundle):
    choice = EngineChoice(name="compiled", bundle=tiny_bundle.folder)
    return WorkerSetup(choice=choice, settings=SuiteSettings(data=data), threads=1)


@pytest.fixture
def measure(tiny_bundle, setup, tmp_path):
    """Run the suite with some way to work; the lines of its file, and what it had to begin with."""

    def run(name, work):
        progress = Silence()
        output = tmp_path / name
        model = describe_bundle(tiny_bundle, 256)
        run_suite(SuiteRun(settings=setup.settings, model=model, output=output), work, progress)
        return timeless(output), progress.before

    return run


def timeless(path):
    lines = path.read_bytes().splitlines()
    return [line for line in lines if not any(time in line for time in TIMES)]


@pytest.fixture
def whole(measure, tiny_session, setup):
    """What one process writes."""
    return measure("whole.json", work_here(CompiledEngine(tiny_session), setup.settings))[0]


def test_two_workers_write_the_same_file(ray, measure, setup, whole):
    done = []

    def work(pieces, tasks):
        for part in work_on_ray(pieces, setup, 2):
            done.append(part.piece)
            yield part

    assert measure("a.json", work)[0] == whole
    assert len(done) == len(set(done)) == 3 * ITEMS // 2
    # A cluster that was there before stays.
    assert ray.is_initialized()


def test_a_killed_worker_loses_nothing(ray, measure, setup, whole, monkeypatch, tmp_path):
    """Killed in the middle of a piece, by a signal that no program sees."""
    marker = tmp_path / "busy"

    # A function in a function goes to the workers by its code, not by its name.
    def run_or_wait(setup, piece):
        import os
        import time

        from gem_suite.runner_pool import run_piece

        if piece.task == "generation_qa" and 3 in piece.missing and not marker.exists():
            marker.with_suffix(".tmp").write_text(str(os.getpid()))
            marker.with_suffix(".tmp").rename(marker)
            time.sleep(60)
        return run_piece(setup, piece)

    def kill():
        while not marker.exists():
            time.sleep(0.01)
        os.kill(int(marker.read_text()), signal.SIGKILL)

    monkeypatch.setattr(runner_ray, "run_piece", run_or_wait)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    lines, _ = measure("a.json", lambda pieces, tasks: work_on_ray(pieces, setup, 2))
    killer.join(timeout=10)
    assert not killer.is_alive()
    assert int(marker.read_text()) != os.getpid()
    assert lines == whole


def test_what_came_back_before_workers_died_for_good_is_kept(
    ray, measure, setup, whole, monkeypatch, tiny_session, tmp_path
):
    def fatal(setup, piece):
        import os
        import signal

        from gem_suite.runner_pool import run_piece

        if piece.task == "multiple_choice":
            os.kill(os.getpid(), signal.SIGKILL)
        return run_piece(setup, piece)

    monkeypatch.setattr(runner_ray, "run_piece", fatal)
    monkeypatch.setattr(runner_ray, "RETRIES", 0)
    with pytest.raises(GemError, match="a worker ended unexpectedly 1 times at the same work"):
        measure("a.json", lambda pieces, tasks: work_on_ray(pieces, setup, 1))
    kept = journal_path(tmp_path / "a.json").read_bytes().count(b"\n") - 1
    assert kept == 2 * ITEMS
    lines, before = measure("a.json", work_here(CompiledEngine(tiny_session), setup.settings))
    assert before > 0
    assert lines == whole


def test_a_worker_that_cannot_open_the_model_says_why(ray, setup, measure, tmp_path):
    import attrs

    choice = EngineChoice(name="compiled", bundle=tmp_path / "none.gem")
    lost = attrs.evolve(setup, choice=choice)
    with pytest.raises(UsageError, match="no bundle at") as raised:
        measure("a.json", lambda pieces, tasks: work_on_ray(pieces, lost, 2))
    assert "\n" not in str(raised.value)


def test_a_worker_that_lacks_something_says_what(ray, setup, measure, monkeypatch):
    def broken(setup, piece):
        raise ModuleNotFoundError("No module named 'gem_suite'")

    monkeypatch.setattr(runner_ray, "run_piece", broken)
    with pytest.raises(GemError, match="ModuleNotFoundError: No module named 'gem_suite'; every"):
        measure("a.json", lambda pieces, tasks: work_on_ray(pieces, setup, 2))


@pytest.mark.parametrize("connect", [True, False], ids=["RAY_ADDRESS", "started here"])
def test_the_command_uses_a_cluster_that_is_there_or_starts_one(
    ray, connect, tiny_bundle, data, tmp_path, whole
):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    if connect:
        environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    arguments = ["--bundle", tiny_bundle.folder, "--data", data, "-o", tmp_path / "a.json"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gemcore", "eval", "suite", "--cluster", "ray"),
            *("--workers", "2", *map(str, arguments)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert timeless(tmp_path / "a.json") == whole
    assert all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr
    assert len(ray.nodes()) == 1


@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:9"])
def test_a_cluster_that_is_not_there_is_one_sentence(address):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'gemcore[ray]'")
    program = (
        "import sys\nfrom gem_suite.runner_ray import work_on_ray\n"
        "from gemcore.errors import UsageError\n"
        "class Setup:\n    threads = 1\n"
        "try:\n    list(work_on_ray([], Setup(), 1))\n"
        "except UsageError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith(f"no Ray cluster can be reached at RAY_ADDRESS={address}: ")
    assert done.stdout.count("\n") == 1


def test_without_ray_the_command_says_what_to_install(setup, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'gemcore\[ray\]'"):
        list(work_on_ray([], setup, 2))


def test_another_cluster_is_refused():
    with pytest.raises(UsageError, match="unknown cluster 'dask'"):
        Workforce(cluster="dask")
