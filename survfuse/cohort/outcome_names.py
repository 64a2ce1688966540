"""The names by which tables of survival data call an outcome, which a model must not see.

A variable of follow-up predicts the outcome perfectly in the cohort that it was recorded in, and does not exist yet for
a new patient.
"""

import re
from collections.abc import Iterable

from survfuse.tasks.task import Task

# A grammar of the words of outcomes' names in the field's tables (GDC, TCGA-CDR, cBioPortal, SEER, R's survival), as
# ``_plain`` spells them. Repetitions are bounded, so that no name takes long.
_UNIT = "times?|months?|days?|weeks?|years?|yrs?|dates?|interval|duration|length|age"
_CENSORED = "censor|censored|censoring"
_STATED = rf"({_UNIT}|status|stat|events?|{_CENSORED}|indicator|flag|cr|type|site|yes|no|to|in|[0-9](m|y)?)"
_OF = "(of|by|from|dueto)?(any|all|other|disease|cancer|tumou?r|cause|specific)"
_DEATH = rf"(death|dead|deceased|died|mortality)({_OF}){{0,3}}"
_RETURN = "progression|progressed|recurrence|recurred|relapse|relapsed"
_PLACE = "(biochemical|disease|cancer|local|locoregional|distant|intravesical)"
_ENDPOINT = "os|dss|css|pfi|pfs|dfi|dfs|rfs|efs|mfs|dmfs|ddfs|idfs|lrfs|bcr|ttp|ttr|ttf"
_FREE = "progress|progression|recurrence|relapse|disease|event|metastasis|failure|biochemical|bcr"
_OF_WHAT = rf"(disease|cancer|cause|tumou?r)specific|({_FREE})free"
_SURVIVAL = rf"(overall|(invasive|{_PLACE}){{0,2}}({_OF_WHAT}){{1,2}})?survival|({_FREE})free|survived"
# What a name may consist of alone or with what is stated of it, and what is an outcome only with that.
_WHAT = rf"({_ENDPOINT}|{_SURVIVAL}|{_DEATH}|{_PLACE}?({_RETURN})|alive|event|vital|{_CENSORED}|outcome)"
_WEAK = r"(prog|recur|follow(ed)?up|last(follow|fu)|followed|fup?|fuend|endof(follow)?up|lastseen|treatmentfailure)"
# What happens after some time: also the weak words, with more about it.
_QUALIFIED = rf"(first|new|any|hg|lg|highgrade|lowgrade|{_PLACE}){{0,3}}({_WHAT}|{_WEAK}|metastas[ei]s)"
_TO = r"(from\w{1,40}?)?(to|until|till|of|at|or|and)"
_NAMES = re.compile(
    rf"(patients?|subjects?)?(is|has|was)?([0-9]{{1,2}}(years?|yrs?|months?|y|m))?{_WHAT}{_STATED}{{0,6}}"
    rf"|{_WEAK}{_STATED}{{1,6}}|follow(ed)?up"
    rf"|({_UNIT}){{1,2}}({_TO})?{_QUALIFIED}((or|and){_QUALIFIED}){{0,2}}{_STATED}{{0,6}}"
    rf"|{_WHAT}(or|and|free)?{_WHAT}{_STATED}{{0,6}}"
    rf"|time({_UNIT})?|status|tumou?rstatus|(personneoplasm|neoplasm)cancerstatus|lostto(fu|follow(ed)?up)"
)
# Words that make an outcome of any name they are in.
_ANYWHERE = re.compile(
    r"vitalstatus|lastknown(alive|disease|vital|status|contact)|last(followup|contact)|new(tumou?r|neoplasm)event"
    r"|cause(specific)?(of)?death|treatmentoutcome|therapyoutcome"
)


def outcome_names(names: Iterable[str], task: Task) -> list[str]:
    """Those of ``names`` by which the field, or ``task``, calls an outcome, in any spelling.

    >>> from survfuse.tasks.registry import DEFAULT
    >>> outcome_names(["Time", "age", "vital_status", "OS.time", "days_to_death", "stage"], DEFAULT)
    ['Time', 'vital_status', 'OS.time', 'days_to_death']
    """
    own = {_plain(name) for name in (*task.outcome.keys, *task.outcome.event_columns, *task.outcome.time_columns)}
    return [name for name in names if _plain(name) in own or _is_outcome(_plain(name))]


def _is_outcome(plain: str) -> bool:
    return _NAMES.fullmatch(plain) is not None or _ANYWHERE.search(plain) is not None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
