"""What installs the development environment: pip's settings reach uv, and pip is there where uv is not."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """.ci/install.py as a module, on a machine where neither program is told anything."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci/install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_of_pips_files_and_variables_reach_uv(install, monkeypatch, tmp_path):
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = http://first.test/simple\ntimeout = 7\nextra-index-url =\n  http://second.test/simple\n"
        "  file:///third\n[install]\nfind-links = /wheels http://fourth.test/\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_INDEX_URL", "http://nearer.test/simple")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "11")
    told = install.uv_environment(install.pip_settings())
    assert told["UV_DEFAULT_INDEX"] == "http://nearer.test/simple"  # a variable counts more than a file, as for pip
    assert told["UV_INDEX"] == "http://second.test/simple file:///third"
    assert told["UV_FIND_LINKS"] == "/wheels,http://fourth.test/"
    assert told["UV_HTTP_TIMEOUT"] == "11"  # what is said to uv itself stays


def test_uv_finds_a_package_where_pip_is_told_to_look(install, monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "survfuse_nowhere_else-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("survfuse_nowhere_else-1.5.dist-info/METADATA", "Name: survfuse-nowhere-else\nVersion: 1.5\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-index", "--no-header", "-"]
    told = install.uv_environment(install.pip_settings())
    done = subprocess.run(
        command, input="survfuse-nowhere-else", capture_output=True, text=True, env=told, cwd=tmp_path
    )
    assert done.stdout.splitlines()[:1] == ["survfuse-nowhere-else==1.5"], done.stderr


@pytest.mark.parametrize("fails", ["there is no uv", "uv fails"])
def test_where_uv_does_not_install_pip_does(fails, install, monkeypatch, tmp_path, capsys):
    lock = tmp_path / "requirements.lock"
    alone = "uv==1 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n"
    lock.write_text(f"a==1 \\\n    --hash=sha256:00\n{alone}z==1 \\\n    --hash=sha256:33\n")
    asked: list[tuple[str, str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        of = Path(command[-1]).read_text()
        asked.append((command[2], of))
        failed = command[2] == "uv" or (of == alone and fails == "there is no uv")
        return subprocess.CompletedProcess(command, int(failed))

    monkeypatch.setattr(install, "pip_settings", dict)
    monkeypatch.setattr(subprocess, "run", run)
    assert install.main(lock) == 0
    by_uv = [("uv", lock.read_text())] if fails == "uv fails" else []
    assert asked == [("pip", alone), *by_uv, ("pip", lock.read_text())]
    assert "pip does" in capsys.readouterr().err
