"""python -m survfuse …: everything beside the job itself."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from survfuse.inputs.expression import IDENTITY, LOG_STANDARDISE
from survfuse.networks.families import FAMILIES
from survfuse.networks.sizes import Sizes
from survfuse.reference.to_bundle import add_command as add_import_reference
from survfuse.runtime.errors import InputError
from survfuse.runtime.exits import guarded
from survfuse.runtime.log import count, stage
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS, RANK
from survfuse.tasks.modalities import MODALITIES
from survfuse.training.protocol import AUTO, COX_SCORE, NONE, VARIANCE, Optimisation, Protocol


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    options = _parser().parse_args(argv)
    return guarded(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m survfuse", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _extract_parser(commands.add_parser("extract", help="tile features of a slide, or of every slide of a cohort"))
    verify = commands.add_parser("verify", help="check a bundle and print what it holds")
    verify.add_argument("bundle", type=Path)
    verify.set_defaults(command=_verify)

    simulate = commands.add_parser("simulate", help="write a cohort of simulated patients in CHIMERA's layout")
    simulate.add_argument("out", type=Path)
    simulate.add_argument("--patients", type=int, required=True)
    simulate.add_argument("--seed", type=int, required=True)
    simulate.add_argument("--genes", type=int, help="expression values a patient (default: every real symbol known)")
    simulate.add_argument("--tiles", type=int, default=64, help="tiles a bag, about (%(default)s)")
    simulate.add_argument("--interaction", type=float, default=1.0, help="strength of the interactions (%(default)s)")
    simulate.add_argument("--tissue", type=Path, metavar="SLIDE", help="draw bags from this slide's real tile features")
    simulate.set_defaults(command=_simulate)

    _train_parser(commands.add_parser("train", help="train an ensemble on a cohort and freeze it as a bundle"))

    predict = commands.add_parser("predict", help="score a cohort with a bundle")
    predict.add_argument("cohort", type=Path)
    predict.add_argument("--model", type=Path, required=True, metavar="BUNDLE")
    predict.add_argument("--out", type=Path, required=True, metavar="predictions.csv")
    predict.add_argument(
        "--survival",
        type=Path,
        metavar="survival.csv",
        help="write survival curves: case_id, a column a year",
    )
    predict.add_argument("--modalities", nargs="+", choices=MODALITIES, help="to use (default: all the bundle's)")
    predict.add_argument("--cache", type=Path, help="folder for copies of features that cannot be mapped")
    _device_option(predict)
    predict.set_defaults(command=_predict)

    evaluate = commands.add_parser("evaluate", help="the challenge's figure, and others, of predictions")
    evaluate.add_argument("predictions", type=Path, help="CSV with case_id, risk, months")
    evaluate.add_argument("outcomes", type=Path, help="CSV with case_id, time (months), event")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    evaluate.set_defaults(command=_evaluate)

    add_import_reference(commands)
    return parser


def _extract_parser(extract: argparse.ArgumentParser) -> None:
    extract.add_argument("slide", type=Path, metavar="SLIDE|COHORT", help="a slide, or a cohort's folder")
    extract.add_argument("--mask", type=Path, help="tissue mask, .tif or .mha (default: tissue found by saturation)")
    extract.add_argument(
        "--out",
        type=Path,
        help="of a slide: F.h5, CLAM's and TRIDENT's layout; of a cohort: its folder (default: itself)",
    )
    extract.add_argument(
        "--min-coverage", type=float, default=0.5, help="share of a tile that must be tissue (%(default)s)"
    )
    extract.add_argument("--assume-mpp", type=float, help="µm per level-0 pixel, for a slide that states none")
    _encoder_options(extract)
    _device_option(extract)
    extract.set_defaults(command=_extract)


def _train_parser(train: argparse.ArgumentParser) -> None:
    protocol, optimisation, sizes = Protocol(), Optimisation(), Sizes()
    train.add_argument("cohort", type=Path)
    train.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    train.add_argument(
        "--work", type=Path, help="training state, report and TensorBoard scalars (default: BUNDLE.training beside it)"
    )
    train.add_argument("--outcomes", type=Path, metavar="CSV", help="case_id, time (months), event (default: _CD.json)")
    train.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="to read (all)")
    _encoder_options(train, default="uni")
    train.add_argument("--assume-mpp", type=float, help="µm per pixel, for slides that state none")
    _device_option(train)
    train.add_argument("--fusion", choices=(AUTO, *FAMILIES), default=AUTO, help="(%(default)s: stack them)")
    for name, text in (
        ("folds", "outer folds, stratified by event and time"),
        ("inner", "members of each fold; each is stopped by another part of its training patients"),
        ("repeats", "partitions into folds"),
        ("seed", "of folds, members and draws"),
    ):
        _number(train, name, getattr(protocol, name), text)
    train.add_argument(
        "--select",
        choices=(VARIANCE, COX_SCORE, NONE),
        default=protocol.select,
        help="genes, in the fold (%(default)s)",
    )
    _number(train, "genes", protocol.genes, "most genes selected")
    _number(train, "components", protocol.components, "most principal axes of expression")
    train.add_argument(
        "--transform", choices=(LOG_STANDARDISE, IDENTITY), default=protocol.transform, help="(%(default)s)"
    )
    train.add_argument("--calibration", choices=(CONTINUOUS, RANK), default=protocol.calibration, help="(%(default)s)")
    for name, text in (
        ("epochs", "most"),
        ("patience", "epochs without a better inner loss"),
        ("learning_rate", "of AdamW"),
        ("weight_decay", "of AdamW"),
        ("tiles", "drawn from each bag for a step"),
        ("modality_dropout", "chance that a step hides a patient's modality; 0 trains for complete cases alone"),
    ):
        _number(train, name, getattr(optimisation, name), text)
    for name in ("bag", "attention", "rank", "hidden", "embedding", "factors", "fused", "clusters"):
        _number(train, name, getattr(sizes, name), "width")
    train.add_argument("--draws", type=int, default=500, help="of the report's bootstrap (%(default)s)")
    train.add_argument("--rna", type=int, nargs="+", default=list(sizes.rna), help="widths (%(default)s)")
    train.add_argument("--pairs", type=int, nargs=3, default=list(sizes.pairs), help="widths (%(default)s)")
    train.set_defaults(command=_train)


def _number(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    parser.add_argument(
        f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text} (%(default)s)"
    )


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="(default: SURVFUSE_DEVICE, else auto: GPU if there is)"
    )


def _encoder_options(parser: argparse.ArgumentParser, default: str = "efficientnet-lite0") -> None:
    parser.add_argument("--encoder", default=default, help="tile encoder (%(default)s)")
    parser.add_argument("--weights", type=Path, help="the encoder's weight file, .safetensors or torch")
    parser.add_argument("--mpp", type=float, default=1.0, help="µm per pixel of a tile (%(default)s)")


def _extract(options: argparse.Namespace) -> None:
    from survfuse.cohort.extract import extract_cohort, write_extracted
    from survfuse.runtime.device import chosen_device
    from survfuse.runtime.files import sha256
    from survfuse.slide.extract import extract

    settings = _slide_settings(options, options.min_coverage)
    device = chosen_device(options.device)
    if options.slide.is_dir():
        if options.mask is not None:
            raise InputError("--mask is of one slide; a cohort's masks lie beside its slides")
        extract_cohort(options.slide, options.out, settings, options.weights, device)
        return
    if options.out is None or not options.out.parent.is_dir():
        raise InputError(f"{options.out}: expected --out F.h5 in a folder that is there")
    found = extract(options.slide, options.mask, settings, options.weights, device, InputError)
    digest = sha256(options.weights) if options.weights else None
    write_extracted(options.out, options.slide.stem, settings, found, digest, options.mask)
    stage("written", str(options.out))


def _verify(options: argparse.Namespace) -> None:
    import torch

    from survfuse.bundle.load import load, load_members
    from survfuse.container.model import check_purpose
    from survfuse.runtime.errors import BundleError
    from survfuse.slide.encoders import load_encoder

    bundle = load(options.bundle)
    check_purpose(bundle)
    members = load_members(bundle)
    if bundle.encoder_weights() is not None:
        load_encoder(bundle.manifest.slide.encoder, bundle.encoder_weights(), torch.device("cpu"), BundleError)
    manifest, slide = bundle.manifest, bundle.manifest.slide
    weights = sum(tensor.numel() for member in members for tensor in member.state.values())
    curve = bundle.calibration
    families = ", ".join(sorted({member.family for member in manifest.members}))
    stage("purpose", f"{manifest.purpose}. {manifest.notice}")
    stage("members", f"{len(members)} of {families}; {count(weights, 'weight')}")
    stage(
        "slide", f"{slide.encoder}, {slide.tile_px} px tiles at {slide.mpp:g} µm/px, covered {slide.min_coverage:.0%}"
    )
    if bundle.expression is not None:
        stage("expression", f"{count(len(bundle.expression.genes), 'gene')}, {bundle.expression.transform}")
    if bundle.vocabulary is not None:
        stage("clinical", f"{len(bundle.vocabulary.columns)} columns, {len(bundle.vocabulary.inactive)} without weight")
    stage("scores", "; ".join(manifest.combinations))
    stage(
        "calibration",
        f"{curve.mode}, {count(len(curve.reference_risks), 'reference risk')}, survival {curve.survival[-1]:.3f} "
        f"at {curve.times[-1]:g} months",
    )
    for name, value in manifest.provenance.items():
        stage("provenance", f"{name}: {value}")
    stage("verified", f"{options.bundle}: every checksum, shape and value holds")


def _simulate(options: argparse.Namespace) -> None:
    from survfuse.cohort.simulate import simulate

    simulate(
        options.out,
        options.patients,
        options.seed,
        options.genes,
        options.tiles,
        options.interaction,
        options.tissue,
    )
    stage("written", f"{options.out}: {count(options.patients, 'simulated patient')}")


def _train(options: argparse.Namespace) -> None:
    from survfuse.bundle.place import check_place
    from survfuse.cohort.read import read_cohort
    from survfuse.runtime.device import chosen_device
    from survfuse.training.train import train
    from survfuse.training.trainer import Trainer

    work = options.work or options.out.with_name(f"{options.out.name}.training")
    check_place(options.out, remains=any((work / "members").glob("*")))
    settings, sizes, protocol = _slide_settings(options, 0.5), _sizes(options), _protocol(options)
    device = chosen_device(options.device)
    if device.type == "cpu":
        import torch

        torch.use_deterministic_algorithms(True)
    cohort = read_cohort(options.cohort, work / "features", options.outcomes, options.modalities)
    if cohort.bags is not None and cohort.bags[0].dimension != settings.dimension:
        raise InputError(
            f"features of length {cohort.bags[0].dimension}, but {settings.encoder} gives {settings.dimension}; "
            "see --encoder"
        )
    stage("cohort", f"{count(len(cohort.ids), 'patient')}, {count(int(cohort.events.sum()), 'event')}")
    trainer = Trainer(cohort, sizes, protocol, work, device)
    train(trainer, settings, options.out, work, options.weights, options.draws)
    stage("written", str(options.out))


def _sizes(options: argparse.Namespace) -> Sizes:
    names = ("bag", "attention", "rank", "hidden", "embedding", "factors", "fused", "clusters")
    try:
        return Sizes(
            **{name: getattr(options, name) for name in names}, rna=tuple(options.rna), pairs=tuple(options.pairs)
        )
    except ValueError as cause:
        raise InputError(str(cause)) from cause


def _protocol(options: argparse.Namespace) -> Protocol:
    optimisation = Optimisation(**{field.name: getattr(options, field.name) for field in fields(Optimisation)})
    names = [field.name for field in fields(Protocol) if field.name != "optimisation"]
    return Protocol(**{name: getattr(options, name) for name in names}, optimisation=optimisation)


def _predict(options: argparse.Namespace) -> None:
    from survfuse.prediction.table import predict
    from survfuse.runtime.device import chosen_device
    from survfuse.tasks.modalities import ordered

    for path in filter(None, (options.out, options.survival)):
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder for the predictions")
    cache = options.cache or options.out.with_name(f"{options.out.name}.features")
    modalities = ordered(options.modalities) if options.modalities else None
    predict(
        options.cohort, options.model, options.out, options.survival, cache, modalities, chosen_device(options.device)
    )


def _evaluate(options: argparse.Namespace) -> None:
    from survfuse.evaluation.evaluate import evaluate, print_evaluation
    from survfuse.runtime.files import write_json

    result = evaluate(options.predictions, options.outcomes)
    print_evaluation(result)
    if options.json is not None:
        write_json(options.json, result)


def _slide_settings(options: argparse.Namespace, min_coverage: float) -> SlideSettings:
    from survfuse.slide.registry import find_spec

    spec = find_spec(options.encoder)
    assumed = options.assume_mpp
    settings = SlideSettings(spec.name, spec.dimension, spec.input_px, options.mpp, min_coverage, assumed)
    if problem := settings.problem():
        raise InputError(problem)
    return settings
