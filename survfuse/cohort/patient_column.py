"""The column of a table that names patients."""

from survfuse.cohort.headings import LESS_CERTAIN, PATIENT_COLUMNS, plain_name
from survfuse.cohort.tables import Table
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import listing


def patient_column(table: Table) -> int:
    """The place of the column of patients' ids: by its name, or else the first if it has none.

    Raises InputError if there is none, or several of one spelling.
    """
    plain = [plain_name(name) for name in table.heading]
    for spelling in (*PATIENT_COLUMNS, *LESS_CERTAIN):
        if plain.count(spelling) > 1:
            raise InputError(f"the column {spelling} occurs more than once (found {listing(table.heading)})")
        if spelling in plain:
            return plain.index(spelling)
    if table.heading and not table.heading[0]:
        return 0
    found = listing(filter(None, table.heading)) or "no columns"
    raise InputError(
        f"the column case_id is missing (found {found}; patient, patient_id, subject and id are taken as well)"
    )
