"""The report as one HTML page, without scripts, that loads nothing."""

from collections.abc import Mapping

from survfuse.evaluation.drawings import CAPTIONS
from survfuse.evaluation.facts import Json, fact_html, table_html
from survfuse.evaluation.summary import CandidateFigures, FoldFigures, Summary
from survfuse.runtime.log import count
from survfuse.survival.estimates import Estimate
from survfuse.survival.numbers import number_text

_NOTICE = "notice"  # the fact that comes first on the page

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


def page(figures: Summary, facts: Mapping[str, Json], drawings: Mapping[str, str]) -> str:
    """The page: the notice among the facts, if there is one, then figures and drawings, then the other facts."""
    notice = facts.get(_NOTICE)
    others = {name: value for name, value in facts.items() if name != _NOTICE}
    parts = [
        f'<div class="notice">{fact_html(notice)}</div>' if notice else "",
        "<h1>Held-out performance</h1>",
        f'<p class="lead">{count(figures["patients"], "patient")}, {count(figures["events"], "event")}. '
        "Figures marked <em>nested held-out</em> come from predictions by models that neither trained on the patient "
        "nor chose anything by the patient’s outcome. Intervals are 95% percentile bootstrap intervals over patients "
        f"({count(figures['draws'], 'draw')}); they do not cover the difference between training runs.</p>",
        f"<h2>Ranking of risks{_HELD}</h2>",
        _discrimination_table(figures),
        '<p class="small">C is the share of pairs of patients whose risks are in the order of their outcomes: 0.5 is '
        "chance, 1 is perfect. Pooled figures also compare risks from different outer folds; the figures by fold do "
        "not. Censoring is weighted by its distribution among these patients.</p>",
        _drawing("folds", drawings),
        _fold_line(figures["folds"]),
        _candidate_section(figures["candidates"]),
        f"<h2>High versus low risk{_HELD}</h2>",
        _drawing("groups", drawings),
        f"<h2>Predicted survival{_HELD}</h2>",
        _drawing("calibration", drawings),
        _calibration_table(figures),
    ]
    if "losses" in drawings:
        parts += [
            f"<h2>Loss curves{_FITTING}</h2>",
            "<p>These show how training went. They do not measure performance: the inner patients chose the epoch.</p>",
            _drawing("losses", drawings),
        ]
    if others:
        parts += ["<h2>The run</h2>", fact_html(others)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>survfuse: held-out performance</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _discrimination_table(figures: Summary) -> str:
    rows = [
        ("Harrell’s C of the risks", figures["harrell_concordance"]),
        ("Harrell’s C of the predicted months (the challenge’s figure)", figures["months_concordance"]),
        ("Uno’s C of the risks", figures["uno_concordance"]),
        *((f"AUC at {month} months", area) for month, area in figures["auc"].items()),
    ]
    return table_html(("measure", "value", "95% interval"), [(name, *_cells(entry)) for name, entry in rows])


def _fold_line(folds: FoldFigures) -> str:
    mean, sd = number_text(folds["mean"]), number_text(folds["sd"])
    return f"<p>By fold: mean {mean}, standard deviation {sd}.</p>"


def _candidate_section(candidates: Mapping[str, CandidateFigures]) -> str:
    """Each family compared with the reported risks; empty if there are none to compare."""
    if not candidates:
        return ""
    heading = ("family", "C", "95% interval", "reported − family", "95% interval, patients", "95% interval, folds")
    rows = []
    for family, entry in candidates.items():
        by_fold = entry["difference_by_fold"]
        cells = (*_cells(entry["concordance"]), *_cells(entry["difference"], "+.3f"))
        rows.append((family, *cells, _interval(by_fold["low"], by_fold["high"], "+.3f")))
    return (
        f"<h2>Compared with each family alone{_HELD}</h2>"
        "<p>Harrell’s C of the families that the reported risks combine or were chosen from, and how much the reported "
        "risks gain on them, in the same bootstrap draws of patients. The last column is the corrected resampled t "
        "interval of the mean difference within folds.</p>" + table_html(heading, rows)
    )


def _calibration_table(figures: Summary) -> str:
    test = figures["d_calibration"]
    rows = [
        ("Integrated Brier score", *_cells(figures["integrated_brier"])),
        ("the same for Kaplan–Meier alone", *_cells(figures["integrated_brier_kaplan_meier"])),
        (
            "difference (below 0: better than Kaplan–Meier)",
            *_cells(figures["integrated_brier_difference"], "+.3f"),
        ),
        ("D-calibration, χ²", number_text(test["statistic"], ".2f"), f"p {number_text(test['p'], '.2g')}"),
    ]
    return table_html(("measure", "value", "95% interval"), rows) + (
        '<p class="small">The Brier score is the mean squared error of predicted survival over time: smaller is '
        "better. A small p of D-calibration means that predicted survival does not fit the outcomes; a large p means "
        "only that no misfit was found.</p>"
    )


def _cells(estimate: Estimate, form: str = ".3f") -> tuple[str, str]:
    """An estimate's value and interval as text."""
    left_out = f" ({count(estimate['undefined_draws'], 'draw')} left out)" if estimate["undefined_draws"] else ""
    return number_text(estimate["value"], form), _interval(estimate["low"], estimate["high"], form) + left_out


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "undefined" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _drawing(name: str, drawings: Mapping[str, str]) -> str:
    return f"<figure>{drawings[name]}<figcaption>{CAPTIONS[name]}</figcaption></figure>"
