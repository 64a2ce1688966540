"""``survfuse explain``: why a case has its risk, as a page, maps of its tiles and a table."""

from pathlib import Path
from typing import Annotated

from survfuse import api
from survfuse.cli import options
from survfuse.cohort.table_paths import CohortTables
from survfuse.prediction.unusable_slide import OMIT, REFUSE
from survfuse.workers.settings import Cluster


def explain(
    source: options.CasesOrTables = None,
    *,
    slides: options.SlidesTable = None,
    vectors: options.VectorsTable = None,
    clinical: options.ClinicalTable = None,
    expression: options.ExpressionTable = None,
    duplicates: options.Duplicates = None,
    model: options.BundleOption,
    modalities: options.Modalities = None,
    unusable_slide: options.UnusableSlide = REFUSE,
    out: Annotated[
        Path,
        options.output_option("Explanation: the files of a case, or a folder for each of several cases.", "FOLDER"),
    ],
    cache: options.FeatureCache = None,
    device: options.Device = None,
    cluster: options.ClusterAddress = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = Cluster.cpus_per_worker,
    gpus_per_worker: options.GpusPerWorker = None,
    shard: options.ShardOf = None,
) -> None:
    """Show why a case, or each of several cases, has its risk."""
    tables = CohortTables(slides, clinical, expression, duplicates, vectors)
    api.explain(
        options.source_of(source, tables, "CASE, FOLDER or COHORT"),
        out,
        model=model,
        modalities=modalities,
        omit_unusable_slide=unusable_slide == OMIT,
        cache=cache,
        device=device,
        cluster=options.cluster_of(cluster, workers, cpus_per_worker, gpus_per_worker),
        shard=shard,
    )
