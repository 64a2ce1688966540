"""Tables and clinical values as people have them: words among numbers, days, outcomes under other names."""

import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_patients

import survfuse
from survfuse.cohort.outcome_check import check_no_outcomes
from survfuse.cohort.outcome_names import outcome_names
from survfuse.cohort.outcomes import OutcomeColumns, read_outcomes
from survfuse.cohort.problems import Problems
from survfuse.cohort.read import read_cohort
from survfuse.inputs.clinical import Numeric, read_number
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.tasks.chimera3 import TASK
from survfuse.training.protocol import Protocol
from survfuse.training.training_data import TrainingData, training_data

EVENT, TIME = TASK.outcome.keys


@pytest.fixture
def root(cohort, tmp_path) -> Path:
    return shutil.copytree(cohort, tmp_path / "cohort")


def outcomes_of(root: Path) -> list[tuple[str, float, int]]:
    files = sorted(root.glob("data/*/*_CD.json"))
    read = [(path.parent.name, json.loads(path.read_text())) for path in files]
    return [(name, variables[TIME], variables[EVENT]) for name, variables in read]


def prepared(root: Path, outcomes: Path | None = None, keep: tuple[str, ...] = ()) -> TrainingData:
    patients = read_cohort(root, root / "cache", outcomes, ["clinical"], keep_variables=keep)
    return training_data(patients, Protocol(fusion="clinical", folds=2, inner=2), Sizes())


# Words among numbers


@pytest.mark.parametrize("word", ["Not Available", "[Not Available]", "'--", "N/A", "not reported", " Unknown ", "-"])
def test_a_word_for_missing_leaves_a_variable_its_numbers(root, capsys, word):
    edit_patients(root, lambda place, _: {"tumor_size_mm": word if place == 7 else 5 + 0.9 * place})
    (size,) = [v for v in prepared(root).vocabulary.numeric if v.name == "tumor_size_mm"]
    numbers = [5 + 0.9 * place for place in range(60) if place != 7]
    assert (size.mean, size.scale) == pytest.approx((np.mean(numbers), np.std(numbers)))
    assert f"tumor_size_mm: {word.strip()!r} of 1 patient (3S_08) taken as missing" in capsys.readouterr().out


@pytest.mark.parametrize("text", [">90", "12,5", "about 30", "none"])
def test_other_text_among_numbers_is_refused_with_the_patient(root, text):
    edit_patients(root, lambda place, _: {"tumor_size_mm": text if place == 7 else 5 + 0.9 * place})
    with pytest.raises(
        InputError, match=r"3S_08: clinical variable tumor_size_mm: expected a plain number such as 12.5, which 59 pat"
    ):
        prepared(root)


