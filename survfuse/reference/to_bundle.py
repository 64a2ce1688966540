"""Checkpoints of the reference → a bundle whose risks and months are the reference's own.

The reference is the code published with arXiv 2605.13897. Its checkpoint is a ``state_dict``; the order of its genes,
its clinical vocabulary and its calibration are separate files. Three of its models are read:

    bilinear             w · [B(M, r), B(M, c), B(r, c)] + b
    bilinear-residual    … with ReLU(W [M, r, c]) in addition to the pairs
    concat               w · [M, c, r] + b; our network has r before c

Several checkpoints make an ensemble whose risk is the mean of theirs. The calibration's reference risks must then be
means too: those of one checkpoint are on a different scale.
"""

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
from survfuse.reference.checkpoints import MODALITIES, Inputs, converted_states, family_and_sizes
from survfuse.reference.tables import read_calibration, read_genes, read_vocabulary, untransformed_expression
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import count, stage
from survfuse.runtime.tensors import State
from survfuse.slide.registry import ENCODERS
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS, RANK
from survfuse.tasks.modalities import combination_name
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import Task

_NOTICE = (
    "Imported from checkpoints of the reference of arXiv 2605.13897. Its reference risks are in-sample, so months are "
    "optimistic. For research use. Not a medical device."
)
# How the reference treats its inputs, in words; the bundle's tables do the same.
_POLICIES = {
    "expression": "raw values, not transformed; a gene that a case lacks counts as 0",
    "categories": "compared exactly; one that the vocabulary lacks gives zeros in every column of its variable",
    "-1": "a number for a numeric variable, and a category if the vocabulary has it",
    "numbers": "(x − mean) / scale, with the reference's mean and scale and no plausible range",
    "null or absent": "the mean for a number, zeros for a category",
}


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
    task: Task = DEFAULT,
) -> None:
    """Freeze checkpoints of the reference as a bundle in ``out``, whole or not at all.

    ``genes`` is a JSON array of G symbols. ``clinical`` is a JSON object: ``numeric``, an array of {name, mean, scale},
    and ``categorical``, an array of {name, categories}; they give K columns, numbers first and then one for each
    category. ``calibration`` is a JSON object: ``km_times`` (months) and ``km_probs`` [T], ``train_risks`` [R]. With
    ``trust_pickles``, ``clinical`` and ``calibration`` may be the reference's own pickles. ``weights`` is a tile
    encoder's weight file to include. With ``mode`` "rank", months are the reference's to the last bit.

    One checkpoint's risk is used as it is. Of n checkpoints each counts 1/n; ``train_risks`` are then of their mean.

    Raises InputError, naming the file, for checkpoints of a different network, tables in a different form or that do
    not fit the checkpoints, pickles that are not trusted, and an ``out`` that is not empty; also for a ``task`` whose
    modalities are not slide, rna and clinical. Source: arXiv 2605.13897.
    """
    check_place(out)
    _check_arguments(checkpoints, settings, mode, task)
    symbols = read_genes(genes)
    vocabulary = read_vocabulary(clinical, trust_pickles, task)
    tables = Tables(
        read_calibration(calibration, mode, trust_pickles), untransformed_expression(symbols), vocabulary, None, None
    )
    inputs = Inputs(settings.dimension, len(symbols), vocabulary)
    members = [(path, *family_and_sizes(path, inputs)) for path in checkpoints]
    manifest = _manifest(members, {"genes": genes, "clinical": clinical, "calibration": calibration}, settings)
    for name, policy in _POLICIES.items():
        stage("policy", f"{name}: {policy}")
    _write(out, manifest, tables, converted_states(checkpoints, inputs), weights)
    families = ", ".join(dict.fromkeys(family for _, family, _ in members))
    stage("imported", f"{count(len(members), 'member')} of {families}")


def _check_arguments(checkpoints: Sequence[Path], settings: SlideSettings, mode: str, task: Task) -> None:
    """Raise InputError for no checkpoint, an unknown mode, settings that a bundle cannot have, and another task."""
    if task.modalities != MODALITIES:
        raise InputError(f"task {task.name}: the reference's networks read {', '.join(MODALITIES)}")
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
    """The bundle's manifest without its tables; ``members`` are checkpoint, family and sizes.

    Raises InputError for a checkpoint that is given twice, also under another name.
    """
    digests = [sha256(path) for path, _, _ in members]
    for place, digest in enumerate(digests):
        if digest in digests[:place]:
            first, second = members[digests.index(digest)][0], members[place][0]
            raise InputError(f"{second}: the same checkpoint as {first}")
    complete = combination_name(MODALITIES)
    equal = MemberWeight(1.0 / len(members), 0.0, 1.0)
    provenance = {
        "source": "reference of arXiv 2605.13897",
        "checkpoints": [
            {"file": path.name, "sha256": digest, "model": family}
            for (path, family, _), digest in zip(members, digests, strict=True)
        ],
        **{name: {"file": path.name, "sha256": sha256(path)} for name, path in sides.items()},
        "policies": _POLICIES,
        "reference_risks": "in-sample, of the patients that the checkpoints were trained on",
    }
    entries = [
        MemberEntry(member_file(number), family, sizes.to_json(), {complete: equal})
        for number, (_, family, sizes) in enumerate(members)
    ]
    return Manifest(RESEARCH, _NOTICE, provenance, settings, {complete: RiskScale(0.0, 1.0)}, tuple(entries), ())


def _write(out: Path, manifest: Manifest, tables: Tables, states: Iterator[State], weights: Path | None) -> None:
    with new_bundle_folder(out) as partial:
        manifest = replace(manifest, slide=carry_weights(manifest.slide, partial, weights))
        tables = replace(tables, card=imported_card(manifest, tables.calibration))
        save(partial, replace(manifest, tables=tables.present()), states, tables)
