"""The platform rehearsed: its own job runner, beside an S3 server on loopback, starts the container's entrypoint.

Storage   the bucket that inputs come from and results go to
Host      the entrypoint of this checkout; folders of its own stand for the platform's
Image     the entrypoint of a built image, in a container, at the platform's own places and as the image's user
"""

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Protocol

import boto3
from botocore.config import Config
from conftest import ROOT
from moto.server import ThreadedMotoServer

REGION, KEY, SECRET = "us-east-1", "rehearsal", "rehearsal"
RESULT = ".sagemaker_shim/inference_result.json"
SECONDS = 300  # for all jobs of one rehearsal
# The runner's folder comes first on the runner's own path alone: the jobs it starts inherit nothing of it.
RUNNER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from sagemaker_shim.cli import cli; cli()"


@dataclass(frozen=True)
class Ended:
    """How one job ended: the runner's verdict, what lies in the bucket, and the job's own lines of log."""

    return_code: int
    declared: list[str]  # relative paths that the runner says it uploaded
    uploaded: dict[str, bytes]  # relative path → content
    stdout: list[str]
    stderr: list[str]


@dataclass(frozen=True)
class Rehearsal:
    """What the runner said of itself, and its jobs by name, in the order they ran."""

    return_code: int
    warnings: list[str]
    jobs: dict[str, Ended]


@dataclass(frozen=True)
class Storage:
    """A bucket of its own on an S3 server on loopback."""

    endpoint: str
    bucket: str
    client: Any

    def offer(self, cases: Mapping[str, Path]) -> str:
        """Upload the files of ``cases``; the address of the list of tasks that the runner reads."""
        tasks = [self._task(name, folder) for name, folder in cases.items()]
        self.client.put_object(Bucket=self.bucket, Key="tasks.json", Body=json.dumps(tasks).encode())
        return f"s3://{self.bucket}/tasks.json"

    def _task(self, name: str, folder: Path) -> dict[str, Any]:
        inputs = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            place = path.relative_to(folder).as_posix()
            key = f"inputs/{name}/{place}"
            self.client.upload_file(str(path), self.bucket, key)
            inputs.append({"relative_path": place, "bucket_name": self.bucket, "bucket_key": key, "decompress": False})
        output = {"output_bucket_name": self.bucket, "output_prefix": f"outputs/{name}/"}
        return {"pk": name, "inputs": inputs, **output}

    def content(self, prefix: str) -> dict[str, bytes]:
        """Everything under ``prefix``, by its key without it."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        read = {entry["Key"]: self.client.get_object(Bucket=self.bucket, Key=entry["Key"]) for entry in found}
        return {key.removeprefix(prefix): answer["Body"].read() for key, answer in read.items()}


@contextmanager
def storage() -> Iterator[Storage]:
    """An empty bucket, for as long as the context lasts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint, bucket = f"http://{host}:{port}", f"rehearsal-{uuid.uuid4()}"
        config = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 1}, proxies={})
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=config,
        )
        client.create_bucket(Bucket=bucket)
        yield Storage(endpoint, bucket, client)
    finally:
        server.stop()


