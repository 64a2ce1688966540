"""Every command in the pages for people runs as it stands, from a fresh folder; what the pages name exists.

A block's tag says what it is:

    sh, python              run in order, a page in one folder: a copy of the checkout, with what MATERIAL puts there
    sh image, long, cluster run under the marker of that name as well
    diff                    applied to the folder; the blocks after it run with the changed code
    sh make                 targets of the Makefile, which .ci/run runs
    text output             what the block before printed; numbers may differ, and … stands for anything
    text, json              content

In blocks that need a container engine, `docker` and the image's name are replaced by what the tests have.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import DEMONSTRATION, ROOT, edit_json
from test_reference import GENES, TABLE, VOCABULARY, checkpoint

import survfuse
from survfuse.bundle.manifest import RESEARCH
from survfuse.networks.families import families_of
from survfuse.slide.registry import ENCODERS
from survfuse.slide.weights import build_network
from survfuse.tasks.modalities import all_combinations, combination_name
from survfuse.tasks.registry import DEFAULT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
RUN, MARKED = ("sh", "python", "diff"), {"sh image": "image", "sh long": "long", "sh cluster": "cluster"}
FAMILIES = families_of(DEFAULT.modalities)
COMBINATIONS = all_combinations(DEFAULT.modalities)
CONTENT = ("sh make", "text output", "text", "json")
IMAGE = "survfuse-docs:test"
# Not part of a checkout, or of no use to a page.
LEFT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "output")
WRITES = "docs/for-researchers.md"  # whose commands write every kind of file
END = "\x1e"  # of what a block printed


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int  # of its fence, from 1
    kind: str  # what follows the fence
    text: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def blocks(page: str) -> list[Block]:
    """A page's fenced blocks; no other kind of code block may be on it."""
    found: list[Block] = []
    opened: int | None = None
    kind, body, before = "", [], ""
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        fence = re.match(r"(\s*)(`{3,}|~{3,})(.*)", line)
        if fence:
            assert fence[1] == "" and fence[2] == "```", f"{page}, line {number}: a fence is ``` at the line's start"
        if fence and opened is None:
            opened, kind, body = number, fence[3].strip(), []
        elif fence and opened is not None:
            assert not fence[3], f"{page}, line {number}: the block of line {opened} is not closed"
            found.append(Block(page, opened, kind, "\n".join(body) + "\n"))
            opened = None
        elif opened is not None:
            body.append(line)
        else:
            assert before or not line.startswith("    "), f"{page}, line {number}: an indented block has no tag"
        before = line.strip()
    assert opened is None, f"{page}: the block of line {opened} is not closed"
    return found


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


# Running them


def research_bundle(folder: Path) -> None:
    """A bundle that is no demonstration, in ``model``, as a team has it."""
    shutil.copytree(DEMONSTRATION, folder / "model", dirs_exist_ok=True)
    edit_json(folder / "model" / "manifest.json", purpose=RESEARCH)


def uni_weights(folder: Path) -> None:
    """Random weights of UNI's true network."""
    torch.save(build_network(ENCODERS["uni"]).state_dict(), folder / "pytorch_model.bin")


def reference_files(folder: Path) -> None:
    """A small checkpoint in the form of the paper's code, with its tables."""
    torch.save(checkpoint("bilinear", seed=0, tile=ENCODERS["uni"].dimension), folder / "checkpoint.pt")
    for name, table in (("genes", GENES), ("clinical", VOCABULARY), ("calibration", TABLE)):
        (folder / f"{name}.json").write_text(json.dumps(table))


MATERIAL: Mapping[tuple[str, str | None], Callable[[Path], None]] = {
    ("docs/for-teams.md", None): research_bundle,
    ("docs/for-teams.md", "image"): research_bundle,
    ("docs/for-researchers.md", "long"): uni_weights,
    ("docs/method.md", None): reference_files,
}


def engine_placed(text: str) -> str:
    """A block with the container engine and the image's name that the tests have."""
    text = re.sub(r"\bsurvfuse(-export)?:\d+(\.\d+)+", IMAGE, text)
    return re.sub(r"^docker(?= )", os.environ.get("CONTAINER_ENGINE", "docker"), text, flags=re.MULTILINE)


