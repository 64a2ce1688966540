"""What an image is said to be made of: licences by what packages and Debian themselves state."""

import json
from pathlib import Path

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component

from survfuse.container import inventory

# Fields by debian.org/doc/packaging-manuals/copyright-format/1.0, one continued; Debian's older free text.
FIELDS = (
    "Format: https://x\n\nFiles: *\nLicense: GPL-2+\n terms\n\nFiles: debian/*\nLicense:  Expat \n\nLicense: GPL-2+\n"
)
FREE = "On Debian systems the text is in /usr/share/common-licenses/LGPL-2.1.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(FIELDS, {"GPL-2+", "Expat"}), (FREE, {"LGPL-2.1"}), ("Copyright somebody\n", None), (None, set())],
)
def test_a_debian_packages_licences_are_those_its_copyright_file_names(tmp_path, text, expected):
    file = tmp_path / "copyright"
    if text is not None:
        file.write_text(text)
    assert inventory.debian_licences(file) == ({f"text in {file}"} if expected is None else expected)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "lib/python3.11/site-packages"
    folder.mkdir(parents=True)
    return folder


def wheel(site: Path, name: str, metadata: str, **files: str) -> Path:
    """An installed package's .dist-info, with ``files`` of terms."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
    for file, text in files.items():
        (folder / file).write_text(text)
    (folder / "RECORD").write_text("".join(f"{folder.name}/{file},,\n" for file in (*files, "METADATA", "RECORD")))
    return folder


@pytest.mark.parametrize(
    ("metadata", "files", "expected"),
    [
        ("License: The Terms, Version 3\n", {}, "The Terms, Version 3"),
        ("License: UNKNOWN\n", {"LICENSE": "terms"}, "text in {folder}/LICENSE"),
        ("License: Permission is\n        granted\n", {"COPYING": "terms"}, "text in {folder}/COPYING"),
        ("", {"LICENCE": "terms"}, "text in {folder}/LICENCE"),
        ("", {"NOTES": "none"}, "not stated"),
    ],
)
def test_a_wheel_without_a_known_licence_is_named_by_its_own_words_or_its_file(
    tmp_path, site, metadata, files, expected
):
    folder = wheel(site, "thing", metadata, **files)
    bom = Bom(components=[Component(name="thing", version="1.0")])
    inventory.name_licences(bom, tmp_path)
    (component,) = bom.components
    assert inventory.licences(component) == expected.format(folder=folder)


def test_libraries_inside_wheels_are_those_they_declare(tmp_path, site):
    sboms = wheel(site, "thing", "") / "sboms"
    sboms.mkdir()
    inside = [
        {"name": "libz", "version": "1.3", "licenses": [{"license": {"id": "Zlib"}}], "purl": "pkg:generic/libz@1.3"},
        {"name": "libtwo", "version": "2", "licenses": [{"expression": "MIT OR Apache-2.0"}]},
        {"name": "libwords", "licenses": [{"license": {"name": "some words"}}]},
    ]
    (sboms / "a.json").write_text(json.dumps({"bomFormat": "CycloneDX", "components": inside}))
    (sboms / "b.json").write_text(json.dumps({"bomFormat": "CycloneDX", "components": inside[:1]}))
    (sboms / "c.json").write_text(json.dumps({"spdxVersion": "SPDX-2.3", "components": [{"name": "other"}]}))
    found = {item.name: (item.version, inventory.licences(item)) for item in inventory.carried_by_wheels(tmp_path)}
    assert found == {
        "libz": ("1.3", "Zlib"),
        "libtwo": ("2", "MIT OR Apache-2.0"),
        "libwords": (None, "some words"),
    }
