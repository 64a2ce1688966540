"""One job: read a case, predict, write the months.

    sockets → case → features, expression, clinical vector → ensemble → risk → calibration → months

Exit codes: 0 written; 2 input that cannot be used; 3 a bundle that cannot; 4 the machine (disk, memory, device,
signal); 1 anything unforeseen. Nothing but the one output file is ever left under the output folder.
"""

import argparse
import math
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from survfuse.bundle import DEMONSTRATION, Bundle, check_purpose, holds_files, load, load_members, model_required
from survfuse.clock import TimeLimit, chosen_limit, elapsed
from survfuse.curves import MONTHS
from survfuse.errors import BundleError, EnvironmentFailure, InputError, named
from survfuse.files import read_object, write_text
from survfuse.log import count, peak_memory, stage, warn
from survfuse.sockets import OUTPUT_FILE, Case, read_case

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from survfuse.ensemble import Ensemble

MOUNTED_MODEL = Path("/opt/ml/model")
RESOURCES = Path(__file__).resolve().parent.parent / "resources"


def main(argv: Sequence[str] | None = None) -> int:
    """The entrypoint: run one job and return the process's exit code."""
    parser = argparse.ArgumentParser(prog="inference.py", description="Predict months to recurrence for one case.")
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
    options = parser.parse_args(argv)
    return guarded(lambda: run(options.input, options.output, options.model, options.time_limit))


def guarded(action: Callable[[], None]) -> int:
    """Run ``action``; a foreseen failure becomes one line on stderr and its exit code, anything else a traceback
    and 1. SIGTERM ends it like a failure of the machine."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        known = named(error)
        if known is None:
            traceback.print_exc()
            return 1
        print(f"survfuse: {known.line()}", file=sys.stderr, flush=True)
        return known.exit_code
    return 0


def run(input_root: Path, output_root: Path, model: Path | None, time_limit: float | None = None) -> None:
    """Predict the case under ``input_root`` and write its months under ``output_root``."""
    with _whole_or_absent(output_root) as output:
        _run(input_root, output, model, chosen_limit(time_limit))


def _run(input_root: Path, output: Path, model: Path | None, seconds: float | None) -> None:
    case = read_case(input_root)
    kind = (
        "features given, no mask needed" if case.features else "slide with mask" if case.mask else "slide without mask"
    )
    stage("case", f"{case.name}: {kind}, sockets from {case.found_by}")
    # The small inputs come first: what is wrong with them shows before anything heavy is loaded.
    expression, variables = read_object(case.rna, InputError), read_object(case.clinical, InputError)

    bundle = _chosen_bundle(model)
    manifest = bundle.manifest
    stage("bundle", f"{manifest.purpose}, {count(len(manifest.members), 'member')}, every checksum verified")
    if bundle.demonstration:
        stage("notice", f"DEMONSTRATION WEIGHTS. {manifest.notice}")

    rna, clinical = _vectors(bundle, expression, variables)

    import torch

    from survfuse.device import chosen_device
    from survfuse.ensemble import Ensemble

    device = chosen_device()
    if "slide" not in bundle.modalities:
        stage("slide", "not used by this bundle")
    ensemble = Ensemble(load_members(bundle), manifest.combinations, device)
    vectors = [torch.from_numpy(vector) if vector is not None else None for vector in (rna, clinical)]
    tiles, half = None, False
    if "slide" in bundle.modalities:
        limit = _limit(seconds, ensemble, vectors, manifest.slide.dimension) if seconds and case.slide else None
        tiles, half = _tiles(case, bundle, device, limit)
    found = ensemble(tiles, *vectors, half=half and device.type == "cuda")
    if not math.isfinite(found.risk):
        raise InputError(f"the risk is {found.risk}: features, expression or clinical variables lie beyond all range")
    terms = ", ".join(f"{name} {value:+.4f}" for name, value in found.terms.items())
    stage("risk", f"{found.risk:+.4f} = {terms}, baseline {found.baseline:+.4f}; on {_device_name(device)}")

    predicted = bundle.calibration.months(found.risk)
    months = float(predicted.months)
    if not math.isfinite(months) or months < 0.0:
        raise BundleError(f"calibration gives {months} months; expected a finite number of at least 0")
    beyond = "; beyond the last observed event" if predicted.beyond else ""
    stage("months", f"{months:.3f} ({bundle.calibration.mode} calibration{beyond})")
    if bundle.curves is not None:
        survival = bundle.curves[found.combination].survival([found.risk], MONTHS)[0]
        shares = ", ".join(f"{share:.1%} by {month:g} months" for share, month in zip(survival, MONTHS, strict=True))
        stage("survival", f"without the event: {shares}")
    try:
        write_text(output, f"{months!r}\n")
    except OSError as cause:
        raise EnvironmentFailure(f"{output}: cannot be written ({cause.strerror})") from cause
    stage("written", f"{output}; {peak_memory()}")


@contextmanager
def _whole_or_absent(output_root: Path) -> Iterator[Path]:
    """The output file's path, with its folder there and no number of an earlier run in it; where the job fails, be it
    after the number was written, the file goes."""
    output = output_root / OUTPUT_FILE
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
    except OSError as cause:
        raise EnvironmentFailure(f"{output_root}: cannot be written to ({cause.strerror})") from cause
    try:
        yield output
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _chosen_bundle(model: Path | None) -> Bundle:
    """The bundle asked for, else the mounted one, else the demonstration's, unless that is forbidden."""
    mounted = MOUNTED_MODEL if holds_files(MOUNTED_MODEL) else None
    if model_required() and model is None and mounted is None:
        raise BundleError(f"{MOUNTED_MODEL} holds no bundle, and SURVFUSE_REQUIRE_MODEL forbids the demonstration's")
    if model is None and mounted is None and MOUNTED_MODEL.is_dir():
        stage("bundle", f"{MOUNTED_MODEL} is empty or has a README alone: the demonstration bundle is used")
    bundle = load(model or mounted or RESOURCES / DEMONSTRATION)
    check_purpose(bundle)
    return bundle


