"""Slide-level vectors of a cohort's patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from survfuse.cohort.odd_values import report_odd
from survfuse.cohort.problems import Problems
from survfuse.inputs.slide_vectors import SlideVector, mean_vector, read_vector
from survfuse.runtime.errors import NoTissueError
from survfuse.runtime.log import counted, progress, stage, warn


def read_vectors(files: Mapping[str, Sequence[Path]], problems: Problems) -> dict[str, SlideVector]:
    """Each patient's slide-level vector, the mean of those of several slides.

    Of several slides, those without tissue are left out. What cannot be read, and patients whose vectors differ in
    length or encoder from most patients', are problems.
    """
    vectors: dict[str, SlideVector] = {}
    for name in progress(list(files), len(files), "vectors"):
        if files[name]:
            with problems.collect(name):
                vectors[name] = mean_vector(_of_tissue(files[name]))
    report_odd("slide-level vectors of length", {name: len(each.values) for name, each in vectors.items()}, problems)
    stated = {name: each.encoder for name, each in vectors.items() if each.encoder is not None}
    report_odd("slide-level vectors of encoder", stated, problems)
    if several := [name for name, vector in vectors.items() if vector.of_slides]:
        stage("vectors", f"{counted(several, 'patient', len(files))} with several slides: the mean of their vectors")
    if vectors and len(stated) < len(vectors):
        silent = [name for name in vectors if name not in stated]
        stage("vectors", f"slide encoder of {counted(silent, 'patient', len(vectors))} not stated")
    return vectors


def _of_tissue(paths: Sequence[Path]) -> list[SlideVector]:
    """The vectors in these files, without those of slides without tissue; raises NoTissueError if there is no other."""
    vectors: list[SlideVector] = []
    empty: list[NoTissueError] = []
    for path in paths:
        try:
            vectors.append(read_vector(path))
        except NoTissueError as cause:
            empty.append(cause)
    if not vectors:
        raise empty[0]
    for error in empty:
        warn(f"left out: {error}")
    return vectors
