"""The files of an explanation."""

from pathlib import Path

from survfuse.explanation.contributions import write_contributions
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.geojson import write_geojson
from survfuse.explanation.heatmap import write_heatmaps
from survfuse.explanation.out_folder import CONTRIBUTIONS, PAGE, RECORD, TILES, check_out, new_out_folder
from survfuse.explanation.page import page
from survfuse.explanation.record import record
from survfuse.runtime.files import encodable, write_json, write_text
from survfuse.runtime.log import stage


def write_explanation(out: Path, explanation: Explanation) -> None:
    """Write an explanation's files to the folder ``out``, all or none.

    Always case.html, case.json and contributions.csv; for tiles whose places are known also tiles.geojson, heatmap.tif
    and heatmap-rgba.tif. An earlier explanation in ``out`` is replaced. Raises InputError if ``out`` holds anything
    else, and EnvironmentFailure if it cannot be written.
    """
    with new_out_folder(check_out(out, apart_from(explanation))) as folder:
        write_files(folder, explanation)
    stage("written", str(out))


def apart_from(explanation: Explanation) -> dict[str, Path | None]:
    """The places that an explanation's folder must not touch: those of the case and of the bundle."""
    case = explanation.case
    files = {"slide": case.slide, "mask": case.mask, "features": case.features}
    places = {f"the {name}": value for name, value in files.items() if isinstance(value, Path)}
    return {**places, "the bundle": explanation.bundle.root}


def write_files(folder: Path, explanation: Explanation) -> None:
    """Write an explanation's files to ``folder``, which is there and empty."""
    written = record(explanation)
    write_contributions(folder / CONTRIBUTIONS, explanation)
    if explanation.mapped is not None:
        write_geojson(folder / TILES, explanation)
        write_heatmaps(folder, explanation)
    write_text(folder / PAGE, encodable(page(explanation, written)))
    write_json(folder / RECORD, written)
