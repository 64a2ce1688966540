"""One job: read a case, predict, write the months.

Exit codes: 0 written; 2 input that cannot be used; 3 a bundle that cannot; 4 the machine failed (disk, memory, device,
signal); 1 anything unforeseen. Nothing but the one output file is ever left in the output folder.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from survfuse.container.model import MOUNTED_MODEL, chosen_bundle
from survfuse.inputs.sockets import read_case
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.unusable_slide import OMIT, REFUSE, UNUSABLE_SLIDE
from survfuse.runtime.clock import chosen_limit
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.exits import guarded, report
from survfuse.runtime.files import discard, write_text
from survfuse.runtime.log import peak_memory, stage
from survfuse.runtime.watch import tell_output
from survfuse.tasks.registry import DEFAULT

UNUSABLE_VARIABLE = "SURVFUSE_UNUSABLE_SLIDE"


def main(argv: Sequence[str] | None = None) -> int:
    """The entrypoint: run one job and return the process's exit code."""
    parser = _Parser(prog="inference.py", description="Predict the months to the event for one case.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder of inputs (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("/output"), help="folder for the predicted number (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, help=f"bundle (default: {MOUNTED_MODEL}, else the demonstration bundle)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="time the job may take; tiles that are not encoded in time are left out (default: no limit)",
    )
    parser.add_argument(
        "--unusable-slide",
        choices=UNUSABLE_SLIDE,
        help=f"whether a slide that cannot be read is refused, or left out if the bundle scores such cases "
        f"(default: {UNUSABLE_VARIABLE}, else {REFUSE})",
    )
    options = parser.parse_args(argv)
    return guarded(
        lambda: run(options.input, options.output, options.model, options.time_limit, options.unusable_slide)
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Report a wrong option in one line, like every other failure."""
        sys.exit(report(InputError(f"{message}; --help lists the options")))


def run(
    input_root: Path,
    output_root: Path,
    model: Path | None,
    time_limit: float | None = None,
    unusable_slide: str | None = None,
) -> None:
    """Predict the case under ``input_root`` and write its months under ``output_root``."""
    with fresh_output(output_root) as output:
        _run(input_root, output, model, chosen_limit(time_limit), _omits(unusable_slide))


def _run(input_root: Path, output: Path, model: Path | None, seconds: float | None, omit: bool) -> None:
    case = read_case(input_root)
    stage("case", f"{case.name}: {case.described()}, sockets from {case.found_by}")
    case = case.loaded()  # errors in the small inputs appear before anything heavy is loaded
    bundle = chosen_bundle(model)
    announce(bundle)
    prediction = Predictor(bundle).predict(case, seconds=seconds, omit_unusable_slide=omit, show=True)
    try:
        write_text(output, f"{prediction.months!r}\n")
    except OSError as cause:
        raise EnvironmentFailure(f"{output}: cannot be written ({cause.strerror})") from cause
    stage("written", f"{output}; {peak_memory()}")


@contextmanager
def fresh_output(output_root: Path) -> Iterator[Path]:
    """Yield the output path; create its folder and delete any earlier result.

    If the job fails, even after the number was written, the file is deleted.
    """
    output = output_root / DEFAULT.output_file
    tell_output(output)
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        discard(output)
    except OSError as cause:
        raise EnvironmentFailure(f"{output_root}: cannot be written to ({cause.strerror})") from cause
    try:
        yield output
    except BaseException:
        with suppress(OSError):  # report the error that ended the job
            discard(output)
        raise


def _omits(option: str | None) -> bool:
    """Whether a slide that cannot be read is left out: by the command line's ``option``, else by the environment."""
    chosen = option or os.environ.get(UNUSABLE_VARIABLE) or REFUSE
    if chosen not in UNUSABLE_SLIDE:
        raise EnvironmentFailure(f"{UNUSABLE_VARIABLE}={chosen[:80]}: expected {' or '.join(UNUSABLE_SLIDE)}")
    return chosen == OMIT
