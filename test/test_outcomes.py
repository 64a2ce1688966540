"""Tables of outcomes: training and evaluation take the same ones, refuse the same ones, and read the same values."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_json

from survfuse import api
from survfuse.cohort.events import read_event
from survfuse.cohort.outcomes import read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import Cohort
from survfuse.cohort.simulate import simulate
from survfuse.cohort.tables import read_table
from survfuse.cohort.time_unit import read_months
from survfuse.runtime.errors import InputError
from survfuse.tasks.chimera3 import TASK

IDS = [f"3S_{number}" for number in range(1, 7)]
HEADING = ["case_id", "time", "event"]
OUTCOMES = {name: [name, str(12 * place + 1), str(place % 2)] for place, name in enumerate(IDS)}


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Path:
    """Six simulated patients whose own files state no outcome."""
    root = tmp_path_factory.mktemp("unlabelled") / "cohort"
    simulate(root, len(IDS), 11, genes=10, tiles=5)
    for name in IDS:
        edit_json(root / "data" / name / f"{name}_CD.json", progression=None, Time_to_prog_or_FUend=None)
    return root


@pytest.fixture(scope="module")
def predictions(tmp_path_factory) -> Path:
    """A prediction for each of the patients."""
    path = tmp_path_factory.mktemp("predictions") / "predictions.csv"
    rows = [f"{name},{place},{100 - place}\n" for place, name in enumerate(IDS)]
    path.write_text("case_id,risk,months\n" + "".join(rows))
    return path


@pytest.fixture
def trained_on(unlabelled, tmp_path, monkeypatch) -> Callable[[Path], Cohort]:
    """The cohort that ``train`` trains on with a table of outcomes: all of the command but the training itself."""

    def cohort(table: Path) -> Cohort:
        given = []
        monkeypatch.setattr("survfuse.training.train.train", lambda cohort, *_, **__: given.append(cohort))
        api.train(unlabelled, tmp_path / "bundle", outcomes=table, modalities=["clinical"])
        return given[0]

    return cohort


def text(rows: list[list[str]], heading: list[str] = HEADING) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([heading, *rows])
    return lines.getvalue()


def with_cells(**cells: str) -> str:
    """The usual table with other cells in the row of the fourth patient, which has an event at 37 months."""
    row = dict(zip(HEADING, OUTCOMES["3S_4"], strict=True)) | cells
    return text([list(row.values()) if name == "3S_4" else cells for name, cells in OUTCOMES.items()])


ROWS = list(OUTCOMES.values())
USUAL = text(ROWS)
SOUND = {
    "usual": USUAL,
    "byte-order mark": "\ufeff" + USUAL,
    "carriage returns": USUAL.replace("\n", "\r\n"),
    "quoted": USUAL.replace("3S_2", '"3S_2"'),
    "blank rows": USUAL.replace("3S_3", "\n,,\n , ,\n3S_3") + "\n\n",
    "blanks around cells": USUAL.replace(",", " , "),
    "another order": text(ROWS[::-1]),
    "other spellings": text(ROWS, ["Case_ID", "Time_to_prog_or_FUend", "PROGRESSION"]),
    "further columns": text([[*row, "x", "x", ""] for row in ROWS], [*HEADING, "centre", "centre", ""]),
    "a row twice": text([*ROWS, ROWS[0]]),
    "a row twice, spelt otherwise": text([*ROWS, ["3S_2", "13.0", "True"]]),
    "two slides": text([[*row, f"{row[0]}_HE"] for row in [*ROWS, ROWS[1]]], [*HEADING, "slide_id"]),
    "True and False": text([[*row[:2], str(row[2] == "1")] for row in ROWS]),
    "true and FALSE": text([[*row[:2], "true" if row[2] == "1" else "FALSE"] for row in ROWS]),
    "1.0 and 0.0": text([[*row[:2], f"{row[2]}.0"] for row in ROWS]),
    "an exponent": with_cells(time="3.7e1"),
    "a sign": with_cells(time="+37"),
}
REFUSED = {
    "20,000 months": (with_cells(time="20000"), "3S_4: given.csv, line 5: time: expected months"),
    "1,200 months": (
        with_cells(time="1200"),
        "time: expected months of at least 0 and below 1,200, found '1200'; if these are days, use --time-unit days",
    ),
    "a negative time": (with_cells(time="-1"), "line 5: time: expected months"),
    "an infinite time": (with_cells(time="inf"), "line 5: time: expected months"),
    "no time": (with_cells(time=""), "line 5: time: expected months"),
    "a time that is not a number": (with_cells(time="nan"), "line 5: time: expected months"),
    "a decimal comma": (with_cells(time="12,5"), "expected months of at least 0 and below 1,200, found '12,5'"),
    "an underscore": (with_cells(time="1_0"), "line 5: time: expected months"),
    "digits of another script": (with_cells(time="３７"), "line 5: time: expected months"),
    "no event": (with_cells(event=""), "3S_4: given.csv, line 5: event: expected 0 or 1"),
    "an event of 2": (with_cells(event="2"), "line 5: event: expected 0 or 1"),
    "half an event": (with_cells(event="0.5"), "line 5: event: expected 0 or 1"),
    "an event in words": (with_cells(event="yes"), "line 5: event: expected 0 or 1"),
    "another outcome": (
        text([*ROWS, ["3S_4", "38", "1"]]),
        "3S_4: given.csv, line 8: its outcome differs from an earlier line",
    ),
    "another outcome, both unusable": (with_cells(time="x") + "3S_4,y,1\n", "line 8: time: expected months"),
    "no case_id": (with_cells(case_id=" "), "given.csv, line 5: no case_id"),
    "a patient left out": (text(ROWS[1:]), "3S_1: "),
    "a patient too many": (text([*ROWS, ["3S_7", "1", "1"]]), "3S_7: "),
    "a short row": (USUAL + "3S_1,1\n", "given.csv, line 8: expected 3 cells, found 2"),
    "a long row": (USUAL + "3S_1,1,0,\n", "given.csv, line 8: expected 3 cells, found 4"),
    "a slide of two patients": (
        text([[*row, "block A"] for row in ROWS], [*HEADING, "slide_id"]),
        "3S_2: given.csv, line 3: the slide block A is listed for 3S_1 as well",
    ),
    "no event column": (text(ROWS, ["case_id", "time", "status"]), "the column progression or event is missing"),
    "two time columns": (text(ROWS, ["case_id", "time", "Time_Months"]), "occurs more than once"),
    "one column": (USUAL.replace(",", " "), "given.csv: the column case_id is missing"),
    "no rows": (text([]), "given.csv: expected a row for each patient, found none"),
    "nothing": ("", "given.csv: the column case_id is missing"),
    "an open quote": (USUAL + '"3S_1,1,0\n', "given.csv: cannot be read as CSV"),
    "another encoding": (USUAL.replace("3S_1", "Müller").encode("latin-1"), "given.csv: cannot be read as CSV"),
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("content", SOUND.values(), ids=SOUND)
def test_training_and_evaluation_take_the_same_tables(trained_on, predictions, tmp_path, content):
    table = write(tmp_path / "given.csv", content)
    cohort = trained_on(table)
    assert dict(zip(cohort.ids, zip(cohort.times, cohort.events, strict=True), strict=True)) == {
        name: (float(time), event == "1") for name, time, event in ROWS
    }
    usual = write(tmp_path / "usual.csv", USUAL)
    assert api.evaluate(predictions, table, draws=2) == api.evaluate(predictions, usual, draws=2)


@pytest.mark.parametrize(("content", "problem"), REFUSED.values(), ids=REFUSED)
def test_training_and_evaluation_refuse_the_same_tables(trained_on, predictions, tmp_path, content, problem):
    table = write(tmp_path / "given.csv", content)
    for command in (lambda: trained_on(table), lambda: api.evaluate(predictions, table, draws=2)):
        with pytest.raises(InputError) as refused:
            command()
        assert problem in refused.value.line()


def test_every_problem_of_a_table_is_listed_with_its_patient_and_line(unlabelled, trained_on, predictions, tmp_path):
    rows = [["3S_1", "-1", "1"], ["3S_2", "3", "2"], ["3S_3", "x", "y"], *ROWS[3:], ["3S_6", "61", "0"], ["", "1", "1"]]
    table = write(tmp_path / "given.csv", text(rows))
    for command in (lambda: trained_on(table), lambda: api.evaluate(predictions, table, draws=2)):
        with pytest.raises(InputError) as refused:
            command()
        assert "6 problems, 4 patients cannot be used: given.csv, line 9: no case_id; " in str(refused.value)
        months = "time: expected months of at least 0 and below 1,200, found"
        assert str(refused.value).partition("; ")[2] == (
            f"3S_1: given.csv, line 2: {months} '-1'; 3S_2: given.csv, line 3: event: expected 0 or 1, found '2'; "
            f"3S_3: given.csv, line 4: event: expected 0 or 1, found 'y'; 3S_3: given.csv, line 4: {months} 'x'; "
            "3S_6: given.csv, line 8: its outcome differs from an earlier line"
        )


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "1.0", " TRUE "])
def test_an_event_is_spelt_in_a_file_as_in_a_table(value):
    assert read_event(value) is True


def test_what_was_found_is_cut_short():
    with pytest.raises(InputError, match=r"event: expected 0 or 1, found 'x{39} …$"):
        read_event("x" * 5000)
    with pytest.raises(InputError, match=r"below 1,200, found 2000; if these are days, use --time-unit days$"):
        read_months(2000, 1200)


@pytest.mark.parametrize("value", [None, 2, -1, 0.5, float("nan"), "", "yes", "nan", [1], {"event": 1}])
def test_what_is_no_event_is_refused(value):
    with pytest.raises(InputError, match="progression: expected 0 or 1"):
        read_event(value, "progression")


@pytest.mark.parametrize("value", [None, True, -0.1, 1e4, np.inf, np.nan, 10**400, "", "1e400", [1]])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(InputError, match="Time: expected months of at least 0 and below 10,000"):
        read_months(value, 1e4, "Time")
    assert (read_months(0, 1e4), read_months("9999.9", 1e4)) == (0.0, 9999.9)


# Problems


def test_a_problem_of_more_than_eight_patients_is_one_entry_with_three_names():
    problems = Problems()
    for number in range(9):
        problems.add("states no event", f"P{number}", f"P{number}_CD.json")
        problems.add("age: out of range", f"P{number}", f"P{number}_CD.json", number)
    problems.add("age: out of range", "P9", "other.json")
    problems.add("nobody's")
    with pytest.raises(InputError) as raised:
        problems.raise_any("cohort")
    assert str(raised.value) == (
        "cohort: 20 problems, 10 patients cannot be used: nobody's; "
        "9 patients (P0, P1, P2 and 6 more): <id>_CD.json: states no event; "
        "9 patients (P0, P1, P2 and 6 more): <id>_CD.json: age: out of range; P9: other.json: age: out of range"
    )


def test_problems_of_a_few_patients_are_named_one_by_one():
    problems = Problems()
    for number in range(8):
        problems.add("states no event", f"P{number}", f"P{number}_CD.json")
    with pytest.raises(InputError, match=r"P7: P7_CD.json: states no event$") as raised:
        problems.raise_any("cohort")
    assert str(raised.value).count("states no event") == 8
    Problems().raise_any("cohort")


def test_a_problem_of_many_lines_is_one_entry_with_three_of_them(tmp_path):
    path, problems = write(tmp_path / "o.csv", "case_id\n" + "a,b\n" * 40 + "a,b,c\n"), Problems()
    read_table(path, problems)
    with pytest.raises(InputError) as raised:
        problems.raise_any("table")
    assert str(raised.value) == (
        "table: 41 problems: o.csv, 40 lines (2, 3, 4 and 37 more): expected 1 cell, found 2; "
        "o.csv, line 42: expected 1 cell, found 3"
    )


def test_a_problem_of_many_patients_shows_what_one_of_them_has(tmp_path):
    rows = [[f"P{number}", f"{number},5", "1"] for number in range(12)]
    path, problems = write(tmp_path / "o.csv", text(rows)), Problems()
    read_outcomes(path, TASK.outcome, problems)
    with pytest.raises(InputError, match=r"12 patients \(.*below 1,200 \(found '0,5' in P0\)$"):
        problems.raise_any("table")


def test_numbers_as_patients_are_not_taken_for_the_numbers_of_a_message():
    problems = Problems()
    for number in range(12):
        problems.add("event: expected 0 or 1", str(number), f"{number}_CD.json")
    with pytest.raises(
        InputError, match=r"12 patients \(0, 1, 10 and 9 more\): <id>_CD\.json: event: expected 0 or 1$"
    ):
        problems.raise_any("cohort")


def test_a_name_as_long_as_a_page_makes_no_line_as_long(tmp_path):
    path = tmp_path / "o.csv"
    path.write_text(text([["1", "2", "3"]], [letter * 9000 for letter in "xyz"]))
    problems = Problems()
    read_outcomes(path, TASK.outcome, problems)
    problems.add("expected a number, found " + "v" * 9000, "P1")
    with pytest.raises(
        InputError, match=r"o\.csv: .* is missing \(found x{200} …, y{200} …, z{200} …; patient"
    ) as raised:
        problems.raise_any("cohort")
    assert len(raised.value.line()) < 5000
