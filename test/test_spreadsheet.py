"""Names that come from inputs: nothing that shows or computes them runs them."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
from conftest import CASES, DEMONSTRATION, PLACES, TINY, edit_json, edit_patients
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_reference import checkpoint, imported, saved, sides

from survfuse.api import evaluate
from survfuse.cli.main import main
from survfuse.evaluation.facts import fact_html, table_html
from survfuse.runtime.spreadsheet import cell, content

__all__ = ["sides"]  # a fixture

FORMULA, SCRIPT = '=HYPERLINK("x","y")', "<script>alert(1)</script>"
FIRST = ("=", "+", "-", "@", "\t", "\r", "\n")  # that OWASP names
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
TEXTS = st.text(st.sampled_from("'=+-@\t\r1.e\"a,; \n＝"), max_size=6) | st.text(max_size=20)


@given(TEXTS)
def test_every_text_comes_back_and_no_cell_can_be_computed(text):
    assert content(cell(text)) == text
    assert not cell(text).startswith(FIRST) or NUMBER.fullmatch(text)


@pytest.mark.parametrize("text", ["-0.5", "+3", "1e-5", "-1.5E+3", "TP53", "", "P-1", "a=b", "O'Brien", "'quoted'"])
def test_numbers_and_plain_names_stay_as_they_are(text):
    assert cell(text) == content(text) == text


@pytest.mark.parametrize("text", [FORMULA, "+1+1", "-2+3|cmd", "@SUM(A1)", "\t=1", "\r=1", "-", "－1"])
def test_what_could_be_computed_is_text(text):
    assert cell(text) == f"'{text}"


# Tables


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """Cases in folders with names that a spreadsheet would compute, and one that looks as if it were guarded."""
    root = tmp_path_factory.mktemp("cases")
    for number, name in enumerate((FORMULA, "-1+2", "'=quoted", "@a", "plain", SCRIPT.replace("/", ""))):
        folder = Path(shutil.copytree(CASES / "interf1", root / name))
        edit_json(folder / PLACES["clinical"], age=50 + 5 * number)
    return root


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_harmless_and_evaluate_still_finds_their_patients(cases, tmp_path):
    predictions, survival = tmp_path / "predictions.csv", tmp_path / "survival.csv"
    command = ["predict", str(cases), "--model", str(DEMONSTRATION), "--out", str(predictions)]
    assert main([*command, "--survival", str(survival)]) == 0
    names = sorted(path.name for path in cases.iterdir())
    for table in (read(predictions), read(survival)):
        assert [content(row["case_id"]) for row in table] == names
        assert not any(row["case_id"].startswith(FIRST) for row in table)
    with (tmp_path / "outcomes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "time", "event"])
        writer.writerows([name, 10 + number, 1] for number, name in enumerate(names))
    assert evaluate(predictions, tmp_path / "outcomes.csv", draws=10)["patients"] == len(names)


@pytest.mark.parametrize("spelt", [str, cell])
def test_variables_and_outcomes_are_found_by_ids_as_they_are_and_as_predict_spells_them(tmp_path, spelt):
    """An apostrophe before a formula in a table is a guard, unless a patient's own id has it."""
    names = ["=1+1", "'+quoted", "'n", "@a"]

    def table(name: str, *columns: str) -> Path:
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            first = cell if name == "p.csv" else spelt
            csv.writer(file).writerows(
                [["case_id", *columns], *([first(own), 9 + at, at % 2] for at, own in enumerate(names))]
            )
        return tmp_path / name

    predictions, outcomes = table("p.csv", "risk", "months"), table("o.csv", "time", "event")
    found = evaluate(predictions, outcomes, by=["code"], clinical=table("c.csv", "age", "code"), draws=2)
    assert [group["patients"] for group in found["subgroups"][0]["subgroups"]] == [2, 2]


# Pages


class Tags(HTMLParser):
    """The elements and attributes that a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("name", [SCRIPT, '"><img src=x onerror=alert(1)>', "</td><svg onload=alert(1)>", "&lt;b&gt;"])
def test_a_name_anywhere_among_the_facts_is_only_shown(name):
    facts = {name: name, "list": [name, "b"], "rows": [{name: name}, {"a": [name]}], "lines": [f"{name} {name}"]}
    page = fact_html(facts) + table_html((name, name), [(name, name)])
    found = Tags(page)
    assert found.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert found.attributes <= {"class", "scope"}
    assert page.replace("&quot;", '"').count(name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")) > 5


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory) -> Path:
    """A bundle of a cohort in which a patient, a gene and a variable have the names of formulas and scripts."""
    root = Path(shutil.copytree(cohort, tmp_path_factory.mktemp("hostile") / "cohort"))
    first = sorted((root / "data").iterdir())[0]
    old, new = first.name, '=HYPERLINK("x")<script>alert(1)<script>'
    for path in [*first.iterdir(), *root.glob(f"features/features/{old}_*")]:
        path.rename(path.with_name(path.name.replace(old, new)))
    first.rename(first.with_name(new))
    gene = sorted(json.loads(next(root.glob("data/*/*_RNA.json")).read_text()))[0]
    edit_patients(root, lambda _, values: {SCRIPT: values[gene], FORMULA: values[gene], gene: None}, "RNA")
    edit_patients(root, lambda place, _: {SCRIPT: place % 7, FORMULA: ["a", SCRIPT][place % 2]})
    bundle = root.with_name("bundle")
    assert main(["train", str(root), "--out", str(bundle), *TINY]) == 0
    return bundle


def pages_of(bundle: Path) -> Iterator[Path]:
    for folder in (bundle, bundle.with_name(f"{bundle.name}.training")):
        yield from (path for path in folder.rglob("*") if path.suffix in {".html", ".md"})


def test_the_names_are_in_the_bundle_and_in_none_of_its_pages(trained):
    kept = (trained / "genes.json").read_text() + (trained / "clinical.json").read_text()
    assert SCRIPT in kept and FORMULA in json.loads((trained / "genes.json").read_text())["genes"]
    pages = list(pages_of(trained))
    assert {path.name for path in pages} == {"report.html", "model-card.md"}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        text = markdown.markdown(text, extensions=["tables"]) if path.suffix == ".md" else text
        assert "script" not in Tags(text).tags and "HYPERLINK" not in text


@pytest.mark.parametrize("render", [MarkdownIt("gfm-like", {"linkify": False}).render, markdown.markdown])
@pytest.mark.parametrize(
    "name", [SCRIPT.replace("/", ""), "[a](javascript:alert(1))", "![a](x)", "`a`|b <b>", "*a* $x$"]
)
def test_a_file_s_name_is_inert_in_the_card_of_an_imported_model(name, render, tmp_path, sides):
    root = imported([saved(tmp_path / f"{name}.pt", checkpoint("concat", 0))], sides, tmp_path / "bundle")
    page = render((root / "model-card.md").read_text())
    assert not Tags(page).tags & {"script", "a", "img", "b", "em"}
    assert not Tags(page).attributes & {"href", "src"}
