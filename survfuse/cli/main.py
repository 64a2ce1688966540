"""The command line: ``survfuse COMMAND …``, or ``python -m survfuse COMMAND …``.

Everything except the platform's job, which ``inference.py`` runs without any of this. An expected failure is one line
on stderr and an exit code of 2, 3 or 4.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_command

import survfuse
from survfuse.cli.arguments import arranged, command_name, option_kinds
from survfuse.cli.evaluate import evaluate
from survfuse.cli.explain import explain
from survfuse.cli.extract import extract
from survfuse.cli.import_reference import import_reference
from survfuse.cli.predict import predict
from survfuse.cli.simulate import simulate
from survfuse.cli.train import train
from survfuse.cli.verify import verify
from survfuse.runtime.errors import InputError
from survfuse.runtime.exits import guarded
from survfuse.runtime.waiting import wait_asleep

PROGRAM = "survfuse"
_HELP = ("-h", "--help")
_INTERRUPTED = 130  # what Typer makes of a KeyboardInterrupt
_COMPLETION = "_SURVFUSE_COMPLETE"  # the variable by which a shell asks for completions

app = typer.Typer(
    context_settings={"help_option_names": list(_HELP)},
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 an input cannot be used, 3 a bundle cannot be used, 4 the machine failed.",
)
for _name, _command in (
    ("extract", extract),
    ("train", train),
    ("verify", verify),
    ("predict", predict),
    ("explain", explain),
    ("evaluate", evaluate),
    ("simulate", simulate),
    ("import-reference", import_reference),
):
    app.command(_name)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {survfuse.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Survival prediction from a slide, bulk expression and clinical variables."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names (default: the process's arguments) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(words))


def run() -> None:
    """Run the command of the process's arguments and end the process with its exit code."""
    wait_asleep()
    sys.exit(main())


def _run(words: list[str]) -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    if _COMPLETION not in os.environ:
        words = _prepared(root, words)
    try:
        code = root.main(words, PROGRAM, standalone_mode=False)
    except typer.TyperException as problem:
        raise InputError(_said(problem, words)) from problem
    if code == _INTERRUPTED:
        raise KeyboardInterrupt


def _prepared(root: TyperGroup, words: list[str]) -> list[str]:
    """``words`` as Typer parses them; raises InputError for an unknown command or option."""
    name = command_name(words, list(root.commands))
    if name is None:
        return arranged(words, option_kinds(root.params, _HELP))
    return [name, *arranged(words[1:], option_kinds(root.commands[name].params, _HELP))]


def _said(problem: typer.TyperException, words: Sequence[str]) -> str:
    """What Typer finds wrong with the command line, in the style of the other messages."""
    text = problem.format_message().strip().removesuffix(".")
    return f"{words[0]}: {text[:1].lower()}{text[1:]}; --help lists the options"
