"""Patients whose files differ from most patients'."""

from collections import Counter
from collections.abc import Hashable, Mapping

from survfuse.cohort.problems import Problems
from survfuse.runtime.log import count, listing


def report_odd(what: str, values: Mapping[str, Hashable], problems: Problems) -> None:
    """Add a problem that names the patients whose value is not the most common one."""
    usual, *others = [value for value, _ in Counter(values.values()).most_common()] or [None]
    if not others:
        return
    most = sum(value == usual for value in values.values())
    odd = (f"{value} in {listing(name for name in values if values[name] == value)}" for value in others)
    problems.add(f"{what} {usual} in {count(most, 'patient')}, but {', '.join(odd)}")