def _vectors(
    bundle: Bundle, expression: Mapping[str, Any], variables: Mapping[str, Any]
) -> "tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]":
    """The case's expression [G] and clinical vector [C], each None where the bundle has no use for it."""
    rna = clinical = None
    if bundle.expression is not None:
        encoded = bundle.expression.encode(expression)
        stage("expression", "; ".join(encoded.notes))
        for warning in encoded.warnings:
            warn(warning)
        rna = encoded.values
    else:
        stage("expression", "not used by this bundle")
    if bundle.vocabulary is not None:
        vector = bundle.vocabulary.encode(variables)
        stage("clinical", "; ".join(vector.notes))
        clinical = vector.values
    else:
        stage("clinical", "not used by this bundle")
    return rna, clinical


def _limit(seconds: float, ensemble: "Ensemble", vectors: "list[torch.Tensor | None]", dimension: int) -> TimeLimit:
    """The job's time limit, with what follows the encoding measured: the ensemble on one and on two parts of a bag."""
    import torch

    from survfuse.ensemble import TILES_AT_A_TIME

    def taken(parts: int) -> float:
        started = elapsed()
        ensemble(torch.zeros(parts * TILES_AT_A_TIME, dimension), *vectors)
        return elapsed() - started

    taken(1)  # weights are touched for the first time, and a GPU starts
    one, two = taken(1), taken(2)
    return TimeLimit(seconds, lambda tiles: one + max(two - one, 0.0) * tiles / TILES_AT_A_TIME)


def _tiles(case: Case, bundle: Bundle, device: "torch.device", limit: TimeLimit | None) -> "tuple[torch.Tensor, bool]":
    """Tile features [N, D] of the case, those given or those of its slide, and whether they are of half precision."""
    from survfuse.slide.encoders import ENCODERS

    settings = bundle.manifest.slide
    if case.features is not None:
        from survfuse.featurefile import check_encoder, read_features

        features = read_features(case.features)
        aliases = ENCODERS[settings.encoder].aliases if settings.encoder in ENCODERS else ()
        check_encoder(features, case.features.name, settings.encoder, aliases, settings.dimension)
        named_by = f"of {features.encoder}" if features.encoder else f"taken to be of {settings.encoder}"
        stage("features", f"{count(len(features.values), 'tile')} × {settings.dimension}, {named_by}")
        return features.values, features.half
    assert case.slide is not None
    from survfuse.slide.extract import extract

    found = extract(case.slide, case.mask, settings, bundle.encoder_weights(), device, BundleError, limit=limit)
    return found.features, found.half


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {count(torch.get_num_threads(), 'thread')}"


def _terminated(number: int, frame: FrameType | None) -> None:
    raise EnvironmentFailure(f"ended by {signal.Signals(number).name}")
