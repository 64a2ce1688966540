"""``survfuse predict``: a bundle's predictions as a table."""

from pathlib import Path
from typing import Annotated

from survfuse.cli import options
from survfuse.cohort.table_paths import CohortTables
from survfuse.prediction.unusable_slide import OMIT, REFUSE
from survfuse.runtime.suggestions import check_outputs
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard


def predict(
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
        options.output_option("Predictions: case_id, risk, months, training_patient, group, baseline, terms.", "CSV"),
    ],
    survival: Annotated[
        Path | None, options.output_option("Survival curves: case_id, one column per year.", "CSV")
    ] = None,
    exclude_training: options.ExcludeTraining = False,
    cache: options.FeatureCache = None,
    device: options.Device = None,
    cluster: options.ClusterAddress = None,
    workers: options.Workers = None,
    cpus_per_worker: options.CpusPerWorker = Cluster.cpus_per_worker,
    gpus_per_worker: options.GpusPerWorker = None,
    shard: options.ShardOf = None,
) -> None:
    """Score a case, a folder of cases or a cohort with a bundle."""
    options.check_output_file(out)
    options.check_output_file(survival)
    tables = CohortTables(slides, clinical, expression, duplicates, vectors)
    cases = options.source_of(source, tables, "CASE, FOLDER or COHORT")
    inputs = cases.paths if isinstance(cases, CohortTables) else (cases,)
    check_outputs({"--out": out, "--survival": survival}, inputs)  # before torch is imported
    chosen = options.cluster_of(cluster, workers, cpus_per_worker, gpus_per_worker)
    part = Shard.parse(shard) if shard is not None else None

    from survfuse.prediction.table import predict

    predict(
        cases,
        model,
        out,
        survival=survival,
        cache=cache,
        modalities=modalities,
        device=device,
        omit_unusable_slide=unusable_slide == OMIT,
        exclude_training=exclude_training,
        cluster=chosen,
        shard=part,
    )
