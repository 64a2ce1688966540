"""Checkpoints of the reference → a bundle whose risks and months are the reference's own.

The reference is the code published with arXiv 2605.13897. A checkpoint of it is a ``state_dict``; beside it lie the
order of its genes, its clinical vocabulary and its calibration. Three of its models are read:

    bilinear             w · [B(M, r), B(M, c), B(r, c)] + b
    bilinear-residual    … with ReLU(W [M, r, c]) beside the pairs
    concat               w · [M, c, r] + b, in which our network has r before c

Several checkpoints make an ensemble whose risk is the mean of theirs. The reference risks of the calibration must then
be such means as well: those of one checkpoint lie on another scale.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from survfuse.bundle.encoder_weights import carry_weights
from survfuse.bundle.manifest import RESEARCH, Manifest, MemberEntry, member_file
from survfuse.bundle.place import check_place, new_bundle_folder
from survfuse.bundle.save import Tables, save
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.reference.card import imported_card
from survfuse.reference.checkpoints import State, Widths, recognised, states
from survfuse.reference.tables import read_calibration, read_genes, read_vocabulary, untransformed_expression
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import count, stage
from survfuse.slide.registry import ENCODERS, find_spec
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS, RANK
from survfuse.tasks.modalities import MODALITIES, combination_name

NOTICE = (
    "Imported from checkpoints of the reference of arXiv 2605.13897. Its reference risks are in-sample, so months are "
    "optimistic. For research use. Not a medical device."
)
# What the reference does with inputs, in words; the bundle's tables do the same.
POLICIES = {
    "expression": "raw values, not transformed; a gene that a case lacks counts 0",
    "categories": "told apart to the letter; one that the vocabulary lacks gives zeros in every column of its variable",
    "-1": "a number where the variable is numeric, and a category where the vocabulary has it",
    "numbers": "(x − mean) / scale, with the reference's mean and scale and no plausible range",
    "null or absent": "the mean for a number, zeros for a category",
}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``import-reference`` to the commands of ``python -m survfuse``."""
    parser = commands.add_parser(
        "import-reference", help="freeze checkpoints of the reference (arXiv 2605.13897) as a bundle"
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="state_dict, torch file")
    parser.add_argument("--genes", type=Path, required=True, metavar="G.json", help="symbols in the network's order")
    parser.add_argument("--clinical", type=Path, required=True, metavar="C.json", help="clinical vocabulary")
    parser.add_argument(
        "--calibration",
        type=Path,
        required=True,
        metavar="K.json",
        help="km_times, km_probs and train_risks; of several checkpoints, risks of their mean",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="read --clinical and --calibration from pickles, which may run code",
    )
    parser.add_argument(
        "--calibration-mode", choices=(RANK, CONTINUOUS), default=RANK, help="(%(default)s: as the reference)"
    )
    parser.add_argument("--encoder", default="uni", help="tile encoder (%(default)s)")
    parser.add_argument("--weights", type=Path, help="the encoder's weight file, to carry in the bundle")
    parser.add_argument("--mpp", type=float, default=1.0, help="µm per pixel of a tile (%(default)s)")
    parser.add_argument("--assume-mpp", type=float, help="µm per level-0 pixel, for slides that state none")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> None:
    spec = find_spec(options.encoder)
    import_reference(
        options.checkpoints,
        options.genes,
        options.clinical,
        options.calibration,
        options.out,
        SlideSettings(spec.name, spec.dimension, spec.input_px, options.mpp, assumed_mpp=options.assume_mpp),
        options.weights,
        options.calibration_mode,
        options.trust_pickles,
    )
    stage("written", str(options.out))


