"""One job: read a case, predict, write the months.

    sockets → case → features, expression, clinical vector → ensemble → risk → calibration → months

Exit codes: 0 written; 2 input that cannot be used; 3 a bundle that cannot; 4 the machine (disk, memory, device,
signal); 1 anything unforeseen. Nothing but the one output file is ever left under the output folder.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from survfuse.bundle.load import Bundle, load_members
from survfuse.container.model import MOUNTED_MODEL, chosen_bundle
from survfuse.inputs.sockets import Case, read_case
from survfuse.runtime.clock import TimeLimit, chosen_limit, elapsed
from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError, NoTissueError
from survfuse.runtime.exits import guarded, say
from survfuse.runtime.files import discard, read_object, write_text
from survfuse.runtime.log import count, peak_memory, stage, warn
from survfuse.runtime.watch import tell_output
from survfuse.survival.curves import MONTHS
from survfuse.tasks.chimera3 import OUTPUT_FILE
from survfuse.tasks.modalities import combination_name, ordered

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from survfuse.inputs.features import Features
    from survfuse.networks.ensemble import Ensemble, EnsembleRisk
    from survfuse.slide.extract import Extracted

REFUSE, OMIT = UNUSABLE = ("refuse", "omit")
UNUSABLE_VARIABLE = "SURVFUSE_UNUSABLE_SLIDE"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def main(argv: Sequence[str] | None = None) -> int:
    """The entrypoint: run one job and return the process's exit code."""
    parser = _Parser(prog="inference.py", description="Predict months to recurrence for one case.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="the job's inputs (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("/output"), help="where the number goes (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, help=f"bundle (default: {MOUNTED_MODEL}, else the demonstration's)")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="the time the job may take; tiles that are not encoded in time are left out (default: any time)",
    )
    parser.add_argument(
        "--unusable-slide",
        choices=UNUSABLE,
        help=f"what a slide that cannot be read is: refused, or left out where the bundle was trained for that "
        f"(default: {UNUSABLE_VARIABLE}, else {REFUSE})",
    )
    options = parser.parse_args(argv)
    return guarded(
        lambda: run(options.input, options.output, options.model, options.time_limit, options.unusable_slide)
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say in one line, as every other failure, what is wrong with the command."""
        sys.exit(say(InputError(f"{message}; --help lists the options")))


def run(
    input_root: Path,
    output_root: Path,
    model: Path | None,
    time_limit: float | None = None,
    unusable_slide: str | None = None,
) -> None:
    """Predict the case under ``input_root`` and write its months under ``output_root``."""
    with output_file(output_root) as output:
        _run(input_root, output, model, chosen_limit(time_limit), _omits(unusable_slide))


def _run(input_root: Path, output: Path, model: Path | None, seconds: float | None, omit: bool) -> None:
    case = read_case(input_root)
    stage("case", f"{case.name}: {_described(case)}, sockets from {case.found_by}")
    # The small inputs come first: what is wrong with them shows before anything heavy is loaded.
    expression, variables = (_object(path) if path is not None else None for path in (case.rna, case.clinical))

    bundle = chosen_bundle(model)
    manifest = bundle.manifest
    stage("bundle", f"{manifest.purpose}, {count(len(manifest.members), 'member')}, every checksum verified")
    if bundle.demonstration:
        stage("notice", f"DEMONSTRATION WEIGHTS. {manifest.notice}")

    rna, clinical = _expression(bundle, expression), _clinical(bundle, variables)
    has = {"slide": "slide" in case.given and "slide" in bundle.modalities}
    has |= {"rna": rna is not None, "clinical": clinical is not None}
    _check_scored(bundle, has)

    import torch

    from survfuse.networks.ensemble import Ensemble
    from survfuse.runtime.device import chosen_device

    device = chosen_device()
    if "slide" not in bundle.modalities:
        stage("slide", "not used by this bundle")
    ensemble = Ensemble(load_members(bundle), manifest.combinations, device)
    vectors = [torch.from_numpy(vector) if vector is not None else None for vector in (rna, clinical)]
    tiles, half = None, False
    if has["slide"]:
        limit = _limit(seconds, ensemble, vectors, manifest.slide.dimension) if seconds and case.slide else None
        tiles, half = _tiles(case, bundle, device, limit, has, omit)
    found = ensemble(tiles, *vectors, half=half and device.type == "cuda")
    months = _months(bundle, found, _device_name(device))
    try:
        write_text(output, f"{months!r}\n")
    except OSError as cause:
        raise EnvironmentFailure(f"{output}: cannot be written ({cause.strerror})") from cause
    stage("written", f"{output}; {peak_memory()}")


def _months(bundle: Bundle, found: "EnsembleRisk", device: str) -> float:
    """The months that the ensemble's risk stands for, said with all that leads to them."""
    if not math.isfinite(found.risk):
        raise InputError(f"the risk is {found.risk}: features, expression or clinical variables lie beyond all range")
    terms = ", ".join(f"{name} {value:+.4f}" for name, value in found.terms.items())
    stage("risk", f"{found.risk:+.4f} = {terms}, baseline {found.baseline:+.4f}; on {device}")
    low, high = bundle.calibration.reference_risks[[0, -1]].tolist()
    beyond = max(high - low, 1.0)  # risks have a spread of about 1, and those of a few patients may be all the same
    if not low - beyond <= found.risk <= high + beyond:
        warn(
            f"the risk is far beyond those of the reference patients, {low:.4g} to {high:.4g}: features, expression or "
            f"clinical variables may be in other units than the bundle was trained on"
        )
    predicted = bundle.calibration.months(found.risk)
    months = float(predicted.months)
    if not math.isfinite(months) or months < 0.0:
        raise BundleError(f"calibration gives {months} months; expected a finite number of at least 0")
    last = "; beyond the last observed event" if predicted.beyond else ""
    stage("months", f"{months:.3f} ({bundle.calibration.mode} calibration{last})")
    if bundle.curves is not None:
        survival = bundle.curves[found.combination].survival([found.risk], MONTHS)[0]
        shares = ", ".join(f"{share:.1%} by {month:g} months" for share, month in zip(survival, MONTHS, strict=True))
        stage("survival", f"without the event: {shares}")
    return months


@contextmanager
def output_file(output_root: Path) -> Iterator[Path]:
    """The output file's path, with its folder there and no number of an earlier run in it; where the job fails, be it
    after the number was written, the file goes."""
    output = output_root / OUTPUT_FILE
    tell_output(output)
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        discard(output)
    except OSError as cause:
        raise EnvironmentFailure(f"{output_root}: cannot be written to ({cause.strerror})") from cause
    try:
        yield output
    except BaseException:
        with suppress(OSError):  # what ended the job is what is to be said
            discard(output)
        raise


def _omits(option: str | None) -> bool:
    """Whether a slide that cannot be read is left out: the command line's ``option``, else the environment's."""
    chosen = option or os.environ.get(UNUSABLE_VARIABLE) or REFUSE
    if chosen not in UNUSABLE:
        raise EnvironmentFailure(f"{UNUSABLE_VARIABLE}={chosen[:80]}: expected {' or '.join(UNUSABLE)}")
    return chosen == OMIT


def _described(case: Case) -> str:
    slide = "features given, no mask needed" if case.features else "slide with mask" if case.mask else None
    kinds = [slide or ("slide without mask" if case.slide else "no slide")]
    kinds += [f"no {name}" for name in ("rna", "clinical") if name not in case.given]
    return ", ".join(kinds)


def _object(path: Path) -> dict[str, Any]:
    # What is no JSON number may still be a code of a missing value.
    value = read_object(path, InputError, literals=True)
    with path.open("rb") as file:
        if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK:
            stage("json", f"{path.name}: a byte-order mark was passed over")
    return value


def _expression(bundle: Bundle, expression: Mapping[str, Any] | None) -> "NDArray[np.float32] | None":
    """The case's expression [G]; None where it has none, or the bundle no use for it."""
    if bundle.expression is None:
        stage("expression", "not used by this bundle")
        return None
    if not expression:
        stage("expression", "none given" if expression is None else "none given: the object is empty")
        return None
    encoded = bundle.expression.encode(expression)
    stage("expression", "; ".join(encoded.notes))
    for warning in encoded.warnings:
        warn(warning)
    return encoded.values


def _clinical(bundle: Bundle, variables: Mapping[str, Any] | None) -> "NDArray[np.float32] | None":
    """The case's clinical vector [C]; None where it has no variable that is known, or the bundle no use for any."""
    if bundle.vocabulary is None:
        stage("clinical", "not used by this bundle")
        return None
    if variables is None:
        stage("clinical", "none given")
        return None
    vector = bundle.vocabulary.encode(variables)
    if not vector.known:
        stage("clinical", f"no variable is known of {count(len(variables), 'key')}")
        return None
    stage("clinical", "; ".join(vector.notes))
    return vector.values


def _combination(has: Mapping[str, bool]) -> str:
    return combination_name(ordered(name for name in has if has[name]))


def _check_scored(bundle: Bundle, has: Mapping[str, bool]) -> None:
    """Say what the case lacks of the bundle's modalities; raises InputError where the bundle cannot do without."""
    missing = [name for name in bundle.modalities if not has[name]]
    if _combination(has) not in bundle.manifest.combinations:
        trained = ", ".join(bundle.manifest.combinations)
        raise InputError(f"the case lacks {', '.join(missing) or 'a modality'}; this bundle scores {trained}")
    if missing:
        stage("missing", f"{', '.join(missing)}; scored by {_combination(has)}, as the bundle was trained to")


def _limit(seconds: float, ensemble: "Ensemble", vectors: "list[torch.Tensor | None]", dimension: int) -> TimeLimit:
    """The job's time limit, with what follows the encoding measured: the ensemble on one and on two parts of a bag."""
    import torch

    from survfuse.networks.ensemble import TILES_AT_A_TIME

    def taken(parts: int) -> float:
        started = elapsed()
        ensemble(torch.zeros(parts * TILES_AT_A_TIME, dimension), *vectors)
        return elapsed() - started

    taken(1)  # weights are touched for the first time, and a GPU starts
    one, two = taken(1), taken(2)
    return TimeLimit(seconds, lambda tiles: one + max(two - one, 0.0) * tiles / TILES_AT_A_TIME)


def _read_slide(case: Case, bundle: Bundle, device: "torch.device", limit: TimeLimit | None) -> "Features | Extracted":
    """What the case's feature file holds, or what its slide gives."""
    if case.features is not None:
        from survfuse.inputs.features import read_features

        return read_features(case.features)
    assert case.slide is not None
    from survfuse.slide.extract import extract
    from survfuse.slide.pixels import check_single_file

    settings = bundle.manifest.slide
    check_single_file(case.slide)
    return extract(case.slide, case.mask, settings, bundle.encoder_weights(), device, BundleError, limit=limit)


def _tiles(
    case: Case,
    bundle: Bundle,
    device: "torch.device",
    limit: TimeLimit | None,
    has: Mapping[str, bool],
    omit: bool,
) -> "tuple[torch.Tensor | None, bool]":
    """Tile features [N, D] and whether they are of half precision; None where the slide may be and is left out."""
    try:
        read = _read_slide(case, bundle, device, limit)
    except InputError as problem:
        without = {**has, "slide": False}
        scored = _combination(without) in bundle.manifest.combinations
        if not (omit or isinstance(problem, NoTissueError)) or not scored:
            raise
        warn(f"the slide is left out: {problem}")
        _check_scored(bundle, without)
        return None, False
    if case.features is None:
        return read.features, read.half
    from survfuse.inputs.features import check_encoder
    from survfuse.slide.registry import ENCODERS

    settings = bundle.manifest.slide
    aliases = ENCODERS[settings.encoder].aliases if settings.encoder in ENCODERS else ()
    check_encoder(read, case.features.name, settings.encoder, aliases, settings.dimension)
    named_by = f"of {read.encoder}" if read.encoder else f"taken to be of {settings.encoder}"
    tiles = f"{count(len(read.values), 'tile')} × {settings.dimension}"
    stage("features", "; ".join((f"{tiles}, {named_by}", *read.notes)))
    return read.values, read.half


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {count(torch.get_num_threads(), 'thread')}"
