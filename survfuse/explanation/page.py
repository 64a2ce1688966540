"""The page of an explanation, ``case.html``: one file that loads nothing, for a reader who knows medicine."""

import base64
import hashlib
from html import escape
from importlib.resources import files

from survfuse.evaluation.facts import table_html
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.page_head import figures, head, summary
from survfuse.explanation.page_parts import READING, genes_table, modalities, sum_of_parts, variables_table
from survfuse.explanation.page_tiles import shown_rows, tiles_html
from survfuse.explanation.pictures import pictures
from survfuse.explanation.record_types import Record
from survfuse.runtime.log import count

# Stages of the log whose figures the page shows elsewhere.
_SHOWN_ELSEWHERE = ("risk", "months", "survival", "parts")


def page(explanation: Explanation, written: Record) -> str:
    """The page of ``explanation``, whose ``record`` is ``written``; it has no network, and prints.

    Raises InputError if the case's slide can no longer be read.
    """
    script = _resource("viewer.js")
    body = "\n".join(
        part
        for part in (
            '<p class="private"><strong>Confidential:</strong> this page carries a patient’s values and tissue.</p>',
            head(explanation, written),
            summary(written),
            figures(explanation, written),
            sum_of_parts(written),
            READING,
            modalities(written),
            tiles_html(explanation, written, pictures(explanation, shown_rows(written))),
            genes_table(written),
            variables_table(written),
            _said(written),
            _provenance(written),
        )
        if part
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(written['case'])}: why this risk</title>\n<style>\n{_resource('page.css')}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _resource(name: str) -> str:
    return (files("survfuse.explanation") / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """A policy under which the page requests nothing, and runs no script but ``script``."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    rules = ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _said(written: Record) -> str:
    """What was read, missing, imputed or ignored."""
    notes = [(note["stage"], note["text"]) for note in written["notes"] if note["stage"] not in _SHOWN_ELSEWHERE]
    return "<h2>What was read, missing, imputed or ignored</h2>" + table_html(("stage", "note"), notes)


def _provenance(written: Record) -> str:
    model, case = written["model"], written["prediction"]
    families = ", ".join(f"{family} ({number})" for family, number in sorted(model["families"].items()))
    facts = {
        "bundle": model["folder"],
        "purpose": model["purpose"],
        "sha256": model["sha256"],
        "about it": model["notice"],
        "survfuse": model["survfuse"],
        "members": f"{model['members']}: {families}",
        "reference": f"{written['reference']}; {count(case['reference_risks'], 'reference risk')}",
        "record": f"{written['schema']}, case.json beside this page",
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return f'<h2>Where this comes from</h2><dl class="facts">{rows}</dl>'
