"""CHIMERA Task 3: recurrence of high-risk non-muscle-invasive bladder cancer."""

# Outcomes stand beside the variables in CHIMERA's training files; they never reach a model.
OUTCOME_KEYS = ("progression", "Time_to_prog_or_FUend")
MISSING_CODES = ("-1", "", "na", "nan")  # compared in lower case; null and an absent key count as well
PLAUSIBLE = {"age": (0.0, 120.0), "no_instillations": (0.0, 100.0)}

SLIDE = "bladder-cancer-tissue-biopsy-whole-slide-image"
MASK = "tissue-mask"
RNA = "bulk-rna-seq-bladder-cancer"
CLINICAL = "chimera-clinical-data-of-bladder-cancer-recurrence"
OUTPUT_FILE = "likelihood-of-bladder-cancer-recurrence.json"

PLACES = {
    SLIDE: "images/bladder-cancer-tissue-biopsy-wsi",
    MASK: "images/tissue-mask",
    RNA: "bulk-rna-seq-bladder-cancer.json",
    CLINICAL: "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
}
