"""What a training run reached on held-out patients: ``report.json`` for machines, ``report.html`` for people.

Every figure of performance comes from risks and survival curves that each patient was given by models which never
saw that patient, nor chose anything by them (the outer folds of a nested cross-validation). Only the loss curves
show what fitting itself looked at, and the report says so beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from survfuse.evaluation.drawings import CAPTIONS, drawings
from survfuse.evaluation.summary import HeldOut, MemberCurve, summary
from survfuse.runtime.files import write_json, write_text
from survfuse.runtime.log import count
from survfuse.survival.estimates import null, number_text

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
NOTICES = ("notice", "notices")  # facts that the page shows first


def write_report(
    folder: Path, held: HeldOut, curves: Sequence[MemberCurve], facts: Mapping[str, Any], draws: int = 1000
) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` into ``folder``, which is made where it is not there, and return the
    ``summary``.

    ``facts`` is what else a reader should know of the run (cohort, protocol, stack weights): nested mappings and
    lists of text and numbers; ``notice`` or ``notices`` among them come first on the page. The page is one file
    without scripts that loads nothing. The same input gives the same bytes.
    """
    found, facts = summary(held, draws), _plain(facts)
    page = _page(found, facts, drawings(held, curves, found))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / REPORT_JSON, {"heldout": found, "facts": facts, "loss_curves": _plain([vars(c) for c in curves])}
    )
    write_text(folder / REPORT_HTML, page)
    return found


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return null(value)
    return value if isinstance(value, (int, str, type(None))) else str(value)


_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1d2430; background: #fff;
  max-width: 54rem; margin: 2.5rem auto 4rem; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; border-top: 1px solid #d9dde3; padding-top: 1.1rem; }
