"""Cohorts in tables as people have them: the same patients as in the layouts, whatever the dialect."""

import gzip
import json
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from table_writers import (
    DAYS,
    EVENT,
    TIME,
    clinical_rows,
    ensembl_ids,
    expression_of,
    patients_of,
    write_rows,
    write_tables,
)

from survfuse import api
from survfuse.bundle.load import load
from survfuse.cohort.bags import open_bag
from survfuse.cohort.expression_check import check_expression
from survfuse.cohort.outcomes import OutcomeColumns
from survfuse.cohort.read import Cohort, read_cohort
from survfuse.cohort.stated_variables import StatedVariables
from survfuse.cohort.table_paths import CohortTables
from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.features import write_features
from survfuse.inputs.gene_names import gene_names
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.training.protocol import Optimisation, Protocol
from survfuse.training.training_data import TrainingData, training_data

IN_DAYS = OutcomeColumns(unit="days")
SMALL = {
    "protocol": Protocol(folds=2, inner=2, genes=8, components=4, optimisation=Optimisation(epochs=2, tiles=8)),
    "sizes": Sizes(
        bag=4, attention=4, rna=(4,), rank=2, pairs=(4, 4, 4), hidden=4, embedding=4, factors=2, fused=4, clusters=2
    ),
    "draws": 2,
}


@pytest.fixture(scope="module")
def tables(cohort, tmp_path_factory) -> tuple[CohortTables, Path]:
    """The cohort with semicolons, decimal commas, days, Ensembl ids with versions, Dead and Alive."""
    return write_tables(cohort, tmp_path_factory.mktemp("tables") / "tables")


@pytest.fixture(scope="module")
def in_layout(cohort, tmp_path_factory) -> Cohort:
    return read_cohort(cohort, tmp_path_factory.mktemp("cache"))


def test_tables_train_to_the_bundle_of_the_layout_byte_for_byte(cohort, tables, tmp_path, capsys):
    given, outcomes = tables
    one = api.train(cohort, tmp_path / "one", device="cpu", **SMALL)
    other = api.train(given, tmp_path / "other", outcomes=outcomes, time_unit="days", device="cpu", **SMALL)
    capsys.readouterr()
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for file in files:
        if file.name != "manifest.json":
            assert (one / file).read_bytes() == (other / file).read_bytes(), file
    stated = [json.loads((root / "manifest.json").read_text()) for root in (one, other)]
    for manifest in stated:
        del manifest["provenance"], manifest["sha256"]
    assert stated[0] == stated[1]


def same(found: Cohort, expected: Cohort, *parts: str) -> None:
    """Both cohorts have the same patients with the same ``parts``, to the last bit."""
    assert found.ids == expected.ids
    if "outcomes" in parts:
        assert np.array_equal(found.times, expected.times) and np.array_equal(found.events, expected.events)
    if "rna" in parts:
        assert found.genes == expected.genes
        assert np.array_equal(found.expression, expected.expression)
    if "clinical" in parts:
        spelt = [[{name: str(value) for name, value in own.items()} for own in c.clinical] for c in (found, expected)]
        assert spelt[0] == spelt[1]


# Dialects of one table


def small(cohort: Path, genes: int = 30) -> tuple[list[list[object]], Path]:
    """Rows of the expression of all patients, few genes × patients."""
    expression = expression_of(cohort)
    names = list(next(iter(expression.values())))[:genes]
    rows = [["gene", *expression], *([gene, *(float(own[gene]) for own in expression.values())] for gene in names)]
    return rows, cohort


def turned(rows: list[list[object]]) -> list[list[object]]:
    return [list(row) for row in zip(*rows, strict=True)]


