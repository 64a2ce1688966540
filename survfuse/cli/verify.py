"""``survfuse verify``: check a bundle and print what it holds."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from survfuse.cli import options
from survfuse.runtime.errors import BundleError, one_line
from survfuse.runtime.log import count, stage


def verify(bundle: options.BundleArgument) -> None:
    """Check every checksum, shape and value of a bundle, and print what it holds."""
    import torch

    from survfuse.bundle.load import load, load_members
    from survfuse.container.model import check_purpose
    from survfuse.slide.encoders import load_encoder

    loaded = load(bundle)
    check_purpose(loaded)
    members = load_members(loaded)
    manifest, slide = loaded.manifest, loaded.manifest.slide
    if loaded.encoder_weights() is not None:
        load_encoder(slide.encoder, loaded.encoder_weights(), torch.device("cpu"), BundleError)
    weights = sum(tensor.numel() for member in members for tensor in member.state.values())
    curve = loaded.calibration
    families = ", ".join(sorted({member.family for member in manifest.members}))
    stage("purpose", f"{manifest.purpose}. {manifest.notice}")
    stage("members", f"{len(members)} of {families}; {count(weights, 'weight')}")
    stage(
        "slide", f"{slide.encoder}, {slide.tile_px} px tiles at {slide.mpp:g} µm/px, covered {slide.min_coverage:.0%}"
    )
    if manifest.vector is not None:
        stage("vector", f"slide-level, {manifest.vector}")
    if loaded.expression is not None:
        stage("expression", f"{count(len(loaded.expression.genes), 'gene')}, {loaded.expression.transform}")
    if loaded.vocabulary is not None:
        stage("clinical", f"{len(loaded.vocabulary.columns)} columns, {len(loaded.vocabulary.inactive)} without weight")
    known = loaded.training_patients
    numbers = ", ".join(f"{len(digests):,} by {name}" for name, digests in known.digests.items()) if known else ""
    stage("patients", f"knows its training patients: {numbers}" if known else "does not know its training patients")
    stage("scores", "; ".join(manifest.combinations))
    stage(
        "calibration",
        f"{curve.mode}, {count(len(curve.reference_risks), 'reference risk')}, survival {curve.survival[-1]:.3f} "
        f"at {curve.times[-1]:g} months",
    )
    facts = list(flat_facts(manifest.provenance))
    stage("provenance", f"{count(len(facts), 'fact')}, as the bundle states them:")
    print_facts(facts)
    stage("verified", f"{bundle}: every checksum, shape and value holds")


def flat_facts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Each fact in a JSON ``value`` as (name, text): nested names joined by dots, plain arrays as one fact.

    >>> list(flat_facts({"patients": 9, "protocol": {"folds": 5}, "months": [62.5, 170.0]}))
    [('patients', '9'), ('protocol.folds', '5'), ('months', '62.5, 170')]
    >>> list(flat_facts([{"file": "a.pt"}, {"file": "b.pt"}], "checkpoints"))
    [('checkpoints.1.file', 'a.pt'), ('checkpoints.2.file', 'b.pt')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat_facts(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, (Mapping, list)) for inner in value):
        for place, inner in enumerate(value, start=1):
            yield from flat_facts(inner, f"{name}.{place}" if name else str(place))
    elif isinstance(value, list):
        yield name, ", ".join(map(_text, value)) or "none"
    else:
        yield name, _text(value)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "none"


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print facts in two aligned columns, a line each; on a terminal, long values wrap within their column."""
    rows = [(one_line(name), one_line(text)) for name, text in facts]
    width = max((len(name) for name, _ in rows), default=0)
    room = max(20, shutil.get_terminal_size().columns - width - 4) if sys.stdout.isatty() else None
    for name, text in rows:
        first, *more = textwrap.wrap(text, room) if room is not None else [text]
        print(f"  {name:<{width}}  {first}")
        for line in more:
            print(f"  {'':<{width}}  {line}")
