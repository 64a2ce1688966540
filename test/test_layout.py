"""Which subpackage may import which, what only ``tasks`` may name, and that every public name has a docstring.

Modules are read, not run, so an import inside a function or only for type checkers counts like any other.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

import survfuse

# The subpackages from the bottom up; each imports only from lower levels. There is one direction because a case goes
# one way: from files to vectors, through networks to a risk, from a risk to months. What every step uses lies lowest.
LEVELS = (
    ("runtime",),  # files, log, errors, device: knows nothing of survival
    ("tasks",),  # what is predicted and how its files name things: the rest reads it, so it must not read the rest
    ("slide", "survival", "workers"),  # pixels; outcomes; who does the work: none knows the others
    ("inputs", "networks"),  # files → vectors; vectors → risk
    ("bundle", "cohort"),  # what is frozen; many patients on disk
    ("prediction", "evaluation", "reference"),  # what is done with a bundle, with predictions, with others' models
    ("explanation",),  # why a case has its risk
    ("container", "training"),  # the platform's job; from a cohort to a bundle
    ("model.py",),  # a bundle for use in Python
    ("api.py",),  # the package as a library
    ("__init__.py",),  # hands the library's names on, lazily
    ("cli",),  # the commands call the library
    ("__main__.py",),
)
VERSION = ("__init__.py", "__version__")  # stands where tools look for it, and may be read from everywhere
TASK_WORDS = ("chimera", "bladder", "bcg", "task 3")  # what is specific to one task stands only in tasks/
TASK_PACKAGE = "tasks"


@dataclass(frozen=True)
class Import:
    """One import of a module of the package: who asks, for which module and which name in it."""

    importer: str  # path below the package, "training/train.py"
    imported: str  # likewise
    name: str | None  # None: the module itself
    line: int


def parsed(package: Path) -> dict[str, ast.Module]:
    """Every module of a package, by its path below it."""
    files = sorted(package.rglob("*.py"))
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def imports(modules: Mapping[str, ast.Module], package: str) -> list[Import]:
    """Every import of one of ``modules`` by another, wherever in the file it stands."""
    found = []
    for importer, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                # A relative import would be read as a foreign one.
                assert node.level == 0, f"{importer}, line {node.lineno}: expected an absolute import"
                for alias in node.names:
                    whole = module_file(f"{node.module}.{alias.name}", package, modules)
                    part = module_file(str(node.module), package, modules)
                    if whole is not None:
                        found.append(Import(importer, whole, None, node.lineno))
                    elif part is not None:
                        found.append(Import(importer, part, alias.name, node.lineno))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    whole = module_file(alias.name, package, modules)
                    if whole is not None:
                        found.append(Import(importer, whole, None, node.lineno))
    return [one for one in found if one.importer != one.imported and (one.imported, one.name) != VERSION]


def module_file(name: str, package: str, modules: Mapping[str, ast.Module]) -> str | None:
    """The path of the module that goes by a dotted ``name``; None for one of another package."""
    first, _, rest = name.partition(".")
    if first != package:
        return None
    below = rest.replace(".", "/")
    candidates = (f"{below}.py", f"{below}/__init__.py") if below else ("__init__.py",)
    return next((path for path in candidates if path in modules), None)


def subpackage(path: str) -> str:
    """The subpackage that a module lies in: its folder, or the module itself if it lies beside the subpackages."""
    return path.split("/")[0]


def level(path: str) -> int:
    return next(number for number, subpackages in enumerate(LEVELS) if subpackage(path) in subpackages)


def imports_not_downwards(some: list[Import]) -> list[str]:
    """A line on each import between subpackages that does not run to a lower level."""
    refused = {
        f"{one.importer}, line {one.line}, imports {one.imported}: {subpackage(one.importer)} may not import "
        f"{subpackage(one.imported)}"
        for one in some
        if subpackage(one.importer) != subpackage(one.imported) and level(one.importer) <= level(one.imported)
    }
    return sorted(refused)


def circles(some: list[Import]) -> list[str]:
    """A line on each cycle of modules, naming them in the order in which they import each other."""
    edges: dict[str, list[str]] = {}
    for one in some:
        edges.setdefault(one.importer, []).append(one.imported)
    done: set[str] = set()
    met = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            met.append(" → ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for imported in edges.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
    return sorted(met)


def private_imports(some: list[Import]) -> list[str]:
    """A line on each import of a name that is private to another module."""
    return [
        f"{one.importer}, line {one.line}, imports {one.name} of {one.imported}"
        for one in some
        if one.name is not None and one.name.startswith("_") and not one.name.startswith("__")
    ]


def task_words(package: Path) -> list[str]:
    """A line on each place outside of ``tasks`` that names the task."""
    return [
        f"{path.relative_to(package).as_posix()}, line {number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if subpackage(path.relative_to(package).as_posix()) != TASK_PACKAGE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if any(word in line.lower() for word in TASK_WORDS)
    ]


def filled_packages(modules: Mapping[str, ast.Module]) -> list[str]:
    """The non-empty ``__init__`` files: importing any module of the subpackage would cost what they import."""
    return [path for path, tree in modules.items() if path.endswith("/__init__.py") and tree.body]


Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST, public: bool, prefix: str = "") -> Iterator[tuple[str, Defined]]:
    """Functions, classes and methods with their dotted names: all of them, or those that callers may use."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Defined):
            if public and node.name.startswith("_"):
                continue
            yield f"{prefix}{node.name}", node
            # What a function defines within is its own business, unless everything is asked for.
            if isinstance(node, ast.ClassDef) or not public:
                yield from definitions(node, public, f"{prefix}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from definitions(node, public, prefix)


def without_docstring(modules: Mapping[str, ast.Module]) -> list[str]:
    """A line on each module, and each public function, class and method, that has no docstring."""
    silent = [path for path, tree in modules.items() if tree.body and ast.get_docstring(tree) is None]
    for path, tree in modules.items():
        silent += [f"{path}: {name}" for name, node in definitions(tree, public=True) if not ast.get_docstring(node)]
    return silent


def returning_any(modules: Mapping[str, ast.Module]) -> list[str]:
    """A line on each function whose return annotation is missing, or leaves the type open."""
    return [
        f"{path}: {name}"
        for path, tree in modules.items()
        for name, node in definitions(tree, public=False)
        if not isinstance(node, ast.ClassDef) and (node.returns is None or says_any(node.returns))
    ]


def says_any(annotation: ast.expr) -> bool:
    """Whether an annotation contains ``Any``, quoted ones included."""
    names = set()
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if says_any(ast.parse(node.value, mode="eval").body):
                return True
        elif isinstance(node, ast.Name | ast.Attribute):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return "Any" in names


PACKAGE = ROOT / "survfuse"
MODULES = parsed(PACKAGE)
IMPORTS = imports(MODULES, "survfuse")


def test_every_module_lies_in_a_subpackage_that_has_its_level():
    subpackages = [name for names in LEVELS for name in names]
    assert {subpackage(path) for path in MODULES} == set(subpackages)
    assert len(subpackages) == len(set(subpackages))


def test_imports_between_subpackages_run_downwards():
    assert len(IMPORTS) > 200  # they are read at all
    assert imports_not_downwards(IMPORTS) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(IMPORTS) == []


def test_no_module_imports_what_is_anothers_own():
    assert private_imports(IMPORTS) == []


def test_nothing_outside_tasks_names_the_task():
    assert task_words(PACKAGE) == []


def test_importing_a_subpackage_costs_nothing():
    assert filled_packages(MODULES) == []


def test_every_function_class_and_method_of_the_package_s_interface_has_an_example():
    public = {name: getattr(survfuse, name) for name in survfuse.__all__}
    errors = {name for name, found in public.items() if isinstance(found, type) and issubclass(found, Exception)}
    named = {name: found for name, found in public.items() if name not in errors}
    methods = {
        f"{name}.{method}": found
        for name, owner in named.items()
        if isinstance(owner, type)
        for method, found in vars(owner).items()
        if inspect.isfunction(found) and not method.startswith("_")
    }
    assert [name for name, found in (named | methods).items() if ">>>" not in inspect.getdoc(found)] == []


def test_every_module_and_every_public_name_has_a_docstring():
    assert without_docstring(MODULES) == []


def test_every_function_states_what_it_returns():
    assert returning_any(MODULES) == []


COX = '''
"""Cox."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fake.inputs.reader import _own, read


class Cox:
    def fit(self) -> "dict[str, Any]":
        """Fit."""

    def _own(self) -> int: ...
'''
FAKE = {
    "__init__.py": '"""A package."""\n__version__ = "1"\n',
    "runtime/__init__.py": "",
    "runtime/log.py": '"""Log."""\nfrom fake import __version__\nfrom fake.inputs.case import Case\n',
    "tasks/__init__.py": "",
    "tasks/bladder.py": '"""The bladder task of CHIMERA."""\n',
    "inputs/__init__.py": "import os\n",
    "inputs/case.py": '"""Cases."""\nimport fake.runtime.log\nfrom fake.inputs import reader\nCase = int\n',
    "inputs/reader.py": '"""Made for Task 3."""\n\ndef read() -> None:\n    from fake.inputs.case import Case\n',
    "networks/__init__.py": "",
    "networks/cox.py": COX.lstrip(),
    "networks/open.py": '"""Open."""\n\n\ndef public(x: Any):\n    """The return type is missing."""\n',
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A package that breaks every rule, along with code that only seems to."""
    for name, text in FAKE.items():
        (tmp_path / "fake" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fake" / name).write_text(text)
    return tmp_path / "fake"


def test_each_check_finds_what_is_planted_and_names_both_files(fake):
    modules = parsed(fake)
    some = imports(modules, "fake")
    assert imports_not_downwards(some) == [
        "networks/cox.py, line 5, imports inputs/reader.py: networks may not import inputs",
        "runtime/log.py, line 3, imports inputs/case.py: runtime may not import inputs",
    ]
    assert circles(some) == [
        "inputs/case.py → inputs/reader.py → inputs/case.py",
        "inputs/case.py → runtime/log.py → inputs/case.py",
    ]
    assert private_imports(some) == ["networks/cox.py, line 5, imports _own of inputs/reader.py"]
    assert task_words(fake) == ['inputs/reader.py, line 1: """Made for Task 3."""']
    assert filled_packages(modules) == ["inputs/__init__.py"]
    assert without_docstring(modules) == ["inputs/__init__.py", "inputs/reader.py: read", "networks/cox.py: Cox"]
    assert returning_any(modules) == ["networks/cox.py: Cox.fit", "networks/open.py: public"]
