"""Several machines: the same bytes as one process, whatever becomes of workers, nodes, disks and the command itself.

The hosts are network namespaces with an address, a name and mounts of their own, joined by Ray. Each test starts from
two nodes that work.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import MASK, ROOT, SLIDE, TINY
from hosts import (
    AT_WORK,
    TOKEN,
    Host,
    address_of,
    command_line,
    hosts,
    memory_can_be_limited,
    poor_workers,
    start_ray,
    wait_until,
    why_no_hosts,
)

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]

SLIDES = 8  # time enough for the slower of two workers to begin
FINE = ["--mpp", "0.5", "--device", "cpu"]  # 40 tiles and more a slide, so that there is time to disturb it
FEATURES = Path("features/features")


def run(
    words: Sequence[str], host: Host | None = None, seconds: float = 240.0, within: Path = ROOT
) -> subprocess.CompletedProcess:
    """One command of one thread, on a host or beside them, in the working folder ``within``."""
    process = begin(words, host, within)
    out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def begin(words: Sequence[str], host: Host | None = None, within: Path = ROOT) -> subprocess.Popen:
    command = [sys.executable, "-m", "survfuse", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (TOKEN if host is not None else {})
    return subprocess.Popen(
        host.command(command) if host is not None else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=within,
    )


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk that holds the features of two slides; it is mounted before there are hosts, so that all see it."""
    folder = tmp_path_factory.mktemp("full") / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is empty on a host that hides it."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(full_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Three hosts: the first one's node only joins the others and runs the commands."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(3, tmp_path_factory.mktemp("hosts")) as every:
        head, *others = every
        for number, host in enumerate(every):
            join(host, head, int(number > 0), number + 1)
        yield SimpleNamespace(head=head, others=others, options=["--cluster", address_of(head)])


def _joined(head: Host) -> int:
    """How many nodes the cluster has."""
    code = f"import ray; ray.init('{address_of(head)}', logging_level='ERROR', log_to_driver=False)\n"
    code += "print(sum(node['Alive'] for node in ray.nodes()))"
    environment = os.environ | TOKEN | {"RAY_USAGE_STATS_ENABLED": "0"}
    asked = subprocess.run(
        head.command([sys.executable, "-c", code]), capture_output=True, text=True, env=environment, timeout=120
    )
    return int(asked.stdout.split()[0]) if asked.returncode == 0 else 0  # Ray reports nodes that died after it


def join(host: Host, head: Host, cpus: int, nodes: int, **how: object) -> None:
    """Make ``host`` the last of so many ``nodes``. Ray gives up a node that is not ready in half a minute."""
    start_ray(host, head, cpus, **how)

    def joined() -> bool:
        if host.processes[-1].poll() is not None:
            host.kill()
            start_ray(host, head, cpus, **how)
        return _joined(head) == nodes

    wait_until(joined)


def renewed(cluster: SimpleNamespace, host: Host, **how: object) -> None:
    """Start the node of ``host`` anew."""
    host.kill()
    wait_until(lambda: _joined(cluster.head) == 2)
    join(host, cluster.head, 1, 3, **how)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of the sample slide, one copy for each patient; the first has a mask."""
    root = tmp_path_factory.mktemp("slides") / "cohort"
    for number in range(SLIDES):
        folder = root / "data" / f"P{number}"
        folder.mkdir(parents=True)
        shutil.copy(SLIDE, folder / f"P{number}_HE.tif")
    shutil.copy(MASK, root / "data/P0/P0_HE_mask.tif")
    return root


@pytest.fixture(scope="module")
def alone(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The features that one process of one thread writes."""
    out = tmp_path_factory.mktemp("alone")
    assert run(["extract", slides, "--out", out, *FINE]).returncode == 0
    return features(out)


def features(out: Path) -> dict[str, bytes]:
    """Everything in the folder of features, by name."""
    return {path.name: path.read_bytes() for path in (out / FEATURES).iterdir()}