def import_reference(
    checkpoints: Sequence[Path],
    genes: Path,
    clinical: Path,
    calibration: Path,
    out: Path,
    settings: SlideSettings,
    weights: Path | None,
    mode: str = RANK,
    trust_pickles: bool = False,
) -> None:
    """Freeze checkpoints of the reference as a bundle in ``out``, whole or not at all.

    ``genes`` is a JSON array of G symbols. ``clinical`` is a JSON object: ``numeric``, an array of {name, mean, scale},
    and ``categorical``, an array of {name, categories}; they give K columns, numbers first and then one for each
    category. ``calibration`` is a JSON object: ``km_times`` (months) and ``km_probs`` [T], ``train_risks`` [R]. With
    ``trust_pickles`` these two may be the reference's own pickles. ``weights`` is a tile encoder's weight file to carry
    along. Under ``mode`` "rank" months are those of the reference to the last bit.

    One checkpoint's risk is kept as it is; several count 1/n each, and ``train_risks`` must be of their mean.

    Raises InputError that names the file for checkpoints of another network, tables of another form or that do not fit
    them, pickles that nobody vouched for, and an ``out`` that is not empty. Source: arXiv 2605.13897.
    """
    check_place(out)
    _check_arguments(checkpoints, settings, mode)
    symbols = read_genes(genes)
    vocabulary = read_vocabulary(clinical, trust_pickles)
    tables = Tables(
        read_calibration(calibration, mode, trust_pickles), untransformed_expression(symbols), vocabulary, None, None
    )
    widths = Widths(settings.dimension, len(symbols), vocabulary)
    found = [recognised(path, widths) for path in checkpoints]
    manifest = _manifest(
        [(path, family, sizes) for path, (family, sizes) in zip(checkpoints, found, strict=True)],
        {"genes": genes, "clinical": clinical, "calibration": calibration},
        settings,
    )
    for name, policy in POLICIES.items():
        stage("policy", f"{name}: {policy}")
    _write(out, manifest, tables, states(checkpoints, widths), weights)
    families = ", ".join(dict.fromkeys(family for family, _ in found))
    stage("imported", f"{count(len(found), 'member')} of {families}")


def _check_arguments(checkpoints: Sequence[Path], settings: SlideSettings, mode: str) -> None:
    """Raise InputError for no checkpoint, an unknown mode, and slide settings that a bundle cannot hold."""
    if not checkpoints:
        raise InputError("expected a checkpoint of the reference, found none")
    if mode not in (RANK, CONTINUOUS):
        raise InputError(f"expected {RANK} or {CONTINUOUS} as the calibration's mode, found {mode!r}")
    if problem := settings.problem():
        raise InputError(problem)
    spec = ENCODERS.get(settings.encoder)
    if spec is not None and spec.dimension != settings.dimension:
        raise InputError(f"{spec.name} gives features of length {spec.dimension}, not {settings.dimension}")


def _manifest(
    members: Sequence[tuple[Path, str, Sizes]], sides: Mapping[str, Path], settings: SlideSettings
) -> Manifest:
    """The bundle's manifest but for its tables; ``members`` are checkpoint, family and sizes.

    Raises InputError for a checkpoint that is given twice, under whatever name.
    """
    digests = [sha256(path) for path, _, _ in members]
    for place, digest in enumerate(digests):
        if digest in digests[:place]:
            first, second = members[digests.index(digest)][0], members[place][0]
            raise InputError(f"{second}: the same checkpoint as {first}")
    complete = combination_name(MODALITIES)
    standing = MemberWeight(1.0 / len(members), 0.0, 1.0)
    provenance = {
        "source": "reference of arXiv 2605.13897",
        "checkpoints": [
            {"file": path.name, "sha256": digest, "model": family}
            for (path, family, _), digest in zip(members, digests, strict=True)
        ],
        **{name: {"file": path.name, "sha256": sha256(path)} for name, path in sides.items()},
        "policies": POLICIES,
        "reference_risks": "in-sample, of the patients that the checkpoints were trained on",
    }
    entries = [
        MemberEntry(member_file(number), family, sizes.to_json(), {complete: standing})
        for number, (_, family, sizes) in enumerate(members)
    ]
    return Manifest(RESEARCH, NOTICE, provenance, settings, {complete: RiskScale(0.0, 1.0)}, tuple(entries), ())


def _write(out: Path, manifest: Manifest, tables: Tables, states: Iterator[State], weights: Path | None) -> None:
    with new_bundle_folder(out) as partial:
        manifest = replace(manifest, slide=carry_weights(manifest.slide, partial, weights))
        tables = replace(tables, card=imported_card(manifest, tables.calibration))
        save(partial, replace(manifest, tables=tables.present()), states, tables)
