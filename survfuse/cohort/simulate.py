"""A simulated cohort in the task's first layout, with a known hazard.

The structure (which gene belongs to which programme, what the tiles of a phenotype look like, the hazard) is the same
for every seed; the seed draws the patients. A model trained on one simulated cohort can therefore be tested on
another. All values are invented: they test software and say nothing about patients.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.inputs.slide_vectors import write_vector
from survfuse.runtime.arrays import Bools, Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import write_json, write_text
from survfuse.runtime.log import progress
from survfuse.slide.vector_settings import MOST_NUMBERS
from survfuse.tasks.registry import DEFAULT
from survfuse.tasks.task import SimulatedTraits, Task

_STRUCTURE_SEED = 20260513
PROGRAMMES = 8  # groups of genes that vary together
PHENOTYPES = 5  # kinds of tissue; the first is the aggressive one
UNTISSUED_DIMENSION = 1024  # of features drawn without a slide
VECTOR_ENCODER = "simulated"  # named in the files of slide-level vectors

# Log hazard ratio per unit of each standardised covariate.
MAIN_EFFECTS = {
    "aggressive_share": 0.6,
    "programme_1": 0.6,
    "programme_2": -0.4,
    "age": 0.3,
    "stage": 0.5,
    "invasion": 0.5,
}
INTERACTIONS = {"aggressive_share × programme_1": 0.6, "programme_2 × stage": 0.6}
WEIBULL_SHAPE = 1.2
MEDIAN_MONTHS = 150.0  # to the event, of a patient of average hazard
LATEST_ENTRY, LATEST_END = 10.0, 170.0  # months; follow-up ends at a uniform time between them


class SimulatedBag(NamedTuple):
    """The tiles of one patient."""

    features: NDArray[np.float32]  # [N, D]
    coordinates: NDArray[np.int64]  # [N, 2] level-0 pixels
    kinds: NDArray[np.int64]  # [N] the phenotype of each tile; 0 is the aggressive one


OUTCOMES_CSV = "outcomes.csv"


@dataclass(frozen=True)
class Patients:
    """Hidden state of n simulated patients: standard normal, except for the two indicators."""

    aggressive: Floats  # [n] logit share of aggressive tissue
    programmes: Floats  # [n, PROGRAMMES]
    age: Floats  # [n]
    advanced: Bools  # [n] an advanced stage
    invasive: Bools  # [n] lymphovascular invasion

    @classmethod
    def draw(cls, number: int, random: np.random.Generator) -> "Patients":
        """``number`` patients drawn from ``random``."""
        return cls(
            random.standard_normal(number),
            random.standard_normal((number, PROGRAMMES)),
            random.standard_normal(number),
            random.random(number) < 0.7,
            random.random(number) < 0.15,
        )

    def log_hazard(self, interaction: float) -> Floats:
        """The true log hazard ratio [n]: the main effects plus ``interaction`` times the interactions."""
        stage, first, second = self.advanced - 0.7, self.programmes[:, 0], self.programmes[:, 1]
        covariates = (self.aggressive, first, second, self.age, stage, self.invasive - 0.15)
        main = sum(effect * value for effect, value in zip(MAIN_EFFECTS.values(), covariates, strict=True))
        products = (self.aggressive * first, second * stage)
        joint = sum(effect * value for effect, value in zip(INTERACTIONS.values(), products, strict=True))
        return np.asarray(main + interaction * joint)


@dataclass(frozen=True)
class Drawn:
    """A simulated cohort before it is written: n patients, their outcomes and what their files will hold."""

    log_hazard: Floats  # [n], the truth
    times: NDArray[np.int64]  # [n] whole months
    events: Bools  # [n]
    symbols: list[str]  # [G]
    expression: Floats  # [n, G]
    clinical: Sequence[Mapping[str, str | int]]  # n
    bags: Iterator[SimulatedBag]  # n, drawn as they are needed
    vectors: Floats  # [n, V], slide-level


def draw(
    number: int,
    seed: int,
    genes: int | None = None,
    tiles: int = 64,
    interaction: float = 1.0,
    phenotypes: Sequence[Floats] | None = None,
    task: Task = DEFAULT,
    vector_length: int = 0,
) -> Drawn:
    """A cohort of ``number`` patients drawn with ``seed``.

    ``genes``, ``tiles``, ``interaction`` and ``vector_length`` are those of ``simulate``. ``phenotypes`` holds example
    tiles [k, D] of each kind of tissue; ``drawn_phenotypes`` if None. Raises InputError for numbers that do not make a
    cohort.
    """
    if number < 1 or tiles < 1 or seed < 0 or (genes is not None and genes < PROGRAMMES):
        raise InputError(f"expected at least 1 patient, 1 tile and {PROGRAMMES} genes, and a seed of at least 0")
    if not 0 <= vector_length <= MOST_NUMBERS:
        raise InputError(f"expected slide-level vectors of 0 to {MOST_NUMBERS:,} numbers")
    # A random stream for each part, so that the patients are the same with more genes, larger bags or vectors.
    streams = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(6)]
    patients = Patients.draw(number, streams[0])
    hazard = patients.log_hazard(interaction)
    times, events = _outcomes(hazard, streams[1])
    symbols = _symbols(genes)
    examples = phenotypes if phenotypes is not None else drawn_phenotypes()
    traits = SimulatedTraits(patients.age, patients.advanced, patients.invasive, patients.programmes[:, 0])
    return Drawn(
        hazard,
        times,
        events,
        symbols,
        _expression(patients, len(symbols), streams[2]),
        task.simulated_variables(traits, streams[3]),
        (_bag(share, tiles, examples, streams[4]) for share in patients.aggressive),
        _vectors(patients, vector_length, streams[5]),
    )


def simulate(
    root: Path,
    number: int,
    seed: int,
    genes: int | None = None,
    tiles: int = 64,
    interaction: float = 1.0,
    tissue: Path | None = None,
    task: Task = DEFAULT,
    vector_length: int = 0,
) -> None:
    """Write a cohort of ``number`` patients drawn with ``seed`` under ``root``, which must be empty or absent.

    Each patient has the expression of ``genes`` genes (all real symbols known here if None; further ones are
    numbered), about ``tiles`` tiles, and the clinical variables of ``task``; ``interaction`` multiplies the
    interactions in the hazard. With ``tissue``, a slide, tiles are drawn from the embedded encoder's features of that
    slide; without, they are random vectors of length 1,024. With a ``vector_length``, each slide has a slide-level
    vector of so many numbers as well. Outcomes are in each patient's clinical file and, for all, in outcomes.csv; the
    truth is written to simulation.json.

    Raises InputError if ``root`` is not empty, for numbers that do not make a cohort, and for a slide with too little
    tissue.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: not empty; expected an empty or absent folder for the cohort")
    phenotypes = None if tissue is None else _tissue_phenotypes(tissue)
    drawn = draw(number, seed, genes, tiles, interaction, phenotypes, task, vector_length)
    names = [f"{task.simulated_prefix}{place + 1:0{len(str(number))}}" for place in range(number)]
    layout = task.layouts[0]
    features = root / layout.features[0]
    coordinates = features.with_name("coordinates")
    for folder in (features, coordinates, *([root / layout.vectors] if vector_length else [])):
        folder.mkdir(parents=True)
    for place, name in enumerate(progress(names, number, "simulating")):
        for file in (layout.clinical, layout.expression):
            (root / file.format(id=name)).parent.mkdir(parents=True, exist_ok=True)
        outcome = dict(zip(task.outcome.keys, (int(drawn.events[place]), int(drawn.times[place])), strict=True))
        write_json(root / layout.clinical.format(id=name), {**drawn.clinical[place], **outcome})
        expression = dict(zip(drawn.symbols, drawn.expression[place].tolist(), strict=True))
        write_json(root / layout.expression.format(id=name), expression, indent=None)
        bag = next(drawn.bags)
        torch.save(torch.from_numpy(bag.features), features / f"{name}_HE.pt")
        np.save(coordinates / f"{name}_HE.npy", bag.coordinates)
        if vector_length:
            write_vector(root / layout.vectors / f"{name}_HE.h5", drawn.vectors[place], VECTOR_ENCODER)
    truth = {
        "what": "simulated patients; every value here is invented",
        "seed": seed,
        "interaction": interaction,
        "main_effects": MAIN_EFFECTS,
        "interactions": INTERACTIONS,
        "baseline": {"weibull_shape": WEIBULL_SHAPE, "median_months": MEDIAN_MONTHS},
        "features_of": tissue.name if tissue else None,
        "log_hazard": dict(zip(names, drawn.log_hazard.tolist(), strict=True)),
    }
    write_json(root / SIMULATION_FILE, truth)
    rows = zip(names, drawn.times.tolist(), drawn.events.astype(int).tolist(), strict=True)
    lines = "".join(f"{name},{time},{event}\n" for name, time, event in rows)
    write_text(root / OUTCOMES_CSV, f"case_id,time,event\n{lines}")


