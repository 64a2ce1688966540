"""A bundle's predictions for a whole cohort, as a table."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from survfuse.bundle.load import Bundle, load, load_members
from survfuse.cohort.read import Cohort, read_cohort
from survfuse.networks.ensemble import Ensemble, EnsembleRisk
from survfuse.runtime.errors import InputError, as_survfuse_error
from survfuse.runtime.files import write_text
from survfuse.runtime.log import count, progress, stage
from survfuse.slide.registry import ENCODERS
from survfuse.tasks.modalities import Combination


def predict(
    root: Path,
    model: Path,
    out: Path,
    survival: Path | None,
    cache: Path,
    modalities: Combination | None,
    device: torch.device,
) -> None:
    """Score every patient under ``root`` with the bundle at ``model`` and write ``out``: case_id, risk, months, terms.

    ``survival`` is a second table, of the patients' survival curves. ``modalities`` are those to read and use, all that
    the bundle was trained on if None; no outcome is needed. Raises InputError for a cohort that cannot be read, or does
    not fit the bundle, and for one without curves where they are asked for.
    """
    bundle = load(model)
    if survival is not None and bundle.curves is None:
        raise InputError(f"{model}: holds no survival curves, which --survival asks for")
    chosen = modalities or bundle.modalities
    cohort = read_cohort(root, cache, modalities=chosen, with_outcomes=False)
    stage("cohort", f"{count(len(cohort.ids), 'patient')}, scored by {', '.join(chosen)}")
    scored = list(zip(cohort.ids, cohort_risks(bundle, cohort, device), strict=True))
    months = bundle.calibration.months([found.risk for _, found in scored]).months.tolist()
    rows = [
        {"case_id": name, "risk": found.risk, "months": time, **found.terms}
        for (name, found), time in zip(scored, months, strict=True)
    ]
    if survival is not None:
        _write_table(survival, [{"case_id": name} | _curve(bundle, found) for name, found in scored])
    _write_table(out, rows)
    if bundle.demonstration:
        stage("notice", f"DEMONSTRATION WEIGHTS. {bundle.manifest.notice}")
    stage("written", f"{out}: {count(len(rows), 'case')}")


def _curve(bundle: Bundle, found: EnsembleRisk) -> dict[str, float]:
    """Probability of no event by every year to the end of the bundle's follow-up, by month."""
    assert bundle.curves is not None
    curve = bundle.curves[found.combination]
    years = np.arange(12.0, max(12.0, float(curve.times[-1])) + 1.0, 12.0)
    return dict(zip((f"{month:g}" for month in years), curve.survival([found.risk], years)[0].tolist(), strict=True))


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def cohort_risks(bundle: Bundle, cohort: Cohort, device: torch.device | str = "cpu") -> Iterator[EnsembleRisk]:
    """The ensemble's risk of each patient, by the modalities that the cohort was read with.

    Raises InputError naming the patient whose expression or variables cannot be used.
    """
    _check_features(bundle, cohort)
    ensemble = Ensemble(load_members(bundle), bundle.manifest.combinations, device)
    for row, name in enumerate(progress(cohort.ids, len(cohort.ids), "scoring")):
        try:
            yield ensemble(*_vectors(bundle, cohort, row))
        except InputError as problem:
            raise InputError(f"{name}: {problem}") from as_survfuse_error(problem)


def _vectors(
    bundle: Bundle, cohort: Cohort, row: int
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """One patient's tiles [N, D], expression [G] and clinical vector [C] as the bundle takes them."""
    tiles = cohort.bags[row].rows(None) if cohort.bags is not None else None
    rna = clinical = None
    if cohort.expression is not None and bundle.expression is not None:
        values = cohort.expression[row]
        given = {g: float(x) for g, x in zip(cohort.genes, values.tolist(), strict=True) if not np.isnan(x)}
        rna = torch.from_numpy(bundle.expression.encode(given).values)
    if any(cohort.clinical) and bundle.vocabulary is not None:
        encoded = bundle.vocabulary.encode(cohort.clinical[row])
        clinical = torch.from_numpy(encoded.values) if encoded.known else None
    return tiles, rna, clinical


def _check_features(bundle: Bundle, cohort: Cohort) -> None:
    if cohort.bags is None:
        return
    settings, found = bundle.manifest.slide, cohort.bags[0].dimension
    if found != settings.dimension:
        raise InputError(
            f"features of length {found}, but the bundle takes {settings.encoder}'s of {settings.dimension}"
        )
    aliases = ENCODERS[settings.encoder].aliases if settings.encoder in ENCODERS else ()
    if cohort.encoder is not None and cohort.encoder not in (settings.encoder, *aliases):
        raise InputError(f"features of {cohort.encoder!r}, but the bundle takes those of {settings.encoder!r}")
