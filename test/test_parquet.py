"""Expression in Parquet: the same table as its text, with the same errors, whatever the types of its columns."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from survfuse.cohort.expression_table import read_expression
from survfuse.cohort.problems import Problems
from survfuse.inputs.gene_names import gene_names
from survfuse.runtime.errors import InputError

NUMBERS = {
    "float64": lambda random, n: random.lognormal(2, 3, n),
    "float32": lambda random, n: random.lognormal(2, 3, n).astype(np.float32),
    "int64": lambda random, n: random.integers(-5, 2**60, n),
    "uint16": lambda random, n: random.integers(0, 2**16, n).astype(np.uint16),
    "whole": lambda random, n: random.integers(0, 1000, n).astype(np.float64),
    "text": lambda random, n: [repr(x) for x in random.lognormal(2, 3, n).tolist()],
    "decimal": lambda random, n: pa.array([f"{x:.3f}" for x in random.lognormal(2, 3, n)]).cast(pa.decimal128(20, 3)),
}


def random_columns(seed: int, names: list[str], rows: int) -> dict[str, pa.Array]:
    """A column of numbers for each name, of the types in turn, a tenth of them null."""
    random = np.random.default_rng(seed)
    kinds = list(NUMBERS.values())
    columns = {}
    for place, name in enumerate(names):
        values = pa.array(kinds[(place + seed) % len(kinds)](random, rows))
        columns[name] = pa.array([x if random.random() > 0.1 else None for x in values.to_pylist()], values.type)
    return columns


def symbols(number: int) -> list[str]:
    return sorted({symbol for names in gene_names().ensembl.values() for symbol in names})[:: 40000 // number][:number]


def written(folder: Path, columns: dict[str, pa.Array], index: str = "") -> tuple[Path, Path]:
    """(Parquet, the same as tab-separated text); the column ``index`` is kept as pandas keeps an index."""
    table = pa.table(columns)
    if index:
        names = [name if name != index else "__index_level_0__" for name in table.column_names]
        table = table.rename_columns(names).replace_schema_metadata(
            {"pandas": '{"index_columns": ["__index_level_0__"]}'}
        )
        table = table.select([*names[1:], names[0]])  # pandas writes it last
    pq.write_table(table, folder / "e.parquet")
    with (folder / "e.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["" if name == index else name for name in columns])
        cells = [["" if x is None else x for x in column.to_pylist()] for column in columns.values()]
        writer.writerows(zip(*cells, strict=True))
    return folder / "e.parquet", folder / "e.tsv"


def read(path: Path, known: list[str]) -> tuple[object, list[str]]:
    problems = Problems()
    return read_expression(path, known, None, problems), [str(problem) for problem in problems.listed]


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_parquet_and_its_text_are_the_same_table(tmp_path, capsys, across, index):
    genes, patients = symbols(70), [f"P{place:02}" for place in range(15)]
    named, headings = (genes, patients) if across else (patients, genes)
    label = "gene" if across else "patient"
    notes = pa.array([f"note {place}" for place in range(len(named))])
    for seed in range(len(NUMBERS)):
        numbers = random_columns(seed, headings, len(named))
        columns = {label: pa.array(named), "note": notes, **numbers}
        tables = written(tmp_path, columns, label if index else "")
        (one, wrong), (other, also) = (read(path, patients) for path in tables)
        said = [line[12:] for line in capsys.readouterr().out.replace("e.parquet", "e.tsv").splitlines()]
        assert wrong == also == [] and said[: len(said) // 2] == said[len(said) // 2 :]
        assert (one.patients, one.genes) == (other.patients, other.genes) == (tuple(patients), tuple(genes))
        assert one.values.dtype == np.float64 and np.array_equal(one.values, other.values, equal_nan=True)
        expected = np.array([[np.nan if x is None else float(x) for x in of.to_pylist()] for of in numbers.values()])
        assert np.array_equal(one.values, expected if across else expected.T, equal_nan=True)


def test_ids_may_be_numbers(tmp_path):
    columns = {
        "patient": pa.array([7, 10, 12]),
        "TP53": pa.array([1.5, float("nan"), 3.0]),
        "A1BG": pa.array([1, 2, 3]),
    }
    for path in written(tmp_path, columns):
        found, wrong = read(path, ["7", "10"])
        assert found.patients == ("7", "10", "12") and not wrong
        assert np.array_equal(found.values, [[1.0, 1.5], [2.0, np.nan], [3.0, 3.0]], equal_nan=True)


WRONG = {
    "infinite": (pa.array([1.0, float("inf"), 2.0]), 2, "inf"),
    "too large": (pa.array([1.0, 1e39, 2.0]), 2, "1e+39"),
    "text": (pa.array(["1.0", "12x", "2"]), 2, "12x"),
    "boolean": (pa.array([True, False, None]), 1, "True"),
    "a date": (pa.array(["2020-01-02", None, None]).cast(pa.date32()), 1, "2020-01-02"),
}


@pytest.mark.parametrize(("column", "row", "found"), WRONG.values(), ids=WRONG)
def test_what_is_no_number_is_named_with_its_row(tmp_path, column, row, found):
    columns = {"patient": pa.array(["a", "b", "c"]), "TP53": pa.array([1.0, 2.0, 3.0]), "A1BG": column}
    said = [read(path, ["a"])[1] for path in written(tmp_path, columns)]
    assert [text.rpartition("found ")[2] for text in said[0]] == [text.rpartition("found ")[2] for text in said[1]]
    assert f"e.parquet, line {row}: A1BG: expected a finite number, found {found!r}" == said[0][0]


def test_few_wrong_cells_of_a_row_are_named_and_a_column_of_them_is_text(tmp_path):
    infinite = pa.array([float("inf"), 1.0, 2.0])
    columns = {"gene": pa.array(["TP53", "A1BG", "KRAS"]), **dict.fromkeys(["p", "q", "r", "s"], infinite)}
    for path in written(tmp_path, columns):
        assert [text.partition(": ")[2][0] for text in read(path, [])[1]] == ["p", "q", "r"]
    columns["s"] = pa.array([float("inf")] * 2 + [1.0])
    assert all(read(path, [])[0].patients == ("p", "q", "r") for path in written(tmp_path, columns))


def test_files_and_columns_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "e.parquet"
    refused = {
        "expected a row for each gene or patient": pa.table({"gene": pa.array([], pa.string())}),
        "the column 'p' has lists or records": pa.table({"gene": ["TP53"], "p": [[1.0]]}),
        "expected a column that names the rows": pa.table({"TP53": [1.0], "A1BG": [2.0]}),
    }
    for said, table in refused.items():
        pq.write_table(table, path)
        with pytest.raises(InputError, match=said):
            read(path, [])
    pq.write_table(pa.Table.from_arrays([pa.array(["TP53"]), *[pa.array([1.0])] * 2], ["gene", "p", "p"]), path)
    assert read(path, [])[1] == ["p: e.parquet: more than one column"]
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"gene,p\nTP53,1\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as Parquet"):
            read(path, [])
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read .*No such file"):
        read(path, [])


def test_reading_shows_progress_also_where_the_number_of_rows_is_not_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("survfuse.runtime.log._LINE_EVERY", 0.0)
    monkeypatch.setattr("survfuse.cohort.parquet_columns._AT_ONCE", 4)
    columns = {"gene": pa.array(["TP53", "A1BG", "KRAS"]), "p": pa.array([1.0, 2.0, 3.0])}
    read(written(tmp_path, columns)[0], ["p"])
    assert " tables       2 of 3\n" in capsys.readouterr().out
    book = Workbook(write_only=True)  # states no dimensions
    sheet = book.create_sheet()
    for row in (["gene", "p"], ["TP53", 1.0], ["A1BG", 2.0]):
        sheet.append(row)
    book.save(tmp_path / "e.xlsx")
    assert read(tmp_path / "e.xlsx", ["p"])[0].values.tolist() == [[2.0, 1.0]]
    assert " tables       2\n" in capsys.readouterr().out