def as_workbook(path: Path, rows: list[list[object]]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def as_parquet(path: Path, rows: list[list[object]]) -> Path:
    import pandas as pd

    pd.DataFrame(rows[1:], columns=rows[0]).set_index(rows[0][0]).rename_axis(None).to_parquet(path)
    return path


def packed(path: Path) -> Path:
    to = path.with_name(f"{path.name}.gz")
    to.write_bytes(gzip.compress(path.read_bytes()))
    return to


DIALECTS = {
    "commas": lambda folder, rows: write_rows(folder / "e.csv", rows),
    "tabs, packed": lambda folder, rows: packed(write_rows(folder / "e.tsv", rows, "\t")),
    "semicolons and decimal commas": lambda folder, rows: write_rows(folder / "e.csv", rows, ";", ","),
    "patients in rows": lambda folder, rows: write_rows(folder / "e.csv", turned(rows)),
    "R's row names": lambda folder, rows: write_rows(folder / "e.txt", [rows[0][1:], *rows[1:]], "\t"),
    "comments": lambda folder, rows: commented(write_rows(folder / "e.tsv", rows, "\t")),
    "UTF-16": lambda folder, rows: recoded(write_rows(folder / "e.txt", rows, "\t"), "utf-16"),
    "byte-order mark": lambda folder, rows: recoded(write_rows(folder / "e.csv", rows), "utf-8-sig"),
    "a workbook": lambda folder, rows: as_workbook(folder / "e.xlsx", rows),
    "a workbook of patients": lambda folder, rows: as_workbook(folder / "e.xlsx", turned(rows)),
    "Parquet with an index": lambda folder, rows: as_parquet(folder / "e.parquet", rows),
    "columns of text": lambda folder, rows: write_rows(
        folder / "e.tsv",
        [[row[0], "type" if place == 0 else "protein_coding", *row[1:]] for place, row in enumerate(rows)],
        "\t",
    ),
}


def commented(path: Path) -> Path:
    path.write_text("# gene model\n# of some release\n" + path.read_text())
    return path


def recoded(path: Path, encoding: str) -> Path:
    path.write_text(path.read_text(), encoding=encoding)
    return path


@pytest.mark.parametrize("write", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_of_a_table_of_expression_gives_the_same_numbers(cohort, tables, in_layout, tmp_path, write):
    rows, _ = small(cohort)
    path = write(tmp_path, rows)
    found = read_cohort(CohortTables(expression=path), tmp_path / "cache", tables[1], columns=IN_DAYS)
    genes = sorted(str(row[0]) for row in rows[1:])
    assert found.genes == tuple(genes)
    places = [in_layout.genes.index(gene) for gene in genes]
    assert np.array_equal(found.expression, in_layout.expression[:, places])
    assert np.array_equal(found.times, in_layout.times)


def test_without_other_tables_patients_are_told_from_genes_by_the_genes(cohort, in_layout, tmp_path):
    rows, _ = small(cohort)
    for name, given in (("across.csv", rows), ("down.csv", turned(rows))):
        path = write_rows(tmp_path / name, [["", *given[0][1:]], *given[1:]])
        found = read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)
        assert found.ids == in_layout.ids and len(found.genes) == len(rows) - 1
    named = [["gene_id", *(f"P{place}" for place in range(53, 59))], ["probe 1", *[1.0] * 6], ["probe 2", *[2.0] * 6]]
    path = write_rows(tmp_path / "named.csv", named)  # patients called like aliases of genes
    found = read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)
    assert found.ids == tuple(named[0][1:]) and found.genes == ("probe 1", "probe 2")
    unnamed = write_rows(tmp_path / "unnamed.csv", [["", *named[0][1:]], *named[1:]])  # with a bundle's genes
    found = read_cohort(CohortTables(expression=unnamed), tmp_path / "c", with_outcomes=False, genes=["probe 2"])
    assert found.ids == tuple(named[0][1:])
    path = write_rows(tmp_path / "unknown.csv", [["", "a", "b"], ["x", 1.0, 2.0], ["y", 3.0, 4.0]])
    with pytest.raises(InputError, match=r"unknown\.csv: cannot tell patients from genes"):
        read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".parquet"])
def test_ids_are_text_with_their_zeros(cohort, tmp_path, suffix):
    patients = {f"00{place}": own for place, own in enumerate(patients_of(cohort).values())}
    rows = clinical_rows(patients)
    outcomes = [["id", "time", "event"], *([name, own[TIME], own[EVENT]] for name, own in patients.items())]
    write = {".csv": write_rows, ".xlsx": as_workbook, ".parquet": as_parquet}[suffix]
    if suffix == ".parquet":
        rows = turned([[str(x) if x is not None else None for x in column] for column in turned(rows)])
    clinical, table = write(tmp_path / f"c{suffix}", rows), write_rows(tmp_path / "o.csv", outcomes)
    found = read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", table)
    assert found.ids == tuple(sorted(patients))
    cut = write_rows(tmp_path / "cut.csv", [outcomes[0], *([str(int(row[0])), *row[1:]] for row in outcomes[1:])])
    with pytest.raises(InputError, match=r"no patient is in all of .*; ids agree but for zeros before them"):
        read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", cut)


