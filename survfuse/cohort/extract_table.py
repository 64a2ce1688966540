"""The slides of a table → their tile features, and a table of these."""

import csv
import io
from pathlib import Path

from survfuse.cohort.extract import Extraction, extract_slides
from survfuse.cohort.from_tables import SlideFile, read_slides
from survfuse.cohort.problems import Problems
from survfuse.cohort.slide_list import CohortSlide, Failure
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import write_text
from survfuse.runtime.log import stage
from survfuse.runtime.spreadsheet import cell
from survfuse.slide.parts import is_slide_folder
from survfuse.slide.suffixes import SLIDE_SUFFIXES
from survfuse.workers.executor import Executor

SLIDES_CSV = "slides.csv"


def extract_table(table: Path, out: Path, extraction: Extraction, executor: Executor) -> None:
    """Write the features of every slide that ``table`` names to ``out``/<slide>.h5, and ``out``/slides.csv.

    That is a table of patient and file, as ``train --slides`` takes it; it is written once all slides have features,
    of shards by the one that ends last. What is skipped and what is raised is as in ``extract_cohort``.
    """
    problems = Problems()
    found = read_slides(table, problems)
    problems.raise_any(table.name)
    if not found:
        raise InputError(f"{table.name}: expected a row for each slide, found none")
    failures = _failures(found)
    unusable = {failure.name for failure in failures}
    slides = [CohortSlide(slide.file, slide.mask) for slide in found if str(slide.file) not in unusable]
    if not extract_slides(table.name, slides, failures, out, out, extraction, executor):
        stage("slides", f"{SLIDES_CSV} is written by the shard that ends last")
        return
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("patient", "file"))
    writer.writerows((cell(slide.patient), cell(f"{slide.file.stem}.h5")) for slide in found)
    write_text(out / SLIDES_CSV, lines.getvalue())
    stage("written", str(out / SLIDES_CSV))


def _failures(slides: list[SlideFile]) -> list[Failure]:
    """Files that are no slides, and those whose features would have another's name."""
    failures, stems = [], dict[str, Path]()
    for slide in slides:
        if slide.file.suffix.lower() not in SLIDE_SUFFIXES and not is_slide_folder(slide.file):
            failures.append(Failure(str(slide.file), "is no slide"))
        elif stems.setdefault(slide.file.stem, slide.file) != slide.file:
            failures.append(
                Failure(str(slide.file), f"has the name of {stems[slide.file.stem]}; features need their own")
            )
    return failures
