"""One patient's inputs, as files or as values in memory."""

import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_object
from survfuse.runtime.log import stage
from survfuse.runtime.suggestions import check_is_file
from survfuse.slide.suffixes import FEATURE_SUFFIXES
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from survfuse.inputs.slide_vectors import SlideVector
    from survfuse.runtime.row_source import RowSource

    class PandasRow(Protocol):
        """A pandas Series: values by name."""

        def to_dict(self) -> Mapping[Hashable, object]:
            """The values by name."""

    FilePath = str | os.PathLike[str]
    FeatureValues = NDArray[np.floating] | torch.Tensor
    TileFeatures = FeatureValues | RowSource
    Values = Mapping[str, object] | PandasRow

UNNAMED = "case"  # the name of a case in memory that was given none
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, init=False, eq=False)
class Case:
    """One patient's inputs; what the patient lacks is None.

    >>> Case(rna={"TP53": 3.0}, clinical={"age": 70}).given
    ('rna', 'clinical')
    """

    slide: Path | None
    mask: Path | None
    features: "Path | TileFeatures | None"
    rna: Path | Mapping[str, object] | None
    clinical: Path | Mapping[str, object] | None
    name: str
    found_by: str  # where the inputs came from, for the log: "memory", "inputs.json", …
    coordinates: "Path | NDArray[np.integer] | None"  # of features: a file that has them, or [N, 2] level-0 pixels
    vector: "Path | FeatureValues | SlideVector | None"  # slide-level, [V]

    def __init__(
        self,
        slide: "FilePath | None" = None,
        mask: "FilePath | None" = None,
        features: "FilePath | TileFeatures | None" = None,
        rna: "FilePath | Values | None" = None,
        clinical: "FilePath | Values | None" = None,
        name: str = "",
        found_by: str = "memory",
        coordinates: "FilePath | NDArray[np.integer] | None" = None,
        vector: "FilePath | FeatureValues | SlideVector | None" = None,
    ) -> None:
        """Collect a patient's inputs.

        slide: the H&E slide's file, in any format that OpenSlide reads, or the folder with its several files; mask: its
        tissue mask's file, if there is one.
        features: tile features instead of a slide: a ``.h5``, ``.hdf5`` or ``.pt`` file, or an array or tensor [N, D]
        of a floating type.
        rna: raw expression by gene symbol: a JSON file, a mapping, or a pandas row, in which NaN is an absent gene.
        clinical: clinical variables by name: a JSON file, a mapping, or a pandas row, in which NaN is a missing value.
        name: the case's name in messages; by default the file name, without suffix, of its slide, features or vector.
        vector: a slide-level vector (TITAN's, PRISM's, …): a ``.h5``, ``.hdf5`` or ``.pt`` file, or an array or tensor
        [V] of a floating type.
        found_by: where the inputs came from, for the log; readers of folders and cohorts set it.

        Raises InputError for a slide together with features, a mask without a slide, and a case without any input.
        """
        given = _path(slide)
        feature_values = features if not isinstance(features, (str, os.PathLike)) else Path(features)
        if given is not None and feature_values is not None:
            raise InputError("a case has either a slide or its tile features, found both")
        if given is not None and given.suffix.lower() in FEATURE_SUFFIXES:
            given, feature_values = None, given
        if mask is not None and given is None:
            raise InputError("a tissue mask belongs to a slide, found none")
        file = next((each for each in (given, feature_values, vector) if each is not None), None)
        self._set("slide", given)
        self._set("mask", _path(mask))
        self._set("features", feature_values)
        self._set("rna", _path_or_mapping(rna, "rna"))
        self._set("clinical", _path_or_mapping(clinical, "clinical"))
        self._set("name", name or (Path(file).stem if isinstance(file, (str, os.PathLike)) else UNNAMED))
        self._set("found_by", found_by)
        self._set("coordinates", _coordinates(coordinates, feature_values))
        self._set("vector", _path(vector) if isinstance(vector, (str, os.PathLike)) else vector)
        if not self.given:
            raise InputError(
                "a case needs a slide, tile features, a slide-level vector, expression or clinical variables, "
                "found none of them"
            )

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def _with(self, **changes: object) -> "Case":
        """The same case with other fields."""
        changed = object.__new__(Case)
        for field, value in (vars(self) | changes).items():
            changed._set(field, value)
        return changed

    def called(self, name: str) -> "Case":
        """The same case under a different name.

        >>> Case(rna={"TP53": 3.0}).called("P17").name
        'P17'
        """
        return self._with(name=name)

    def loaded(self) -> "Case":
        """The same case with its JSON files read; raises InputError for one that is not an object.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "variables.json")
        ...     _ = file.write_text('{"age": 71}')
        ...     case = Case(clinical=file).loaded()
        >>> case.clinical
        {'age': 71}
        """
        if not isinstance(self.rna, Path) and not isinstance(self.clinical, Path):
            return self
        rna, clinical = self.values("rna"), self.values("clinical")
        return self._with(rna=rna, clinical=clinical)

    @property
    def given(self) -> Combination:
        """The modalities that the case has an input for.

        >>> Case(slide="slide.tif", mask="mask.tif", clinical={"age": 71}).given
        ('slide', 'clinical')
        """
        inputs = {
            "slide": self.slide if self.slide is not None else self.features,
            VECTOR: self.vector,
            "rna": self.rna,
            "clinical": self.clinical,
        }
        return tuple(name for name, value in inputs.items() if value is not None)

    def values(self, modality: str) -> "Mapping[str, object] | None":
        """The case's ``rna`` or ``clinical`` values, read from its JSON file if they lie in one.

        Raises InputError for a file that is not one JSON object.

        >>> Case(clinical={"age": 71}).values("clinical")
        {'age': 71}
        """
        value = self.rna if modality == "rna" else self.clinical
        if not isinstance(value, Path):
            return value
        check_is_file(value)
        # A literal that is not a JSON number, such as NaN, may still be a code for a missing value.
        read = read_object(value, InputError, literals=True)
        with value.open("rb") as file:
            if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK:
                stage("json", f"{value.name}: byte-order mark ignored")
        return read

    def described(self) -> str:
        """What the case has and lacks, in words, for the log.

        >>> Case(slide="slide.tif", clinical={"age": 71}).described()
        'slide without mask, no rna'
        """
        slide = "features given, no mask needed" if self.features is not None else None
        slide = slide or ("slide with mask" if self.mask else "slide without mask" if self.slide else "no slide")
        vector = ["slide-level vector"] if self.vector is not None else []
        return ", ".join([slide, *vector, *(f"no {name}" for name in ("rna", "clinical") if name not in self.given)])


