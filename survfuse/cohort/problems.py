"""Everything that is wrong with a cohort, collected and reported at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count


@dataclass
class Problems:
    """Everything found wrong so far: the patient, where it is one's, and what it is."""

    found: list[tuple[str | None, str]] = field(default_factory=list)

    def add(self, patient: str | None, text: str) -> None:
        self.found.append((patient, text))

    @contextmanager
    def of(self, patient: str | None) -> Iterator[None]:
        """Keep an InputError of the block as a problem of ``patient``."""
        try:
            yield
        except InputError as error:
            self.add(patient, str(error))

    def raise_any(self, root: Path) -> None:
        """Raise InputError that lists all problems, patient by patient, if there are any."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda problem: problem[0] or "")
        texts = [f"{patient}: {text}" if patient else text for patient, text in ordered]
        patients = len({patient for patient, _ in self.found if patient})
        unusable = f", {count(patients, 'patient')} cannot be used" if patients else ""
        raise InputError(f"{root}: {count(len(texts), 'problem')}{unusable}: {'; '.join(texts)}")


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put the file's name before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
