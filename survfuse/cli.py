"""python -m survfuse …: everything beside the job itself."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from survfuse.calibration import CONTINUOUS, RANK
from survfuse.errors import InputError
from survfuse.job import guarded
from survfuse.log import count, stage
from survfuse.rna import IDENTITY, LOG_STANDARDISE
from survfuse.slide.settings import SlideSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    options = _parser().parse_args(argv)
    return guarded(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m survfuse", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    extract = commands.add_parser("extract", help="tile features of one slide, as HDF5 that CLAM and TRIDENT read")
    extract.add_argument("slide", type=Path)
    extract.add_argument("--mask", type=Path, help="tissue mask, .tif or .mha (default: tissue found by saturation)")
    extract.add_argument("--out", type=Path, required=True, metavar="F.h5")
    extract.add_argument(
        "--min-coverage", type=float, default=0.5, help="share of a tile that must be tissue (%(default)s)"
    )
    extract.add_argument("--assume-mpp", type=float, help="µm per level-0 pixel, for a slide that states none")
    _encoder_options(extract)
    extract.set_defaults(command=_extract)

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

    train = commands.add_parser("train", help="train an ensemble on a cohort and freeze it as a bundle")
    train.add_argument("cohort", type=Path)
    train.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    _encoder_options(train, default="uni")
    train.add_argument("--assume-mpp", type=float, help="µm per level-0 pixel, for slides that state none")
    for name, default in (("folds", 5), ("seeds", 2), ("seed", 0), ("epochs", 300), ("patience", 30)):
        train.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    train.add_argument("--learning-rate", type=float, default=1e-3, help="(%(default)s)")
    train.add_argument("--weight-decay", type=float, default=1e-2, help="(%(default)s)")
    for name, default in (("bag", 512), ("attention", 256), ("rank", 64)):
        train.add_argument(f"--{name}", type=int, default=default, help="width (%(default)s)")
    train.add_argument("--rna", type=int, nargs="+", default=[2048, 512, 128], help="widths (%(default)s)")
    train.add_argument("--pairs", type=int, nargs=3, default=[64, 32, 32], help="widths (%(default)s)")
    train.add_argument(
        "--transform", choices=(LOG_STANDARDISE, IDENTITY), default=LOG_STANDARDISE, help="(%(default)s)"
    )
    train.add_argument("--calibration", choices=(CONTINUOUS, RANK), default=CONTINUOUS, help="(%(default)s)")
    train.set_defaults(command=_train)
    return parser


def _encoder_options(parser: argparse.ArgumentParser, default: str = "efficientnet-lite0") -> None:
    parser.add_argument("--encoder", default=default, help="tile encoder (%(default)s)")
    parser.add_argument("--weights", type=Path, help="the encoder's weight file, .safetensors or torch")
    parser.add_argument("--mpp", type=float, default=1.0, help="µm per pixel of a tile (%(default)s)")


def _extract(options: argparse.Namespace) -> None:
    from survfuse.device import best_device
    from survfuse.featurefile import write_features
    from survfuse.slide.extract import extract

    if not options.out.parent.is_dir():
        raise InputError(f"{options.out.parent}: no such folder for the features")
    settings = _slide_settings(options, options.min_coverage)
    found = extract(options.slide, options.mask, settings, options.weights, best_device(), InputError)
    attributes = {"encoder": settings.encoder, "name": options.slide.stem, "mpp": found.mpp}
    attributes |= {"tile_px": settings.tile_px, "tile_mpp": settings.mpp}
    tile = {
        "name": options.slide.stem,
        "patch_size": settings.tile_px,
        "patch_size_level0": round(found.grid.side[0]),
        "overlap": 0,
        # Magnification by the usual convention of 10 µm per pixel at 1×.
        "level0_magnification": 10.0 / found.mpp[0],
        "target_magnification": 10.0 / settings.mpp,
        "level0_width": found.grid.width,
        "level0_height": found.grid.height,
    }
    write_features(options.out, found.features, found.origins, attributes, tile)
    stage("written", str(options.out))


def _verify(options: argparse.Namespace) -> None:
    import torch

    from survfuse.bundle import load, load_members
    from survfuse.errors import BundleError
    from survfuse.slide.encoders import load_encoder

    bundle = load(options.bundle)
    members = load_members(bundle)
    if bundle.encoder_weights() is not None:
        load_encoder(bundle.manifest.slide.encoder, bundle.encoder_weights(), torch.device("cpu"), BundleError)
    manifest, slide = bundle.manifest, bundle.manifest.slide
    weights = sum(tensor.numel() for member in members for tensor in member.state.values())
    curve = bundle.calibration
    families = ", ".join(sorted({f"{member.family} ({', '.join(member.modalities)})" for member in manifest.members}))
    stage("purpose", f"{manifest.purpose}. {manifest.notice}")
    stage("members", f"{len(members)} of {families}; {count(weights, 'weight')}")
    stage(
        "slide", f"{slide.encoder}, {slide.tile_px} px tiles at {slide.mpp:g} µm/px, covered {slide.min_coverage:.0%}"
    )
    stage("expression", f"{count(len(bundle.expression.genes), 'gene')}, {bundle.expression.transform}")
    stage("clinical", f"{len(bundle.vocabulary.columns)} columns, {len(bundle.vocabulary.inactive)} without weight")
    stage(
        "calibration",
        f"{curve.mode}, {count(len(curve.reference_risks), 'reference risk')}, survival {curve.survival[-1]:.3f} "
        f"at {curve.times[-1]:g} months",
    )
    for name, value in manifest.provenance.items():
        stage("provenance", f"{name}: {value}")
    stage("verified", f"{options.bundle}: every checksum, shape and value holds")


def _simulate(options: argparse.Namespace) -> None:
    from survfuse.simulate import simulate

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
    from survfuse.bundle import holds_files
    from survfuse.cohort import read_cohort
    from survfuse.fusion import Sizes
    from survfuse.training import Protocol, train

    if options.out.exists() and (not options.out.is_dir() or holds_files(options.out)):
        raise InputError(f"{options.out}: not empty; a bundle is written to a folder of its own")
    settings = _slide_settings(options, 0.5)
    cohort = read_cohort(options.cohort)
    found = cohort.bags[0].shape[1]
    if found != settings.dimension:
        raise InputError(
            f"features of length {found}, but {settings.encoder} gives {settings.dimension}; see --encoder"
        )
    stage("cohort", f"{count(len(cohort.ids), 'patient')}, {count(int(cohort.events.sum()), 'event')}")
    try:
        widths = {name: getattr(options, name) for name in ("bag", "attention", "rank")}
        sizes = Sizes(**widths, rna=tuple(options.rna), pairs=tuple(options.pairs))
    except ValueError as cause:
        raise InputError(str(cause)) from cause
    protocol = Protocol(
        folds=options.folds,
        seeds=options.seeds,
        seed=options.seed,
        epochs=options.epochs,
        patience=options.patience,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        transform=options.transform,
        calibration=options.calibration,
    )
    train(cohort, settings, sizes, protocol, options.out, options.weights)
    stage("written", str(options.out))


def _slide_settings(options: argparse.Namespace, min_coverage: float) -> SlideSettings:
    from survfuse.slide.encoders import find_spec

    spec = find_spec(options.encoder)
    assumed = options.assume_mpp
    settings = SlideSettings(spec.name, spec.dimension, spec.input_px, options.mpp, min_coverage, assumed)
    if problem := settings.problem():
        raise InputError(problem)
    return settings
