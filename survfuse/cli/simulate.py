"""``survfuse simulate``: a cohort of simulated patients."""

from pathlib import Path
from typing import Annotated

import typer

from survfuse.cli import options
from survfuse.runtime.log import count, stage

PATIENTS = "Patients"


def simulate(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the new cohort.", show_default=False)],
    patients: Annotated[int, options.number("Number of patients.", PATIENTS)],
    seed: Annotated[int, options.number("Random seed; each seed draws different patients.", PATIENTS)],
    genes: Annotated[int | None, options.number("Number of genes (default: every known symbol).", PATIENTS)] = None,
    tiles: Annotated[int, options.number("Approximate number of tiles per patient.", PATIENTS)] = 64,
    vector_length: Annotated[
        int, options.number("Numbers of a slide-level vector for each patient; 0 for none.", PATIENTS)
    ] = 0,
    interaction: Annotated[
        float, options.number("Strength of the interactions between modalities; 0 for none.", PATIENTS)
    ] = 1.0,
    tissue: Annotated[
        Path | None,
        options.file_option("Draw tile features from this slide's own (default: random vectors).", metavar="SLIDE"),
    ] = None,
) -> None:
    """Write a cohort of simulated patients in the published layout."""
    from survfuse.cohort.simulate import simulate

    simulate(out, patients, seed, genes, tiles, interaction, tissue, vector_length=vector_length)
    stage("written", f"{out}: {count(patients, 'simulated patient')}")