def test_what_does_not_join_is_named_on_each_side(tables, in_layout, tmp_path, capsys):
    given, outcomes = tables
    lines = outcomes.read_text().splitlines()
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join([lines[0], *lines[3:], lines[1].replace("3S_01", "X1")]))
    found = read_cohort(CohortTables(clinical=given.clinical), tmp_path / "cache", fewer, columns=IN_DAYS)
    assert found.ids == in_layout.ids[2:]
    assert capsys.readouterr().err.splitlines() == [
        "survfuse: warning: 2 of 61 patients (3S_01, 3S_02) not in fewer.csv, left out",
        "survfuse: warning: 1 of 61 patients (X1) not in clinical.csv, left out",
    ]


def test_tables_and_a_folder_predict_the_same(cohort, tables, bundle, tmp_path, capsys):
    from survfuse.cli.main import main

    given, _ = tables
    words = ["--slides", given.slides, "--clinical", given.clinical, "--expression", given.expression]
    out = {}
    for name, source in (("folder", [cohort]), ("tables", words)):
        csv = tmp_path / f"{name}.csv"
        assert main(["predict", *map(str, source), "--model", str(bundle), "--out", str(csv), "--device", "cpu"]) == 0
        out[name] = csv.read_text()
    capsys.readouterr()
    assert out["tables"] == out["folder"]


NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
SHEETS = {
    "plain": lambda xml: xml.encode(),
    "with a prefix": lambda xml: xml.replace(NAMESPACE, f"{NAMESPACE} {NAMESPACE.replace('xmlns', 'xmlns:x')}")
    .replace("<f>", "<x:f>").replace("</f>", "</x:f>").encode(),
    "in UTF-16": lambda xml: ('<?xml version="1.0" encoding="UTF-16"?>' + xml.partition("?>")[2]).encode("utf-16"),
    "far behind": lambda xml: xml.replace("<row ", f"{' ' * ((1 << 20) - xml.index('<f>') - 1)}<row ", 1).encode(),
}  # fmt: skip


@pytest.mark.parametrize("spelt", SHEETS.values(), ids=SHEETS)
def test_a_formula_without_a_value_is_named_however_the_sheet_is_written(tmp_path, spelt):
    """Also where it begins at the end of a part of the file."""
    path = as_workbook(tmp_path / "e.xlsx", [["gene", "P1", "P2"], ["TP53", 1.5, 2.5], ["A1BG", 2.5, "=B2+1"]])
    with ZipFile(path) as book:
        members = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    xml = members[sheet].decode()
    members[sheet] = spelt('<?xml version="1.0"?>' + xml if not xml.startswith("<?xml") else xml)
    with ZipFile(path, "w") as book:
        for name, content in members.items():
            book.writestr(name, content)
    with pytest.raises(InputError, match=r"e\.xlsx: .*line 3: the formula '=B2\+1' has no stored value"):
        read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)


# Genes


def with_rows(
    tmp_path: Path, tables: tuple[CohortTables, Path], rows: list[list[object]], how: str | None = None
) -> Cohort:
    path = write_rows(tmp_path / "genes.csv", rows)
    given = CohortTables(expression=path, duplicates=how)
    return read_cohort(given, tmp_path / "cache", tables[1], columns=IN_DAYS)


def test_names_of_genes_are_mapped_and_counted(cohort, tables, tmp_path, capsys):
    rows, _ = small(cohort, 8)
    patients, values = rows[0][1:], [row[1:] for row in rows[1:]]
    names = ["SEPT9", "ENSG00000141510.18", "4-Mar", "1-Mar", "tp63", "A1BG|1", "unheard-of", "N_unmapped"]
    given = [["gene", *patients], *([name, *own] for name, own in zip(names, values, strict=True))]
    found = with_rows(tmp_path, tables, given)
    said = capsys.readouterr()
    assert found.genes == ("1-Mar", "A1BG", "MARCHF4", "SEPTIN9", "TP53", "TP63", "unheard-of")
    assert found.expression[:, 1].tolist() == values[5]
    assert (
        "1 by approved symbol, 1 by previous symbol, 1 by Ensembl id, 1 by date of a spreadsheet, 1 by letter"
        in said.out
    )
    assert "1 name (unheard-of) unknown, kept as they are" in said.out
    assert "1 gene (1-Mar) kept by a name that more than one gene claims (1-Mar: MARCHF1 or MTARC1)" in said.err