SPELLINGS = {
    "decimal commas": lambda place: f"{5 + 0.9 * place:.1f}".replace(".", ","),
    "decimal commas in half": lambda place: f"{place},5" if place % 2 else place,
    "decimal commas in a quarter": lambda place: f"{place},5" if place % 4 == 0 else place,
    "a bound in a quarter": lambda place: ">90" if place % 4 == 0 else 40 + place,
    "a rounded bound": lambda place: "90+" if place % 4 == 0 else 40 + place,
    "ranges in a quarter": lambda place: f"{place} - {place + 5}" if place % 4 == 0 else 40 + place,
    "a unit": lambda place: f"{5 + 0.9 * place:.1f} mm",
    "a unit at once, and none": lambda place: f"{5 + place}cm" if place % 2 else 5 + place,
    "a compound unit": lambda place: f"{5 + place} ng/mL",
    "per cent": lambda place: f"{5 + place}%",
    "thousands with a comma": lambda place: f"{1000 + 7 * place:,}",
    "thousands with a blank": lambda place: f"{1000 + 7 * place:,}".replace(",", "\u00a0"),
    "thousands and a decimal comma": lambda place: f"1.{200 + place},5",
    "digits of full width": lambda place: chr(0xFF11 + place % 9) + str(place),
    "six numbers, one with a comma": lambda place: "1,5" if place == 3 else place % 5,
    "two codes, one number with a comma": lambda place: "1,5" if place == 3 else place % 2,
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_numbers_in_other_spellings_are_refused_and_not_made_categories(root, spelling):
    edit_patients(root, lambda place, _: {"size": spelling(place)})
    with pytest.raises(InputError, match=r"clinical variable size: expected a plain number such as 12.5.*found '"):
        prepared(root)


CODES = {
    "stages": lambda place: f"T{1 + place % 3}",
    "grades": lambda place: ("G1", "G2", "G3", "unknown")[place % 4],
    "stages with letters": lambda place: "4d" if place == 7 else str(1 + place % 4),
    "numbered stages": lambda place: ("1", "2a", "2b", "3")[place % 4],
    "age groups": lambda place: ("<50", "50-60", ">60")[place % 3],
    "an age group of one": lambda place: ">80" if place == 7 else ("<50", "50-60", "61-80")[place % 3],
    "decades": lambda place: f"{20 + 10 * (place % 8)}-{29 + 10 * (place % 8)}",
    "counts up to many": lambda place: ("0", "1", "2", ">=3")[place % 4],
    "counts, rarely many": lambda place: ">3" if place == 7 else place % 3,
    "PD-L1": lambda place: ("<1%", "1-49%", "≥50%")[place % 3],
    "doses": lambda place: ("5 mg", "10 mg")[place % 2],
    "centres": lambda place: f"centre {place // 4}",
    "words with numbers": lambda place: ("1 low", "2 mid", "3 high")[place % 3],
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_codes_that_are_spelt_like_numbers_are_categories(root, code):
    edit_patients(root, lambda place, _: {"code": code(place)})
    (found,) = [v for v in prepared(root).vocabulary.categorical if v.name == "code"]
    assert set(found.categories) == {str(code(place)) for place in range(60)}


def test_categories_that_are_spelt_as_numbers_are_said(root, capsys):
    edit_patients(root, lambda place, _: {"dose": ("1,5", "2,0")[place % 2]})
    assert "dose" in {variable.name for variable in prepared(root).vocabulary.categorical}
    assert "dose: '1,5', '2,0' taken as categories" in capsys.readouterr().out


OWN = {
    "identifiers": lambda place: f"S-{place:04d}",
    "dates": lambda place: f"20{10 + place % 10}-0{1 + place % 9}-{10 + place // 10}",
    "free text": lambda place: f"seen in room {place}, well",
    "of nearly everyone": lambda place: "none" if place % 3 == 0 else f"room {place}",
    "of few": lambda place: f"room {place}" if place < 11 else None,
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_text_that_is_everyones_own_is_left_out_and_said_unless_kept(root, capsys, own):
    edit_patients(root, lambda place, _: {"note": own(place)})
    assert "note" not in {variable.name for variable in prepared(root).vocabulary.variables}
    assert "left out, since most patients have a value of their own: note" in capsys.readouterr().out
    assert "note" in {variable.name for variable in prepared(root, keep=("note",)).vocabulary.variables}


@pytest.mark.parametrize(
    "text", [lambda place: f"room {place % 31}", lambda place: f"room {place}" if place < 10 else None]
)
def test_text_that_patients_share_is_a_category(root, text):
    """Two of 60 patients have a room alone, the others one between two; or ten in all have one."""
    edit_patients(root, lambda place, _: {"note": text(place)})
    assert "note" in {variable.name for variable in prepared(root).vocabulary.categorical}


def test_nothing_but_text_of_their_own_is_nothing_to_learn_from(root):
    for place, path in enumerate(sorted(root.glob("data/*/*_CD.json"))):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({EVENT: values[EVENT], TIME: values[TIME], "id": f"S-{place}"}))
    with pytest.raises(InputError, match="clinical variables: none is left to learn from"):
        prepared(root)


def test_text_in_the_numbers_of_many_patients_is_one_line(root):
    edit_patients(root, lambda place, _: {"tumor_size_mm": f"{place},5" if place % 5 == 0 else 5 + 0.9 * place})
    with pytest.raises(InputError, match=r"12 patients \(3S_01, 3S_06, 3S_11 and 9 more\)") as refused:
        prepared(root)
    assert len(str(refused.value)) < 2000


def test_codes_of_categories_that_are_partly_numbers_stay_categories(root):
    edit_patients(root, lambda place, _: {"t_stage": "4a" if place % 9 == 0 else str(1 + place % 3)})
    (stage,) = [v for v in prepared(root).vocabulary.categorical if v.name == "t_stage"]
    assert stage.categories == ("1", "2", "3", "4a")


def test_text_for_a_number_of_the_task_is_shown_with_its_patient(root):
    edit_patients(root, lambda place, _: {"age": ">90"} if place == 7 else {})
    with pytest.raises(InputError, match=r"3S_08_CD\.json: clinical variable age: expected a number, found '>90'"):
        prepared(root)


def test_a_case_may_have_the_same_words():
    assert read_number(Numeric("size", 0.0, 1.0), "Not Available", TASK.missing_codes) is None
    with pytest.raises(InputError, match="size: expected a number, found other text"):
        read_number(Numeric("size", 0.0, 1.0), "12,5", TASK.missing_codes)


# Outcomes among the variables


# As GDC, TCGA-CDR, cBioPortal, SEER, R's survival and hospitals write them.
OUTCOMES = """
    Vital Status|OS_MONTHS|days_to_last_follow_up|days_to_last_followup|Overall Survival (Months)|
    Overall Survival Status|Disease Free (Months)|Disease Free Status|Progress Free Survival (Months)|
    Months of disease-specific survival|Disease-specific Survival status|Patient's Vital Status|Relapse Free Status|
    Relapse Free Status (Months)|PFI.1|PFI.time.1|PFI.cr|DSS_cr|DFI.time.cr|last_contact_days_to|death_days_to|
    new_tumor_event_dx_days_to|new_tumor_event_type|tumor_status|days_to_last_known_disease_status|
    last_known_disease_status|progression_or_recurrence|progression_or_recurrence_type|progression_free_survival|
    recurrence_free_survival|time_to_event|Time to prog|survival_time|survival_days|Survival months|
    follow_up_months|fu_time|FUtime|fustat|futime|OS_event|RFS_time_months|months_to_recurrence|event_time|
    dead_of_disease|died_of_disease|mortality|days_survival|BCR_PFS|time_to_BCR|Time_to_HG_recur_or_FUend|
    Time_to_prog_or_FUend|age_at_death|deceased_date|status_at_last_followup|date_last_contact|
    date of last follow-up|months_followed|disease_recurrence|biochemical_recurrence|relapse_status|Death (1=yes)|
    disease_free_survival_days|censoring_status|outcome_status|survival_status|is_dead|lost_to_followup|
    alive_status|time_months|year_of_death|Progression|TIME|vital_status|days_to_death|OS.time|PFI|DFS_STATUS|
    time_to_progression|BCR|cause_of_death|event|days_to_new_tumor_event_after_initial_treatment|
    person_neoplasm_cancer_status|treatment_outcome_first_course|SEER cause-specific death classification|
    Survival months flag|time_to_metastasis|5_year_survival|duration_of_follow_up|days_to_recurrence|
    cancer_specific_survival|metastasis-free survival|distant_metastasis_free_survival|
    time_from_surgery_to_recurrence|date_of_progression|recurrence_status|PFS_6m|invasive_disease_free_survival|
    time_to_treatment_failure|event_free|weeks_to_relapse|age_at_last_contact|
    last_fu_date|time_to_last_fu|date_last_known_alive|end_of_follow_up_date|
    time_to_death_or_last_contact|local_recurrence_free_survival|EFS_time|OS_STATUS|DMFS_event|follow_up
"""
# What is known before: of the patient, the tumour, its past, the treatment, and words that only look alike.
INNOCENT = """
    age|sex|stage|tumor|timepoint|grade|LVI|eventual_dose|tumor_size|time_of_day|number_of_prior_TUR|BCG_failure|
    prior_recurrence|recurrence history|recurrent|prior_progression|smoking_status|lymph_node_status|lymph_status|
    menopausal_status|ER_status|performance_status|margin_status|mutation_status|time_since_surgery|time_to_surgery|
    time_from_biopsy_to_surgery|days_to_birth|days_to_diagnosis|days_to_collection|year_of_diagnosis|
    age_at_diagnosis|date_of_birth|5-FU|5FU_cycles|bcr_patient_barcode|bcr_patient_uuid|metastasis|
    distant_metastasis|metastasis_status|
    metastatic_status|last_fulvestrant_dose|last_known_PSA|M_stage|
    EORTC_recurrence_score|EORTC_progression_risk|recurrence_rate|
    number_of_recurrences|osteoporosis|dosage_days|tumor_type|days_of_treatment|months_of_treatment|family_history|
    family_history_of_cancer|time_since_last_recurrence|time_since_last_BCG|last_BCG_dose|last_PSA|
    censored_psa_assay|events_per_year|date|year|days|disease_stage|disease_type|cancer_type|primary_tumor_status_T|
    cancer_status_code|progesterone_receptor|prog_receptor|survivin|survivin_expression|relapse_risk|age_years|
    no_instillations|reTUR|BRS|EORTC|variant|status_of_margins|deadline|tumor_site|site|type|cr_level|
    outcome_expectancy|disease|free_PSA|free_T4|agent|interval|duration_of_symptoms|months_since_TUR|
    followup_schedule|functional_status|HIV_status|hpv_status|vital_capacity|ost|bos|event_rate_history|
    died_relatives|Cystectomy
"""


def names_in(text: str) -> list[str]:
    return [name.strip() for name in " ".join(text.split()).split("|")]


@pytest.mark.parametrize("name", names_in(OUTCOMES))
def test_names_of_outcomes_are_known_in_every_spelling(name):
    assert outcome_names([name], TASK) == [name]


@pytest.mark.parametrize("name", [*TASK.plausible, *names_in(INNOCENT)])
def test_names_of_covariates_are_not_outcomes(name):
    assert outcome_names([name], TASK) == []


@pytest.mark.parametrize("part", ["time", "1", "death of ", "days from ", "disease free ", "any cause ", "last"])
def test_a_name_of_any_length_is_judged_at_once(part):
    started = time.monotonic()
    outcome_names([part * 2000 + "x"], TASK)
    assert time.monotonic() - started < 1.0


def test_outcomes_beside_a_table_are_left_out_and_said(root, tmp_path, capsys):
    table = tmp_path / "outcomes.csv"
    table.write_text("case_id,Time,Progression\n" + "".join(f"{n},{t},{e}\n" for n, t, e in outcomes_of(root)))
    edit_patients(root, lambda _, v: {"Progression": v[EVENT], "Time": v[TIME], EVENT: None, TIME: None})
    vocabulary = prepared(root, table).vocabulary
    assert not {"Progression", "Time"} & {variable.name for variable in vocabulary.variables}
    assert {"Progression", "Time"} <= set(vocabulary.outcomes)
    assert "outcomes, left out of the variables: Progression, Time" in capsys.readouterr().out


def test_a_variable_in_the_order_of_the_times_is_refused_unless_kept(root):
    edit_patients(root, lambda _, v: {"visits": round(30.4 * v[TIME]) + 1})
    with pytest.raises(InputError, match=r"state the outcome: visits orders patients as their times do; .*--keep-var"):
        prepared(root)
    assert "visits" in {variable.name for variable in prepared(root, keep=("visits",)).vocabulary.numeric}


@pytest.mark.parametrize(
    "value", [lambda e: "dead" if e else "alive", lambda e: 2 - e, lambda e: "2021-03-04" if e else None]
)
def test_a_variable_that_equals_the_event_is_refused(root, value):
    edit_patients(root, lambda _, v: {"last_seen": value(v[EVENT])})
    with pytest.raises(InputError, match="last_seen tells who had the event"):
        prepared(root)


def tells(labels: list[object], events: list[int]) -> bool:
    """Whether a cohort with one variable beside its outcomes is refused for telling who had the event."""
    times = np.random.default_rng(0).exponential(40.0, len(events))
    try:
        check_no_outcomes([{"zustand": label} for label in labels], times, np.array(events, dtype=bool), TASK)
    except InputError as error:
        assert "zustand tells who had the event" in str(error)
        return True
    return False


EVENTS = [1] * 10 + [0] * 30
STATES = ["verstorben"] * 10 + ["lebt"] * 30


@pytest.mark.parametrize("unknown", [None, "unknown", -1])
@pytest.mark.parametrize("states", [STATES, EVENTS])
def test_an_event_is_told_whoever_has_it_missing(states, unknown):
    assert tells([unknown, *states[1:-1], unknown], EVENTS)
    assert tells([unknown, *states[1:]], EVENTS) and tells(states, EVENTS)
    assert tells([*states[:6], *[unknown] * 4, *states[10:30], *[unknown] * 10], EVENTS)


@pytest.mark.parametrize("place", [3, 39])
def test_an_event_is_told_with_one_of_forty_miscoded(place):
    assert tells([*STATES[:place], "lebt" if place < 10 else "verstorben", *STATES[place + 1 :]], EVENTS)
    assert tells(["2021-03-04" if told == (n != place) else None for n, told in enumerate(EVENTS)], EVENTS)


@pytest.mark.parametrize("number", [12, 20, 40, 100, 400])
def test_a_predictor_that_agrees_in_nine_of_ten_patients_is_taken(number):
    """With the event a third, a tenth and half of the time; the disagreement evenly spread."""
    for share in (3, 10, 2):
        events = [int(place % share == 0) for place in range(number)]
        assert not tells([1 - event if place % 10 == 5 else event for place, event in enumerate(events)], events)


def test_a_category_of_everyone_but_one_is_no_outcome():
    """Of an event that is rare, a variable that is nearly constant agrees with it in nearly everyone."""
    assert not tells(["UCC"] * 99 + ["other"], [0] * 95 + [1] * 5)
    assert not tells([None] * 99 + ["other"], [0] * 95 + [1] * 5)
    assert not tells(["yes"] * 3 + ["no"] * 7, [1] * 3 + [0] * 7)  # too few for a coincidence to be none


def test_a_variable_kept_must_exist(root):
    with pytest.raises(InputError, match="unknown clinical variable 'visit'"):
        prepared(root, keep=("visit",))


def test_covariates_of_any_strength_below_that_are_taken():
    """A strong covariate: concordance with the times of about 0.8."""
    random = np.random.default_rng(1)
    times = random.exponential(40.0, 200)
    events = random.random(200) < 0.5
    patients = [{"marker": float(value)} for value in np.log(times) + random.normal(0.0, 0.8, 200)]
    check_no_outcomes(patients, times, events, TASK)


# Outcomes tables


def test_days_are_refused_with_a_proposal(root):
    edit_patients(root, lambda _, v: {TIME: round(v[TIME] * 30.4375) + 1200})
    with pytest.raises(InputError, match=r"60 patients \(.*below 1,200; if these are days, use --time-unit days \(f"):
        prepared(root)


def test_times_that_are_probably_days_are_refused_wherever_outcomes_are_read(root, tmp_path, capsys):
    """Days below 1,200 pass for months; a median of 240 months is 20 years, of less nothing is said."""
    rows, table, predictions = outcomes_of(root), tmp_path / "o.csv", tmp_path / "p.csv"
    predictions.write_text("case_id,risk,months\n" + "".join(f"{name},{-t},{t}\n" for name, t, _ in rows))
    refused = "median follow-up of 240 months; if these are days, use --time-unit days, and if not, --time-unit months"
    for low in (211, 210):
        days = [low + place for place in range(len(rows))]
        table.write_text(
            "case_id,time,event\n" + "".join(f"{r[0]},{d},{r[2]}\n" for r, d in zip(rows, days, strict=True))
        )
        edit_patients(root, lambda place, _, days=days: {TIME: days[place]})
        for read in (
            lambda: read_cohort(root, tmp_path / "cache", None, ["clinical"]),
            lambda: read_cohort(root, tmp_path / "cache", table, ["clinical"]),
            lambda: survfuse.evaluate(predictions, table, draws=2),
        ):
            if low == 210:
                read()
                continue
            with pytest.raises(InputError, match=refused):
                read()
        read_cohort(root, tmp_path / "cache", None, ["clinical"], with_outcomes=False)
        read_cohort(root, tmp_path / "cache", None, ["clinical"], columns=OutcomeColumns(unit="days"))
        stated = read_cohort(root, tmp_path / "cache", table, ["clinical"], columns=OutcomeColumns(unit="months"))
        assert stated.times.tolist() == days
        said = capsys.readouterr()
        assert f"longest follow-up of {days[-1] / 30.4375:.3g} months; if these are months or years" in said.out
        assert said.err == "survfuse: warning: median follow-up of 240 months\n" * (low == 211)


def test_numbers_and_events_as_text_are_numbers(root):
    before = prepared(root).cohort
    edit_patients(root, lambda place, v: {TIME: f"{v[TIME]}.0", EVENT: str(v[EVENT]) if place % 2 else bool(v[EVENT])})
    after = prepared(root).cohort
    assert np.array_equal(before.times, after.times) and np.array_equal(before.events, after.events)


def dialects(rows: list[tuple[str, float, int]]) -> dict[str, str]:
    lines = [f"{name},{time},{event}" for name, time, event in rows]
    plain = "\n".join(["case_id,Time,Progression", *lines]) + "\n"
    return {
        "blank row": plain + ",,\n\n",
        "a blank column": "".join(line + ",\n" for line in plain.splitlines()),
        "two blank columns": "".join(line + ",,\n" for line in plain.splitlines()),
        "a repeated row": plain + lines[0] + "\n",
        "true and false": plain.replace(",1\n", ",True\n").replace(",0\n", ",FALSE\n"),
        "byte-order mark and CRLF": "\ufeff" + plain.replace("\n", "\r\n"),
        "quoted": "".join('"' + line.replace(",", '","') + '"\n' for line in plain.splitlines()),
    }


@pytest.mark.parametrize("name", dialects([("x", 1.0, 1)]))
def test_train_and_evaluate_read_one_table_alike(root, tmp_path, name):
    rows = outcomes_of(root)
    table = tmp_path / "outcomes.csv"
    table.write_text(dialects(rows)[name], newline="")
    edit_patients(root, lambda *_: {EVENT: None, TIME: None})
    patients = read_cohort(root, tmp_path / "cache", table, ["clinical"])
    assert [(n, t, e) for n, t, e in zip(patients.ids, patients.times, patients.events, strict=True)] == rows
    predictions = tmp_path / "p.csv"
    with predictions.open("w", newline="") as file:
        csv.writer(file).writerows([("case_id", "risk", "months"), *((n, -t, t) for n, t, _ in rows)])
    found = survfuse.evaluate(predictions, table, draws=10)
    assert (found["patients"], found["events"]) == (len(rows), sum(event for *_, event in rows))
    assert found["challenge_concordance"]["value"] > 0.99


def test_contradictory_rows_are_refused_by_both(tmp_path):
    table = tmp_path / "outcomes.csv"
    table.write_text("case_id,time,event\na,10,1\na,11,1\n")
    problems = Problems()
    read_outcomes(table, TASK.outcome, problems)
    assert [str(problem) for problem in problems.listed] == [
        "a: outcomes.csv, line 3: its outcome differs from an earlier line"
    ]
