"""The scripts and the manifest in docs/cluster: linted, of options that exist, and the array's parts run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SLIDE
from test_docs import options_of_the_commands

FOLDER = ROOT / "docs" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_manifest_passes_yamllint_and_asks_for_a_token():
    rules = "{extends: default, rules: {line-length: {max: 120}}}"
    words = [BIN / "yamllint", "--strict", "--config-data", rules, FOLDER / "kuberay.yaml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["kind"], cluster["authOptions"]) == ("RayJob", {"mode": "token"})
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert all(mount["name"] == pod["volumes"][0]["name"] for pod in pods for mount in _mounts(pod))


def _mounts(pod: dict) -> list[dict]:
    return [mount for container in pod["containers"] for mount in container["volumeMounts"]]


@pytest.mark.parametrize("path", [*SCRIPTS, FOLDER / "kuberay.yaml"], ids=lambda path: path.name)
def test_options_of_the_commands_exist(path):
    """Those of the lines from ``survfuse`` on; Ray's and Slurm's are theirs."""
    text = re.sub(r"\\\n", " ", path.read_text())
    if path.suffix == ".yaml":
        text = yaml.safe_load(text)["spec"]["entrypoint"]
    calls = re.findall(r"(?:^|exec |> )survfuse .*|extract .*", text, re.MULTILINE)
    named = {option for call in calls for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", call)}
    assert calls and named <= options_of_the_commands()


def test_the_parts_of_an_array_are_the_whole(tmp_path):
    """The script as Slurm runs it, twice: each of two tasks does its part, and a second run finds nothing to do."""
    for name in ("P1", "P2", "P3"):
        (tmp_path / "cohort/data" / name).mkdir(parents=True)
        shutil.copy(SLIDE, tmp_path / "cohort/data" / name / f"{name}_HE.tif")
    script = tmp_path / "slurm-array.sh"
    script.write_text((FOLDER / "slurm-array.sh").read_text().replace("parts=8", "parts=2"))
    said = ""
    for task in (1, 2, 1):
        slurm = {"SLURM_ARRAY_TASK_ID": str(task)}
        words = ["bash", script, "cohort", "out", "--device", "cpu", "--mpp", "2"]
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(words, cwd=tmp_path, env=os.environ | slurm | path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        said += done.stdout
    numbers = [int(number) for number in re.findall(r"features of (\d) slide", said)]
    assert sum(numbers) == 3 and numbers[2] == 0
    assert sorted(path.name for path in (tmp_path / "out/features/features").iterdir()) == [
        "P1_HE.h5",
        "P2_HE.h5",
        "P3_HE.h5",
    ]
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"extract-1-of-2.json", "extract-2-of-2.json"}
