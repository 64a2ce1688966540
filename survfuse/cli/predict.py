"""``survfuse predict``: a bundle's predictions as a table."""

from pathlib import Path
from typing import Annotated

from survfuse.cli import options
from survfuse.prediction.unusable_slide import OMIT, REFUSE
from survfuse.runtime.errors import InputError


def predict(
    source: options.CaseOrCohort,
    *,
    model: options.BundleOption,
    modalities: options.Modalities = None,
    unusable_slide: options.UnusableSlide = REFUSE,
    out: Annotated[Path, options.output_option("Predictions: case_id, risk, months, baseline, terms.", "CSV")],
    survival: Annotated[
        Path | None, options.output_option("Survival curves: case_id, one column per year.", "CSV")
    ] = None,
    cache: options.FeatureCache = None,
    device: options.Device = None,
) -> None:
    """Score a case, a folder of cases or a cohort with a bundle."""
    options.check_output_file(out)
    options.check_output_file(survival)
    if survival is not None and survival.resolve() == out.resolve():
        raise InputError(f"--out and --survival: expected two files, found {out} for both")

    from survfuse.prediction.table import predict

    predict(
        source,
        model,
        out,
        survival=survival,
        cache=cache,
        modalities=modalities,
        device=device,
        omit_unusable_slide=unusable_slide == OMIT,
    )
