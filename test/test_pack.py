"""The platform's own algorithm template, made by grand-challenge-forge for CHIMERA Task 3, against ours."""

import ast
import io
import json
import math
import re
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest
from conftest import CASES, OUTPUT_FILE, PLACES, ROOT, SLUGS, run_job
from grand_challenge_forge.forge import generate_algorithm_template
from grand_challenge_forge.utils import directly_import_module

import survfuse.container.job as job
from survfuse.bundle.demonstration import RESOURCES
from survfuse.container.model import MOUNTED_MODEL
from survfuse.inputs.sockets import read_case
from survfuse.tasks.chimera3 import TASK


def socket(slug: str, relative_path: str, kind: str, super_kind: str, **more: object) -> dict:
    return {"slug": slug, "relative_path": relative_path, "kind": kind, "super_kind": super_kind} | more


# The challenge's sockets, written out: taken from survfuse.tasks they would follow any mistake made there.
SLIDE = socket(
    "bladder-cancer-tissue-biopsy-whole-slide-image", "images/bladder-cancer-tissue-biopsy-wsi", "Image", "Image"
)
MASK = socket("tissue-mask", "images/tissue-mask", "Image", "Image")
RNA = socket("bulk-rna-seq-bladder-cancer", "bulk-rna-seq-bladder-cancer.json", "Anything", "File")
CLINICAL = socket(
    "chimera-clinical-data-of-bladder-cancer-recurrence",
    "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
    "Anything",
    "File",
)
OUTPUT = socket(
    "likelihood-of-bladder-cancer-recurrence",
    "likelihood-of-bladder-cancer-recurrence.json",
    "Float",
    "Value",
    example_value=52.3,
)
INPUTS = {"interf0": [SLIDE, MASK, RNA, CLINICAL], "interf1": [SLIDE, RNA, CLINICAL]}

