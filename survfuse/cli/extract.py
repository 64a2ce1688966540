"""``survfuse extract``: tile features of a slide, or of every slide of a cohort."""

from pathlib import Path
from typing import Annotated

from survfuse import api
from survfuse.cli import options
from survfuse.cli.options import INPUTS
from survfuse.cohort.table_paths import CohortTables
from survfuse.slide.settings import SlideSettings
from survfuse.workers.settings import Cluster


def extract(
    slide: options.SlideOrCohort = None,
    slides: options.SlidesTable = None,
    mask: Annotated[
        Path | None,
        options.file_option("Tissue mask of the slide, .tif or .mha (default: tissue is found by colour)."),
    ] = None,
    min_coverage: Annotated[
        float, options.number("Share of a tile that must be tissue, above 0 and at most 1.", INPUTS)
    ] = SlideSettings.min_coverage,
    out: Annotated[
        Path | None,
        options.output_option(
            "For a slide: the HDF5 file, in CLAM's and TRIDENT's layout. For a cohort: a folder (default: the cohort). "
            "For a table: a folder.",
            "PATH",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        options.output_option(
            "Picture of the slide with its tissue and the tiles kept, .jpg. For a cohort: a folder of these.", "PATH"
        ),
    ] = None,
    encoder: options.EncoderName = "efficientnet-lite0",
    weights: options.WeightFile = None,
    mpp: options.TileMpp = SlideSettings.mpp,
    assume_mpp: options.AssumedMpp = None,
    device: options.Device = None,
    cluster: options.ClusterAddress = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = Cluster.cpus_per_worker,
    gpus_per_worker: options.GpusPerWorker = None,
    shard: options.ShardOf = None,
) -> None:
    """Write the tile features of a slide, or of every slide of a cohort."""
    api.extract(
        options.source_of(slide, CohortTables(slides), "SLIDE or COHORT"),
        out,
        mask=mask,
        encoder=encoder,
        weights=weights,
        mpp=mpp,
        min_coverage=min_coverage,
        assume_mpp=assume_mpp,
        preview=preview,
        device=device,
        cluster=options.cluster_of(cluster, workers, cpus_per_worker, gpus_per_worker),
        shard=shard,
    )