def test_a_case_may_have_other_names_of_the_bundle_s_genes(bundle, cohort):
    """A job's expression by Ensembl ids is that by symbols; a gene that two names stand for is missing."""
    table = load(bundle).expression
    own = next(iter(expression_of(cohort).values()))
    ids = dict(zip(ensembl_ids(list(own)), own.values(), strict=True))
    assert set(ids) - set(own)
    found, expected = table.encode(ids), table.encode(own)
    assert np.array_equal(found.values, expected.values)
    assert f"{len(set(ids) & set(ensembl_ids(table.genes)) - set(table.genes))} genes read by another name" in [
        note.text for note in found.notes
    ]
    gene, id_ = next((gene, id_) for gene, id_ in zip(own, ids, strict=True) if gene != id_ and gene in table.genes)
    twice = {name: value for name, value in own.items() if name != gene} | {id_: 1.0, id_.partition(".")[0]: 2.0}
    assert np.isnan(table.encode(twice).raw[table.genes.index(gene)])


def test_rows_of_one_gene_are_an_error_or_merged_as_said(cohort, tables, tmp_path, capsys):
    rows, _ = small(cohort, 3)
    first, second, third = (np.array(row[1:], dtype=float) for row in rows[1:])
    given = [rows[0], ["TP53", *first], ["ENSG00000141510", *second], ["A1BG", *third]]
    given[2][1] = None  # the first patient has one value of it
    with pytest.raises(InputError, match=r"1 gene \(TP53\) with more than one row or column; say with --duplicates"):
        with_rows(tmp_path, tables, given)
    both = np.stack([first, second])
    for how, expected in (("max", both.max(axis=0)), ("mean", both.mean(axis=0)), ("sum", both.sum(axis=0))):
        found = with_rows(tmp_path, tables, given, how)
        assert found.genes == ("A1BG", "TP53")
        assert found.expression[1:, 1] == pytest.approx(expected[1:], abs=0) and found.expression[0, 1] == first[0]
    capsys.readouterr()


def test_cells_that_are_no_numbers_are_named_with_their_line(cohort, tables, tmp_path):
    rows, _ = small(cohort)
    rows[20][3] = "12x"
    with pytest.raises(InputError, match=r"genes\.csv, line 21: 3S_03: expected a finite number, found '12x'"):
        with_rows(tmp_path, tables, rows)


def test_expression_that_is_logged_or_standardised_is_said_to_be(cohort, in_layout, capsys):
    """The same patients in other units; their own values are none of these."""
    raw = in_layout.expression
    check_expression(in_layout.ids, in_layout.genes, raw, logged=True)
    assert "seem" not in capsys.readouterr().err
    logs = np.log2(raw + 1.0)
    check_expression(in_layout.ids, in_layout.genes, logs, logged=True)
    assert (
        f"expression of at most {logs.max():.3g} seems to be logged already; --transform identity"
        in capsys.readouterr().err
    )
    check_expression(in_layout.ids, in_layout.genes, logs, logged=False)
    assert "seem" not in capsys.readouterr().err
    for values, kind in (((logs - logs.mean(0)) / logs.std(0), "z-scores"), (logs - 6.0, "logarithms")):
        with pytest.raises(InputError, match=f"these seem to be {kind}; --transform identity takes any finite value"):
            check_expression(in_layout.ids, in_layout.genes, values, logged=True)


# Outcomes


@pytest.mark.parametrize(("unit", "factor"), [("days", DAYS), ("months", 1.0), ("years", 1 / 12)])
def test_times_in_any_unit_are_the_same_months(cohort, in_layout, tmp_path, unit, factor):
    rows = [
        [name, own[TIME] * factor, f"{own[EVENT]}:{'DECEASED' if own[EVENT] else 'LIVING'}"]
        for name, own in patients_of(cohort).items()
    ]
    table = write_rows(tmp_path / "o.csv", [["PATIENT_ID", "OS_TIME", "OS_STATUS"], *rows])
    columns = OutcomeColumns("OS_TIME", "OS_STATUS", unit)
    found = read_cohort(cohort, tmp_path / "cache", table, ["clinical"], columns=columns) if unit == "months" else None
    clinical = write_rows(tmp_path / "c.csv", clinical_rows(patients_of(cohort)))
    found = found or read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", table, columns=columns)
    assert found.times == pytest.approx(in_layout.times, rel=1e-12) and np.array_equal(found.events, in_layout.events)


def test_outcomes_in_the_clinical_table_are_read_and_are_no_variables(cohort, in_layout, tmp_path, capsys):
    patients = patients_of(cohort)
    rows = [
        [*row, *(["months_seen", "gone"] if row[0] == "patient" else [patients[row[0]][TIME], patients[row[0]][EVENT]])]
        for row in clinical_rows(patients)
    ]
    clinical = write_rows(tmp_path / "c.csv", rows)
    with pytest.raises(InputError, match=r"c\.csv states no outcomes: .*name a table of them with --outcomes"):
        read_cohort(CohortTables(clinical=clinical), tmp_path / "cache")
    found = read_cohort(
        CohortTables(clinical=clinical), tmp_path / "cache", columns=OutcomeColumns("months_seen", "gone")
    )
    same(found, in_layout, "outcomes", "clinical")
    assert "outcomes, left out of the variables: months_seen, gone" in capsys.readouterr().out