def run_page(page: str, folder: Path, mark: str | None = None) -> list[tuple[Block, str]]:
    """Run a page's blocks in ``folder``, those of ``mark`` among them; each with what it printed."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    for path in (folder / "model").iterdir():
        if path.name != "README.md":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    MATERIAL.get((page, mark), lambda _: None)(folder)
    wanted = [block for block in blocks(page) if block.kind in RUN or (mark and MARKED.get(block.kind) == mark)]
    printed: list[tuple[Block, str]] = []
    while wanted:
        session = [wanted.pop(0)]
        while session[0].kind == "python" and wanted and wanted[0].kind == "python":
            session.append(wanted.pop(0))
        printed += zip(session, run_session(session, folder), strict=True)
    return printed


def run_session(session: list[Block], folder: Path) -> list[str]:
    """What each block printed. Python blocks that follow one another share one interpreter, as somebody types them."""
    first, texts = session[0], {str(block): block.text for block in session}
    if first.kind == "python":
        program = f"for name, text in {texts!r}.items():\n exec(compile(text, name, 'exec'))\n print({END!r})\n"
        return run([sys.executable, "-u", "-c", program], first, folder).split(f"{END}\n")[:-1]
    if first.kind == "diff":
        return [run(["git", "apply", "-"], first, folder, first.text)]
    text = engine_placed(first.text) if first.kind == "sh image" else first.text
    return [run(["bash", "-euo", "pipefail", "-c", text], first, folder)]


def run(command: list[str], block: Block, folder: Path, given: str = "") -> str:
    """What a command printed in ``folder``, with the copy's code; it must succeed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SURVFUSE_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    environment |= {"IMAGE": IMAGE, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    # Two pages are run at once, each on one core.
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{block} ends with exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


Ran = tuple[Path, list[tuple[Block, str]]]


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Ran]]:
    """A page's folder after its blocks were run, and what they printed. Pages are run once for all tests, two at a
    time, and only those that a selected test asks for."""
    selected = [item for item in request.session.items if "ran" in getattr(item, "fixturenames", ())]
    pages = dict.fromkeys(item.callspec.params["page"] if hasattr(item, "callspec") else WRITES for item in selected)
    folders = {page: tmp_path_factory.mktemp("page") for page in pages}
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {page: pool.submit(run_page, page, folder) for page, folder in folders.items()}
        yield lambda page: (folders[page], running[page].result())


