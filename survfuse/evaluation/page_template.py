"""Pages from Jinja2 templates: everything is escaped but what a template calls safe; an unknown name is an error."""

from collections.abc import Mapping
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from survfuse.evaluation.facts import fact_html
from survfuse.evaluation.svg import svg_element

Row = tuple[str, ...]  # of a table's cells, the first of which names the row


class Drawn(NamedTuple):
    """A drawing on a page."""

    svg: str  # an element
    caption: str


def render(template: str, **values: object) -> str:
    """The page that ``template`` makes of ``values``."""
    return _environment().get_template(template).render(**values)


def drawn(figures: Mapping[str, Figure | None], captions: Mapping[str, str]) -> dict[str, Drawn]:
    """Name → drawing of all that there is, with its caption, which is also what is said in its place."""
    return {
        name: Drawn(svg_element(name, figure, captions[name]), captions[name])
        for name, figure in figures.items()
        if figure is not None
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("survfuse.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["fact"] = fact_html  # which escapes
    return environment
