"""Facts of a run (cohort, protocol, weights): nested text and numbers, as JSON and as HTML."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TypeAlias

import numpy as np

from survfuse.survival.numbers import null

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | None"


def plain(value: object) -> Json:
    """``value`` as JSON can hold it: arrays become lists, numbers that are not finite None, unknown types text.

    >>> plain({"rate": np.float64(0.5), "folds": (1, 2), "best": float("nan")})
    {'rate': 0.5, 'folds': [1, 2], 'best': None}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return null(value)
    return value if isinstance(value, int | str) or value is None else str(value)


def table_html(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def fact_html(value: Json) -> str:
    """A fact as HTML.

    A mapping becomes a table with a row for each key, a list of mappings a table with a column for each key, a list of
    sentences lines, and any other list one line joined by commas.
    """
    if isinstance(value, dict):
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{fact_html(entry)}</td></tr>' for key, entry in value.items()
        )
        return f"<table><tbody>{rows}</tbody></table>"
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        if entries and len(entries) == len(value):
            names = list(dict.fromkeys(name for entry in entries for name in entry))
            numbered = enumerate(entries, start=1)
            return table_html(
                ("", *names), [(str(row), *(_text(entry.get(name)) for name in names)) for row, entry in numbered]
            )
        texts = [entry for entry in value if isinstance(entry, str)]
        if len(texts) == len(value) and any(" " in text for text in texts):
            return "<br>".join(map(escape, texts))
    return escape(_text(value))


def _text(value: Json) -> str:
    """A fact as one line of text."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