def marked_pages(mark: str) -> list[str]:
    return [page for page in PAGES if any(MARKED.get(block.kind) == mark for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs_and_prints_what_the_page_shows(page, ran):
    _, printed = ran(page)
    assert [block for block, _ in printed] == [block for block in blocks(page) if block.kind in RUN]
    check_outputs(page, dict(printed))


@pytest.mark.long
@pytest.mark.parametrize("page", marked_pages("long"))
def test_commands_at_full_size_run(page, tmp_path):
    assert any(block.kind == "sh long" for block, _ in run_page(page, tmp_path, "long"))


@pytest.mark.cluster
@pytest.mark.parametrize("page", marked_pages("cluster"))
def test_commands_with_workers_run(page, tmp_path):
    assert any(block.kind == "sh cluster" for block, _ in run_page(page, tmp_path, "cluster"))


@pytest.fixture(scope="module")
def image_removed() -> Iterator[None]:
    """The image that the pages build goes when they are done."""
    yield
    subprocess.run([os.environ["CONTAINER_ENGINE"], "image", "rm", "--force", IMAGE], capture_output=True)


@pytest.mark.image
@pytest.mark.parametrize("page", marked_pages("image"))
def test_commands_that_need_a_container_engine_run(page, tmp_path, image_removed):
    assert any(block.kind == "sh image" for block, _ in run_page(page, tmp_path, "image"))


def check_outputs(page: str, printed: Mapping[Block, str]) -> None:
    """Each line of a ``text output`` block is a line that the block before printed, numbers aside."""
    before = None
    for block in blocks(page):
        if block.kind == "text output":
            assert before in printed, f"{block}: no block before it was run"
            lines = [masked(line) for line in printed[before].splitlines()]
            for line in block.text.splitlines():
                pattern = ".*".join(map(re.escape, masked(line).split("…")))
                assert any(re.fullmatch(pattern, other) for other in lines), (
                    f"{block}: {line!r} was not printed, but:\n{printed[before]}"
                )
        elif block.kind in RUN or block.kind in MARKED:
            before = block


def masked(line: str) -> str:
    """A line without its numbers, signs and spacing, which differ between machines."""
    return " ".join(re.sub(r"[-+−]?\d[\d.,]*", "#", line).split())


# What they are


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_known_tag(page):
    unknown = [f"{block}: {block.kind!r}" for block in blocks(page) if block.kind not in (*RUN, *MARKED, *CONTENT)]
    assert not unknown


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_in_a_block_that_is_not_run(page):
    command = re.compile(
        r"^\s*(\$ |survfuse |python3? |\.venv/|make |docker |podman |\./|pip |test/run\.sh)", re.MULTILINE
    )
    for block in blocks(page):
        if block.kind.startswith("text"):
            assert not command.search(block.text), f"{block} is a command, but tagged {block.kind!r}"
        elif block.kind == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_make_blocks_name_targets_that_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page):
        if block.kind == "sh make":
            for line in block.text.splitlines():
                target = re.fullmatch(r"make ([\w-]+)( \w+=\S+)*( +#.*)?", line)
                assert target and target[1] in targets, f"{block}: {line}"
    named = {code.split()[1] for code in inline_code(page) if re.match(r"make [\w-]+", code)}
    assert named <= targets, named - targets


def test_ci_runs_what_the_readme_begins_with():
    text = (ROOT / "README.md").read_text()
    first = blocks("README.md")[0]
    assert first.kind == "sh make" and first.line < 5
    assert [line.split("#")[0].split() for line in first.text.splitlines()] == [["make", "run"], ["make", "test"]]
    ran_by_ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert "make run" in ran_by_ci and "make test" in ran_by_ci
    assert len(text.splitlines()) <= 150


# What they name


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    slugs: list[str] = []
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        slugs.append(slug if slug not in slugs else f"{slug}-{slugs.count(slug)}")
    return set(slugs)


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md", "CHANGELOG.md", "model/README.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(place), f"{page}: {target}"


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_files_of_the_repository_that_are_named_exist(page):
    tops = {path.name for path in ROOT.iterdir()} - {"build", "model", "model.training"}
    for code in inline_code(page):
        for word in code.split():
            place = word.removeprefix("./")
            ours = place.split("/")[0] in tops or re.fullmatch(r"[\w/-]+\.(py|sh|lock)", place)
            if ours and re.fullmatch(r"[\w./-]+", place) and not place.startswith("test/output"):
                assert (ROOT / place).exists() or (ROOT / page).parent.joinpath(place).exists(), f"{page}: {word}"


# Options of other programs: engines, pip, sha256sum, pytest.
OTHERS = {"--build-arg", "--gpus", "--device", "--read-only", "--read-only-tmpfs", "--check", "--rm", "--network"}


@pytest.mark.parametrize("page", PAGES)
def test_options_and_variables_that_are_named_exist(page):
    sources = [*(ROOT / "survfuse" / "cli").glob("*.py"), ROOT / "survfuse" / "container" / "job.py"]
    code = "\n".join(path.read_text() for path in sources)
    code += "\n".join((ROOT / name).read_text() for name in ("Makefile", "Dockerfile", "build.sh", "export.sh"))
    known = options_of_the_commands()
    text = (ROOT / page).read_text()
    named = {option for span in inline_code(page) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert named <= known | OTHERS, named - known - OTHERS
    everything = code + "\n".join(path.read_text() for path in (ROOT / "survfuse").rglob("*.py"))
    for variable in set(re.findall(r"\bSURVFUSE_[A-Z_]+", text)):
        assert variable in everything, f"{page}: {variable}"


def options_of_the_commands() -> set[str]:
    """Every option of every command, and of the job."""
    import typer

    from survfuse.cli.main import app

    command = typer.main.get_command(app)
    groups = [command, *getattr(command, "commands", {}).values()]
    options = {name for group in groups for parameter in group.params for name in getattr(parameter, "opts", ())}
    job = (ROOT / "survfuse" / "container" / "job.py").read_text()
    return options | set(re.findall(r'"(--[a-z-]+)"', job)) | {"--help", "--version"}


@pytest.mark.parametrize("page", PAGES)
def test_images_are_named_by_this_version(page):
    named = set(re.findall(r"\bsurvfuse(?:-export)?:(\d+(?:\.\d+)+)", (ROOT / page).read_text()))
    assert named <= {survfuse.__version__}


def first_column(page: str, heading: str) -> list[list[str]]:
    """The code spans in the first cells of the table that begins with ``heading``."""
    table = (ROOT / page).read_text().split(f"\n{heading}\n")[1].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines()[1:]]


def test_the_table_of_families_is_that_of_the_code():
    rows = first_column("docs/method.md", "| `--fusion` | risk | source | parameters | ms a case |")
    assert sorted(name for row in rows for name in row) == sorted(FAMILIES)


def test_the_table_of_encoders_is_that_of_the_code():
    heading = "| encoder | features | weights |"
    rows = (ROOT / "docs/for-researchers.md").read_text().split(f"{heading}\n")[1].split("\n\n")[0].splitlines()[1:]
    stated = {name: int(row.split("|")[2]) for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert stated == {spec.name: spec.dimension for spec in ENCODERS.values()}


# Every column and key has its line


def keys(value: object, known: frozenset[str]) -> set[str]:
    """The keys of a JSON value at any depth, but for those that name what is in the file: ids, genes, families."""
    if isinstance(value, Mapping):
        return {key for key in value if key not in known}.union(*(keys(entry, known) for entry in value.values()))
    if isinstance(value, list):
        return set().union(*(keys(entry, known) for entry in value))
    return set()


def test_every_key_and_column_that_is_written_is_described(ran):
    folder, _ = ran(WRITES)
    described = {word for code in inline_code("docs/file-formats.md") for word in (code, *re.split(r"[.<>/ ]", code))}
    bundle = json.loads((folder / "model" / "manifest.json").read_text())
    variable = set(bundle["files"]) | set(bundle["combinations"]) | set(FAMILIES)
    variable |= {path.parent.name for path in folder.glob("*/data/*/*_CD.json")}
    written = [*(folder / "model").glob("*.json"), folder / "model.training" / "report.json"]
    written += [folder / "cohort" / "simulation.json", folder / "evaluation.json"]
    written += [folder / "test" / "input" / "interf0" / "inputs.json", *folder.glob("cohort/data/*/*_CD.json")]
    for path in written:
        missing = keys(json.loads(path.read_text()), frozenset(variable)) - described
        assert not missing, f"{path.name}: {missing}"
    for path in (folder / "predictions.csv", folder / "survival.csv"):
        with path.open(newline="") as file:
            header = next(csv.reader(file))
        assert {name for name in header if not name.isdigit()} <= described, path.name


def test_every_key_and_column_of_an_explanation_is_described(ran):
    folder, _ = ran("docs/explaining.md")
    described = {word for code in inline_code("docs/file-formats.md") for word in (code, *re.split(r"[.<>/ ]", code))}
    named = frozenset({"slide", "rna", "clinical", *FAMILIES, *map(combination_name, COMBINATIONS)})
    assert keys(json.loads((folder / "why/case.json").read_text()), named) <= described
    (tile, *_) = json.loads((folder / "why/tiles.geojson").read_text())["features"]
    assert {*tile["properties"], *tile["properties"]["measurements"]} <= described
    with (folder / "why/contributions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {*rows[0], *(row["kind"] for row in rows)} <= described


def test_every_attribute_of_a_feature_file_is_described(ran):
    import h5py

    folder, _ = ran(WRITES)
    described = set(inline_code("docs/file-formats.md"))
    with h5py.File(folder / "3S_001_HE.h5") as file:
        names = {*file, *(name for holder in (file, *file.values()) for name in holder.attrs)}
    assert names <= described, names - described
