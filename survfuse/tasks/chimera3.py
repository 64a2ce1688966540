"""CHIMERA Task 3: recurrence of high-risk non-muscle-invasive bladder cancer under BCG.

Sockets are those of the challenge on Grand Challenge (chimera.grand-challenge.org); clinical variables and cohort
layouts are those of its published training data and of the reference's repository (arXiv 2605.13897).
"""

from survfuse.tasks.chimera3_simulation import simulated_variables
from survfuse.tasks.task import MASK, CohortLayout, OutcomeKeys, Socket, Task

TASK = Task(
    name="chimera3",
    modalities=("slide", "rna", "clinical"),
    sockets={
        "slide": Socket("bladder-cancer-tissue-biopsy-whole-slide-image", "images/bladder-cancer-tissue-biopsy-wsi"),
        MASK: Socket("tissue-mask", "images/tissue-mask"),
        "rna": Socket("bulk-rna-seq-bladder-cancer", "bulk-rna-seq-bladder-cancer.json"),
        "clinical": Socket(
            "chimera-clinical-data-of-bladder-cancer-recurrence",
            "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
        ),
    },
    output_file="likelihood-of-bladder-cancer-recurrence.json",
    outcome=OutcomeKeys(
        event="progression",
        time="Time_to_prog_or_FUend",
        event_columns=("progression", "event"),
        time_columns=("time", "time_months", "time_to_prog_or_fuend"),
        most_months=1200.0,
    ),
    missing_codes=("-1", "", "na", "nan"),
    plausible={"age": (0.0, 120.0), "no_instillations": (0.0, 100.0)},
    horizons=(12.0, 24.0, 60.0),
    layouts=(
        CohortLayout(
            "published",
            ("data",),
            "data/{id}/{id}_CD.json",
            "data/{id}/{id}_RNA.json",
            ("features/features",),
            coordinates="features/coordinates",
            vectors="features/slide_vectors",
        ),
        # CLAM writes the same features into both folders; torch files can be mapped as they lie.
        CohortLayout(
            "reference",
            ("clinics", "seqs", "pt_files", "h5_files"),
            "clinics/{id}_CD.json",
            "seqs/{id}_RNA.json",
            ("pt_files", "h5_files"),
            table=True,
        ),
    ),
    intended_use=(
        "Research: ranking patients by time to the event that the training cohort's outcomes record, for patients who "
        "would have entered that cohort and were measured as its patients were. Made for CHIMERA Task 3, recurrence of "
        "high-risk non-muscle-invasive bladder cancer. Whether the training cohort is one of that disease, only those "
        "who trained on it know."
    ),
    simulated_variables=simulated_variables,
    simulated_prefix="3S_",
)
