"""Work given to workers: every item ends once, whatever becomes of them; shards; one process for each device."""

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import CASES, SLIDE
from hypothesis import given
from hypothesis import strategies as st

from survfuse.api import extract
from survfuse.cli.main import main as survfuse
from survfuse.cohort.extract import Extraction
from survfuse.cohort.extract_record import EXTRACTED, FAILED, SlideRecord, Tally
from survfuse.cohort.extract_table import extract_table
from survfuse.prediction.score_work import blocks
from survfuse.prediction.sources import Cases
from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError, SurvfuseError
from survfuse.runtime.log import Record, progress, stage, warn
from survfuse.runtime.waiting import threads
from survfuse.slide.settings import SlideSettings
from survfuse.workers import schedule
from survfuse.workers.executor import LocalExecutor
from survfuse.workers.processes import processes
from survfuse.workers.schedule import MOST_ATTEMPTS, Place, Schedule, WorkerDiedError
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard, part_of
from survfuse.workers.shared_folder import check_seen, shared_folder
from survfuse.workers.work import Attempt, attempted

CPU = torch.device("cpu")
DIES, LOST, MACHINE, INPUT, LACKS = "dies", "lost", "machine", "input", "lacks"


@dataclass
class Script:
    """A crew of a few workers whose calls end in an order that chance decides, as ``becomes`` says."""

    nodes: dict[str, str]  # worker → node
    becomes: object  # (worker, item, how often this item was tried) → DIES, MACHINE, INPUT, an error or a result
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    starts: object = lambda worker: None  # noqa: ARG005
    calls: dict[int, tuple] = field(default_factory=dict)
    tried: Counter = field(default_factory=Counter)
    ran: list[tuple[str, object, int]] = field(default_factory=list)
    dismissed: list[str] = field(default_factory=list)

    @property
    def members(self):
        return list(self.nodes)

    def start(self, worker):
        return self._call("start", worker)

    def run(self, worker, item, lacked):
        self.ran.append((worker, item, lacked))
        return self._call("run", worker, item)

    def _call(self, *what):
        number = len(self.calls)
        self.calls[number] = what
        return number

    def ended(self, calls, _):
        return self.chance.sample(list(calls), self.chance.randint(1, len(calls)))

    def place_of(self, call):
        worker = self.calls[call][1]
        found = self.starts(worker)
        if found == DIES:
            raise WorkerDiedError("signal 9")
        return found or Place(self.nodes[worker], self.nodes[worker])

    def attempt_of(self, call):
        _, worker, item = self.calls[call]
        self.tried[item] += 1
        outcome = self.becomes(worker, item, self.tried[item])
        if outcome in (DIES, LOST):
            raise WorkerDiedError("signal 9", memory=outcome == DIES)
        slow = EnvironmentFailure("the disk is slow")
        errors = {MACHINE: slow, LACKS: EnvironmentFailure("memory ran out"), INPUT: InputError("no slide")}
        error = errors.get(outcome) if isinstance(outcome, str) else None
        return Attempt(None if error else outcome, error, Record(), 0.0, lacked_memory=outcome == LACKS)

    def dismiss(self, worker):
        self.dismissed.append(worker)


PART = 4  # of ten, which holds one block of the simulated cohort
TWO = {"a": "n1", "b": "n2"}
ends = st.sampled_from([1, 1, 1, DIES, LOST, MACHINE, INPUT, LACKS])