def test_times_and_events_that_cannot_be_are_named(cohort, tmp_path):
    rows = [[name, own[TIME], own[EVENT]] for name, own in patients_of(cohort).items()]
    rows[0][1], rows[1][2], rows[2][2], rows[3][1] = -3, "", "1:LIVING", 0
    table = write_rows(tmp_path / "o.csv", [["patient", "time", "event"], *rows])
    clinical = write_rows(tmp_path / "c.csv", clinical_rows(patients_of(cohort)))
    with pytest.raises(InputError) as refused:
        read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", table)
    for text in (
        "3S_01: o.csv, line 2: time: expected months",
        "3S_02: o.csv, line 3: event: expected 0 or 1, found ''",
        "found '1:LIVING'",
    ):
        assert text in str(refused.value)
    assert "3S_04" not in str(refused.value)


# Variables


def stated(tmp_path: Path, **variables: object) -> Path:
    path = tmp_path / "variables.json"
    path.write_text(json.dumps(variables))
    return path


def with_variables(cohort: Path, tmp_path: Path, **variables: object) -> TrainingData:
    patients = patients_of(cohort)
    for place, own in enumerate(patients.values()):
        own |= {"size": 999 if place == 5 else 20 + place, "centre": place % 3 + 1, "note": "x"}
    clinical = write_rows(tmp_path / "c.csv", clinical_rows(patients))
    outcomes = [["patient", "time", "event"], *([name, own[TIME], own[EVENT]] for name, own in patients.items())]
    table = write_rows(tmp_path / "o.csv", outcomes)
    read = StatedVariables.read(stated(tmp_path, **variables))
    found = read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", table, variables=read)
    return training_data(found, Protocol(fusion="clinical", folds=2, inner=2), Sizes())


def test_variables_are_as_stated_and_kept_in_the_vocabulary(cohort, tmp_path, capsys):
    vocabulary = with_variables(
        cohort,
        tmp_path,
        size={"type": "number", "range": [0, 200], "missing": [999]},
        centre={"type": "category", "categories": ["1", "2", "3", "4"]},
        note={"type": "ignore"},
    ).vocabulary
    (size,) = [entry for entry in vocabulary.numeric if entry.name == "size"]
    numbers = [20 + place for place in range(60) if place != 5]
    assert (size.mean, size.scale) == pytest.approx((np.mean(numbers), np.std(numbers)))
    assert (size.low, size.high, size.missing) == (0.0, 200.0, ("999",))
    (centre,) = [entry for entry in vocabulary.categorical if entry.name == "centre"]
    assert centre.categories == ("1", "2", "3", "4")
    assert "note" not in [entry.name for entry in vocabulary.variables]
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    coded, missing = (again.encode({"size": value, "centre": 9}).values for value in (999.0, None))
    assert np.array_equal(coded, missing)
    said = capsys.readouterr().out
    assert "size: number, 20 to 79, 1 of 60 missing" in said
    assert "centre: category, 1 (20), 2 (20), 3 (20), 4 (0)" in said


def test_variables_not_as_stated_are_named(cohort, tmp_path):
    refused = {
        r"clinical variable centre: expected one of 1, 2 \(found 3 in 3S_03\)": {
            "centre": {"type": "category", "categories": [1, 2]}
        },
        r"3S_06: c.csv: clinical variable size: out of its plausible range, 0 to 200": {
            "size": {"type": "number", "range": [0, 200]}
        },
        "--variables: unknown clinical variable 'siz'.*did you mean size": {"siz": {"type": "number"}},
        'variables.json: size: expected {"type": "number", "category" or "ignore"}': {"size": {"type": "text"}},
        "variables.json: size: unknown key 'rang'": {"size": {"type": "number", "rang": [0, 1]}},
        "variables.json: size: expected a range as": {"size": {"type": "number", "range": [5, 1]}},
        "variables.json: size: expected missing as a list": {"size": {"type": "number", "missing": 9}},
    }
    for said, variables in refused.items():
        with pytest.raises(InputError, match=said):
            with_variables(cohort, tmp_path, **variables)


# Slides