p { margin: .5rem 0; max-width: 44rem; }
.lead { color: #46505f; }
.tag { font-size: .72rem; font-weight: 600; border-radius: 1rem; padding: .15rem .6rem; margin-left: .5rem;
  vertical-align: middle; white-space: nowrap; }
.held { background: #e2eff8; color: #1d5580; }
.fitting { background: #f4eadf; color: #7a4a12; }
.notice { border-left: 4px solid #b5432a; background: #fbf1ee; padding: .5rem .9rem; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem 1rem .32rem 0; border-bottom: 1px solid #e6e9ee; vertical-align: top; }
thead th { border-bottom: 2px solid #c3c9d2; font-weight: 600; }
tbody th { font-weight: 500; }
td table { margin: 0; font-size: 1em; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; }
figcaption, .small { font-size: .87rem; color: #566071; max-width: 44rem; }
@media print { body { margin: 0; max-width: none; } figure, table { break-inside: avoid; } }
"""

_HELD = '<span class="tag held">nested held-out</span>'
_FITTING = '<span class="tag fitting">used in fitting</span>'


def _page(found: Mapping[str, Any], facts: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    notices = [facts[name] for name in NOTICES if facts.get(name)]
    others = {name: value for name, value in facts.items() if name not in NOTICES}
    parts = [
        "<h1>Held-out performance</h1>",
        f'<p class="lead">{count(found["patients"], "patient")}, {count(found["events"], "event")}. '
        "Figures under the mark <em>nested held-out</em> come from predictions that each patient was given by models "
        "which neither trained on that patient nor chose anything by that patient’s outcome. Intervals are 95% "
        f"percentile bootstrap intervals over patients ({count(found['draws'], 'draw')}); they do not include how much "
        "another training run would differ.</p>",
        *(f'<div class="notice">{_value(notice)}</div>' for notice in notices),
        f"<h2>Order of risk{_HELD}</h2>",
        _discrimination_table(found),
        '<p class="small">C is the share of pairs of patients that are ordered as their outcomes are: 0.5 is chance, 1 '
        "is without fault. Pooled figures also compare risks of different outer folds; the figures by fold do not. "
        "Censoring is weighed by the distribution among these patients.</p>",
        _drawing("folds", drawings),
        _fold_line(found["folds"]),
        _candidate_section(found["candidates"]),
        f"<h2>High against low risk{_HELD}</h2>",
        _drawing("groups", drawings),
        f"<h2>Predicted survival{_HELD}</h2>",
        _drawing("calibration", drawings),
        _calibration_table(found),
    ]
    if "losses" in drawings:
        parts += [
            f"<h2>Loss curves{_FITTING}</h2>",
            "<p>These show how fitting went, and are no figure of performance: the inner patients chose the epoch.</p>",
            _drawing("losses", drawings),
        ]
    if others:
        parts += ["<h2>The run</h2>", _value(others)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>survfuse: held-out performance</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _discrimination_table(found: Mapping[str, Any]) -> str:
    rows = [
        ("Harrell’s C of the risks", found["harrell_concordance"]),
        ("Harrell’s C of the predicted months (the challenge’s figure)", found["months_concordance"]),
        ("Uno’s C of the risks", found["uno_concordance"]),
        *((f"AUC at {month} months", area) for month, area in found["auc"].items()),
    ]
    return _table(("measure", "value", "95% interval"), [(name, *_figure_cells(entry)) for name, entry in rows])


def _fold_line(folds: Mapping[str, Any]) -> str:
    mean, sd = number_text(folds["mean"]), number_text(folds["sd"])
    return f"<p>By fold: mean {mean}, standard deviation {sd}.</p>"


def _candidate_section(candidates: Mapping[str, Any]) -> str:
    if not candidates:
        return ""
    heading = ("family", "C", "95% interval", "reported − family", "95% interval, patients", "95% interval, folds")
    rows = []
    for family, entry in candidates.items():
        by_fold = entry["difference_by_fold"]
        cells = (*_figure_cells(entry["concordance"]), *_figure_cells(entry["difference"], "+.3f"))
        rows.append((family, *cells, _interval(by_fold["low"], by_fold["high"], "+.3f")))
    return (
        f"<h2>Against each family alone{_HELD}</h2>"
        "<p>Harrell’s C of the families that the reported risks are made of or were chosen from, and how much the "
        "reported risks gain on them, patient by patient in the same bootstrap draws. The last column is the corrected "
        "resampled t interval of the mean difference within folds.</p>" + _table(heading, rows)
    )


def _calibration_table(found: Mapping[str, Any]) -> str:
    test = found["d_calibration"]
    rows = [
        ("Integrated Brier score", *_figure_cells(found["integrated_brier"])),
        ("the same of Kaplan–Meier alone", *_figure_cells(found["integrated_brier_kaplan_meier"])),
        (
            "difference (below 0: better than Kaplan–Meier)",
            *_figure_cells(found["integrated_brier_difference"], "+.3f"),
        ),
        ("D-calibration, χ²", number_text(test["statistic"], ".2f"), f"p {number_text(test['p'], '.2g')}"),
    ]
    return _table(("measure", "value", "95% interval"), rows) + (
        '<p class="small">The Brier score is the mean squared error of predicted survival over time: smaller is '
        "better. A small p of D-calibration says that predicted survival does not fit the outcomes; a large one says "
        "only that no misfit was found.</p>"
    )


def _figure_cells(entry: Mapping[str, Any], form: str = ".3f") -> tuple[str, str]:
    left_out = f" ({count(entry['undefined_draws'], 'draw')} left out)" if entry["undefined_draws"] else ""
    return number_text(entry["value"], form), _interval(entry["low"], entry["high"], form) + left_out


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "undefined" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _drawing(name: str, drawings: Mapping[str, str]) -> str:
    return f"<figure>{drawings[name]}<figcaption>{CAPTIONS[name]}</figcaption></figure>"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(value: Any) -> str:
    """A fact as HTML: a mapping as rows of a table, a list of mappings as a table, another list joined by commas."""
    if isinstance(value, Mapping):
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{_value(entry)}</td></tr>' for key, entry in value.items()
        )
        return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        names = list(dict.fromkeys(name for entry in value for name in entry))
        rows = [(str(row), *(_scalar(entry.get(name)) for name in names)) for row, entry in enumerate(value, start=1)]
        return _table(("", *names), rows)
    if isinstance(value, list):
        return "<br>".join(escape(entry) for entry in value) if _sentences(value) else escape(_scalar(value))
    return escape(_scalar(value))


def _sentences(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and " " in value for value in values) and all(isinstance(v, str) for v in values)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_scalar, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_scalar(entry)}" for key, entry in value.items())
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
