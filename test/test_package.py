"""The package as pip installs it: what the wheel holds, how it is used outside a checkout, and what it depends on."""

import ast
import csv
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from conftest import CASES, DEMONSTRATION, ROOT, end_of, months
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import survfuse
from survfuse.runtime.errors import EnvironmentFailure, as_survfuse_error
from survfuse.runtime.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(source: Path, folder: Path, kind: str) -> Path:
    """The one distribution of ``source``, written to ``folder``."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder], cwd=source, check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_holds_the_package_with_its_types_and_the_demonstration_bundle(wheel):
    files = [path for path in (ROOT / "survfuse").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected = {str(path.relative_to(ROOT)): path for path in files}
    bundle = [path for path in DEMONSTRATION.rglob("*") if path.is_file()]
    expected |= {f"survfuse/resources/demonstration/{path.relative_to(DEMONSTRATION)}": path for path in bundle}
    assert {"survfuse/py.typed", "survfuse/cohort/simulated_genes.txt"} < set(expected) and len(bundle) > 70
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == set(expected)
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes()


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    with tarfile.open(build(ROOT, tmp_path / "sdist", "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert build(source, tmp_path / "wheel", "wheel").read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new environment's commands: it has the wheel, and its dependencies from this environment."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(root / "bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--disable-pip-version-check", wheel], check=True, env=outside())
    (site,) = root.glob("lib/python*/site-packages")
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "zz_dependencies.pth").write_text("".join(f"{path}\n" for path in here))
    return root / "bin"


def outside() -> dict[str, str]:
    """The environment's variables without the one that makes this checkout importable."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(command: list[str | Path], folder: Path) -> str:
    """Standard output of a command that starts in ``folder``, outside the checkout, and succeeds."""
    done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_knows_its_version(installed, tmp_path):
    assert run([installed / "survfuse", "--version"], tmp_path) == f"survfuse {survfuse.__version__}\n"


FIVE_LINES = """
import survfuse
model = survfuse.demonstration()
prediction = model.predict(CASE)
print(prediction.months)
"""


def test_five_lines_outside_the_checkout_give_the_jobs_months(installed, tmp_path):
    lines = FIVE_LINES.replace("CASE", repr(str(CASES / "interf0"))) + "print(survfuse.__file__)\n"
    *_, value, place = run([installed / "python", "-c", lines], tmp_path).splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert end_of(CASES / "interf0", tmp_path / "output") == 0
    assert float(value) == months(tmp_path / "output")


def test_the_installed_command_gives_the_jobs_months(installed, tmp_path):
    bundle = next(installed.parent.glob("lib/python*/site-packages/survfuse/resources/demonstration"))
    command = [installed / "survfuse", "predict", CASES / "interf1", "--model", bundle, "--out", "predictions.csv"]
    run(command, tmp_path)
    assert end_of(CASES / "interf1", tmp_path / "output") == 0
    with (tmp_path / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["months"]) == months(tmp_path / "output")


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    """Package → versions of requirements."""
    return {canonicalize_name(item.name): item.specifier for item in map(Requirement, lines)}


def modules_of(package: str) -> set[str]:
    """The names by which an installed package is imported."""
    found = distribution(package)
    named = (found.read_text("top_level.txt") or "").split()
    return set(named) or {path.parts[0].removesuffix(".py") for path in found.files or () if path.suffix == ".py"}


def test_the_packages_of_an_extra_are_those_that_the_code_names():
    for extra, packages in EXTRAS.items():
        declared = requirements(PROJECT["optional-dependencies"][extra])
        assert sorted(declared) == sorted(packages.values())
        for module, package in packages.items():
            assert module in modules_of(package)


# Distributions that no module of ours imports, with what uses them.
INDIRECT = {
    "openslide-bin": "the library that openslide-python loads",
    "imagecodecs": "tifffile's decoders",
    "torchvision": "timm's operators",
}


def test_every_import_is_a_declared_dependency_and_every_dependency_is_used():
    used: set[str] = set()
    for path in (ROOT / "survfuse").rglob("*.py"):
        if path.name == "inventory.py":  # runs where the image is built, in an environment of its own
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                name = str(node.module).replace("torch.utils.tensorboard", "tensorboard")  # the one needs the other
                used.add(name.partition(".")[0])
    modules = used - set(sys.stdlib_module_names) - {"survfuse"}
    extras = PROJECT["optional-dependencies"]
    declared = requirements(PROJECT["dependencies"] + extras["train"] + extras["tables"] + extras["cluster"])
    importable = {package: modules_of(package) for package in declared}
    assert modules <= set().union(*importable.values())
    assert {package for package, names in importable.items() if not names & modules} == set(INDIRECT)


def test_the_environment_has_the_requirements_of_pyproject_toml():
    """One made before the last change of that file would test something else."""
    here = distribution("survfuse")
    assert here.version == survfuse.__version__
    assert SpecifierSet(here.metadata["Requires-Python"]) == SpecifierSet(PROJECT["requires-python"])
    declared = requirements(PROJECT["dependencies"])
    assert declared.items() <= requirements(here.requires or []).items()


# Runs a command, or a job, as if no package of the extra were installed.
WITHOUT = """
import sys
from survfuse.runtime.extras import EXTRAS
sys.modules.update(dict.fromkeys(EXTRAS["train"]))
sys.argv[0] = "survfuse"
from survfuse.MODULE import main
sys.exit(main())
"""


def without_extra(module: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT.replace("MODULE", module), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_a_command_without_its_extra_names_it_on_one_line(tmp_path):
    table = tmp_path / "table.csv"
    table.touch()
    packages = ", ".join(EXTRAS["train"].values())
    for name, arguments in (("train", [tmp_path, "--out", tmp_path / "out"]), ("evaluate", [table, table])):
        done = without_extra("cli.main", name, *arguments)
        install = "pip install '.[train]' in the checkout of survfuse"
        line = f"survfuse: EnvironmentFailure: {name} needs {packages}: {install}\n"
        assert (done.returncode, done.stderr) == (4, line)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_of_an_extra_is_named_wherever_it_is_imported():
    error = as_survfuse_error(ModuleNotFoundError("No module named 'sklearn'", name="sklearn.cluster"))
    assert isinstance(error, EnvironmentFailure)
    assert str(error) == "scikit-learn is not installed: pip install '.[train]' in the checkout of survfuse"
    assert as_survfuse_error(ModuleNotFoundError("No module named 'torch'", name="torch")) is None


def test_a_job_and_the_commands_about_bundles_need_no_extra(tmp_path):
    case, table = CASES / "interf1", tmp_path / "predictions.csv"
    done = without_extra("container.job", "--input", case, "--output", tmp_path / "output")
    assert done.returncode == 0, done.stderr
    expected = json.loads((ROOT / "test/expected/interf1" / next((tmp_path / "output").iterdir()).name).read_text())
    assert months(tmp_path / "output") == pytest.approx(expected, rel=1e-3)
    done = without_extra("cli.main", "predict", case, "--model", DEMONSTRATION, "--out", table)
    assert done.returncode == 0, done.stderr
    assert f"{months(tmp_path / 'output')!r}" in table.read_text()