def test_features_say_which_encoder_and_tile_they_are_of(cohort, tables, tmp_path):
    rows = [["patient", "file"]]
    for place, name in enumerate(patients_of(cohort)):
        path = tmp_path / f"{name}.h5"
        values = torch.randn(4, 1280, generator=torch.Generator().manual_seed(place))
        write_features(
            path,
            values,
            np.zeros((4, 2), dtype=np.int64),
            {"encoder": "efficientnet-lite0", "tile_px": 224, "tile_mpp": 0.5},
            {},
        )
        rows.append([name, path.name])
    slides = write_rows(tmp_path / "slides.csv", rows)
    found = read_cohort(CohortTables(slides=slides), tmp_path / "cache", tables[1], columns=IN_DAYS)
    assert found.features_made_with(None, None) == ("efficientnet-lite0", 0.5)
    assert found.features_made_with("uni", 1.0) == ("uni", 1.0)
    bundle = api.train(
        CohortTables(slides=slides),
        tmp_path / "b",
        outcomes=tables[1],
        time_unit="days",
        **SMALL
        | {"protocol": Protocol(fusion="slide", folds=2, inner=2, optimisation=Optimisation(epochs=1, tiles=4))},
    )
    settings = json.loads((bundle / "manifest.json").read_text())["slide"]
    assert (settings["encoder"], settings["mpp"]) == ("efficientnet-lite0", 0.5)


def test_a_table_of_slides_is_extracted_to_a_table_of_features(slide_case, tmp_path):
    slide = next((slide_case / "images").rglob("*_HE.tif"))
    table = write_rows(tmp_path / "s.csv", [["patient", "file"], ["007", str(slide)]])
    api.extract(CohortTables(slides=table), tmp_path / "out", device="cpu")
    assert (tmp_path / "out/slides.csv").read_text() == f"patient,file\n007,{slide.stem}.h5\n"
    one = api.extract(slide, tmp_path / "one.h5", device="cpu")
    assert np.array_equal(
        open_bag([one], tmp_path / "c").rows(), open_bag([tmp_path / "out" / f"{slide.stem}.h5"], tmp_path / "c").rows()
    )
    missing = write_rows(tmp_path / "m.csv", [["patient", "file"], ["007", "none.tif"], ["008", str(slide)]])
    with pytest.raises(InputError, match=r"007: m\.csv, line 2: no such file"):
        api.extract(CohortTables(slides=missing), tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="is a slide; extract its features first"):
        read_cohort(CohortTables(slides=table), tmp_path / "c", with_outcomes=False)