both_interfaces = pytest.mark.parametrize("interface", INPUTS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated algorithm template, unpacked."""
    algorithm = {
        "title": "CHIMERA Task 3",
        "slug": "chimera-task3",
        "url": "https://chimera.grand-challenge.org/",
        "algorithm_interfaces": [{"inputs": inputs, "outputs": [OUTPUT]} for inputs in INPUTS.values()],
    }
    root = tmp_path_factory.mktemp("template")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        generate_algorithm_template(
            context={"algorithm": algorithm}, output_zip_file=archive, target_zpath=PurePosixPath()
        )
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(root)
    return root


@pytest.fixture
def layout(template: Path, interface: str, tmp_path: Path) -> Path:
    """The input folder that the template generates, each of its stub files replaced by the sample case's."""
    root = Path(shutil.copytree(template / "test/input" / interface, tmp_path / "input"))
    for stub in [path for path in root.rglob("*") if path.is_file() and path.name != "inputs.json"]:
        place = CASES / interface / stub.relative_to(root)
        source = place if stub.suffix == ".json" else next(place.parent.iterdir())
        stub.unlink()
        shutil.copy(source, stub.with_suffix(source.suffix))
    return root


def imported(template: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generated inference.py, with every absolute path in it moved under ``root``."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (root / "inference.py").write_text((template / "inference.py").read_text().replace('Path("/', f'Path("{root}/'))
    return directly_import_module("template_inference", root / "inference.py")


def absolute_paths(template: Path) -> set[str]:
    """Absolute paths that the generated inference.py names."""
    nodes = ast.walk(ast.parse((template / "inference.py").read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and str(node.value).startswith("/")}


def handlers(template: Path) -> dict[tuple[str, ...], str]:
    """Interface key → handler's name, as the generated inference.py dispatches."""
    nodes = ast.walk(ast.parse((template / "inference.py").read_text()))
    table = next(node for node in nodes if isinstance(node, ast.Dict))
    return {ast.literal_eval(key): value.id for key, value in zip(table.keys, table.values, strict=True)}


def paths_under(template: Path, variable: str) -> set[str]:
    """Relative paths that the generated inference.py joins to INPUT_PATH or OUTPUT_PATH."""
    return set(re.findall(rf'{variable}\s*/\s*"([^"]+)"', (template / "inference.py").read_text()))


def entries(root: Path) -> list[dict]:
    return json.loads((root / "inputs.json").read_text())


def inner(entry: dict) -> dict:
    """The object that carries the slug: its key is ``interface`` or ``socket``."""
    (key,) = {"interface", "socket"} & set(entry)
    return entry[key]


def volumes(script: str) -> set[tuple[str, str]]:
    """Where a script's job, the command without network, mounts something, and ``:ro`` where it cannot write."""
    return set(re.findall(r'--volume \S+?"?:(/[\w/]+)(:ro)?"?\s', script[script.rindex("--network none") :]))


def copied(dockerfile: str) -> dict[str, str]:
    """What a Dockerfile copies from the build context → where to."""
    pairs = re.findall(r"^COPY (?:--chown=\S+ )?([\w.]+) (/opt/app\S*)$", dockerfile, re.M)
    return {source: to + source if to.endswith("/") else to for source, to in pairs}


def test_input_sockets_lie_where_the_template_reads_them(template):
    generated = {
        inner(entry)["slug"]: inner(entry)["relative_path"] for entry in entries(template / "test/input/interf0")
    }
    assert generated == {socket.slug: socket.place for socket in TASK.sockets.values()}
    assert paths_under(template, "INPUT_PATH") == {*PLACES.values(), "inputs.json"}


def test_interfaces_are_those_the_template_dispatches_on(template):
    complete = set(SLUGS.values())
    ours = [tuple(sorted(slugs)) for slugs in (complete, complete - {SLUGS["mask"]})]
    assert handlers(template) == {key: f"interf{number}_handler" for number, key in enumerate(ours)}


def test_output_is_named_as_in_the_template(template):
    assert paths_under(template, "OUTPUT_PATH") == {OUTPUT_FILE}


def test_sample_cases_are_the_interfaces_of_the_template(template):
    folders = [sorted(path.name for path in root.iterdir()) for root in (template / "test/input", CASES)]
    assert folders[0] == folders[1]
    forward_passes = re.findall(r'^run_docker_forward_pass "(\w+)"', (template / "do_test_run.sh").read_text(), re.M)
    assert sorted(forward_passes) == folders[1]


@both_interfaces
def test_sample_case_lies_as_the_generated_one(template, interface):
    """Files at the same places; images are free in their name, and features stand in for a slide."""

    def places(root: Path) -> list[str]:
        files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        return sorted(str(path if path.suffix == ".json" else path.parent) for path in files)

    assert places(CASES / interface) == places(template / "test/input" / interface)


@both_interfaces
def test_sample_inputs_json_has_the_generated_structure(template, interface):
    """Same sockets in the same order under the same keys; ``pk`` is the platform's, and the template has none."""
    ours, generated = entries(CASES / interface), entries(template / "test/input" / interface)
    assert [inner(entry) for entry in ours] == [inner(entry) for entry in generated]
    assert [set(entry) - {"pk"} for entry in ours] == [set(entry) for entry in generated]


@both_interfaces
def test_sample_inputs_json_fills_the_fields_that_the_template_fills(template, interface):
    """A File socket has a link under ``file``, an Image socket a name under ``image``; the rest is null."""

    def filled(root: Path) -> dict[str, set[tuple[str, type]]]:
        fields = ("file", "image", "value")
        return {
            inner(entry)["slug"]: {(name, type(entry[name])) for name in fields if entry[name] is not None}
            for entry in entries(root)
        }

    assert filled(CASES / interface) == filled(template / "test/input" / interface)


@both_interfaces
def test_case_is_read_from_the_generated_layout(layout, interface):
    case = read_case(layout)
    found = {SLIDE["slug"]: case.slide or case.features, RNA["slug"]: case.rna, CLINICAL["slug"]: case.clinical}
    found |= {MASK["slug"]: case.mask} if case.mask else {}
    lying = {slug: path.parent if path.suffix != ".json" else path for slug, path in found.items()}
    assert lying == {inner(entry)["slug"]: layout / inner(entry)["relative_path"] for entry in entries(layout)}
    assert case.found_by == "inputs.json"


@both_interfaces
def test_stub_images_of_the_template_are_read_too(template, interface):
    """Not a file of the generated input folder is replaced: its slide and its mask are .mha."""
    root = template / "test/input" / interface
    case = read_case(root)
    images = set(root.rglob("*.mha"))
    assert {path for path in (case.slide, case.mask) if path} == images


@both_interfaces
def test_sample_case_has_the_interface_key_of_its_handler(template, interface, tmp_path, monkeypatch):
    module = imported(template, tmp_path, monkeypatch)
    monkeypatch.setattr(module, "INPUT_PATH", CASES / interface)
    assert handlers(template)[module.get_interface_key()] == f"{interface}_handler"


def test_template_runs_over_the_sample_slide(template, tmp_path, monkeypatch):
    """The generated code reads our sample case with its own image reader, and writes what ours is compared with."""
    module = imported(template, tmp_path, monkeypatch)
    shutil.copytree(CASES / "interf0", tmp_path / "input")
    shutil.copytree(template / "resources", tmp_path / "opt/app/resources")
    shutil.copytree(template / "model", tmp_path / "opt/ml/model")
    (tmp_path / "output").mkdir()
    assert module.run() == 0
    (written,) = (tmp_path / "output").iterdir()
    assert written.name == OUTPUT_FILE


@both_interfaces
def test_job_writes_one_number_where_the_template_writes_its_example(template, layout, interface, tmp_path):
    ended = run_job(layout, tmp_path / "output")
    assert (ended.returncode, ended.stderr) == (0, "")
    (written,) = (tmp_path / "output").iterdir()
    assert {written.name} == paths_under(template, "OUTPUT_PATH")
    source = (template / "inference.py").read_text()
    example = re.search(r"output_likelihood_of_bladder_cancer_recurrence = (.+)", source)[1]
    months = json.loads(written.read_text())
    assert type(months) is type(ast.literal_eval(example)) and math.isfinite(months)


def test_job_reads_and_writes_where_the_template_does(template, monkeypatch):
    """Without options: /input, /output, the tarball's folder, and resources where the image has them."""
    given = []
    monkeypatch.setattr(job, "run", lambda *options: given.append(options))
    assert job.main([]) == 0
    ((input_root, output_root, model, *others),) = given
    assert model is None and others == [None, None, None]
    package = PurePosixPath(copied((ROOT / "Dockerfile").read_text())["survfuse"])
    resources = package.parent / RESOURCES.relative_to(ROOT)
    ours = {str(path) for path in (input_root, output_root, MOUNTED_MODEL, resources)}
    assert ours == absolute_paths(template)


def test_image_holds_code_and_resources_where_the_template_does(template):
    generated = copied((template / "Dockerfile").read_text())
    ours = copied((ROOT / "Dockerfile").read_text())
    assert {name: ours.get(name) for name in ("resources", "inference.py")} == {
        name: generated[name] for name in ("resources", "inference.py")
    }


def test_local_run_mounts_what_the_template_mounts(template):
    """The job has the same places, read-only where the platform's are."""
    generated, ours = (template / "do_test_run.sh").read_text(), (ROOT / "test/run.sh").read_text()
    assert len(volumes(generated)) == 4
    assert volumes(ours) == volumes(generated)
