"""What a job may leave behind: nothing else, and nothing at all if it fails."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure
from survfuse.runtime.files import discard
from survfuse.runtime.watch import tell_outputs

HEATMAP_VARIABLE = "SURVFUSE_HEATMAP"
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)  # of a socket on the platform


def heatmap_file(output_root: Path) -> Path | None:
    """The one image of the socket that SURVFUSE_HEATMAP names; None if it is unset or empty.

    Raises EnvironmentFailure for anything but a socket's slug, and if another file lies there: a socket has one image.
    """
    slug = os.environ.get(HEATMAP_VARIABLE, "")
    if not slug:
        return None
    if not _SLUG.fullmatch(slug):
        raise EnvironmentFailure(f"{HEATMAP_VARIABLE}={slug[:80]}: expected an image socket's slug, as in risk-heatmap")
    image = output_root / "images" / slug / "heatmap.tif"
    others = [path.name for path in image.parent.glob("*") if path != image and not path.name.startswith(".")]
    if others:
        raise EnvironmentFailure(f"{image.parent}: holds {others[0][:80]}; expected nothing beside the heat map")
    return image


@contextmanager
def fresh_outputs(output_root: Path, outputs: Sequence[Path]) -> Iterator[None]:
    """Create the output folder and delete any earlier result among ``outputs``.

    If the job fails, even after they were written, they are deleted; a folder among them is only ever whole.
    """
    tell_outputs(outputs)
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        for output in outputs:
            discard(output)
    except OSError as cause:
        raise EnvironmentFailure(f"{output_root}: cannot be written to ({cause.strerror})") from cause
    try:
        yield
    except BaseException:
        for output in outputs:
            with suppress(OSError):  # report the error that ended the job
                discard(output)
                _remove_empty(output.parent, output_root)
        raise


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove ``folder`` and those above it that lie below ``root``, as far as they are empty."""
    while folder != root and folder.is_relative_to(root):
        folder.rmdir()
        folder = folder.parent
