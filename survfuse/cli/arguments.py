"""The words of a command line, checked and converted to the form that Typer parses.

Typer takes one value each time an option is named. Here an option that collects several takes all words up to the next
option, as in ``--rna 2048 512 128``. Any option given twice counts once, the last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from typer.core import TyperOption

from survfuse.runtime.errors import InputError
from survfuse.runtime.files import spelt_number
from survfuse.runtime.suggestions import did_you_mean, unknown


@dataclass(frozen=True)
class OptionKind:
    """What an option takes."""

    flag: bool = False  # no value
    several: bool = False  # one value or more


def option_kinds(parameters: Iterable[object], help_names: Sequence[str]) -> dict[str, OptionKind]:
    """Each option among a command's ``parameters`` by its spelling, and those of --help."""
    kinds = {name: OptionKind(flag=True) for name in help_names}
    for parameter in parameters:
        if isinstance(parameter, TyperOption):
            kind = OptionKind(flag=parameter.is_flag, several=parameter.multiple)
            kinds |= dict.fromkeys(parameter.opts, kind)
    return kinds


def command_name(words: Sequence[str], known: Sequence[str]) -> str | None:
    """The command that ``words`` begin with, or None if they begin with an option.

    Raises InputError if there is no word, or for a command that is not ``known``.

    >>> command_name(["train", "cohort"], ["extract", "train"])
    'train'
    """
    if not words:
        raise InputError(f"expected a command: {', '.join(known)}; --help describes them")
    if words[0].startswith("-"):
        return None
    if words[0] not in known:
        raise InputError(unknown("command", words[0], known))
    return words[0]


def arranged(words: Sequence[str], kinds: Mapping[str, OptionKind]) -> list[str]:
    """``words`` with one value to each mention of an option that takes several.

    Raises InputError for an unknown option, and for one without its value.

    >>> kinds = {"--rna": OptionKind(several=True), "--seed": OptionKind()}
    >>> arranged(["--rna", "8", "6", "--seed", "1", "--", "cohort"], kinds)
    ['--rna', '8', '--rna', '6', '--seed', '1', '--', 'cohort']
    """
    plain: list[str] = []
    collected: dict[str, list[str]] = {}
    rest = list(words)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        name, attached, value = word.partition("=")
        if not _is_option(word, kinds):
            plain.append(word)
        elif name not in kinds:
            raise InputError(f"no such option: {name}{did_you_mean(name, kinds)}")
        elif kinds[name].flag:
            plain.append(word)
        else:
            values = [value] if attached else _values(rest, kinds[name], kinds)
            if not values:
                raise InputError(f"{name}: expected a value, found none")
            if not attached:
                del rest[: len(values)]
            collected[name] = values
    options = [word for name, values in collected.items() for value in values for word in (name, value)]
    return [*plain, *options, *rest]


def _values(words: Sequence[str], kind: OptionKind, kinds: Mapping[str, OptionKind]) -> list[str]:
    """The words at the start of ``words`` that an option of ``kind`` takes."""
    values = takewhile(lambda word: not _is_option(word, kinds), words)
    return list(values if kind.several else islice(values, 1))


def _is_option(word: str, kinds: Mapping[str, OptionKind]) -> bool:
    """Whether ``word`` is spelt as an option; a negative number and a lone dash are not."""
    return word in kinds or (word.startswith("-") and word != "-" and spelt_number(word) is None)
