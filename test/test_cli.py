"""The command line as a user meets it: its help, its errors, its suggestions, and what it imports to give them."""

import argparse
import inspect
import json
import os
import pty
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import DEMONSTRATION, MASK, ROOT, SLIDE, TINY
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperOption
from typer.main import get_command

import survfuse
from survfuse import api
from survfuse.bundle.manifest import MANIFEST
from survfuse.cli.arguments import OptionKind, arranged, option_kinds
from survfuse.cli.main import app, main
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.suggestions import nearest_path
from survfuse.slide.registry import ENCODERS
from survfuse.tasks.registry import WITH_VECTORS
from survfuse.training.protocol import Optimisation, Protocol

COMMANDS = get_command(app).commands
SIGNATURES = {function.__name__: inspect.signature(function) for function in (api.train, api.extract)}
HEAVY = ("torch", "pandas", "scipy", "sklearn", "lifelines", "sksurv", "matplotlib", "h5py", "timm", "openslide", "PIL")
# Each command in a child of its own, which begins with what the command line itself has imported.
FRESH = """
import json, os, sys
from survfuse.cli.main import main

heavy, commands = json.load(sys.stdin)
for number, words in enumerate(commands):
    if not (child := os.fork()):
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        code = main(words)
        print("imported:", sorted(set(heavy) & set(sys.modules)))
        sys.exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def refusal(capsys, words: list[str], code: int = 2) -> str:
    """The one line on stderr with which a command ends."""
    assert main(words) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line.removeprefix("survfuse: ")


@pytest.fixture
def calls(monkeypatch) -> dict[str, dict[str, object]]:
    """Arguments by name of each api function that a command calls; nothing else happens."""
    seen: dict[str, dict[str, object]] = {}
    for name, signature in SIGNATURES.items():

        def note(*arguments, signature=signature, name=name, **options):
            seen[name] = signature.bind(*arguments, **options).arguments

        monkeypatch.setattr(api, name, note)
    return seen


# Help


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Help without colours, which these variables would force."""
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_fits_80_columns_and_names_every_option(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"] if name else ["-h"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and max(map(len, captured.out.splitlines())) <= 80
    command = COMMANDS[name] if name else get_command(app)
    for parameter in command.params:
        spelt = parameter.opts if isinstance(parameter, TyperOption) else [parameter.metavar]
        assert all(text in captured.out for text in spelt), parameter.name
        assert parameter.help
    if name is None:
        assert all(f" {command} " in captured.out for command in COMMANDS)


def test_options_are_grouped_in_panels(capsys):
    main(["train", "--help"])
    shown = capsys.readouterr().out
    panels = ("Inputs", "Outputs", "Tile encoder", "Ensemble", "Expression", "Optimisation", "Widths", "Machine")
    places = [shown.index(f"─ {panel}") for panel in panels]
    assert places == sorted(places)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"survfuse {survfuse.__version__}\n"


def test_the_module_is_the_command():
    for words, code in ((["--version"], 0), (["verify", "none"], 3), ([], 2)):
        ended = subprocess.run([sys.executable, "-m", "survfuse", *words], capture_output=True, text=True, cwd=ROOT)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (code, int(code != 0))


# Errors and suggestions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "InputError: expected a command: extract, train, verify, predict, explain, evaluate, simulate, import-ref",
        ),
        (["trian"], "InputError: unknown command 'trian'; expected one of extract, train, "),
        (["--verison"], "InputError: no such option: --verison; did you mean --version?"),
        (["train"], "InputError: train: missing option '--out'; --help lists the options"),
        (
            ["train", "--out", "x"],
            "InputError: expected COHORT, or tables in its place (--slides, --vectors, --clinical, --expression), "
            "found neither",
        ),
        (["train", "test"], "InputError: train: missing option '--out'; --help lists the options"),
        (["train", "test", "--out"], "InputError: --out: expected a value, found none"),
        (["train", "test", "--out", "--seed", "1"], "InputError: --out: expected a value, found none"),
        (["train", "test", "--out=x", "--folds", "five"], "InputError: train: invalid value for '--folds': "),
        (["train", "test", "--out=x", "--rna", "8", "six"], "InputError: train: invalid value for '--rna': "),
        (["train", "test", "more", "--out=x"], "InputError: train: got unexpected extra argument"),
        (["train", "test", "-o", "x"], "InputError: no such option: -o"),
        (["simulate", "x", "--patients", "3"], "InputError: simulate: missing option '--seed'"),
        (["import-reference", "--genes", str(SLIDE)], "InputError: import-reference: missing argument 'CHECKPOINT'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(words, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(capsys, words).startswith(message)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["exstract"], "extract"),
        (["train", "test", "--out=x", "--epoch", "3"], "--epochs"),
        (["train", "test", "--out=x", "--learning_rate=1"], "--learning-rate"),
        (["train", "test", "--out=x", "--fusion", "bilinaer"], "bilinear"),
        (["train", "test", "--out=x", "--fusion", "slide+clinicl"], "slide+clinical"),
        (["train", "test", "--out=x", "--modalities", "slide", "rma"], "rna"),
        (["train", "test", "--out=x", "--select", "cox_score"], "cox-score"),
        (["train", "test", "--out=x", "--device", "gpu"], "cuda"),
        (["train", "test", "--out=x", "--encoder", "UNI"], "uni"),
        (["extract", str(SLIDE), "--out=x.h5", "--encoder", "uni2h"], "uni2-h"),
        (["extract", str(SLIDE.with_suffix(".tiff"))], str(SLIDE)),
        (["extract", str(SLIDE), "--mask", str(MASK.with_name("3S_001_mask.tif"))], str(MASK)),
        (["train", "tset/inputs", "--out=x"], "test/input"),
        (["simulate", "x", "--patients=3", "--seed=1", "--tissue", "redme.md"], "README.md"),
        (["predict", "test", "--model", "resources/demonstration", "--out=x.csv", "--unusable-slide=ommit"], "omit"),
    ],
)
def test_a_slip_is_answered_by_what_was_meant(words, suggestion, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(capsys, words).endswith(f"; did you mean {suggestion}?")


def test_a_bundle_that_is_not_there_keeps_its_exit_code(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    message = "BundleError: resources/demonstraton: no such folder; did you mean resources/demonstration?"
    assert refusal(capsys, ["verify", "resources/demonstraton"], 3) == message
    words = ["predict", "test/input", "--model", "resources/demonstraton", "--out", "x.csv"]
    assert refusal(capsys, words, 3) == message


def test_a_path_that_nothing_is_near_has_no_suggestion(tmp_path, capsys):
    assert refusal(capsys, ["train", str(tmp_path / "cohort"), "--out=x"]).endswith("cohort: no such folder")
    (tmp_path / "file").write_text("")
    assert nearest_path(tmp_path / "file" / "below") is None
    assert nearest_path(tmp_path / "fil") == tmp_path / "file"
    assert refusal(capsys, ["train", str(tmp_path / "file"), "--out=x"]).endswith("expected a folder, found a file")
    assert refusal(capsys, ["evaluate", str(tmp_path), "x"]).endswith("expected a file, found a folder")


def test_a_slide_without_out_is_told_so(capsys):
    assert refusal(capsys, ["extract", str(SLIDE)]).startswith("InputError: --out is missing: ")


def test_a_place_for_the_result_is_looked_at_first(tmp_path, capsys):
    words = ["extract", str(SLIDE), "--out"]
    assert "no such folder" in refusal(capsys, [*words, str(tmp_path / "none/x.h5")])
    assert refusal(capsys, [*words, str(tmp_path)]).endswith("found a folder")
    words = ["predict", str(ROOT / "test/input"), "--model", str(DEMONSTRATION), "--out"]
    assert "no such folder" in refusal(capsys, [*words, str(tmp_path / "none/x.csv")])


def test_weights_are_looked_for_before_the_slide_is_read(tmp_path, capsys):
    slide, weights = tmp_path / "slide.tif", tmp_path / "weights.bin"
    slide.write_text("no slide")
    weights.write_text("no weights")
    words = ["extract", str(slide), "--out", str(tmp_path / "x.h5")]
    assert "encoder uni needs a weight file" in refusal(capsys, [*words, "--encoder=uni"])
    missing = refusal(capsys, [*words, "--encoder=uni", f"--weights={tmp_path / 'weight.bin'}"])
    assert missing.endswith(f"weight.bin: no such file; did you mean {weights}?")
    assert "weights.bin" in refusal(capsys, [*words, "--encoder=uni", f"--weights={weights}"])
    assert "slide.tif" in refusal(capsys, words)


def test_a_mask_is_no_cohorts(tmp_path, capsys):
    assert "a mask belongs to one slide" in refusal(capsys, ["extract", str(tmp_path), "--mask", str(MASK)])


# What it imports


LIGHT = [
    (["--help"], 0),
    (["train", "--help"], 0),
    (["--version"], 0),
    (["train", "none", "--out", "x"], 2),
    (["train", "test", "--out", "x", "--outcomes", "none.csv"], 2),
    (["train", "test", "--out", "x", "--fusion", "none"], 2),
    (["train", "test", "--out", "x", "--folds", "1"], 2),
    (["train", "test", "--out", "x", "--encoder", "none"], 2),
    (["train", "test", "--out", "x", "--weights", "none.bin"], 2),
    (["extract", "none.tif", "--out", "x.h5"], 2),
    (["extract", str(SLIDE)], 2),
    (["extract", str(SLIDE), "--out", "x.h5", "--mask", "none.tif"], 2),
    (["extract", str(SLIDE), "--out", "x.h5", "--encoder", "uni"], 2),
    (["verify", "none"], 3),
    (["predict", "none", "--model", "resources/demonstration", "--out", "x.csv"], 2),
    (["predict", "test/input", "--model", "resources/demonstration", "--out", "none/x.csv"], 2),
    (["evaluate", "none.csv", "none.csv"], 2),
    (["simulate", "x", "--patients", "2", "--seed", "1", "--tissue", "none.tif"], 2),
    (["import-reference", "none.pt", "--genes=a", "--clinical=b", "--calibration=c", "--out=x"], 2),
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of LIGHT, which then prints what it imported of HEAVY."""
    folder = tmp_path_factory.mktemp("fresh")
    ended = subprocess.run(
        [sys.executable, "-c", FRESH, folder], input=json.dumps([HEAVY, [words for words, _ in LIGHT]]),
        stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=120, check=True,
    )  # fmt: skip
    texts = [[(folder / f"{number}.{name}").read_text() for name in ("out", "err")] for number in range(len(LIGHT))]
    return [(code, *text) for code, text in zip(map(int, ended.stdout.split()), texts, strict=True)]


@pytest.mark.parametrize("number", range(len(LIGHT)), ids=[" ".join(map(str, words)) for words, _ in LIGHT])
def test_nothing_heavy_is_imported_to_give_help_or_to_miss_a_path(fresh, number):
    code, out, err = fresh[number]
    assert code == LIGHT[number][1], err
    assert out.endswith("imported: []\n")
    assert len(err.splitlines()) == int(code != 0)


def test_a_job_imports_nothing_of_the_command_line():
    script = "import sys, inference, survfuse.container.job; print({m.split('.')[0] for m in sys.modules} & {'typer'})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "set()\n"), ended.stderr


# Values


def test_the_commands_defaults_are_the_functions(calls, tmp_path):
    assert main(["train", str(tmp_path), "--out", "bundle"]) == 0
    assert main(["extract", str(tmp_path)]) == 0
    for name, signature in SIGNATURES.items():
        given = calls[name]
        for parameter in signature.parameters.values():
            if parameter.name in ("protocol", "sizes"):
                assert given[parameter.name] == {"protocol": Protocol(), "sizes": Sizes()}[parameter.name]
            elif parameter.default is not parameter.empty:
                assert given[parameter.name] == parameter.default, parameter.name


def test_every_choice_of_the_protocol_can_be_made(calls, tmp_path):
    protocol = Protocol(
        "concat", 3, 4, 2, 7, "none", 9, 8, "identity", "rank", Optimisation(11, 12, 0.5, 0.25, 13, 0.75)
    )
    options = {field.name: getattr(protocol, field.name) for field in fields(Protocol) if field.name != "optimisation"}
    options |= vars(protocol.optimisation)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["train", str(tmp_path), "--out", "bundle", *words]) == 0
    assert calls["train"]["protocol"] == protocol


def test_every_width_can_be_chosen(calls, tmp_path):
    assert main(["train", str(tmp_path), "--out", "bundle", *TINY, "--factors", "2"]) == 0
    expected = Sizes(
        bag=8, attention=4, rna=(8, 6), rank=4, pairs=(4, 3, 2), hidden=5, embedding=3, factors=2, fused=4, clusters=3
    )
    assert calls["train"]["sizes"] == expected
    assert calls["train"]["protocol"].fusion == "bilinear" and calls["train"]["draws"] == 10


@pytest.mark.parametrize(
    "words",
    [
        ["--modalities", "slide", "rna", "--out", "x", "COHORT"],
        ["COHORT", "--modalities", "slide", "rna", "--out=x"],
        ["COHORT", "--out", "x", "--modalities", "clinical", "--modalities", "slide", "rna"],
        ["--out", "x", "--modalities", "slide", "rna", "--", "COHORT"],
    ],
)
def test_an_option_of_several_values_takes_them_up_to_the_next_option(words, calls, tmp_path):
    assert main(["train", *(str(tmp_path) if word == "COHORT" else word for word in words)]) == 0
    assert (calls["train"]["cohort"], calls["train"]["out"]) == (tmp_path, Path("x"))
    assert list(calls["train"]["modalities"]) == ["slide", "rna"]


WORDS = st.sampled_from(["--several", "--one", "--flag", "--several=3", "--one=4", "5", "-6", "7.5", "word", "-", "--"])


@given(st.lists(WORDS, max_size=8))
def test_words_are_understood_as_argparse_understands_them(words):
    """argparse with nargs="+" takes the words as they are, and one without takes them as arranged.

    What stands behind "--" is not given to argparse: Python 3.11 forgets it when options and positionals mix.
    """
    kinds = {"--several": OptionKind(several=True), "--one": OptionKind(), "--flag": OptionKind(flag=True)}

    def parsed(given: list[str], **several: str) -> argparse.Namespace | None:
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--several", default=[], **several)
        parser.add_argument("--one")
        parser.add_argument("--flag", action="store_true")
        parser.add_argument("positional", nargs="*")
        end = given.index("--") if "--" in given else len(given)
        try:
            understood = parser.parse_intermixed_args(given[:end])
        except (argparse.ArgumentError, SystemExit):
            return None
        understood.positional += given[end + 1 :]
        return understood

    expected = parsed(words, nargs="+")
    try:
        found = arranged(words, kinds)
    except survfuse.runtime.errors.InputError:
        assert expected is None
        return
    if expected is not None:
        assert parsed(found, action="append") == expected


def test_every_option_is_of_a_known_kind():
    kinds = option_kinds(COMMANDS["train"].params, ("-h", "--help"))
    assert [name for name, kind in kinds.items() if kind.several] == [
        "--modalities",
        "--keep-variables",
        "--rna",
        "--pairs",
        "--vector-layers",
    ]
    assert kinds["--help"].flag and option_kinds(COMMANDS["import-reference"].params, ())["--trust-pickles"].flag


# Completion


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("survfuse ", list(COMMANDS)),
        ("survfuse tr", ["train"]),
        ("survfuse train --learning", ["--learning-rate"]),
        ("survfuse train cohort --fusion ", ["auto", *families_of(WITH_VECTORS.modalities)]),
        ("survfuse extract slide.tif --encoder ", list(ENCODERS)),
        ("survfuse extract slide.tif --encoder h-", ["h-optimus-0", "h-optimus-1"]),
        ("survfuse predict cohort --modalities ", list(WITH_VECTORS.modalities)),
        ("survfuse predict cohort --device c", ["cpu", "cuda", "cuda:0"]),
    ],
)
def test_a_shell_completes_commands_options_and_names(line, offered):
    words = line.split(" ")
    environment = {"_SURVFUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "survfuse"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=60)
    assert ended.stdout.split() == offered and ended.returncode == 0, ended.stderr


def test_the_completion_script_is_shown_for_a_shell():
    """The shell is found among the parents of the process, so it stays one of them: bash replaces itself otherwise."""
    command = ["bash", "-c", f"'{sys.executable}' -m survfuse --show-completion; exit $?"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 0 and "_SURVFUSE_COMPLETE=complete_bash" in ended.stdout


# What is printed


def leaves(value: object) -> int:
    """Facts in a JSON value: each scalar, and each array without structure in it."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values())) or 1
    if isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        return sum(map(leaves, value))
    return 1


def test_verify_prints_provenance_as_a_table_of_a_row_a_fact(capsys):
    assert main(["verify", str(DEMONSTRATION)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("  ")]
    provenance = json.loads((DEMONSTRATION / MANIFEST).read_text())["provenance"]
    assert len(rows) == leaves(provenance)
    table = dict(row.split(maxsplit=1) for row in rows)
    assert len(table) == len(rows)
    assert len({len(row) - len(text) for row, text in zip(rows, table.values(), strict=True)}) == 1  # one column
    assert table["patients"] == str(provenance["patients"])
    assert table["protocol.optimisation.epochs"] == str(provenance["protocol"]["optimisation"]["epochs"])
    assert table["candidates"] == ", ".join(provenance["candidates"])
    value = provenance["held_out"]["harrell_concordance"]["value"]
    assert float(table["held_out.harrell_concordance.value"]) == pytest.approx(value, rel=1e-5)
    assert all(line.startswith("[") for line in lines if line not in rows)


def test_on_a_terminal_long_facts_wrap_within_their_column():
    reader, terminal = pty.openpty()
    script = "from survfuse.cli.verify import print_facts; print_facts([('short', '1'), ('longer', 'word ' * 20)])"
    environment = os.environ | {"COLUMNS": "40"}
    subprocess.run([sys.executable, "-c", script], stdout=terminal, cwd=ROOT, env=environment, timeout=60, check=True)
    os.close(terminal)
    lines = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    assert lines[0] == "  short   1" and len(lines) > 3
    assert all(len(line) <= 40 and line[10:].startswith("word") for line in lines[1:])
    assert all(line[:10].strip() == "" for line in lines[2:])


def test_log_lines_are_neither_wrapped_nor_coloured(tmp_path):
    root = tmp_path / ("a-long-name-" * 10)
    words = ["simulate", str(root), "--patients", "2", "--seed", "1", "--genes", "8", "--tiles", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "survfuse", *words],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "40"}, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.splitlines()[-1].endswith(f"{root}: 2 simulated patients") and "\x1b" not in ended.stdout


def test_a_folder_that_is_not_there_is_said_before_anything_is_read(calls, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("")
    line = refusal(capsys, ["evaluate", str(table), str(table), "--json", str(tmp_path / "none" / "figures.json")])
    assert line.startswith("InputError: ") and "none: no such folder" in line and not calls
