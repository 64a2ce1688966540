"""Known vulnerabilities of lock files' packages, by pip-audit.

Exit code 0: none known, or the database of advisories cannot be reached, which is said; 1: some; 2: pip-audit failed.
"""

import json
import re
import subprocess
import sys

FLAGS = ["--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json"]
# How requests, urllib3 and pip-audit itself end where a server cannot be reached or does not answer.
UNREACHED = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|network may be blocking")


def main(locks: list[str]) -> int:
    """Audit every lock file; the worst exit code."""
    return max(audit(lock) for lock in locks)


def audit(lock: str) -> int:
    """Audit one lock file and print what is known of its packages."""
    command = [sys.executable, "-m", "pip_audit", *FLAGS, "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if not UNREACHED.search(last):
            print(f"{lock}: pip-audit failed with exit code {done.returncode}: {last}")
            return 2
        print(f"{lock}: NOT checked for known vulnerabilities: {last}")
        return 0
    checked = [package for package in packages if "skip_reason" not in package]
    skipped = len(packages) - len(checked)
    if not checked:
        print(f"{lock}: NOT checked for known vulnerabilities: the database answers for none of its packages")
        return 0
    found = [(package, advisory) for package in checked for advisory in package["vulns"]]
    for package, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "nothing"
        print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    print(f"{lock}: {len(checked)} packages checked, {skipped} unknown to the database, {len(found)} advisories")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
