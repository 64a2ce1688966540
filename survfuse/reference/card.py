"""The model card of an imported bundle."""

import re

from survfuse.bundle.manifest import Manifest
from survfuse.runtime.log import count
from survfuse.survival.calibration import Calibration

_SIGNS = re.compile(r"[^\w\s.+,-]")


def imported_card(manifest: Manifest, calibration: Calibration) -> str:
    """The model card in Markdown, from the manifest's provenance and the calibration."""
    facts, slide = manifest.provenance, manifest.slide
    lines = [
        "# Model card",
        "",
        f"**{manifest.notice}**",
        "",
        "## What it is",
        "",
        f"{count(len(manifest.members), 'network')} trained by the code published with arXiv 2605.13897, not by "
        "survfuse. The ensemble's risk is the mean of their risks.",
        "",
        "| checkpoint | model | sha256 |",
        "|---|---|---|",
        *(f"| {_cell(e['file'])} | {e['model']} | `{e['sha256']}` |" for e in facts["checkpoints"]),
        "",
        "| table | file | sha256 |",
        "|---|---|---|",
        *(
            f"| {name} | {_cell(facts[name]['file'])} | `{facts[name]['sha256']}` |"
            for name in ("genes", "clinical", "calibration")
        ),
        "",
        "## Inputs, as the reference takes them",
        "",
        f"- slide: features by {slide.encoder}, {slide.tile_px} px tiles at {slide.mpp:g} µm per pixel",
        *(f"- {name}: {policy}" for name, policy in facts["policies"].items()),
        "",
        "## Calibration",
        "",
        f"{calibration.mode}, against {count(calibration.reference_risks.size, 'reference risk')}. These are "
        "in-sample: the networks were trained on the same patients and rank them better than new ones. Months "
        "are therefore optimistic, and no held-out figures are known.",
        "",
        "## Intended use",
        "",
        "Research: comparison with the reference, on the same cases and in the same container. Not for decisions about "
        "a patient's care.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A file's name as one cell of a Markdown table: its signs that Markdown or HTML would act on are only shown."""
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))
