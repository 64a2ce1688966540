"""Clinical variables of text that are no categories: identifiers, dates, free text."""

from collections import Counter
from collections.abc import Mapping, Sequence

from survfuse.inputs.clinical import is_missing_word, is_numeric, read_label
from survfuse.runtime.log import listing, stage
from survfuse.tasks.task import Task

_FEWEST = 10  # patients; among fewer, rare categories may seem to be everybody's own
_OWN = 0.5  # share of the patients


def without_own_values(patients: Sequence[Mapping[str, object]], task: Task, kept: Sequence[str] = ()) -> list[str]:
    """The variables of ``patients``, sorted, but for those of text of which most patients have a value of their own.

    Such a value says nothing of another patient. Those that are left out are logged; those ``kept`` are not.
    """
    names = sorted({name for patient in patients for name in patient})
    own = [name for name in names if name not in kept and _is_own([p.get(name) for p in patients], name, task)]
    if own:
        stage("clinical", f"left out, since most patients have a value of their own: {listing(own)}")
    return [name for name in names if name not in own]


def _is_own(values: Sequence[object], name: str, task: Task) -> bool:
    if is_numeric(name, values, task):
        return False
    labels = [read_label(name, value, task.missing_codes) for value in values if not is_missing_word(value)]
    counts = Counter(label for label in labels if label is not None)
    single = sum(number == 1 for number in counts.values())
    return counts.total() > _FEWEST and single > _OWN * counts.total()
