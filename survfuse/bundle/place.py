"""Placing a bundle: it is first written beside its final folder, then moved there as a whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from survfuse.bundle.manifest import BESIDE, MANIFEST, holds_files
from survfuse.runtime.errors import InputError


def check_place(root: Path, remains: bool = False) -> None:
    """Raise InputError if ``root`` holds anything but what may lie beside a bundle.

    ``remains``: a killed run of the same training may have left a bundle there, whole or in part.
    """
    if holds_files(root) and not (remains and root.is_dir()):
        raise InputError(
            f"{root}: not empty; expected an empty or absent folder for the bundle ({BESIDE[0]} may be there)"
        )


@contextmanager
def new_bundle_folder(root: Path) -> Iterator[Path]:
    """Yield a folder beside ``root`` to write a bundle into; move it to ``root`` if the block ends without an error."""
    root = root.resolve()
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _open_weights(partial)
        _move(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_weights(folder: Path) -> None:
    """Give weights the manifest's file mode: safetensors makes them readable by their owner only, and a container
    runs as another user."""
    for file in folder.rglob("*.safetensors"):
        file.chmod((folder / MANIFEST).stat().st_mode)


def _move(partial: Path, root: Path) -> None:
    """Move a finished bundle. Files that may lie beside one stay; what an interrupted move left is replaced."""
    if not root.exists() or not any(root.iterdir()):
        partial.replace(root)
        return
    moved = []
    try:
        # A folder without a manifest is not a bundle, so an interrupted move cannot be taken for one.
        for path in sorted(partial.iterdir(), key=lambda path: path.name == MANIFEST):
            _remove(root / path.name)
            moved.append(path.replace(root / path.name))
    except BaseException:
        for path in moved:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
