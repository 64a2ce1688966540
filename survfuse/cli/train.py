"""``survfuse train``: an ensemble trained on a cohort and frozen as a bundle."""

from pathlib import Path
from typing import Annotated

from survfuse import api
from survfuse.cli import options
from survfuse.cli.options import OUTPUTS, number, one_of
from survfuse.inputs.expression import IDENTITY, LOG_STANDARDISE
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS, RANK
from survfuse.tasks.registry import DEFAULT
from survfuse.training.protocol import AUTO, COX_SCORE, NONE, VARIANCE, Optimisation, Protocol

ENSEMBLE, EXPRESSION, OPTIMISATION, WIDTHS = "Ensemble", "Expression and calibration", "Optimisation", "Widths"
FAMILIES = (AUTO, *families_of(DEFAULT.modalities))


def train(
    cohort: options.CohortFolder,
    *,
    outcomes: Annotated[
        Path | None,
        options.file_option("case_id, time in months, event (default: the patients' clinical JSON).", metavar="CSV"),
    ] = None,
    modalities: options.Modalities = None,
    out: Annotated[Path, options.output_option("Folder of the new bundle, empty or absent.", "BUNDLE")],
    work: Annotated[
        Path | None,
        options.output_option(
            "Training state, report and TensorBoard scalars (default: BUNDLE.training beside it).", "FOLDER"
        ),
    ] = None,
    draws: Annotated[int, number("Bootstrap draws of the report's intervals.", OUTPUTS)] = 500,
    encoder: options.EncoderName = "uni",
    weights: options.WeightFile = None,
    mpp: options.TileMpp = SlideSettings.mpp,
    assume_mpp: options.AssumedMpp = None,
    fusion: Annotated[
        str,
        one_of("family", FAMILIES, f"A family, or auto: a stack of them. Known are {', '.join(FAMILIES)}.", ENSEMBLE),
    ] = Protocol.fusion,
    folds: Annotated[int, number("Outer folds, stratified by event and time.", ENSEMBLE)] = Protocol.folds,
    inner: Annotated[
        int, number("Members of a fold; each is stopped by another part of its training patients.", ENSEMBLE)
    ] = Protocol.inner,
    repeats: Annotated[int, number("Partitions into folds.", ENSEMBLE)] = Protocol.repeats,
    seed: Annotated[int, number("Seed of folds, members and draws.", ENSEMBLE)] = Protocol.seed,
    select: Annotated[
        str,
        one_of(
            "selection",
            (VARIANCE, COX_SCORE, NONE),
            f"How genes are selected within each fold: {VARIANCE}, {COX_SCORE} or {NONE}.",
            EXPRESSION,
        ),
    ] = Protocol.select,
    genes: Annotated[int, number("Most genes selected.", EXPRESSION)] = Protocol.genes,
    components: Annotated[int, number("Most principal axes of expression.", EXPRESSION)] = Protocol.components,
    transform: Annotated[
        str,
        one_of(
            "transform",
            (LOG_STANDARDISE, IDENTITY),
            f"What is done to expression: {LOG_STANDARDISE} or {IDENTITY}.",
            EXPRESSION,
        ),
    ] = Protocol.transform,
    calibration: Annotated[
        str,
        one_of(
            "calibration",
            (CONTINUOUS, RANK),
            f"How risks become months: {CONTINUOUS} or {RANK}.",
            EXPRESSION,
        ),
    ] = Protocol.calibration,
    epochs: Annotated[int, number("Most epochs.", OPTIMISATION)] = Optimisation.epochs,
    patience: Annotated[int, number("Epochs without a better inner loss.", OPTIMISATION)] = Optimisation.patience,
    learning_rate: Annotated[float, number("Learning rate of AdamW.", OPTIMISATION)] = Optimisation.learning_rate,
    weight_decay: Annotated[float, number("Weight decay of AdamW.", OPTIMISATION)] = Optimisation.weight_decay,
    tiles: Annotated[int, number("Tiles drawn from each bag for a step.", OPTIMISATION)] = Optimisation.tiles,
    modality_dropout: Annotated[
        float,
        number("Chance that a step hides a patient's modality; 0 trains for complete cases only.", OPTIMISATION),
    ] = Optimisation.modality_dropout,
    bag: Annotated[int, number("Slide's vector.", WIDTHS)] = Sizes.bag,
    attention: Annotated[int, number("Attention over tiles.", WIDTHS)] = Sizes.attention,
    rna: Annotated[list[int] | None, options.numbers("Layers over expression, one or more.", WIDTHS, Sizes.rna)] = None,
    rank: Annotated[int, number("Rank of the bilinear fusion.", WIDTHS)] = Sizes.rank,
    pairs: Annotated[
        list[int] | None, options.numbers("Fused pairs of modalities, one for each pair.", WIDTHS, Sizes.pairs)
    ] = None,
    hidden: Annotated[int, number("Residual branch, and perceptron over the tensor.", WIDTHS)] = Sizes.hidden,
    embedding: Annotated[int, number("Each vector in the tensor.", WIDTHS)] = Sizes.embedding,
    factors: Annotated[int, number("Rank of the low-rank tensor's weight.", WIDTHS)] = Sizes.factors,
    fused: Annotated[int, number("Low-rank tensor's output.", WIDTHS)] = Sizes.fused,
    clusters: Annotated[int, number("Tile clusters of Cox's linear model.", WIDTHS)] = Sizes.clusters,
    device: options.Device = None,
) -> None:
    """Train an ensemble on a cohort and freeze it as a bundle."""
    optimisation = Optimisation(epochs, patience, learning_rate, weight_decay, tiles, modality_dropout)
    protocol = Protocol(
        fusion=fusion,
        folds=folds,
        inner=inner,
        repeats=repeats,
        seed=seed,
        select=select,
        genes=genes,
        components=components,
        transform=transform,
        calibration=calibration,
        optimisation=optimisation,
    )
    try:
        sizes = Sizes(
            bag=bag,
            attention=attention,
            rna=tuple(rna or Sizes.rna),
            rank=rank,
            pairs=tuple(pairs or Sizes.pairs),
            hidden=hidden,
            embedding=embedding,
            factors=factors,
            fused=fused,
            clusters=clusters,
        )
    except ValueError as cause:
        raise InputError(str(cause)) from cause
    api.train(
        cohort,
        out,
        work=work,
        outcomes=outcomes,
        modalities=modalities,
        encoder=encoder,
        weights=weights,
        mpp=mpp,
        assume_mpp=assume_mpp,
        device=device,
        protocol=protocol,
        sizes=sizes,
        draws=draws,
    )
