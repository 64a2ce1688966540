"""A bundle's explanations of a case, a folder of cases or a cohort: a folder of files for each case."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from survfuse.bundle.load import load
from survfuse.cohort.table_paths import CohortTables
from survfuse.explanation.explain_work import ExplainWork
from survfuse.explanation.explanation import Explainer
from survfuse.explanation.files import write_explanation
from survfuse.explanation.out_folder import check_out, new_out_folder
from survfuse.prediction.many import all_predicted, say_notes
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.score_work import blocks, check_several
from survfuse.prediction.sources import UnusableCase, cache_folder, cases_in
from survfuse.runtime.log import count, progress, stage
from survfuse.workers.executor import Executor, each_result, executor, seen_by_workers
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard


def explain(
    source: Path | CohortTables,
    model: Path,
    out: Path,
    *,
    cache: Path | None = None,
    modalities: Sequence[str] | None = None,
    device: str | None = None,
    omit_unusable_slide: bool = False,
    cluster: Cluster | None = None,
    shard: Shard | None = None,
) -> None:
    """Explain every case at ``source``, or in its tables, with the bundle at ``model``, as ``predict`` takes them.

    The files of a single case are written to the folder ``out``, those of several to folders in it that are named after
    them; all or none. An earlier explanation in ``out`` is replaced. Several cases are shared out among all GPUs or on
    ``cluster``; with ``shard`` only its part of them is explained, and may be none.

    Raises InputError for cases that cannot be read, do not fit the bundle or cannot be predicted, all of them in one
    error, and for an ``out`` that holds something else.
    """
    cases_at = {"the cases": source} if isinstance(source, Path) else {path.name: path for path in source.paths}
    out = check_out(out, cases_at | {"the bundle": model, "the cache": cache})
    bundle = load(model)
    announce(bundle)
    explainer = Explainer(Predictor(bundle, device if cluster is None else "cpu"))
    chosen = explainer.predictor.chosen(modalities)
    with cache_folder(cache, out) as folder:
        cases = cases_in(source, bundle, chosen, folder)
        places = [place for block in blocks(cases, shard, on_gpu=False) for place in block]
        part = f" in shard {shard}" if shard is not None else ""
        stage("cases", f"{count(len(places), 'case')}{part}, explained with {', '.join(chosen)}")
        if cases.single:
            check_several(cluster, shard)
            (case,) = cases
            if isinstance(case, UnusableCase):
                raise case.error
            explanation = explainer.explain(
                case, modalities=modalities, omit_unusable_slide=omit_unusable_slide, show=True
            )
            write_explanation(out, explanation)
        else:
            work = ExplainWork(model.absolute(), cases, out, modalities, omit_unusable_slide)
            with executor(device, cluster, say=False) as where:
                _explain_all(where, explainer, work, places, out)
            stage("written", f"{out}: {count(len(places), 'case')}")


def _explain_all(executor: Executor, explainer: Explainer, work: ExplainWork, places: Sequence[int], out: Path) -> None:
    """Write a folder for the case at each of ``places``; raises one InputError for all that cannot be explained."""
    with new_out_folder(out) as root:
        if executor.is_here:
            own = replace(work, root=root)
            outcomes = {place: own.explained(explainer, place) for place in progress(places, len(places), "explaining")}
        else:
            outcomes = _explained_elsewhere(executor, replace(work, root=root), places)
        say_notes(all_predicted((outcomes[place] for place in places), len(places)))


def _explained_elsewhere(
    executor: Executor, work: ExplainWork, places: Sequence[int]
) -> dict[int, Prediction | UnusableCase]:
    """What becomes of the case at each of ``places``; raises what ended one that is not the case's fault."""
    with (
        seen_by_workers(executor, work.root) as shared,
        closing(each_result(executor, replace(work, shared=shared), places)) as results,
    ):
        return dict(progress(results, len(places), "explaining"))