def test_a_training_leaves_its_report_and_a_failed_one_nothing(cohort, tables, tmp_path):
    """Features of HDF5 are copied for the time of training."""
    names = list(patients_of(cohort))
    for place, name in enumerate(names):
        values = torch.randn(4, 16, generator=torch.Generator().manual_seed(place)).double()
        write_features(tmp_path / f"{name}.h5", values, np.zeros((4, 2), dtype=np.int64), {}, {})
    slides = write_rows(tmp_path / "slides.csv", [["patient", "file"], *([name, f"{name}.h5"] for name in names)])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="features of length 16"):
        api.train(CohortTables(slides=slides), tmp_path / "b", outcomes=tables[1], time_unit="days", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    clinical = {"protocol": Protocol(fusion="clinical", folds=2, inner=2), "draws": 2}
    api.train(
        CohortTables(clinical=tables[0].clinical), tmp_path / "b", outcomes=tables[1], time_unit="days", **clinical
    )
    assert sorted(path.name for path in (tmp_path / "b.training").iterdir()) == [
        "heldout.csv",
        "report.html",
        "report.json",
    ]


# Decimal commas


def with_commas(tmp_path: Path, rows: list[list[object]], heading: str = "") -> Path:
    """The rows with semicolons, in which fractions have commas; ``heading`` goes before the first line."""
    path = write_rows(tmp_path / "e.csv", rows, ";", ",")
    path.write_text(heading + path.read_text())
    return path


def test_points_among_decimal_commas_are_named(cohort, tables, tmp_path):
    """A row of them, in the sample by which the commas are found or after it, and a column of an unknown patient."""
    rows, _ = small(cohort)
    long = [*rows, *([f"probe {place}", *row[1:]] for place, row in enumerate(2 * rows[1:]))]
    for across, place in ((rows, 10), (turned(rows), 10), (long, 60)):
        points = [f"{value}" for value in across[place][1:]]  # write_rows leaves text as it is
        path = with_commas(tmp_path, [*across[:place], [across[place][0], *points], *across[place + 1 :]])
        name, value = next(pair for pair in zip(across[0][1:], points, strict=True) if "." in pair[1])
        said = f"{name}: expected a finite number with a decimal comma, found '{value}'"
        with pytest.raises(InputError, match=re.escape(f"e.csv, line {place + 1}: {said}")):
            read_cohort(CohortTables(expression=path), tmp_path / "cache", tables[1], columns=IN_DAYS)
    for text in ("0.25", "1.250"):
        other = with_commas(tmp_path, [[*row, "X1" if place == 0 else text] for place, row in enumerate(rows)])
        with pytest.raises(InputError, match=rf"X1: expected a finite number with a decimal comma, found '{text}'"):
            read_cohort(CohortTables(expression=other), tmp_path / "cache", with_outcomes=False)


def test_a_heading_behind_a_hash_and_small_fractions_are_read_with_decimal_commas(cohort, tables, in_layout, tmp_path):
    rows, _ = small(cohort)
    small_ones = ["1e-05", *([3e-05] * (len(rows[0]) - 2))]  # as R writes them
    path = with_commas(tmp_path, [rows[0], [rows[1][0], *small_ones], *rows[2:]], "#")
    found = read_cohort(CohortTables(expression=path), tmp_path / "cache", tables[1], columns=IN_DAYS)
    assert found.ids == in_layout.ids
    assert found.expression[:, found.genes.index(str(rows[1][0]))].tolist() == [1e-05, *small_ones[1:]]
    last = str(rows[-1][0])
    assert np.array_equal(
        found.expression[:, found.genes.index(last)], in_layout.expression[:, in_layout.genes.index(last)]
    )


def test_ids_are_no_numbers_and_headings_of_other_scripts_name_nobody(cohort, in_layout, tmp_path):
    patients = {f"1.{place:03}": own for place, own in enumerate(patients_of(cohort).values())}
    rows = [[*row, "возраст" if place == 0 else place + 0.5] for place, row in enumerate(clinical_rows(patients))]
    path = write_rows(tmp_path / "c.csv", rows, ";", ",")
    found = read_cohort(CohortTables(clinical=path), tmp_path / "cache", with_outcomes=False)
    assert found.ids == tuple(patients)
    assert [own["возраст"] for own in found.clinical] == [place + 1.5 for place in range(len(patients))]


# What a first reader stumbled over


def test_trailing_separators_are_no_row_names(cohort, in_layout, tables, tmp_path):
    rows, _ = small(cohort)
    plain = write_rows(tmp_path / "e.tsv", rows, "\t")
    first, *rest = plain.read_text().splitlines()
    plain.write_text("\n".join([first, *(f"{line}\t" for line in rest)]))
    found = read_cohort(CohortTables(expression=plain), tmp_path / "cache", tables[1], columns=IN_DAYS)
    assert found.ids == in_layout.ids
    assert found.expression[:, found.genes.index(str(rows[1][0]))].tolist() == rows[1][1:]
    clinical = write_rows(tmp_path / "c.csv", clinical_rows(patients_of(cohort)), ";")
    first, *rest = clinical.read_text().splitlines()
    clinical.write_text("\n".join([first, *(f"{line};" for line in rest)]))
    same(read_cohort(CohortTables(clinical=clinical), tmp_path / "cache", with_outcomes=False), in_layout, "clinical")


def test_outcomes_beside_the_genes_are_no_genes(cohort, tmp_path, capsys):
    rows, _ = small(cohort)
    patients = patients_of(cohort)
    wide = [[*row, *(["time", "event"] if place == 0 else [patients[str(row[0])][TIME], patients[str(row[0])][EVENT]])]
            for place, row in enumerate(turned(rows))]  # fmt: skip
    wide[0][0] = "patient"
    table = write_rows(tmp_path / "wide.csv", wide)
    found = read_cohort(CohortTables(expression=table), tmp_path / "cache", table)
    assert found.genes == tuple(sorted(str(row[0]) for row in rows[1:]))
    assert "wide.csv: 2 columns (event, time) of outcomes left out of the genes" in capsys.readouterr().err
    with pytest.raises(InputError, match="one file of clinical variables and expression"):
        CohortTables(clinical=table, expression=table)


def test_tables_of_one_name_in_two_folders_are_two_tables(cohort, in_layout, tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    rows, _ = small(cohort)
    clinical = write_rows(tmp_path / "one/table.csv", clinical_rows(patients_of(cohort))[:21])
    expression = write_rows(tmp_path / "two/table.csv", rows)
    found = read_cohort(CohortTables(clinical=clinical, expression=expression), tmp_path / "cache", with_outcomes=False)
    assert found.ids == in_layout.ids[:20] and all(found.clinical)
    assert f"not in {clinical}, left out" in capsys.readouterr().err


def test_a_column_of_patients_may_be_the_last(cohort, tables, in_layout, tmp_path):
    import pandas as pd

    rows, _ = small(cohort)
    frame = pd.DataFrame(rows[1:], columns=rows[0]).set_index("gene")
    frame.to_parquet(tmp_path / "named.parquet")
    frame.T.to_parquet(tmp_path / "turned.parquet")
    last = write_rows(tmp_path / "last.csv", [[*row[1:], row[0]] for row in rows])
    for path in (tmp_path / "named.parquet", tmp_path / "turned.parquet", last):
        found = read_cohort(CohortTables(expression=path), tmp_path / "cache", tables[1], columns=IN_DAYS)
        assert found.ids == in_layout.ids and len(found.genes) == len(rows) - 1, path


def test_columns_that_are_nobody_s_are_left_out(cohort, in_layout, tmp_path):
    rows, _ = small(cohort)
    rows = [[row[0], "Entrez_Gene_Id" if place == 0 else place, *row[1:]] for place, row in enumerate(rows)]
    rows[0][0] = "Hugo_Symbol"
    path = write_rows(tmp_path / "e.txt", rows, "\t")
    found = read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)
    assert found.ids == in_layout.ids
    path.write_text(f"# some release\n#{path.read_text()}")
    assert read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False).ids == in_layout.ids


