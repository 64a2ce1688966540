"""One job: read a case, predict, write the months.

Exit codes: 0 written; 2 input that cannot be used; 3 a bundle that cannot; 4 the machine failed (disk, memory, device,
signal); 1 anything unforeseen. Nothing but the one output file is ever left in the output folder, and a heat map where
one is asked for.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from survfuse.container.model import MOUNTED_MODEL, chosen_bundle
from survfuse.container.outputs import fresh_outputs, heatmap_file
from survfuse.inputs.sockets import read_case
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.unusable_slide import OMIT, REFUSE, UNUSABLE_SLIDE
from survfuse.runtime.clock import chosen_limit
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.exits import guarded, report
from survfuse.runtime.files import write_text
from survfuse.runtime.log import peak_memory, stage
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
    parser.add_argument(
        "--explain", type=Path, metavar="FOLDER", help="folder for why the case has its risk (default: none is written)"
    )
    options = parser.parse_args(argv)
    return guarded(
        lambda: run(
            options.input,
            options.output,
            options.model,
            options.time_limit,
            options.unusable_slide,
            options.explain,
        )
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
    explanation: Path | None = None,
) -> None:
    """Predict the case under ``input_root`` and write its months under ``output_root``.

    Its explanation goes to the folder ``explanation``, if one is named, and its heat map to the image socket that
    SURVFUSE_HEATMAP names, if that is set.
    """
    heatmap = heatmap_file(output_root)
    if explanation is not None:
        from survfuse.explanation.out_folder import check_out

        # Before earlier results are deleted: what else lies there must stay.
        apart = {"the case": input_root, "the bundle": model, "the output": output_root}
        explanation = check_out(explanation, apart)
    outputs = [output_root / DEFAULT.output_file, *filter(None, (heatmap, explanation))]
    with fresh_outputs(output_root, outputs):
        case = read_case(input_root)
        stage("case", f"{case.name}: {case.described()}, sockets from {case.found_by}")
        case = case.loaded()  # errors in the small inputs appear before anything heavy is loaded
        bundle = chosen_bundle(model)
        announce(bundle)
        predictor, seconds, omit = Predictor(bundle), chosen_limit(time_limit), _omits(unusable_slide)
        if len(outputs) == 1:
            _write(outputs[0], predictor.predict(case, seconds=seconds, omit_unusable_slide=omit, show=True))
            return
        from survfuse.container.explained import explained_job

        with explained_job(predictor, case, seconds, omit, heatmap, explanation) as prediction:
            _write(outputs[0], prediction)


def _write(output: Path, prediction: Prediction) -> None:
    try:
        write_text(output, f"{prediction.months!r}\n")
    except OSError as cause:
        raise EnvironmentFailure(f"{output}: cannot be written ({cause.strerror})") from cause
    stage("written", f"{output}; {peak_memory()}")


def _omits(option: str | None) -> bool:
    """Whether a slide that cannot be read is left out: by the command line's ``option``, else by the environment."""
    chosen = option or os.environ.get(UNUSABLE_VARIABLE) or REFUSE
    if chosen not in UNUSABLE_SLIDE:
        raise EnvironmentFailure(f"{UNUSABLE_VARIABLE}={chosen[:80]}: expected {' or '.join(UNUSABLE_SLIDE)}")
    return chosen == OMIT
