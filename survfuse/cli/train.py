"""``survfuse train``: an ensemble trained on a cohort and frozen as a bundle."""

from pathlib import Path
from typing import Annotated

from survfuse import api
from survfuse.cli import options
from survfuse.cli.options import OUTPUTS, number, one_of
from survfuse.cohort.table_paths import CohortTables
from survfuse.inputs.expression import IDENTITY, LOG_STANDARDISE
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.survival.calibration import CONTINUOUS, RANK
from survfuse.tasks.registry import WITH_VECTORS
from survfuse.training.protocol import AUTO, COX_SCORE, NONE, VARIANCE, Optimisation, Protocol
from survfuse.workers.settings import Cluster

ENSEMBLE, EXPRESSION, OPTIMISATION, WIDTHS = "Ensemble", "Expression and calibration", "Optimisation", "Widths"
FAMILIES = (AUTO, *families_of(WITH_VECTORS.modalities))


def train(
    cohort: options.CohortFolder = None,
    *,
    slides: options.SlidesTable = None,
    vectors: options.VectorsTable = None,
    clinical: options.ClinicalTable = None,
    expression: options.ExpressionTable = None,
    duplicates: options.Duplicates = None,
    outcomes: Annotated[
        Path | None,
        options.file_option("Columns patient, time, event (default: the clinical files or table).", metavar="TABLE"),
    ] = None,
    time_unit: options.TimeUnit = None,
    time_column: options.TimeColumn = None,
    event_column: options.EventColumn = None,
    variables: Annotated[
        Path | None,
        options.file_option("Types, ranges, categories and missing codes of clinical variables.", metavar="JSON"),
    ] = None,
    modalities: options.Modalities = None,
    keep_variables: Annotated[
        list[str] | None,
        options.names("Clinical variables to use although they look like outcomes or identifiers.", options.INPUTS),
    ] = None,
    out: Annotated[Path, options.output_option("Folder of the new bundle, empty or absent.", "BUNDLE")],
    work: Annotated[
        Path | None,
        options.output_option(
            "Training state, report and TensorBoard scalars (default: BUNDLE.training next to it).", "FOLDER"
        ),
    ] = None,
    draws: Annotated[int, number("Bootstrap draws for the report's intervals.", OUTPUTS)] = 500,
    encoder: options.StatedEncoder = None,
    weights: options.WeightFile = None,
    mpp: options.StatedMpp = None,
    assume_mpp: options.AssumedMpp = None,
    fusion: Annotated[
        str,
        one_of("family", FAMILIES, f"A family, or auto: a stack of them. One of {', '.join(FAMILIES)}.", ENSEMBLE),
    ] = Protocol.fusion,
    folds: Annotated[int, number("Outer folds, stratified by event and time.", ENSEMBLE)] = Protocol.folds,
    inner: Annotated[
        int, number("Members per fold; each is stopped on a different part of the training patients.", ENSEMBLE)
    ] = Protocol.inner,
    repeats: Annotated[int, number("Number of partitions into folds.", ENSEMBLE)] = Protocol.repeats,
    seed: Annotated[int, number("Random seed for folds, members and draws.", ENSEMBLE)] = Protocol.seed,
    select: Annotated[
        str,
        one_of(
            "selection",
            (VARIANCE, COX_SCORE, NONE),
            f"How genes are selected within each fold: {VARIANCE}, {COX_SCORE} or {NONE}.",
            EXPRESSION,
        ),
    ] = Protocol.select,
    genes: Annotated[int, number("Maximum number of genes selected.", EXPRESSION)] = Protocol.genes,
    components: Annotated[
        int, number("Maximum number of principal components of expression.", EXPRESSION)
    ] = Protocol.components,
    transform: Annotated[
        str,
        one_of(
            "transform",
            (LOG_STANDARDISE, IDENTITY),
            f"Transform of expression: {LOG_STANDARDISE} or {IDENTITY}.",
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
    epochs: Annotated[int, number("Maximum number of epochs.", OPTIMISATION)] = Optimisation.epochs,
    patience: Annotated[
        int, number("Epochs without a better inner loss before stopping.", OPTIMISATION)
    ] = Optimisation.patience,
    learning_rate: Annotated[float, number("Learning rate of AdamW.", OPTIMISATION)] = Optimisation.learning_rate,
    weight_decay: Annotated[float, number("Weight decay of AdamW.", OPTIMISATION)] = Optimisation.weight_decay,
    tiles: Annotated[int, number("Tiles drawn from each bag per step.", OPTIMISATION)] = Optimisation.tiles,
    modality_dropout: Annotated[
        float,
        number("Probability of hiding a modality of a patient in a step; 0: complete cases only.", OPTIMISATION),
    ] = Optimisation.modality_dropout,
    bag: Annotated[int, number("Slide vector.", WIDTHS)] = Sizes.bag,
    attention: Annotated[int, number("Attention over tiles.", WIDTHS)] = Sizes.attention,
    rna: Annotated[
        list[int] | None, options.numbers("Layers over expression, one width each.", WIDTHS, Sizes.rna)
    ] = None,
    rank: Annotated[int, number("Rank of the bilinear fusion.", WIDTHS)] = Sizes.rank,
    pairs: Annotated[
        list[int] | None, options.numbers("Fused pairs of modalities, one width each.", WIDTHS, Sizes.pairs)
    ] = None,
    hidden: Annotated[int, number("Residual branch, and perceptron over the full tensor.", WIDTHS)] = Sizes.hidden,
    embedding: Annotated[int, number("Each vector in the full tensor.", WIDTHS)] = Sizes.embedding,
    factors: Annotated[int, number("Rank of the low-rank tensor's weight.", WIDTHS)] = Sizes.factors,
    fused: Annotated[int, number("Output of the low-rank tensor.", WIDTHS)] = Sizes.fused,
    vector_layers: Annotated[
        list[int] | None,
        options.numbers("Layers over a slide-level vector, one width each.", WIDTHS, Sizes.vector_layers),
    ] = None,
    clusters: Annotated[int, number("Number of tile clusters in the linear Cox models.", WIDTHS)] = Sizes.clusters,
    device: options.Device = None,
    cluster: options.ClusterAddress = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = Cluster.cpus_per_worker,
    gpus_per_worker: options.GpusPerWorker = None,
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
            vector_layers=tuple(vector_layers or Sizes.vector_layers),
            clusters=clusters,
        )
    except ValueError as cause:
        raise InputError(str(cause)) from cause
    tables = CohortTables(slides, clinical, expression, duplicates, vectors)
    api.train(
        options.source_of(cohort, tables, "COHORT"),
        out,
        work=work,
        outcomes=outcomes,
        time_unit=time_unit,
        time_column=time_column,
        event_column=event_column,
        variables=variables,
        modalities=modalities,
        keep_variables=keep_variables or (),
        encoder=encoder,
        weights=weights,
        mpp=mpp,
        assume_mpp=assume_mpp,
        device=device,
        protocol=protocol,
        sizes=sizes,
        draws=draws,
        cluster=options.cluster_of(cluster, workers, cpus_per_worker, gpus_per_worker),
    )