def test_a_heading_of_all_genes_is_read(tmp_path):
    genes = sorted(gene_names().symbols)[:20000]
    path = write_rows(tmp_path / "e.csv", [["patient", *genes], *([f"P{p}", *[float(p)] * 20000] for p in range(3))])
    found = read_cohort(CohortTables(expression=path), tmp_path / "cache", with_outcomes=False)
    assert found.expression.shape == (3, 20000)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_heading_alone_is_no_table_of_patients(cohort, tmp_path, separator):
    table = write_rows(tmp_path / "o.csv", [["case_id", "time", "event"]], separator)
    with pytest.raises(InputError, match="expected a row for each patient, found none"):
        read_cohort(cohort, tmp_path / "cache", table, ["clinical"])


BROKEN = {
    "cells of code 0": (b"patient,x\nP1,\0\n", "characters of code 0"),
    "an archive": (b"PK\x03\x04 and more", "it is a workbook or an archive"),
    "another encoding": ("patient,x\nP1,ü\n".encode("cp1252"), "it is no UTF-8 text; save it as CSV UTF-8"),
    "thousands or fractions": (b"patient;x;y\nP1;1,5;1.234\n", "1.234 may be a fraction or thousands"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_table_is_said_to_be_none(tmp_path, content, said):
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_cohort(CohortTables(clinical=path), tmp_path / "cache", with_outcomes=False)


def test_a_workbook_with_formulas_without_values_is_refused(tmp_path):
    path = as_workbook(tmp_path / "c.xlsx", [["patient", "x"], ["P1", "=1+1"]])
    with pytest.raises(InputError, match=r"line 2: the formula '=1\+1' has no stored value"):
        read_cohort(CohortTables(clinical=path), tmp_path / "cache", with_outcomes=False)


def test_a_column_of_times_called_after_days_needs_its_unit(cohort, tmp_path):
    rows = [[name, own[TIME], own[EVENT]] for name, own in patients_of(cohort).items()]
    table = write_rows(tmp_path / "o.csv", [["patient", "OS_days", "event"], *rows])
    with pytest.raises(InputError, match="the column OS_days is called after days; state the unit with --time-unit"):
        read_cohort(cohort, tmp_path / "cache", table, ["clinical"], columns=OutcomeColumns("OS_days"))


def test_the_outcome_is_named_once_in_the_vocabulary(cohort, tmp_path):
    patients = patients_of(cohort)
    rows = [
        [*row, *([TIME, EVENT] if row[0] == "patient" else [patients[str(row[0])][TIME], patients[str(row[0])][EVENT]])]
        for row in clinical_rows(patients)
    ]
    clinical = write_rows(tmp_path / "c.csv", rows)
    found = read_cohort(CohortTables(clinical=clinical), tmp_path / "cache")
    data = training_data(found, Protocol(fusion="clinical", folds=2, inner=2), Sizes())
    assert sorted(data.vocabulary.outcomes) == sorted((TIME, EVENT))


def test_names_of_two_genes_are_not_merged(cohort, tables, tmp_path):
    rows, _ = small(cohort, 2)
    rows[1][0], rows[2][0] = "1-Mar", "1-Mar"
    with pytest.raises(InputError, match=r"1 name \(1-Mar\) of several genes with more than one row"):
        with_rows(tmp_path, tables, rows, "sum")