def states(out: Path) -> list[str]:
    """What became of each slide, in the order of the work list; each is there once."""
    records = json.loads((out / "extract.json").read_text())["slides"]
    assert [record["slide"] for record in records] == [f"P{number}/P{number}_HE.tif" for number in range(SLIDES)]
    return [record["state"] for record in records]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_features_of_two_nodes_are_those_of_one_process(cluster, slides, alone, tmp_path):
    """Given by paths that are relative to a folder in which no worker runs."""
    words = ["extract", slides.name, "--out", os.path.relpath(tmp_path, slides.parent), *FINE, *cluster.options]
    done = run(words, cluster.head, within=slides.parent)
    assert done.returncode == 0 and done.stderr == ""
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES
    records = json.loads((tmp_path / "extract.json").read_text())["slides"]
    assert {record["node"] for record in records} == {host.name for host in cluster.others}
    assert all(record["seconds"] > 0.0 and record["tiles"] > 0 for record in records)
    again = run(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    assert again.returncode == 0 and states(tmp_path) == ["already extracted"] * SLIDES


def test_bundle_predictions_and_explanations_of_two_nodes_are_those_of_one_process(cluster, cohort, tmp_path):
    made = {}
    for name, options, host in (("one", [], None), ("two", cluster.options, cluster.head)):
        out = tmp_path / name
        out.mkdir()
        some = ["--shard", "4/10"]
        tiny = [*(word for word in TINY if not word.startswith("--fusion")), "--fusion", "auto", "--device", "cpu"]
        for words in (
            ["train", cohort, "--out", "bundle", *tiny, *options],
            ["predict", cohort, "--model", "bundle", "--out", "predictions.csv", "--device", "cpu", *options],
            ["explain", cohort, "--model", "bundle", "--out", "why", "--device", "cpu", *some, *options],
        ):
            done = run(words, host, within=out)
            assert done.returncode == 0, done.stderr
        shutil.rmtree(out / "bundle.training/tensorboard")  # which has times of day
        made[name] = tree(out)
    assert made["one"].keys() == made["two"].keys()
    assert [name for name, data in made["one"].items() if made["two"][name] != data] == []


def test_a_node_that_is_killed_costs_nothing_but_its_slides_in_work(cluster, slides, alone, tmp_path):
    process = begin(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    wait_until(lambda: all(host.is_at_work() for host in cluster.others))
    cluster.others[1].kill()
    _, err = process.communicate(timeout=240)
    renewed(cluster, cluster.others[1])
    assert process.returncode == 0
    assert f"the worker on {cluster.others[1].name} died" in err
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES


def test_a_worker_that_is_killed_is_started_again(cluster, slides, alone, tmp_path):
    process = begin(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    wait_until(lambda: all(host.is_at_work() for host in cluster.others))
    (pid,) = cluster.others[0].workers()
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert f"the worker on {cluster.others[0].name} died" in err and "it is started again" in err
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES


@pytest.mark.skipif(not memory_can_be_limited(), reason="no control group for memory can be made here")
def test_a_node_without_memory_leaves_its_slides_to_the_others(cluster, slides, alone, tmp_path):
    """The kernel kills each worker of one node while it loads torch and the encoder."""
    poor = cluster.others[1]
    with poor_workers(poor, 100 * 2**20):
        done = run(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    assert done.returncode == 0 and "died" in done.stderr
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES
    records = json.loads((tmp_path / "extract.json").read_text())["slides"]
    assert {record["node"] for record in records} == {cluster.others[0].name}


def test_a_command_that_is_killed_goes_on_where_it_was(cluster, slides, alone, tmp_path):
    process = begin(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    wait_until(lambda: len(list((tmp_path / FEATURES).glob("*.h5"))) >= 2)
    process.kill()
    process.wait()
    time.sleep(1.0)
    wait_until(lambda: not any(host.workers() for host in cluster.others))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / FEATURES).glob("*.h5")}
    done = run(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    assert done.returncode == 0 and f"{len(before)} already extracted" in done.stdout
    assert features(tmp_path) == alone
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / FEATURES).glob("*.h5")}
    assert {name: after[name] for name in before} == before
    assert states(tmp_path).count("already extracted") == len(before)


def test_a_full_disk_ends_the_run_and_a_larger_one_completes_it(cluster, slides, alone, full_disk):
    words = ["extract", slides, "--out", full_disk, *FINE, *cluster.options]
    done = run(words, cluster.head)
    assert done.returncode == 4 and "disk is full" in done.stderr.splitlines()[-1]
    written = features(full_disk)
    assert written and written.items() <= alone.items()
    subprocess.run(["mount", "-o", "remount,size=20m", str(full_disk)], check=True)
    for host in (cluster.head, *cluster.others):  # whose mounts are their own
        for pid in host.pids()[:1]:
            inside = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "mount", "-o", "remount,size=20m", str(full_disk)]
            subprocess.run(inside, check=True)
    assert run(words, cluster.head).returncode == 0
    assert features(full_disk) == alone


def test_a_slow_node_delays_nothing_but_its_own_slide(cluster, slides, alone, tmp_path):
    process = begin(["extract", slides, "--out", tmp_path, *FINE, *cluster.options], cluster.head)
    wait_until(lambda: all(host.is_at_work() for host in cluster.others))
    (pid,) = cluster.others[1].workers()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: len(list((tmp_path / FEATURES).glob("*.h5"))) == SLIDES - 1)
    os.kill(pid, signal.SIGCONT)
    assert process.wait(240) == 0
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES


def test_a_cluster_of_this_machine_listens_for_it_alone(slides, alone, tmp_path):
    """Every socket of Ray's processes, by the kernel's own list, while the command works."""
    before = _listening()
    process = begin(["extract", slides, "--out", tmp_path, *FINE, "--cluster", "local", "--workers", "2"])
    wait_until(lambda: any((tmp_path / FEATURES).glob("*.h5")))
    ours = _listening() - before
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and err == "", err
    assert len(ours) > 3 and all(address.startswith(("127.0.0.1:", "[::ffff:127.0.0.1]:")) for address in ours), ours
    assert "cluster      local: 1 node" in out
    assert features(tmp_path) == alone
    wait_until(lambda: not (_listening() - before), 30)


