"""The numbers of a table of expression in Parquet, whose columns of numbers are never spelt as text."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from survfuse.cohort.expression_grid import SAMPLE, Grid, Label, cell_number, columns_of
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_files import spelt
from survfuse.inputs.expression import LARGEST
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, check_extra, unexpected
from survfuse.runtime.log import NAMED, progress

if TYPE_CHECKING:
    from pyarrow import ChunkedArray


def parquet_grid(path: Path, known: Collection[str], problems: Problems) -> Grid:
    """The numbers of a table; unusable cells go to ``problems``. The same as ``text_grid`` gives of the cells' text.

    Raises InputError as ``text_grid`` does.
    """
    check_extra("tables", f"reading {path.name}")
    from survfuse.cohort.parquet_columns import parquet_columns

    heading, columns = parquet_columns(path)
    rows = len(columns[0]) if columns else 0
    if not rows:
        raise InputError("expected a row for each gene or patient, found none")
    wrong = [int(np.isinf(_numbers(column.slice(0, SAMPLE))).sum()) for column in columns]
    text, numbers = columns_of(heading, wrong, min(rows, SAMPLE), known)
    values = np.empty((rows, len(numbers)))
    for at, place in enumerate(progress(numbers, len(numbers), "expression")):
        values[:, at] = _numbers(columns[place])
    names = tuple(heading[place] for place in numbers)
    _report(values, names, [columns[place] for place in numbers], path.name, problems)
    labels = [Label(heading[place], [spelt(value) for value in columns[place].to_pylist()]) for place in text]
    return Grid(labels, names, values)


def _numbers(column: "ChunkedArray") -> Floats:
    """A column's numbers [rows], NaN for missing ones, infinite for what is neither."""
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind):
        values: Floats = column.to_numpy().astype(np.float64)
        values[np.abs(values) > LARGEST] = np.inf
        return values
    cells = (cell_number(spelt(value), False) for value in column.to_pylist())
    return np.array([np.inf if number is None else number for number in cells], dtype=np.float64)


def _report(
    values: Floats, names: Sequence[str], columns: "Sequence[ChunkedArray]", file: str, problems: Problems
) -> None:
    """Add the infinite ``values`` [rows, columns], at most so many of a row, to ``problems``; they become missing."""
    wrong = np.isinf(values)
    for row in np.flatnonzero(wrong.any(axis=1)).tolist():
        for place in np.flatnonzero(wrong[row])[:NAMED].tolist():
            with problems.collect(None, file, row + 1):
                found = spelt(columns[place][row].as_py())
                raise unexpected(f"{names[place]}: expected a finite number", found)
    values[wrong] = np.nan