def _outcomes(log_hazard: Floats, random: np.random.Generator) -> tuple[NDArray[np.int64], Bools]:
    """Whole months [n] and events [n]: Weibull times with proportional hazards, uniform ends of follow-up.

    Times are drawn by inversion (Bender et al. 2005, Statistics in Medicine 24:1713).
    """
    scale = MEDIAN_MONTHS / np.log(2.0) ** (1.0 / WEIBULL_SHAPE)
    progression = scale * (random.exponential(size=len(log_hazard)) / np.exp(log_hazard)) ** (1.0 / WEIBULL_SHAPE)
    end = random.uniform(LATEST_ENTRY, LATEST_END, len(log_hazard))
    return np.ceil(np.minimum(progression, end)).astype(np.int64), progression <= end


def _symbols(number: int | None) -> list[str]:
    """The first ``number`` gene symbols, all real ones if None; beyond the real ones they are numbered."""
    known = resources.files("survfuse.cohort").joinpath("simulated_genes.txt").read_text().split()
    number = len(known) if number is None else number
    return known[:number] + [f"SIMULATED{place}" for place in range(1, number - len(known) + 1)]


def gene_structure(genes: int) -> tuple[Floats, Floats]:
    """The genes' mean levels [genes] and their loadings [PROGRAMMES, genes]; each belongs to one programme."""
    structure = np.random.default_rng(_STRUCTURE_SEED)
    level = structure.normal(3.0, 1.5, genes)
    loading = np.zeros((PROGRAMMES, genes))
    loading[structure.integers(PROGRAMMES, size=genes), np.arange(genes)] = structure.normal(0.0, 0.5, genes)
    return level, loading


