"""Known vulnerabilities of a lock file's packages, by pip-audit: exit 1 where one is known."""

import json
import subprocess
import sys

FLAGS = ["--require-hashes", "--disable-pip", "--no-deps", "--progress-spinner=off", "--format=json"]


def main(lock: str) -> int:
    command = [sys.executable, "-m", "pip_audit", *FLAGS, "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"{lock}: NOT checked for known vulnerabilities: {reason}")
        return 0
    checked = [package for package in packages if "skip_reason" not in package]
    skipped = len(packages) - len(checked)
    if not checked:
        print(f"{lock}: NOT checked for known vulnerabilities: the database of advisories cannot be reached")
        return 0
    found = [(package, advisory) for package in checked for advisory in package["vulns"]]
    for package, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "nothing"
        print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    print(f"{lock}: {len(checked)} packages checked, {skipped} unknown to the database, {len(found)} advisories")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
