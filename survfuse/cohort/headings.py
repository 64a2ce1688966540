"""What columns that name patients and files are called."""

import re

# Spellings, as ``plain_name`` gives them, in the order in which one is looked for.
PATIENT_COLUMNS = (
    "casesubmitterid",  # beside which GDC's case_id is a number of its own
    "patient",
    "patientid",
    "caseid",
    "case",
    "subject",
    "subjectid",
    "submitterid",
    "bcrpatientbarcode",
    "patientbarcode",
)
LESS_CERTAIN = ("id", "sampleid", "sample")


FILE_COLUMNS = ("file", "path", "filename", "slide", "features", "slideid", "vector", "mask", "maskfile")
NAMING = frozenset((*PATIENT_COLUMNS, *LESS_CERTAIN, *FILE_COLUMNS, ""))


def plain_name(heading: str) -> str:
    """A heading in lower case, letters and digits of any script alone.

    >>> plain_name("Patient_ID"), plain_name("Größe")
    ('patientid', 'größe')
    """
    return re.sub(r"[\W_]", "", heading.lower())
