"""Installs a lock file's packages into the environment of the Python that runs this, by their hashes only.

uv does it, which the lock file pins: on all cores, and environments share their files with its cache where both lie on
one file system. It reads none of pip's settings, so those are handed on: indexes, certificates, proxy. Where uv cannot
be had or does not manage, pip does it.

Exit code 0: all are installed; else pip's.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
BY_HASH = ["--quiet", "--no-deps", "--require-hashes"]
# pip's settings, and the variables that uv reads instead, each with what separates several values.
VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
}


def main(lock: Path) -> int:
    """Install; uv's own failure is shown, and pip's is the end."""
    if bootstrap(lock) == 0:
        settings = pip_settings()
        command = [sys.executable, "-m", "uv", "pip", "sync", "--quiet", "--python", sys.executable]
        command += ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
        command += ["--require-hashes", "--compile-bytecode", lock]
        if subprocess.run(command, env=uv_environment(settings)).returncode == 0:
            return 0
    print("uv did not install the packages: pip does", file=sys.stderr)
    return subprocess.run([*PIP, "install", *BY_HASH, "-r", lock]).returncode


def bootstrap(lock: Path) -> int:
    """pip's exit code of installing uv alone, of the lock file's version and hashes."""
    pinned = re.search(r"^uv==.*\\\n(?: .*\\\n)* .*\n", lock.read_text(), re.MULTILINE)
    if not pinned:
        return 1
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as file:
        file.write(pinned[0])
        file.flush()
        return subprocess.run([*PIP, "install", *BY_HASH, "--only-binary", ":all:", "-r", file.name]).returncode


def pip_settings() -> dict[str, str]:
    """What pip is told by its files and variables, for all its commands or for ``install``."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    stated = {}
    for section in ("global", "install", ":env:"):  # later ones count
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            stated[name] = ast.literal_eval(value)
    return stated


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's variables, and those that say to uv what ``settings`` say to pip; none that is set is changed."""
    told = {
        variable: separator.join(settings[name].split())
        for name, (variable, separator) in VARIABLES.items()
        if name in settings
    }
    # Like pip: of all indexes alike, the file that has the hash.
    return {"UV_INDEX_STRATEGY": "unsafe-best-match"} | told | os.environ


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