@given(st.lists(ends, min_size=40, max_size=40), st.integers(1, 4), st.integers(1, 3), st.integers())
def test_every_item_ends_once_and_after_three_attempts_at_most(script, workers, nodes, seed):
    """Whatever happens, in any order of ending: each item comes out once, or the run ends since no worker is left."""
    places = {f"w{number}": f"n{number % nodes}" for number in range(workers)}
    outcomes = iter(script)
    crew = Script(places, lambda *_: next(outcomes, 1), random.Random(seed))
    seen = []
    try:
        for ended in Schedule(crew, range(10)):
            seen.append(ended.item)
            assert ended.attempts == crew.tried[ended.item] <= MOST_ATTEMPTS
            assert (ended.last.error is None) == (ended.last.result == 1)
    except EnvironmentFailure as failure:
        assert "no worker is left" in str(failure) and set(crew.dismissed) == set(places)
        # Each worker has failed at three items for its machine's fault, one after the other.
        for worker in places:
            last = [item for name, item, _ in crew.ran if name == worker][-3:]
            assert len(set(last)) >= 3 or sum(name == worker for name, *_ in crew.ran) > 3
    else:
        assert sorted(seen) == list(range(10))
    assert len(seen) == len(set(seen)) and max(crew.tried.values(), default=0) <= MOST_ATTEMPTS


def test_an_item_that_fails_on_one_node_is_tried_on_another_first():
    crew = Script(TWO, lambda worker, item, _: MACHINE if (worker, item) == ("a", 3) else 1)
    done = {ended.item: ended for ended in Schedule(crew, range(6))}
    assert all(ended.last.error is None for ended in done.values())
    assert [worker for worker, item, _ in crew.ran if item == 3] in (["b"], ["a", "b"])


def test_what_is_wrong_with_a_file_is_the_same_on_the_same_node():
    """One node: no second attempt. Two nodes: one on each."""
    three = {"a": "n1", "b": "n2", "c": "n3", "d": "n4"}
    for places, attempts in (({"a": "n1", "b": "n1"}, 1), (TWO, 2), (three, 3)):
        crew = Script(places, lambda _, item, __: INPUT if item == "slide" else 1)
        done = {ended.item: ended for ended in Schedule(crew, ["slide", *range(8)])}
        assert isinstance(done["slide"].last.error, InputError)
        nodes = [places[worker] for worker, item, _ in crew.ran if item == "slide"]
        assert len(nodes) == len(set(nodes)) == done["slide"].attempts <= attempts
    (ended,) = Schedule(Script({"a": "n1"}, lambda *_: INPUT), ["slide"])
    assert ended.attempts == 1


def test_a_worker_whose_memory_holds_a_smaller_batch_goes_on():
    """Every item lacks memory at first; with one worker, too, none is given up."""
    for places in ({"a": "n1"}, TWO):
        crew = Script(places, lambda _, __, tried: LACKS if tried == 1 else 1)
        done = list(Schedule(crew, range(20)))
        assert len(done) == 20 and all(each.last.result == 1 and each.attempts == 2 for each in done)
        assert not crew.dismissed


def test_items_that_kill_their_worker_are_listed_and_the_others_done():
    """Two of them, the last of the list, on one worker."""
    crew = Script({"a": "n1"}, lambda _, item, __: DIES if item >= 8 else 1)
    done = {ended.item: ended for ended in Schedule(crew, range(10))}
    assert len(done) == 10 and all(done[item].last.result == 1 for item in range(8))
    assert all(done[item].attempts == 3 and "died" in str(done[item].last.error) for item in (8, 9))


def test_after_a_death_the_next_attempt_is_told_that_memory_may_lack(capsys):
    crew = Script(TWO, lambda _, item, tried: DIES if item == 1 and tried < 3 else 1)
    done = {ended.item: ended for ended in Schedule(crew, range(3))}
    assert done[1].attempts == 3 and done[1].last.result == 1
    assert [lacked for _, item, lacked in crew.ran if item == 1] == [0, 1, 2]
    lost = Script(TWO, lambda _, item, tried: LOST if item == 1 and tried < 3 else 1)  # as by a power cut
    assert len(list(Schedule(lost, range(3)))) == 3 and {lacked for _, _, lacked in lost.ran} == {0}
    assert "died: signal 9; it is started again" in capsys.readouterr().err