class Place(Protocol):
    """Where the runner and its jobs are started."""

    def run(self, tasks: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Start the runner on the list of ``tasks`` and wait for its end."""


@dataclass(frozen=True)
class Host:
    """This checkout's entrypoint in this environment. The runner is told other folders than /input and /output, the
    entrypoint too; the user stays the one who runs the tests."""

    root: Path  # input, output and tmp are made in it
    model: Path

    def run(self, tasks: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        places = {name: self.root / name for name in ("input", "output", "tmp")}
        for folder in places.values():
            folder.mkdir()
        command = ["--input", places["input"], "--output", places["output"], "--model", self.model]
        told = {
            **environment,
            **component(
                [sys.executable, str(ROOT / "inference.py")], [str(part) for part in command], str(os.getuid())
            ),
            "GRAND_CHALLENGE_COMPONENT_INPUT_PATH": str(places["input"]),
            "GRAND_CHALLENGE_COMPONENT_OUTPUT_PATH": str(places["output"]),
            "GRAND_CHALLENGE_COMPONENT_WRITABLE_DIRECTORIES": f"{places['output']}:{places['tmp']}",
            "GRAND_CHALLENGE_COMPONENT_SET_EXTRA_GROUPS": str(os.getuid() == 0),
            "PATH": os.defpath,
            "TMPDIR": str(places["tmp"]),
        }
        runner = [sys.executable, *runner_arguments(Path(distribution("sagemaker-shim").locate_file("")), tasks)]
        return ended_with_children(runner, told, places["tmp"])


@dataclass(frozen=True)
class Image:
    """A built image: the runner is the container's first process and root, as on the platform, and drops to the
    image's user for each job. /tmp starts empty; the model is mounted read-only."""

    engine: str
    name: str
    runner: Path  # folder with the runner and what it needs, for the image's Python
    model: Path
    scratch: Path  # becomes /tmp
    entrypoint: Sequence[str] | None = None  # in place of the image's own

    def run(self, tasks: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        settings = self._settings()
        entrypoint = self.entrypoint or settings["Entrypoint"]
        told = {
            **environment,
            **component(entrypoint, settings.get("Cmd"), settings["User"]),
            "GRAND_CHALLENGE_COMPONENT_WRITABLE_DIRECTORIES": "/output:/tmp:/opt/ml/output/data:/opt/ml/checkpoints",
        }
        container = f"survfuse-rehearsal-{uuid.uuid4()}"
        command = [self.engine, "run", "--rm", "--pull=never", "--platform=linux/amd64", "--name", container]
        command += ["--network=host", "--user=0:0", "--entrypoint", settings["Entrypoint"][0]]
        for source, target in (
            (self.runner, "/opt/runner:ro"),
            (self.model, "/opt/ml/model:ro"),
            (self.scratch, "/tmp"),
        ):
            command += ["--volume", f"{source}:{target}"]
        for key, value in told.items():
            command += ["--env", f"{key}={value}"]
        command += [self.name, *runner_arguments(Path("/opt/runner"), tasks)]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        finally:
            subprocess.run([self.engine, "rm", "--force", container], capture_output=True, timeout=60)

    def _settings(self) -> dict[str, Any]:
        """The image's Entrypoint, Cmd and User."""
        command = [self.engine, "image", "inspect", self.name]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if found.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {found.stderr.strip()}")
        return json.loads(found.stdout)[0]["Config"]


def runner_arguments(folder: Path, tasks: str) -> list[str]:
    """Arguments for a Python that make it the platform's job runner, found in ``folder``, on a list of ``tasks``."""
    return ["-I", "-c", RUNNER, str(folder), "invoke", "--file", tasks]


def ended_with_children(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end; past SECONDS it is killed, and what it started with it."""
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def component(entrypoint: Sequence[str], command: Sequence[str] | None, user: str) -> dict[str, str]:
    """What the platform tells its runner of the image."""
    encoded = {"ENTRYPOINT": entrypoint, "CMD": command}
    told = {
        f"GRAND_CHALLENGE_COMPONENT_{name}_B64J": b64encode(json.dumps(value).encode()).decode()
        for name, value in encoded.items()
    }
    return told | {"GRAND_CHALLENGE_COMPONENT_USER": user}


def rehearse(storage: Storage, place: Place, cases: Mapping[str, Path]) -> Rehearsal:
    """Run ``cases`` one after another in one start of the platform's runner at ``place``."""
    environment = {
        "AWS_S3_ENDPOINT_URL": storage.endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "no_proxy": "127.0.0.1",
    }
    ended = place.run(storage.offer(cases), environment)
    entries = [log_entry(line) for line in (*ended.stdout.splitlines(), *ended.stderr.splitlines()) if line]
    warnings = [entry["log"] for entry in entries if entry["internal"] and entry["source"] == "stderr"]
    return Rehearsal(ended.returncode, warnings, {name: _ended(storage, name, entries) for name in cases})


def log_entry(line: str) -> dict[str, Any]:
    """A line of the runner's log; one that is not JSON, a traceback's say, counts as the runner's own warning."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {"log": line, "source": "stderr", "internal": True, "task": None}


def _ended(storage: Storage, name: str, entries: Sequence[Mapping[str, Any]]) -> Ended:
    uploaded = storage.content(f"outputs/{name}/")
    if RESULT not in uploaded:
        raise AssertionError(f"the runner left no result of {name}:\n" + "\n".join(entry["log"] for entry in entries))
    result = json.loads(uploaded.pop(RESULT))
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for entry in entries:
        if entry["task"] == name and not entry["internal"]:
            said[entry["source"]].append(entry["log"])
    declared = [output["relative_path"] for output in result["outputs"]]
    return Ended(result["return_code"], declared, uploaded, said["stdout"], said["stderr"])
