"""Where cases come from: one case in the platform's layout, a folder of such cases, or a cohort."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from survfuse.bundle.load import Bundle
from survfuse.inputs.case import Case
from survfuse.inputs.sockets import INPUTS_FILE, is_case, read_case
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import stage
from survfuse.tasks.task import VECTOR, Task
from survfuse.workers.shared_folder import check_seen

if TYPE_CHECKING:
    from survfuse.cohort.read import Cohort
    from survfuse.cohort.table_paths import CohortTables
    from survfuse.inputs.slide_vectors import SlideVector


@dataclass(frozen=True)
class UnusableCase:
    """A case that cannot be read or predicted, and why."""

    name: str
    error: InputError

    @property
    def reason(self) -> str:
        """Why, without the case's name: that of values in memory is in their error as well."""
        return str(self.error).removeprefix(f"{self.name}: ")


@dataclass(frozen=True)
class Cases:
    """Cases by name, each read when it is needed. Pickling takes along what was read, and of files only the paths."""

    names: tuple[str, ...]
    read: Callable[[int], Case]  # the case at a place among the names
    single: bool = False  # whether the source is one case, and not a collection

    def __iter__(self) -> Iterator[Case | UnusableCase]:
        for index, name in enumerate(self.names):
            try:
                yield self.read(index)
            except InputError as error:
                yield UnusableCase(name, error)

    def part(self, places: Sequence[int]) -> "Cases":
        """The cases at ``places``, in that order."""
        return Cases(tuple(self.names[place] for place in places), _Chosen(self.read, tuple(places)))


@dataclass(frozen=True)
class _Chosen:
    """Some of the cases that ``read`` gives."""

    read: Callable[[int], Case]
    places: tuple[int, ...]

    def __call__(self, index: int) -> Case:
        return self.read(self.places[index])


@dataclass(frozen=True)
class _Only:
    """The only case of its kind."""

    case: Case

    def __call__(self, _: int) -> Case:
        return self.case


@dataclass(frozen=True)
class _InFolders:
    """Cases in the platform's layout, a folder each."""

    folders: tuple[Path, ...]
    task: Task

    def __call__(self, index: int) -> Case:
        """A case among others; it is named by its folder."""
        folder = self.folders[index]
        check_seen(folder)
        if not is_case(folder, self.task):
            raise InputError(f"holds neither {INPUTS_FILE} nor any of a case's inputs")
        return read_case(folder, self.task).called(folder.name)


@dataclass(frozen=True)
class _OfCohort:
    """A cohort's patients, by the modalities that it was read with."""

    cohort: "Cohort"

    def __call__(self, row: int) -> Case:
        cohort = self.cohort
        coordinates = cohort.coordinates[row] if cohort.bags is not None and cohort.coordinates else None
        if coordinates is not None:
            check_seen(coordinates)
        rna = None
        if cohort.expression is not None:
            values = cohort.expression[row]
            rna = {gene: float(x) for gene, x in zip(cohort.genes, values.tolist(), strict=True) if not np.isnan(x)}
        return Case(
            features=cohort.bags[row].features() if cohort.bags is not None else None,
            rna=rna,
            clinical=cohort.clinical[row] if any(cohort.clinical) else None,
            name=cohort.ids[row],
            found_by="the cohort",
            coordinates=coordinates,
            vector=_with_encoder(cohort, row) if cohort.slide_vectors is not None else None,
        )


@contextmanager
def cache_folder(given: Path | None, out: Path) -> Iterator[Path]:
    """The folder ``given``, or one beside ``out`` that is removed at the end."""
    if given is not None:
        yield given
        return
    out = out.absolute()
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield Path(folder)


def cases_in(source: "Path | CohortTables", bundle: Bundle, modalities: Sequence[str], cache: Path) -> Cases:
    """The cases at ``source``, or in its tables, of which ``modalities`` are to be used.

    A single case is named by its slide or features, without them by its folder; the cases of a folder are named by
    their folders, those of a cohort by patient id.
    ``cache`` is a folder for copies of a cohort's features. Raises InputError for a folder that holds none of these,
    and for a cohort that cannot be read or does not fit the bundle.
    """
    if not isinstance(source, Path):
        if source.vectors is not None and VECTOR not in bundle.modalities:
            stage("vector", f"{source.vectors.name}: not used by this bundle")
        used = [name for name in modalities if source.of(name) is not None]
        if not used:
            raise InputError(f"{source}: no table of what is to be used, {', '.join(modalities) or 'nothing'}")
        return _cohort_cases(source, bundle, used, cache)
    if not source.is_dir():
        raise InputError(f"{source}: expected a folder with one case, several cases or a cohort")
    if is_case(source, bundle.task):
        case = read_case(source, bundle.task)
        return Cases((case.name,), _Only(case), single=True)
    found = (path.absolute() for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    folders = tuple(sorted(found))
    if any(is_case(folder, bundle.task) for folder in folders):
        names = tuple(folder.name for folder in folders)
        return Cases(names, _InFolders(folders, bundle.task))
    return _cohort_cases(source, bundle, _in_folder(source, bundle, modalities), cache)


def _in_folder(root: Path, bundle: Bundle, modalities: Sequence[str]) -> list[str]:
    """Those of ``modalities`` that a cohort's folder has: slide-level vectors lie in one of their own."""
    from survfuse.cohort.read import has_vectors

    if VECTOR not in modalities or len(modalities) == 1 or has_vectors(root, bundle.task):
        return list(modalities)
    stage("vector", f"{root.name} has no folder of slide-level vectors")
    return [name for name in modalities if name != VECTOR]


def _with_encoder(cohort: "Cohort", row: int) -> "SlideVector":
    """A patient's slide-level vector, of the encoder that any of the cohort's files states."""
    assert cohort.slide_vectors is not None and cohort.vector_settings is not None
    return replace(cohort.slide_vectors[row], encoder=cohort.vector_settings.encoder)


def _cohort_cases(source: "Path | CohortTables", bundle: Bundle, modalities: Sequence[str], cache: Path) -> Cases:
    """The patients of a cohort; raises InputError if it cannot be read, or its features are not the bundle's."""
    from survfuse.cohort.read import read_cohort
    from survfuse.cohort.stated_variables import StatedVariables

    stated = StatedVariables.of(bundle.vocabulary, bundle.task)
    cohort = read_cohort(
        source,
        cache,
        modalities=modalities,
        with_outcomes=False,
        task=bundle.task,
        variables=stated,
        genes=bundle.expression.genes if bundle.expression is not None else (),
    )
    if cohort.bags is not None:
        bundle.manifest.slide.check_features(cohort.bags[0].dimension, cohort.encoder, tile=cohort.tile)
        if cohort.tile is None:
            stage("features", f"tile size not stated; assumed to be the bundle's, {bundle.manifest.slide.tile}")
    if cohort.vector_settings is not None and bundle.manifest.vector is not None:
        bundle.manifest.vector.check(cohort.vector_settings.dimension, cohort.vector_settings.encoder)
    places = tuple(path.absolute() if path is not None else None for path in cohort.coordinates)
    return Cases(cohort.ids, _OfCohort(replace(cohort, coordinates=places)))