def _expression(patients: Patients, genes: int, random: np.random.Generator) -> Floats:
    """Unnormalised expression [n, genes] ≥ 0: log-normal around the programmes, times the patient's library size."""
    level, loading = gene_structure(genes)
    number = len(patients.age)
    logged = level + patients.programmes @ loading + 0.4 * random.standard_normal((number, genes))
    library = random.normal(0.0, 0.15, (number, 1))
    values: Floats = np.maximum(np.exp(logged + library) - 1.0, 0.0)
    return np.round(values, 3)


def drawn_phenotypes(dimension: int = UNTISSUED_DIMENSION) -> list[Floats]:
    """Example tiles [40, dimension] of each phenotype, drawn around its own centre; ``dimension`` is 1,024 at most."""
    structure = np.random.default_rng(_STRUCTURE_SEED)
    centres = structure.standard_normal((PHENOTYPES, 1, UNTISSUED_DIMENSION))
    examples = centres + 0.7 * structure.standard_normal((PHENOTYPES, 40, UNTISSUED_DIMENSION))
    return list(examples[:, :, :dimension])


def _tissue_phenotypes(path: Path) -> list[Floats]:
    """Example tiles [k, D] of each phenotype from a real slide: clusters of its tiles in all eight orientations."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    features = _orientations(path)
    if len(features) < 8 * PHENOTYPES:
        raise InputError(f"{path.name}: {len(features) // 8} tissue tiles, expected at least {PHENOTYPES}")
    # One thread: sums then have the same order, and clusters the same centres, on every machine.
    with threadpool_limits(1):
        labels = KMeans(PHENOTYPES, n_init=10, random_state=_STRUCTURE_SEED).fit_predict(features)
    # The smallest cluster is the aggressive phenotype, whatever the order of the labels.
    by_size = np.argsort(np.bincount(labels, minlength=PHENOTYPES), kind="stable")
    return [features[labels == label] for label in by_size]


def _orientations(path: Path) -> Floats:
    """The embedded encoder's features [8 N, D] of a slide's N tissue tiles at 1 µm/px, rotated and mirrored.

    Tiles overlap by half a side, because a small slide has few that do not overlap.
    """
    from survfuse.slide.encoders import load_encoder
    from survfuse.slide.grid import Grid
    from survfuse.slide.pixels import Slide
    from survfuse.slide.read_ahead import read_ahead
    from survfuse.slide.tissue import find_tissue

    encoder = load_encoder("efficientnet-lite0", None, torch.device("cpu"))
    with Slide(path) as slide:
        grid = Grid.over(slide.size, slide.mpp, encoder.spec.input_px, 1.0, starts=2, name=slide.name)
        origins = find_tissue(slide, grid, None, 0.5).origins
        features = []
        for tiles in read_ahead(slide, grid, origins, encoder.spec.input_px, encoder.batch):
            for turns in range(4):
                turned = tiles.rot90(turns, dims=(1, 2))
                features += [encoder(turned), encoder(turned.flip(2))]
    orientations: Floats = torch.cat(features).double().numpy()
    return orientations


def _vectors(patients: Patients, length: int, random: np.random.Generator) -> Floats:
    """Slide-level vectors [n, length]: the share of aggressive tissue and other traits of the slide, along directions
    that are the same for every seed, and noise."""
    directions = np.random.default_rng(_STRUCTURE_SEED).standard_normal((PHENOTYPES, length))
    traits = random.standard_normal((len(patients.age), PHENOTYPES))
    traits[:, 0] = patients.aggressive
    vectors: Floats = traits @ directions + random.standard_normal((len(patients.age), length))
    return vectors


def _bag(aggressive: float, tiles: int, phenotypes: Sequence[Floats], random: np.random.Generator) -> SimulatedBag:
    """One patient's bag of N tiles, N within a quarter of ``tiles``.

    A larger ``aggressive`` gives more tiles of the aggressive phenotype. Each tile lies between two example tiles of
    its phenotype, with some noise.
    """
    number = max(1, round(tiles * random.uniform(0.75, 1.25)))
    logits = random.normal(0.0, 0.5, PHENOTYPES)
    logits[0] = 0.2 + 1.2 * aggressive
    shares = np.exp(logits) / np.exp(logits).sum()
    kinds = random.choice(PHENOTYPES, size=number, p=shares)
    features = np.empty((number, phenotypes[0].shape[1]), dtype=np.float32)
    for row, kind in enumerate(kinds):
        examples = phenotypes[kind]
        first, second = examples[random.integers(len(examples), size=2)]
        mix = random.random()
        jitter = 0.1 * examples.std(axis=0) * random.standard_normal(features.shape[1])
        features[row] = mix * first + (1.0 - mix) * second + jitter
    across = int(np.ceil(np.sqrt(number)))
    places = np.arange(number)
    return SimulatedBag(features, 448 * np.stack([places % across, places // across], axis=1), kinds)
