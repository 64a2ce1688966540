"""The columns of a Parquet file (extra ``tables``)."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from survfuse.runtime.errors import InputError, brief
from survfuse.runtime.log import progress

_AT_ONCE = 20_000_000  # cells that are read between two steps of progress


def parquet_columns(path: Path) -> "tuple[tuple[str, ...], list[pyarrow.ChunkedArray]]":
    """(heading, columns); pandas' index, if it was kept, comes first.

    Raises InputError for a file that is no Parquet, and for a column of lists or records.
    """
    try:
        table = _table(path)
    except (pyarrow.ArrowException, ValueError) as cause:
        raise InputError(f"cannot be read as Parquet ({cause})") from cause
    except OSError as cause:
        raise InputError(f"cannot be read ({cause.strerror or cause})") from cause
    kept = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    named = sorted(zip(table.column_names, table.columns, strict=True), key=lambda column: column[0] not in kept)
    for name, column in named:
        if pyarrow.types.is_nested(column.type):
            raise InputError(f"the column {brief(name)} has lists or records; expected one value a cell")
    heading = tuple("" if name.startswith("__index_level_") else name.strip() for name, _ in named)
    return heading, [column for _, column in named]


def _table(path: Path) -> pyarrow.Table:
    """The whole table, read in parts so that progress shows."""
    with pyarrow.parquet.ParquetFile(path) as file:
        rows, width = file.metadata.num_rows, len(file.schema_arrow.names)
        parts = file.iter_batches(max(1, _AT_ONCE // max(1, width)))
        read = list(progress(parts, rows, "tables", lambda part: part.num_rows))
        return pyarrow.Table.from_batches(read, file.schema_arrow)
