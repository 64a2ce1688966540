"""``survfuse import-reference``: checkpoints of the reference as a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from survfuse.cli import options
from survfuse.cli.options import INPUTS
from survfuse.runtime.log import stage
from survfuse.runtime.suggestions import check_is_file
from survfuse.slide.registry import find_spec
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS, RANK


def _check_files(paths: list[Path]) -> list[Path]:
    for path in paths:
        check_is_file(path)
    return paths


def import_reference(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT",
            help="Torch files, each with the state_dict of one network.",
            callback=_check_files,
            show_default=False,
        ),
    ],
    *,
    genes: Annotated[Path, options.file_option("Gene symbols in the network's order.", metavar="JSON")],
    clinical: Annotated[Path, options.file_option("Clinical vocabulary.", metavar="JSON")],
    calibration: Annotated[
        Path,
        options.file_option(
            "km_times, km_probs and train_risks; for several checkpoints, risks of their mean.", metavar="JSON"
        ),
    ],
    trust_pickles: Annotated[
        bool,
        typer.Option(
            "--trust-pickles",
            help="Read --clinical and --calibration from pickles, which may run code.",
            rich_help_panel=INPUTS,
        ),
    ] = False,
    calibration_mode: Annotated[
        str,
        options.one_of("calibration", (RANK, CONTINUOUS), f"{RANK}, as in the reference, or {CONTINUOUS}.", INPUTS),
    ] = RANK,
    out: Annotated[Path, options.output_option("Folder of the new bundle, empty or absent.", "BUNDLE")],
    encoder: options.EncoderName = "uni",
    weights: options.WeightFile = None,
    mpp: options.TileMpp = SlideSettings.mpp,
    assume_mpp: options.AssumedMpp = None,
) -> None:
    """Freeze checkpoints of the reference (arXiv 2605.13897) as a bundle."""
    spec = find_spec(encoder)
    settings = SlideSettings(spec.name, spec.dimension, spec.input_px, mpp, assumed_mpp=assume_mpp)

    from survfuse.reference.to_bundle import import_reference

    import_reference(checkpoints, genes, clinical, calibration, out, settings, weights, calibration_mode, trust_pickles)
    stage("written", str(out))
