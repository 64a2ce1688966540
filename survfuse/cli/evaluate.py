"""``survfuse evaluate``: figures of predictions against outcomes."""

from pathlib import Path
from typing import Annotated

import typer

from survfuse import api
from survfuse.cli import options
from survfuse.runtime.files import write_json


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help="CSV with case_id, risk and months, as predict writes it.", show_default=False
        ),
    ],
    outcomes: Annotated[
        Path,
        typer.Argument(metavar="OUTCOMES", help="CSV with case_id, time in months and event.", show_default=False),
    ],
    json: Annotated[Path | None, options.output_option("Also write the figures to this file.", "FILE")] = None,
) -> None:
    """Print the challenge's concordance of the predicted months, and other figures, with intervals."""
    options.check_output_file(json)
    figures = api.evaluate(predictions, outcomes)

    from survfuse.evaluation.evaluate import print_evaluation

    print_evaluation(figures)
    if json is not None:
        write_json(json, figures)
