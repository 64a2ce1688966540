"""Everything that is wrong with a cohort or a table, collected and reported at once."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, counted

_MANY = 8  # a problem that more patients share is reported once for all of them
_LONGEST = 2000  # characters of all problems in one message


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    text: str
    patient: str | None = None  # whose problem it is
    file: str | None = None
    line: int | None = None  # of the file
    shared: str = ""  # what is wrong without the patient's particulars, if ``text`` has any
    found: str = ""  # of those, what one of many patients is an example of

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line is not None else self.file
        return ": ".join(part for part in (self.patient, where, self.text) if part)

    @property
    def kind(self) -> str:
        """The problem without its line, and with ``<id>`` for its patient: patients may share it."""
        text = ": ".join(part for part in (self.file, self.shared or self.text) if part)
        if not self.patient:
            return text
        # A number may be just a number: only in a file's name is it taken for the patient.
        after = r"(?=[_.][A-Za-z])" if self.patient.isdecimal() else "(?![A-Za-z0-9])"
        return re.sub(rf"(?<![A-Za-z0-9]){re.escape(self.patient)}{after}", "<id>", text)


@dataclass(frozen=True)
class _Collecting:
    """Adds an InputError of its block to ``problems``."""

    problems: "Problems"
    patient: str | None
    file: str | None
    line: int | None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, InputError):
            return False
        own = (self.patient, self.file, self.line)
        self.problems.listed.append(Problem(str(error), *own, error.shared, error.found))
        return True


@dataclass
class Problems:
    """All problems so far."""

    listed: list[Problem] = field(default_factory=list)

    def add(self, text: str, patient: str | None = None, file: str | None = None, line: int | None = None) -> None:
        """Add a problem: of ``patient``, and of ``line`` in ``file``, if given."""
        self.listed.append(Problem(text, patient, file, line))

    def collect(self, patient: str | None = None, file: str | None = None, line: int | None = None) -> "_Collecting":
        """A context that adds an InputError raised in its block, and continues after the block."""
        return _Collecting(self, patient, file, line)

    def raise_any(self, what: str) -> None:
        """Raise InputError that lists all problems of ``what``, patient by patient, if there are any."""
        if not self.listed:
            return
        patients = len({problem.patient for problem in self.listed if problem.patient})
        unusable = f", {count(patients, 'patient')} cannot be used" if patients else ""
        raise InputError(
            f"{what}: {count(len(self.listed), 'problem')}{unusable}: {'; '.join(_cut(list(self._texts())))}"
        )

    def _texts(self) -> Iterator[str]:
        """Each problem in words; one that many patients or lines share comes once, with how many and three of them."""
        ordered = sorted(self.listed, key=lambda problem: problem.patient or "")
        sharing: dict[tuple[bool, str], dict[str, None]] = {}  # whether patients', and kind → who or where, in order
        for problem in ordered:
            sharing.setdefault(_group(problem), {})[problem.patient or str(problem.line)] = None
        said = set()
        for problem in ordered:
            group = _group(problem)
            if len(sharing[group]) <= _MANY:
                yield str(problem)
            elif group not in said:
                said.add(group)
                yield _of_many(problem, list(sharing[group]))


def _group(problem: Problem) -> tuple[bool, str]:
    """What problems of many patients, or of many lines that are nobody's, have in common."""
    return problem.patient is not None, problem.kind


def _of_many(first: Problem, sharing: Sequence[str]) -> str:
    """The problem of ``first`` and others in words: of the patients, or else the lines, ``sharing`` it."""
    if not first.patient:
        return f"{first.file}, {counted(sharing, 'line')}: {first.text}"
    found = f" (found {first.found} in {first.patient})" if first.found else ""
    return f"{counted(sharing, 'patient')}: {first.kind}{found}"


def _cut(texts: list[str]) -> list[str]:
    """The first of ``texts``, as many as fit into a message, and how many more there are; a longer one is cut."""
    length = 0
    shown: list[str] = []
    for text in texts:
        length += len(text)
        if length > _LONGEST and shown:
            return [*shown, f"and {len(texts) - len(shown):,} more"]
        shown.append(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …")
    return shown