def _coordinates(
    value: "FilePath | NDArray[np.integer] | None", features: object
) -> "Path | NDArray[np.integer] | None":
    """Where tiles lie, as a path or an array; raises InputError for coordinates without features."""
    if value is not None and features is None:
        raise InputError("coordinates belong to tile features, found none")
    return Path(value) if isinstance(value, (str, os.PathLike)) else value


def _path(value: "FilePath | None") -> Path | None:
    return Path(value) if value is not None else None


def _path_or_mapping(value: object, field: str) -> Path | Mapping[str, object] | None:
    """A file's path, or values by name as Python's own types; raises InputError for anything else."""
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return Path(value)
    if isinstance(value, Mapping):
        return _by_name(value.items(), field)
    to_dict = getattr(value, "to_dict", None)  # a pandas row
    if not callable(to_dict):
        raise InputError(f"{field}: expected a JSON file, a mapping or a pandas row, found {type(value).__name__}")
    row = _by_name(getattr(value, "items", to_dict().items)(), field)
    return {key: entry for key, entry in row.items() if entry is not None and entry == entry}  # NaN is not itself


def _by_name(entries: "Iterable[tuple[Hashable, object]]", field: str) -> dict[str, object]:
    """Entries by name; raises InputError for a name that comes twice and for a value that is not a single one."""
    values: dict[str, object] = {}
    for key, entry in entries:
        name = str(key)
        if name in values:
            raise InputError(f"{field}: {name[:80]} is given more than once")
        if getattr(entry, "ndim", 0) != 0:
            raise InputError(f"{field}: expected a single value of {name[:80]}, found {type(entry).__name__}")
        values[name] = _as_python(entry)
    return values


def _as_python(value: object) -> object:
    """A numpy scalar as Python's own type, pandas' NA as None; anything else as it is."""
    if value is None or type(value) in (int, float, str, bool):
        return value
    if type(value).__name__ == "NAType":
        return None
    item = getattr(value, "item", None)
    return item() if callable(item) else value
