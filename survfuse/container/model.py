"""Which bundle a job uses: the requested one, the mounted one, or the demonstration."""

import os
from pathlib import Path

from survfuse.bundle.demonstration import DEMONSTRATION_BUNDLE
from survfuse.bundle.load import Bundle, load
from survfuse.bundle.manifest import holds_files
from survfuse.runtime.errors import BundleError
from survfuse.runtime.log import stage

MOUNTED_MODEL = Path("/opt/ml/model")


def model_required() -> bool:
    """Whether SURVFUSE_REQUIRE_MODEL forbids demonstration weights, as it does in an exported image."""
    return os.environ.get("SURVFUSE_REQUIRE_MODEL", "") not in ("", "0")


def check_purpose(bundle: Bundle) -> None:
    """Raise BundleError for a demonstration bundle if it is forbidden."""
    if bundle.demonstration and model_required():
        raise BundleError(f"{bundle.root}: a demonstration bundle, which SURVFUSE_REQUIRE_MODEL forbids")


def chosen_bundle(model: Path | None) -> Bundle:
    """The requested bundle, else the mounted one, else the demonstration bundle, unless that is forbidden."""
    mounted = MOUNTED_MODEL if holds_files(MOUNTED_MODEL) else None
    if model_required() and model is None and mounted is None:
        raise BundleError(f"{MOUNTED_MODEL} holds no bundle, and SURVFUSE_REQUIRE_MODEL forbids the demonstration")
    if model is None and mounted is None and MOUNTED_MODEL.is_dir():
        stage("bundle", f"{MOUNTED_MODEL} is empty or holds only a README: the demonstration bundle is used")
    bundle = load(model or mounted or DEMONSTRATION_BUNDLE)
    check_purpose(bundle)
    return bundle