def test_a_worker_that_fails_three_times_in_a_row_is_given_up_and_the_last_reason_is_named(capsys):
    crew = Script(TWO, lambda worker, *_: MACHINE if worker == "a" else 1)
    assert len(list(Schedule(crew, range(20)))) == 20
    assert sum(worker == "a" for worker, *_ in crew.ran) <= 3
    assert (crew.dismissed == ["a"]) == (len({item for worker, item, _ in crew.ran if worker == "a"}) == 3)
    with pytest.raises(EnvironmentFailure, match=r"no worker is left: n[12]: the disk is slow"):
        list(Schedule(Script(TWO, lambda *_: MACHINE), range(20)))
    assert "a worker is given up" in capsys.readouterr().err


def test_a_worker_that_cannot_start_is_left_out_and_an_input_that_none_can_load_ends_the_run(capsys):
    unseen = EnvironmentFailure("n1 does not see /slides")
    crew = Script(TWO, lambda *_: 1, starts=lambda worker: unseen if worker == "a" else None)
    assert len(list(Schedule(crew, range(4)))) == 4
    assert {worker for worker, *_ in crew.ran} == {"b"} and crew.dismissed == ["a"]
    assert capsys.readouterr().err == "survfuse: warning: a worker is given up: n1 does not see /slides\n"
    with pytest.raises(BundleError, match="weights"):
        list(Schedule(Script(TWO, lambda *_: 1, starts=lambda _: BundleError("no weights")), range(4)))
    with pytest.raises(EnvironmentFailure, match="no worker is left: a worker died while it started: signal 9"):
        list(Schedule(Script(TWO, lambda *_: 1, starts=lambda _: DIES), range(4)))


def test_without_any_worker_the_run_waits_and_says_so_and_then_ends(monkeypatch, capsys):
    """As on a cluster whose machines never come: no call ends."""
    crew = Script(TWO, lambda *_: 1)
    crew.ended = lambda *_: time.sleep(0.01) or []
    monkeypatch.setattr(schedule, "_LOOK", 0.02)
    monkeypatch.setattr(schedule, "_PATIENCE", 0.1)
    with pytest.raises(EnvironmentFailure, match="no worker has run for"):
        list(Schedule(crew, [1]))
    assert "waiting for the cluster to start 2 workers" in capsys.readouterr().out


def test_progress_says_tiles_a_second_the_time_left_and_failures(monkeypatch, capsys):
    """Of 40 slides, 10 in 100 s with 500 tiles: 5.0 tiles/s, and 300 s for the rest; a line a minute."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally(40)

    def slides():
        for number in range(10):
            now[0] += 10.0
            yield number

    for number in progress(slides(), 40, "slides", note=tally.line, every=60.0):
        tally.add(SlideRecord("P/P_HE.tif", FAILED if number == 7 else EXTRACTED, None if number == 7 else 50))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("slides       6 of 40; 5.0 tiles/s, 5 min left")
    assert tally.line() == "4.5 tiles/s, 5 min left, 1 slide failed"


def test_nothing_to_do_starts_nobody():
    crew = Script(TWO, lambda *_: 1)
    assert list(Schedule(crew, [])) == [] and not crew.calls


@given(st.lists(st.text(), unique=True, max_size=60), st.integers(1, 9))
def test_shards_divide_a_list_without_gap_or_overlap(names, number):
    parts = [part_of(names, Shard(each, number), str) for each in range(1, number + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(part == [name for name in names if name in part] for part in parts)
    assert part_of(names, None, str) == names


def test_a_name_stays_in_its_shard_and_shards_are_about_equal():
    """The rule that docs/clusters.md states: the first eight bytes of the name's SHA-256, by the number of shards."""
    import hashlib

    names = [f"P{number}/P{number}_HE.tif" for number in range(8000)]
    expected = [int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 8 + 1 for name in names]
    for number in range(1, 9):
        own = part_of(names, Shard(number, 8), str)
        assert own == [name for name, shard in zip(names, expected, strict=True) if shard == number]
        assert abs(len(own) - 1000) < 4 * (8000 * 1 / 8 * 7 / 8) ** 0.5  # four standard deviations


