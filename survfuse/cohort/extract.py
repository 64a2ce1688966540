"""A cohort's slides → their tile features, for every slide without any.

Slides lie in their patient's folder as <id>_HE*.tif or the like, or as a folder <id>_HE* of one slide's files,
masks beside them as <slide>_mask.tif or .mha; features are written to <slide>.h5 in the layout's folder for them.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from survfuse.cohort.extract_record import (
    ALREADY,
    EXTRACTED,
    FAILED,
    NOT_REACHED,
    SlideRecord,
    Tally,
    record_path,
    write_record,
)
from survfuse.cohort.extract_work import ExtractWork, Numbered, preview_path
from survfuse.cohort.extracted_file import features_path, tiles_extracted
from survfuse.cohort.slide_list import CohortSlide, Failure, find_slides
from survfuse.runtime.errors import EnvironmentFailure, InputError, SurvfuseError
from survfuse.runtime.files import discard_partial, sha256
from survfuse.runtime.log import count, progress, stage, warn
from survfuse.slide.parts import slide_file
from survfuse.slide.preview import write_preview
from survfuse.slide.settings import SlideSettings
from survfuse.slide.suffixes import SLIDE_SUFFIXES
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task
from survfuse.workers.executor import Executor, seen_by_workers
from survfuse.workers.shard import Shard, part_of
from survfuse.workers.work import Ended

_MINUTE = 60.0  # seconds between lines of progress where workers do not print their own


@dataclass(frozen=True)
class Extraction:
    """How slides are extracted: the encoder's input, its weight file (None: embedded), a folder for pictures of the
    slides, and which part of them."""

    settings: SlideSettings
    weights: Path | None = None
    previews: Path | None = None
    shard: Shard | None = None

    @property
    def of_shard(self) -> str:
        """The shard, for the log."""
        return f" of shard {self.shard}" if self.shard is not None else ""


def extract_cohort(
    root: Path, out: Path | None, extraction: Extraction, executor: Executor, task: Task = DEFAULT
) -> None:
    """Write the features of every slide under ``root`` to the same layout under ``out`` (``root`` if None).

    The layout is the first of ``task``. A slide is skipped if its features are complete and were made with the same
    settings, weights and mask. If a slide fails, it is named and the others are still extracted. A preview of each
    slide, <slide>.jpg, is made with its features; of a slide that is skipped, only if there is none yet. What became of
    each slide is written to extract.json beside the layout's folders.

    Raises InputError that lists all failures at the end, or at once if there are no slides or the encoder cannot be
    loaded; EnvironmentFailure, at once, if the machine fails, and at the end if machines of a cluster did.
    """
    layout = task.layouts[0]
    slides, failures = find_slides(root, task)
    if not slides and not failures:
        names = f"{layout.folder('<id>')}/<id>_HE*{'|'.join(SLIDE_SUFFIXES)}"
        raise InputError(f"{root}: expected slides {names}, found none")
    target = out or root
    extract_slides(str(root), slides, failures, target / layout.features[0], target, extraction, executor)


def extract_slides(
    source: str,
    slides: Sequence[CohortSlide],
    failures: Sequence[Failure],
    folder: Path,
    root: Path,
    extraction: Extraction,
    executor: Executor,
) -> bool:
    """Write the features of ``slides`` to ``folder`` and their record to ``root``, as ``extract_cohort`` says.

    ``failures`` are files that are no slides or not to be told apart; ``source`` is what their error begins with.
    Returns whether all slides have features, those of other shards as well.
    """
    settings, weights, previews = extraction.settings, extraction.weights, extraction.previews
    if weights is not None and not weights.is_file():
        raise InputError(f"{weights}: no such weight file")
    # Workers may have other working folders.
    folder, slides = folder.absolute(), [slide.absolute() for slide in slides]
    weights, previews = (path.absolute() if path is not None else None for path in (weights, previews))
    own = part_of(slides, extraction.shard, lambda slide: slide.name)
    failed = part_of(failures, extraction.shard, lambda failure: "/".join(Path(failure.name).parts[-2:]))
    digest = sha256(weights) if weights is not None else None
    done = {slide: tiles_extracted(folder, slide, settings, digest) for slide in own}
    todo = [slide for slide in own if done[slide] is None]
    stage("slides", f"{count(len(own), 'slide')}{extraction.of_shard}, {len(own) - len(todo):,} already extracted")
    records = {slide: SlideRecord(slide.name, ALREADY, tiles) for slide, tiles in done.items() if tiles is not None}
    if previews is not None:
        previews.mkdir(parents=True, exist_ok=True)
        failed += _preview_all(list(records), folder, settings, previews)
    if todo:
        executor.connect()
    refused = [SlideRecord(failure.name, FAILED, reason=failure.cause) for failure in failed]
    try:
        if todo:
            folder.mkdir(parents=True, exist_ok=True)
            discard_partial(folder, {features_path(folder, slide).name for slide in todo})
            with seen_by_workers(executor, folder) as shared:
                work = ExtractWork(folder, settings, weights, digest, previews, len(todo), shared)
                with closing(_extracted(work, todo, executor)) as extracted:
                    for slide, record, failure in extracted:
                        records[slide] = record
                        failed += [failure] if failure is not None else []
    finally:  # also of a run that ends early
        listed = [records.get(slide, SlideRecord(slide.name, NOT_REACHED)) for slide in own]
        write_record(record_path(root, extraction.shard), [*listed, *refused])
    _summarise(source, len(own), len(todo), failed, extraction)
    every = len(own) == len(slides) or all(features_path(folder, slide).exists() for slide in slides)
    return every and not failures


def _extracted(
    work: ExtractWork, slides: Sequence[CohortSlide], executor: Executor
) -> Generator[tuple[CohortSlide, SlideRecord, Failure | None], None, None]:
    """What became of each slide, and why it failed if it did, as they end; shows progress."""
    items = [Numbered(slide, number) for number, slide in enumerate(slides, start=1)]
    tally = Tally(len(items))
    every = None if executor.is_here else _MINUTE
    with closing(executor.results(work, items)) as results:
        for ended in progress(results, len(items), "slides", note=tally.line, every=every):
            slide = ended.item.slide
            if not executor.is_here:
                for warning in ended.last.said.warnings:
                    warn(warning)
            failure = _failure(slide, ended.last.error) if ended.last.error is not None else None
            record = _record(slide, ended)
            tally.add(record)
            yield slide, record, failure


def _record(slide: CohortSlide, ended: Ended[Numbered, int]) -> SlideRecord:
    last = ended.last
    reason = str(last.error) if last.error is not None else None
    state = EXTRACTED if reason is None else FAILED
    seconds = round(last.seconds, 3) if last.seconds is not None else None
    return SlideRecord(slide.name, state, last.result, ended.node or None, seconds, ended.attempts, reason)


def _preview_all(slides: list[CohortSlide], folder: Path, settings: SlideSettings, previews: Path) -> list[Failure]:
    """Write the previews that ``slides`` with features in ``folder`` do not have yet; the slides that failed."""
    failures = []
    missing = [slide for slide in slides if not preview_path(previews, slide).exists()]
    for slide in progress(missing, len(missing), "previews"):
        with h5py.File(features_path(folder, slide), "r") as file:
            origins = file["coords"][()].astype(np.int64)
        try:
            write_preview(preview_path(previews, slide), slide_file(slide.path), slide.mask, settings, origins)
        except InputError as error:
            failures.append(_failure(slide, error))
    if missing:
        stage("previews", f"{len(missing) - len(failures):,} of {count(len(missing), 'slide')} already extracted")
    return failures


def _failure(slide: CohortSlide, error: SurvfuseError) -> Failure:
    """What is said at the end of a slide that failed, which is also warned of at once."""
    warn(f"{slide.path.name} failed: {error}")
    return Failure(slide.name, str(error), isinstance(error, EnvironmentFailure))


def _summarise(source: str, slides: int, todo: int, failures: list[Failure], extraction: Extraction) -> None:
    """Log the result; raises an error that lists the failures, if there are any."""
    for failure in failures:
        stage("failed", f"{failure.name}: {failure.cause}")
    if failures:
        causes = "; ".join(f"{failure.name}: {failure.cause}" for failure in failures)
        error = EnvironmentFailure if all(failure.is_machine for failure in failures) else InputError
        raise error(f"{source}: no features extracted from {count(len(failures), 'file')}: {causes}")
    stage("written", f"features of {count(todo, 'slide')}{extraction.of_shard}; {slides - todo:,} already extracted")
