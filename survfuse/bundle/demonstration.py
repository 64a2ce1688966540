"""The demonstration bundle that comes with the package, and the line with which such weights announce themselves."""

from pathlib import Path

from survfuse.bundle.load import Bundle
from survfuse.bundle.manifest import DEMONSTRATION
from survfuse.runtime.log import stage

# Inside an installed package; in a checkout and in the image beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
RESOURCES = next(
    (folder for folder in (_PACKAGE / "resources", _PACKAGE.parent / "resources") if folder.is_dir()),
    _PACKAGE.parent / "resources",
)
DEMONSTRATION_BUNDLE = RESOURCES / DEMONSTRATION


def announce_demonstration(bundle: Bundle) -> None:
    """For demonstration weights, say on stdout that the bundle's numbers mean nothing clinically."""
    if bundle.demonstration:
        stage("notice", f"DEMONSTRATION WEIGHTS. {bundle.manifest.notice}")
