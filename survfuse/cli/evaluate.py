"""``survfuse evaluate``: figures of predictions against outcomes."""

from pathlib import Path
from typing import Annotated

import typer

from survfuse import api
from survfuse.cli import options
from survfuse.runtime.files import write_json
from survfuse.runtime.suggestions import check_outputs


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help="CSV with case_id, risk and months, as predict writes it.", show_default=False
        ),
    ],
    outcomes: Annotated[
        Path,
        typer.Argument(
            metavar="OUTCOMES",
            help="Table with patient, time and event, or the folder of a cohort.",
            show_default=False,
        ),
    ],
    *,
    time_unit: options.TimeUnit = None,
    time_column: options.TimeColumn = None,
    event_column: options.EventColumn = None,
    survival: Annotated[
        Path | None, options.file_option("Survival curves, as predict --survival writes them.", metavar="CSV")
    ] = None,
    by: Annotated[list[str] | None, options.names("Clinical variables to form subgroups by.", options.INPUTS)] = None,
    clinical: Annotated[
        Path | None,
        options.file_option("Table of clinical variables (default: the cohort's own).", metavar="TABLE"),
    ] = None,
    versus: Annotated[
        Path | None, options.file_option("Another model's predictions, to compare with.", metavar="CSV")
    ] = None,
    versus_survival: Annotated[
        Path | None, options.file_option("Its survival curves, to compare with those of --survival.", metavar="CSV")
    ] = None,
    exclude_training: options.ExcludeTraining = False,
    report: Annotated[Path | None, options.output_option("Also write a page with all figures.", "HTML")] = None,
    json: Annotated[Path | None, options.output_option("Also write the figures to this file.", "FILE")] = None,
) -> None:
    """Print whether the ranking is told from chance, the challenge's concordance, and other figures with intervals."""
    options.check_output_file(json)
    options.check_output_file(report)
    inputs = (predictions, outcomes, survival, clinical, versus, versus_survival)
    check_outputs({"--report": report, "--json": json}, inputs)
    figures = api.evaluate(
        predictions,
        outcomes,
        survival=survival,
        report=report,
        by=by or (),
        clinical=clinical,
        versus=versus,
        versus_survival=versus_survival,
        exclude_training=exclude_training,
        time_unit=time_unit,
        time_column=time_column,
        event_column=event_column,
    )

    from survfuse.evaluation.printed import print_evaluation

    print_evaluation(figures)
    if json is not None:
        write_json(json, figures)
