"""What an image is made of: a CycloneDX bill of materials and a table of licences.

Run while the image is built, in a separate environment that is not shipped: no other module imports this one.
Python's packages come from cyclonedx-py; added here are Debian's packages, Python itself and the native libraries
that wheels carry and declare (PEP 770).
"""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

DPKG = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]
COPYRIGHT = Path("/usr/share/doc")
TERMS = re.compile(r"(LICEN[CS]E|COPYING)", re.IGNORECASE)
SBOM, LICENCES = "sbom.cdx.json", "licences.txt"


def main(python_bom: Path, environment: Path, folder: Path) -> None:
    """Write ``sbom.cdx.json`` and ``licences.txt`` to ``folder``.

    ``python_bom``: the bill of materials that cyclonedx-py made of ``environment``.
    """
    # A decorator adds ``from_json``, which type checkers do not see.
    bom: Bom = Bom.from_json(json.loads(python_bom.read_text(encoding="utf-8")))  # type: ignore[attr-defined]
    name_licences(bom, environment)
    known = {component.name.lower() for component in bom.components}
    carried = (component for component in carried_by_wheels(environment) if component.name.lower() not in known)
    for component in (interpreter(), *debian_packages(), *carried):
        bom.components.add(component)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    (folder / SBOM).write_text(text + "\n", encoding="utf-8")
    rows = sorted({(item.name.lower(), item.name, item.version or "", licences(item)) for item in bom.components})
    (folder / LICENCES).write_text("".join(f"{n}\t{v}\t{terms}\n" for _, n, v, terms in rows), encoding="utf-8")


def name_licences(bom: Bom, environment: Path) -> None:
    """Give Python's packages without a licence what their own metadata states in free text, which cyclonedx-py leaves
    out, else the licence files that they ship."""
    folders = [str(folder) for folder in environment.glob("lib/python*/site-packages")]
    packages = {package.name.lower(): package for package in distributions(path=folders)}
    for component in bom.components:
        if component.licenses or component.name.lower() not in packages:
            continue
        package = packages[component.name.lower()]
        named = (package.metadata["License"] or "").strip() if "License" in package.metadata else ""
        files = [file for file in package.files or () if TERMS.match(file.name) and ".dist-info" in str(file)]
        if named not in ("", "UNKNOWN") and "\n" not in named:
            component.licenses.add(DisjunctiveLicense(name=named))
        elif files:
            component.licenses.add(DisjunctiveLicense(name=f"text in {package.locate_file(files[0])}"))


def interpreter() -> Component:
    """Python itself, which the official images compile rather than take from Debian."""
    version = platform.python_version()
    return Component(
        name="python",
        version=version,
        type=ComponentType.PLATFORM,
        purl=PackageURL("generic", None, "python", version),
        licenses=[DisjunctiveLicense(id="PSF-2.0")],
    )


def debian_packages() -> Iterator[Component]:
    """Debian's packages of this machine, with the licences that their copyright files name (DEP-5)."""
    for line in subprocess.run(DPKG, check=True, capture_output=True, text=True).stdout.splitlines():
        name, version, architecture = line.split("\t")
        terms = sorted(debian_licences(COPYRIGHT / name / "copyright"))
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=PackageURL("deb", "debian", name, version, {"arch": architecture}),
            licenses=[DisjunctiveLicense(name=term) for term in terms],
        )


def debian_licences(file: Path) -> set[str]:
    """Licences that a Debian copyright file names: the fields ``License:`` of a file of fields (which begins with
    ``Format:``), else the licences of Debian's own folder of common ones that its text points to, else the file."""
    if not file.is_file():
        return set()
    text = file.read_text(encoding="utf-8", errors="replace")
    if text.startswith("Format:"):
        named = {term.strip() for term in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)}
    else:
        named = set(re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", text))
    return named or {f"text in {file}"}


def carried_by_wheels(environment: Path) -> Iterator[Component]:
    """Native libraries inside wheels, from the bills of materials in their ``.dist-info/sboms``."""
    seen: set[tuple[str, str | None]] = set()
    for file in sorted(environment.glob("lib/python*/site-packages/*.dist-info/sboms/*.json")):
        value = json.loads(file.read_text(encoding="utf-8"))
        if value.get("bomFormat") != "CycloneDX":
            continue
        for item in value.get("components", ()):
            key = (item["name"], item.get("version"))
            if key not in seen:
                seen.add(key)
                yield carried(item)


def carried(item: Mapping[str, Any]) -> Component:
    """One component of a wheel's own bill of materials."""
    terms = [entry.get("expression") or entry.get("license", {}) for entry in item.get("licenses", ())]
    names = [term if isinstance(term, str) else term.get("id") or term.get("name") for term in terms]
    return Component(
        name=item["name"],
        version=item.get("version"),
        type=ComponentType.LIBRARY,
        purl=PackageURL.from_string(item["purl"]) if item.get("purl") else None,
        licenses=[DisjunctiveLicense(name=name) for name in names if name],
    )


def licences(component: Component) -> str:
    """The licences of a component in one line; 'not stated' where its package names none."""
    return " / ".join(sorted({" ".join(stated(item).split()) for item in component.licenses})) or "not stated"


def stated(item: License) -> str:
    """An SPDX identifier, a name or an expression."""
    return item.id or item.name or "" if isinstance(item, DisjunctiveLicense) else item.value


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