@pytest.mark.parametrize("text", ["", "0/4", "5/4", "1", "1/0", "-1/4", "1/4/2", "a/b", "1 / 4"])
def test_anything_else_is_no_shard(text):
    with pytest.raises(InputError, match="expected I/N"):
        Shard.parse(text)


def test_a_cluster_is_local_or_an_address():
    assert Cluster("local").is_local and not Cluster("[::1]:6379").is_local
    for address in ("", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:70000", "ray://host:1", "a b:1"):
        with pytest.raises(InputError, match="expected local, auto or HOST:PORT"):
            Cluster(address)
    for wrong in ({"workers": 0}, {"cpus_per_worker": 0}, {"gpus_per_worker": 1.5}, {"gpus_per_worker": -0.5}):
        with pytest.raises(InputError):
            Cluster("local", **wrong)


def test_a_machine_knows_whether_it_sees_the_same_folder(tmp_path):
    with shared_folder(tmp_path / "new") as folder:
        folder.check(tmp_path)
        with pytest.raises(
            EnvironmentFailure, match=r"does not see .*/absent, which the machines of a cluster must share"
        ):
            folder.check(tmp_path / "absent")
        (tmp_path / "other").mkdir()
        (tmp_path / "new").rename(tmp_path / "moved")
        (tmp_path / "other").rename(tmp_path / "new")  # a folder of that name, but another
        with pytest.raises(EnvironmentFailure, match="does not see"):
            folder.check()
    check_seen(tmp_path)


@dataclass(frozen=True)
class Squares:
    """Work for the tests: squares of numbers; a file says where to wait and whether to die."""

    folder: Path

    def start(self, device):
        assert device == CPU
        return self._square

    def _square(self, number, lacked):
        warn(f"{number} is a number")
        stage("said", f"on {torch.get_num_threads()} threads")
        if number == 3 and not lacked:
            (self.folder / "pid").write_text(str(os.getpid()))
            threading.Event().wait(60)
        if number == 4:
            raise InputError("4 is refused")
        if number == 5:
            raise ZeroDivisionError
        return number * number


def test_processes_do_the_work_and_one_that_is_killed_is_started_again(tmp_path, capfd):
    """Two processes for the same device; what they log comes back, and nothing is printed by them."""

    def kill():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = {ended.item: ended for ended in LocalExecutor(CPU, CPU).results(Squares(tmp_path), [0, 1, 2, 3, 4])}
    killer.join()
    assert {number: ended.last.result for number, ended in done.items()} == {0: 0, 1: 1, 2: 4, 3: 9, 4: None}
    assert str(done[4].last.error) == "4 is refused" and done[3].attempts == 2
    assert [note.text for note in done[2].last.said.warnings] == ["2 is a number"]
    out, err = capfd.readouterr()
    assert out == "" and err == "survfuse: warning: the worker on cpu died: signal 9; it is started again\n"
    with processes(Squares(tmp_path), ["cpu"], 1) as crew:
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            list(Schedule(crew, [5]))
        assert "on 1 threads" in str(next(iter(Schedule(crew, [6]))).last.said.notes)


def test_a_failure_of_the_machine_is_part_of_an_attempt_and_a_fault_of_ours_is_raised():
    def fails(item, lacked):
        raise item

    lacking = attempted(fails, torch.OutOfMemoryError("CUDA out of memory"), 0)
    assert isinstance(lacking.error, EnvironmentFailure) and lacking.lacked_memory
    wrapped = EnvironmentFailure("one tile is too much")
    wrapped.__cause__ = MemoryError()
    assert attempted(fails, wrapped, 0).lacked_memory and not attempted(fails, InputError("no"), 0).lacked_memory
    with pytest.raises(ZeroDivisionError):
        attempted(fails, ZeroDivisionError(), 0)


# Whole commands by two processes, as if the CPU were two GPUs


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr("survfuse.runtime.device.chosen_devices", lambda _: (CPU, CPU))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_predictions_and_explanations_by_two_processes_are_those_of_one(cohort, bundle, tmp_path, request):
    """Of one thread each."""
    commands = (
        ["predict", str(cohort), "--model", str(bundle), "--out", "predictions.csv", "--survival", "survival.csv"],
        ["explain", str(cohort), "--model", str(bundle), "--out", "why", "--shard", f"{PART}/10"],
    )
    found = {}
    for name, number in (("one", 1), ("two", 2)):
        if name == "two":
            request.getfixturevalue("two_devices")
        (tmp_path / name).mkdir()
        with contextlib.chdir(tmp_path / name), threads(number):
            for command in commands:
                assert survfuse(command) == 0
        found[name] = tree(tmp_path / name)
    assert found["one"].keys() == found["two"].keys() and len(found["one"]) > 10
    assert [name for name, data in found["one"].items() if found["two"][name] != data] == []


def test_shards_of_predictions_are_parts_of_the_whole_table(cohort, bundle, tmp_path):
    """Every row of the whole table, to the last digit, in one of the parts; more parts than cases leave some empty."""

    def rows(*options):
        out = tmp_path / "part.csv"
        assert survfuse(["predict", str(cohort), "--model", str(bundle), "--out", str(out), *options]) == 0
        return out.read_text().splitlines()

    whole = rows()
    for number in (3, 40):
        parts = [rows("--shard", f"{part}/{number}") for part in range(1, number + 1)]
        assert all(part[0] == whole[0] for part in parts)
        assert sorted(row for part in parts for row in part[1:]) == sorted(whole[1:])
        assert number < 40 or any(len(part) == 1 for part in parts)


def test_a_shard_of_explanations_has_the_folders_of_its_cases(cohort, bundle, tmp_path):
    names = sorted(path.name for path in (cohort / "data").iterdir())
    own = [names[at : at + 8] for at in range(0, 60, 8) if Shard(PART, 10).holds(names[at])]  # blocks of eight
    words = ["explain", str(cohort), "--model", str(bundle), "--out", str(tmp_path / "why")]
    assert survfuse([*words, "--shard", f"{PART}/10"]) == 0
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == [name for block in own for name in block]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "2"], "--workers, --cpus-per-worker and --gpus-per-worker need --cluster"),
        (["--shard", "3/2"], "expected I/N"),
        (["--cluster", "here"], "expected local, auto or HOST:PORT"),
    ],
)
def test_wrong_options_of_several_machines_are_named(cohort, bundle, tmp_path, capsys, words, said):
    out = tmp_path / "out.csv"
    assert survfuse(["predict", str(cohort), "--model", str(bundle), "--out", str(out), *words]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_one_case_is_not_divided(bundle, tmp_path, capsys):
    words = [
        "--model",
        str(bundle),
        "--out",
        str(tmp_path / "out"),
        "--shard",
        "1/2",
        "--modalities",
        "rna",
        "clinical",
    ]
    for command in ("predict", "explain"):
        assert survfuse([command, str(CASES / "interf1"), *words]) == 2
        assert "a cluster or a shard is for several cases, found one case" in capsys.readouterr().err
    with pytest.raises(InputError, match="found one slide"):
        extract(SLIDE, tmp_path / "slide.h5", shard="1/2")


@pytest.mark.parametrize(
    ("device", "options", "nodes", "expected"),
    [
        # CPUs alone; a head that only manages has none
        ("auto", {}, [{"CPU": 4.0}, {"CPU": 2.0}, {}], ("cpu", 0.0, 6)),
        ("auto", {"cpus_per_worker": 3}, [{"CPU": 4.0}, {"CPU": 2.0}], ("cpu", 0.0, 1)),
        # a GPU each if the cluster has any, or a share
        ("auto", {}, [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0}], ("cuda", 1.0, 2)),
        ("cuda", {"gpus_per_worker": 0.5, "cpus_per_worker": 4}, [{"CPU": 16.0, "GPU": 8.0}], ("cuda", 0.5, 4)),
        ("cpu", {"gpus_per_worker": 0.5}, [{"CPU": 16.0, "GPU": 8.0}], ("cpu", 0.0, 16)),
        # machines that have not joined yet
        ("auto", {"workers": 9}, [{"CPU": 4.0}], ("cpu", 0.0, 9)),
    ],
)
def test_room_for_workers(monkeypatch, device, options, nodes, expected):
    ray = pytest.importorskip("ray")
    from survfuse.workers.ray_crew import _room

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    found = _room(Cluster("10.0.0.1:6379", **options), device)
    assert (found.device, found.gpus, found.room) == expected
    assert found.workers(3) == min(3, expected[2]) and found.workers(0) == 1


