"""The pages with figures, in Debian's Chromium and without: readable, accessible, and complete in one file."""

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from survfuse import api
from survfuse.evaluation.report import write_report
from survfuse.evaluation.summary import HeldOut, MemberCurve
from survfuse.evaluation.svg import HIGH, LOW, MUTED, QUIET, TEXT

CSS = Path(api.__file__).parent / "evaluation" / "templates" / "page.css"
ATTACK = "<script>alert(1)</script>"
N = 80


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(each * 2 for each in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_has_the_contrast_of_the_standard():
    assert contrast("#000", "#fff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_colour_of_text_and_lines_stands_out_as_wcag_aa_asks():
    """Text 4.5, lines and marks 3, on white and on every background of the style sheet that text stands on."""
    assert all(contrast(colour, "#fff") >= 4.5 for colour in (TEXT, MUTED, HIGH, LOW))  # labels of curves, too
    assert contrast(QUIET, "#fff") >= 3.0
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", CSS.read_text())
    pairs = []
    for _, body in rules:
        colour = re.search(r"(?<![-\w])color: (#\w+)", body)
        background = re.search(r"background: (#\w+)", body)
        if colour or background:
            pairs.append((colour[1] if colour else TEXT, background[1] if background else "#fff"))
    assert len(pairs) >= 8
    assert [pair for pair in pairs if contrast(*pair) < 4.5] == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Both pages with every section, and with an attack in every text that comes from outside."""
    random = np.random.default_rng(0)
    truth = random.normal(size=N)
    own, censoring = random.exponential(50 * np.exp(-truth)), random.uniform(20, 140, N)
    times, events = np.minimum(own, censoring), own < censoring
    grid = np.arange(12.0, 121.0, 12.0)
    survival = np.exp(-np.exp(truth)[:, np.newaxis] * grid / 50)
    risks = truth + random.normal(size=N)
    families = {f"family {number} of a long name {ATTACK}": risks + random.normal(size=N) for number in range(4)}
    parts = {"rna+clinical": risks, "rna": truth, "clinical": random.normal(size=N)}
    held = HeldOut(times, events, np.arange(N) % 5, risks, families, grid, survival, -truth, (12.0, 24.0, 60.0), parts)
    curves = [MemberCurve(f"gated {ATTACK}", 0, fold, 0, 2, (3.0, 2.0), (3.1, 2.4)) for fold in range(3)]
    root = tmp_path_factory.mktemp("pages")
    facts = {"notice": ATTACK, "simulated": True, "family_weights": dict.fromkeys(families, 0.25), "long": "x" * 300}
    write_report(root, held, curves, facts, draws=20, subject=f"{ATTACK} {'cohort' * 20}")
    names = [f"P{number}{ATTACK}" for number in range(N)]
    heads = ("case_id,risk,months,training_patient", "case_id,time,event", f"case_id,age,site{ATTACK}")
    sites = ["a long name of a hospital " + ATTACK, "other"]
    lines = (
        [
            f"{name},{risk},{50 - risk},{'yes' if at < 4 else 'no'}"
            for at, (name, risk) in enumerate(zip(names, risks, strict=True))
        ],
        [f"{name},{time},{int(event)}" for name, time, event in zip(names, times, events, strict=True)],
        [f"{name},{40 + at % 50},{sites[at % 2]}" for at, name in enumerate(names)],
    )
    tables = [root / "predictions.csv", root / "outcomes.csv", root / "clinical.csv"]
    for path, head, rows in zip(tables, heads, lines, strict=True):
        path.write_text("\n".join([head, *rows]))
    curve_table = root / "survival.csv"
    head = ",".join(["case_id", *(f"{month:g}" for month in grid)])
    rows = [",".join([name, *map(str, row)]) for name, row in zip(names, survival.tolist(), strict=True)]
    curve_table.write_text("\n".join([head, *rows]))
    page = root / "external.html"
    api.evaluate(
        tables[0],
        tables[1],
        survival=curve_table,
        report=page,
        clinical=tables[2],
        by=["age", f"site{ATTACK}"],
        versus=tables[0],
        versus_survival=curve_table,
        draws=20,
    )
    return {"training": (root / "report.html").read_text(), "external": page.read_text()}


@pytest.mark.parametrize("name", ["training", "external"])
def test_no_text_from_outside_becomes_part_of_the_page(pages, name):
    text = pages[name]
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert (
        not re.search(r"""(src|href)=["'](?!#)""", text)
        and "http" not in text
        and "url(" not in text.replace("url(#", "")
    )


@pytest.mark.parametrize("name", ["training", "external"])
def test_every_link_leads_to_a_section_and_every_figure_says_what_it_shows(pages, name):
    text = pages[name]
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'<a href="#([^"]+)"', text)
    assert links and set(links) <= set(ids)
    drawings = re.findall(r"<svg[^>]*>", text)
    assert len(drawings) == text.count("<figcaption>") >= 6
    assert all('role="img" aria-label="' in drawing for drawing in drawings)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page; afterwards it has said nothing on the console, and asked for nothing but itself."""
    said: list[str] = []
    path = tmp_path / "page.html"
    contexts = []

    def open_page(text: str, width: int) -> Page:
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 1000})
        contexts.append(context)
        context.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        shown = context.new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        shown.goto(path.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.page
@pytest.mark.parametrize("name", ["training", "external"])
def test_a_page_reads_well_on_every_width_with_the_keyboard_and_on_paper(pages, opened, name):
    for width in (1400, 500):
        shown = opened(pages[name], width)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        # No drawing is squeezed so far that its text, of 9 points or more, is hard to read.
        assert shown.evaluate(SMALLEST) >= 10.0
    assert shown.evaluate("document.documentElement.lang") == "en"
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    scrolling = "[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth + 1)"
    assert shown.evaluate(f"{scrolling}.every((each) => each.tabIndex === 0 || each.closest('td'))")
    shown.emulate_media(media="print")
    assert shown.pdf().startswith(b"%PDF")


SMALLEST = """
() => Math.min(...[...document.querySelectorAll("svg text")].filter((each) => each.textContent.trim()).map((each) =>
  parseFloat(getComputedStyle(each).fontSize) * each.ownerSVGElement.getBoundingClientRect().width
    / each.ownerSVGElement.viewBox.baseVal.width))
"""
