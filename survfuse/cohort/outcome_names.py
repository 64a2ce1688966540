"""The names by which tables of survival data call an outcome, which a model must not see.

A variable of follow-up predicts the outcome perfectly in the cohort that it was recorded in, and does not exist yet for
a new patient.
"""

import re
from collections.abc import Iterable

from survfuse.tasks.task import Task

# The names of outcomes in the field's tables (GDC and TCGA-CDR, cBioPortal, SEER), as ``_plain`` spells them: endpoints
# by their abbreviations with what is stated of each, and words.
_ENDPOINTS = "os|dss|css|pfi|pfs|dfi|dfs|rfs|efs|mfs|bcr|ttp|ttr|overallsurvival|survival|followup|event"
_STATED = "|time|times|months|month|days|day|years|year|status|event|events|censor|censored|indicator"
_HAPPENING = "death|event|progression|recurrence|relapse|metastasis|bcr|lastfollowup|lastcontact|lastknownalive"
_NAMES = re.compile(
    rf"({_ENDPOINTS})({_STATED})|time|status|censor|censored|censoring|outcome|vitalstatus|causeofdeath"
    rf"|death|dead|deceased|died|alive|progression|progressed|recurrence|recurred|relapse|relapsed"
    rf"|biochemicalrecurrence|newtumorevent|dateofdeath|ageatdeath|yearofdeath|lastfollowup"
    rf"|(time|days|months|weeks|years)(to|until)({_HAPPENING}|newtumorevent\w*)"
    rf"|(time|followup)(days|months|weeks|years)"
)


def outcome_names(names: Iterable[str], task: Task) -> list[str]:
    """Those of ``names`` by which the field, or ``task``, calls an outcome, in any spelling.

    >>> from survfuse.tasks.registry import DEFAULT
    >>> outcome_names(["Time", "age", "vital_status", "OS.time", "days_to_death", "stage"], DEFAULT)
    ['Time', 'vital_status', 'OS.time', 'days_to_death']
    """
    own = {_plain(name) for name in (*task.outcome.keys, *task.outcome.event_columns, *task.outcome.time_columns)}
    return [name for name in names if _plain(name) in own or _NAMES.fullmatch(_plain(name))]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