@pytest.mark.parametrize(
    ("device", "address", "options", "said"),
    [
        ("cuda", "10.0.0.1:6379", {}, "room for 0 workers of 1 CPU and 1 GPU, expected at least 1"),
        ("auto", "local", {"workers": 9}, "room for 4 workers of 1 CPU, expected at least 9"),
    ],
)
def test_a_cluster_without_room_is_named(monkeypatch, device, address, options, said):
    ray = pytest.importorskip("ray")
    from survfuse.workers.ray_crew import _room

    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(SurvfuseError, match=said):
        _room(Cluster(address, **options), device)


def test_a_command_says_that_ray_is_not_installed(cohort, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("survfuse.runtime.errors.missing_packages", lambda extra: ["ray"] if extra == "cluster" else [])
    words = ["predict", str(cohort), "--model", str(bundle), "--out", str(tmp_path / "out.csv"), "--cluster", "local"]
    assert survfuse(words) == 4
    assert "--cluster needs ray: pip install '.[cluster]' in the checkout of survfuse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cluster", "device", "said"),
    [
        (Cluster("local"), "cuda:1", "a cluster gives out its GPUs itself"),
        (Cluster("local", gpus_per_worker=0.0), "cuda", "expected a share of a GPU above 0"),
    ],
)
def test_a_device_that_no_worker_can_have_is_named(cluster, device, said):
    with pytest.raises(InputError, match=said):
        cluster.check(device)