def _listening() -> set[str]:
    """Addresses and ports on which anything on this machine listens."""
    lines = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3] for line in lines}


def test_a_cluster_that_is_not_there_is_named(slides, tmp_path):
    done = run(["extract", slides, "--out", tmp_path, *FINE, "--cluster", "127.0.0.1:9"])
    assert done.returncode == 4
    assert done.stderr == (
        "survfuse: EnvironmentFailure: cluster 127.0.0.1:9: cannot be reached (Connection refused)\n"
    )
    assert not (tmp_path / FEATURES).exists()


SRUN = """#!{python}
import signal, subprocess, sys
words = sys.argv[1:]
options = dict(word.partition("=")[::2] for word in words if word.startswith("--") and words.index(word) < 5)
command = words[next(place for place, word in enumerate(words) if not word.startswith("--")):]
every = {every!r}
chosen = [name for name in every if name == options.get("--nodelist", name) and name != options.get("--exclude")]
if command[0] == "hostname":
    print(every[chosen[0]])
    sys.exit()
named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"']
running = [subprocess.Popen(["ip", "netns", "exec", name, *named, name, *command]) for name in chosen]
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in running])
sys.exit(max(process.wait() for process in running))
"""


def test_the_script_for_slurm_makes_a_cluster_of_a_jobs_machines(cluster, slides, alone, tmp_path):
    """srun and scontrol are stand-ins that use the hosts; all else is the script's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    every = {host.name: host.address for host in cluster.others}
    (tools / "srun").write_text(SRUN.format(python=sys.executable, every=every))
    (tools / "scontrol").write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(every) + "\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "svf[2-3]", "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}
    slurm |= {"SLURM_CPUS_PER_TASK": "1", "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    slurm |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JOIN_SECONDS": "0"}
    script = ["bash", ROOT / "docs/cluster/ray-on-slurm.sh", "extract", slides, "--out", tmp_path / "out", *FINE]
    words = [*map(str, script), "--workers", "2"]
    done = subprocess.run(
        cluster.others[0].command(words), env=os.environ | slurm, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert features(tmp_path / "out") == alone and states(tmp_path / "out") == ["extracted"] * SLIDES
    records = json.loads((tmp_path / "out/extract.json").read_text())["slides"]
    assert {record["node"] for record in records} == set(every)


def test_a_node_without_the_file_system_is_named_and_not_used(cluster, slides, alone, unseen):
    blind = cluster.others[1]
    renewed(cluster, blind, hidden=[unseen])
    done = run(["extract", slides, "--out", unseen / "out", *FINE, *cluster.options], cluster.head)
    assert done.returncode == 0
    assert f"{blind.name} does not see {unseen / 'out' / FEATURES}" in done.stderr
    assert features(unseen / "out") == alone and states(unseen / "out") == ["extracted"] * SLIDES


def test_the_only_worker_is_killed_and_then_the_command_ended(slides, alone, tmp_path):
    """The worker is started again; the command ends with its own line, leaves no process, and says what it did."""
    before = _listening()
    process = begin(["extract", slides, "--out", tmp_path, *FINE, "--cluster", "local", "--workers", "1"])
    wait_until(lambda: any((tmp_path / FEATURES).glob("*.h5")))
    (worker,) = [int(path.name) for path in Path("/proc").iterdir() if b"ray::_Actor" in command_line(path.name)]
    os.kill(worker, signal.SIGKILL)
    done = len(list((tmp_path / FEATURES).glob("*.h5")))
    wait_until(lambda: len(list((tmp_path / FEATURES).glob("*.h5"))) > done)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4 and err.splitlines()[-1] == "survfuse: EnvironmentFailure: ended by SIGTERM"
    assert "it is started again" in err
    wait_until(lambda: not (_listening() - before), 60)
    found = features(tmp_path)
    assert found and found.items() <= alone.items()
    # What ended while the command did is there, though the command did not learn of it.
    assert 0 < states(tmp_path).count("extracted") <= len(found) and states(tmp_path)[-1] == "not reached"


def test_a_node_of_rays_own_test_cluster_is_killed(slides, alone, tmp_path, monkeypatch):
    """Three nodes that share this machine's address and files: also where no hosts can be made."""
    for name, value in (TOKEN | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        others = [nodes.add_node(num_cpus=1) for _ in range(2)]
        process = begin(["extract", slides, "--out", tmp_path, *FINE, "--cluster", nodes.address])
        wait_until(lambda: sum(AT_WORK in command_line(path.name) for path in Path("/proc").glob("[0-9]*")) == 2)
        nodes.remove_node(others[1], allow_graceful=False)
        _, err = process.communicate(timeout=240)
    finally:
        nodes.shutdown()
    assert process.returncode == 0 and " died: " in err
    assert features(tmp_path) == alone and states(tmp_path) == ["extracted"] * SLIDES