def test_two_commands_may_mark_one_folder(tmp_path):
    with shared_folder(tmp_path) as one:
        with shared_folder(tmp_path) as two:
            one.check()
            two.check()
        one.check()
        with pytest.raises(EnvironmentFailure, match="does not see"):
            two.check()
    assert list(tmp_path.iterdir()) == []


def _none(_: int) -> None:
    """No case."""


def test_blocks_of_all_shards_are_the_cases_on_any_mixture_of_devices():
    cases = Cases(tuple(f"P{number}" for number in range(100)), _none)
    for number in (1, 4, 7):
        found = []
        for part in range(1, number + 1):
            found += [place for block in blocks(cases, Shard(part, number), on_gpu=part % 2 == 0) for place in block]
        assert sorted(found) == list(range(100))


def test_shards_with_a_slide_that_has_anothers_name_write_no_table(tmp_path):
    """Two patients' slides of one file name: the second is a failure, of whichever shard."""
    table = tmp_path / "slides.csv"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(SLIDE, tmp_path / folder / "S1.tif")
    table.write_text(f"patient,file\nPA,{tmp_path}/a/S1.tif\nPB,{tmp_path}/b/S1.tif\n")
    settings = Extraction(SlideSettings("efficientnet-lite0", 1280, mpp=4.0))
    failed = 0
    for part in (1, 2, 3):
        try:
            shard = replace(settings, shard=Shard(part, 3))
            extract_table(table, tmp_path / "out", shard, LocalExecutor(CPU))
        except InputError as error:
            failed += "has the name of" in str(error)
    assert failed == 1 and not (tmp_path / "out/slides.csv").exists()


def test_processes_end_when_their_results_are_not_wanted_any_more(tmp_path):
    results = LocalExecutor(CPU, CPU).results(Squares(tmp_path), [0, 1, 2, 6, 7, 8])
    next(results)
    children = set(_children())
    assert len(children) >= 2
    results.close()
    assert not children & set(_children())


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
