"""A simulated cohort in CHIMERA's published layout, with a stated hazard.

Structure (which gene belongs to which programme, what a phenotype's tiles look like, the hazard) is the same for
every seed; the seed draws patients. So a model trained on one simulated cohort can be tested on another.
Everything drawn here is invented: it tests software, and says nothing about patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from survfuse.cohort.read import SIMULATION_FILE
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import write_json
from survfuse.runtime.log import progress
from survfuse.tasks.chimera3 import OUTCOME_KEYS

_STRUCTURE_SEED = 20260513
PROGRAMMES = 8  # groups of genes that vary together
PHENOTYPES = 5  # kinds of tissue; the first is the aggressive one
UNTISSUED_DIMENSION = 1024  # of drawn features, where no slide lends real ones

# Log hazard per unit of each standardised covariate.
MAIN_EFFECTS = {"aggressive_share": 0.6, "programme_1": 0.6, "programme_2": -0.4, "age": 0.3, "T1": 0.5, "LVI": 0.5}
INTERACTIONS = {"aggressive_share × programme_1": 0.6, "programme_2 × T1": 0.6}
WEIBULL_SHAPE = 1.2
MEDIAN_MONTHS = 150.0  # of a patient of average hazard
LATEST_ENTRY, LATEST_END = 10.0, 170.0  # months: follow-up ends evenly between them


@dataclass(frozen=True)
class Patients:
    """n simulated patients' hidden state; standard normal but for the two indicators."""

    aggressive: Floats  # [n] logit share of aggressive tissue
    programmes: Floats  # [n, PROGRAMMES]
    age: Floats  # [n]
    t1: NDArray[np.bool_]  # [n]
    lvi: NDArray[np.bool_]  # [n]

    @classmethod
    def draw(cls, number: int, random: np.random.Generator) -> "Patients":
        return cls(
            random.standard_normal(number),
            random.standard_normal((number, PROGRAMMES)),
            random.standard_normal(number),
            random.random(number) < 0.7,
            random.random(number) < 0.15,
        )

    def log_hazard(self, interaction: float) -> Floats:
        """The true log hazard [n]: main effects, and ``interaction`` times the interactions."""
        stage, first, second = self.t1 - 0.7, self.programmes[:, 0], self.programmes[:, 1]
        covariates = (self.aggressive, first, second, self.age, stage, self.lvi - 0.15)
        main = sum(effect * value for effect, value in zip(MAIN_EFFECTS.values(), covariates, strict=True))
        products = (self.aggressive * first, second * stage)
        joint = sum(effect * value for effect, value in zip(INTERACTIONS.values(), products, strict=True))
        return np.asarray(main + interaction * joint)


@dataclass(frozen=True)
class Drawn:
    """A simulated cohort before it is written: n patients, their outcomes and what a cohort's files hold of them."""

    log_hazard: Floats  # [n], the truth
    times: NDArray[np.int64]  # [n] months
    events: NDArray[np.bool_]  # [n]
    symbols: list[str]  # [G]
    expression: Floats  # [n, G]
    clinical: list[dict[str, str | int]]  # n
    bags: Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]  # n × (features [N, D], coordinates [N, 2])


def draw(
    number: int,
    seed: int,
    genes: int | None = None,
    tiles: int = 64,
    interaction: float = 1.0,
    phenotypes: list[Floats] | None = None,
) -> Drawn:
    """``number`` patients of ``seed``; ``phenotypes`` are examples [k, D] of each kind of tissue's tiles, drawn ones of
    length 1,024 if None. Raises InputError for numbers that make no cohort."""
    if number < 1 or tiles < 1 or seed < 0 or (genes is not None and genes < PROGRAMMES):
        raise InputError(f"expected at least 1 patient, 1 tile and {PROGRAMMES} genes, and a seed of at least 0")
    # A stream for each part: the same patients come with more genes or larger bags.
    streams = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(5)]
    patients = Patients.draw(number, streams[0])
    hazard = patients.log_hazard(interaction)
    times, events = _outcomes(hazard, streams[1])
    symbols = _symbols(genes)
    examples = phenotypes if phenotypes is not None else drawn_phenotypes()
    return Drawn(
        hazard,
        times,
        events,
        symbols,
        _expression(patients, len(symbols), streams[2]),
        _clinical(patients, streams[3]),
        (_bag(share, tiles, examples, streams[4]) for share in patients.aggressive),
    )


def simulate(
    root: Path,
    number: int,
    seed: int,
    genes: int | None = None,
    tiles: int = 64,
    interaction: float = 1.0,
    tissue: Path | None = None,
) -> None:
    """Write a cohort of ``number`` patients under ``root``, which must be empty or absent.

    ``genes`` expression values each (default: all real symbols known here; more are numbered), about ``tiles``
    tiles a bag. With ``tissue``, bags are drawn from the embedded encoder's features of that slide; otherwise
    they are random vectors of length 1,024. The truth is written to simulation.json.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: not empty; a cohort is written to a folder of its own")
    drawn = draw(number, seed, genes, tiles, interaction, None if tissue is None else _tissue_phenotypes(tissue))
    names = [f"3S_{place + 1:0{len(str(number))}}" for place in range(number)]
    for folder in ("features/features", "features/coordinates"):
        (root / folder).mkdir(parents=True)
    for place, name in enumerate(progress(names, number, "simulating")):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        outcome = dict(zip(OUTCOME_KEYS, (int(drawn.events[place]), int(drawn.times[place])), strict=True))
        write_json(folder / f"{name}_CD.json", drawn.clinical[place] | outcome)
        expression = dict(zip(drawn.symbols, drawn.expression[place].tolist(), strict=True))
        write_json(folder / f"{name}_RNA.json", expression, indent=None)
        bag, coordinates = next(drawn.bags)
        torch.save(torch.from_numpy(bag), root / "features/features" / f"{name}_HE.pt")
        np.save(root / "features/coordinates" / f"{name}_HE.npy", coordinates)
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


def _outcomes(log_hazard: Floats, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Whole months [n] and events [n]: Weibull times under proportional hazards, uniform end of follow-up."""
    scale = MEDIAN_MONTHS / np.log(2.0) ** (1.0 / WEIBULL_SHAPE)
    progression = scale * (random.exponential(size=len(log_hazard)) / np.exp(log_hazard)) ** (1.0 / WEIBULL_SHAPE)
    end = random.uniform(LATEST_ENTRY, LATEST_END, len(log_hazard))
    return np.ceil(np.minimum(progression, end)).astype(np.int64), progression <= end


def _symbols(number: int | None) -> list[str]:
    known = resources.files("survfuse.cohort").joinpath("simulated_genes.txt").read_text().split()
    number = len(known) if number is None else number
    return known[:number] + [f"SIMULATED{place}" for place in range(1, number - len(known) + 1)]


def _expression(patients: Patients, genes: int, random: np.random.Generator) -> Floats:
    """Expression [n, genes] ≥ 0, unnormalised: log-normal around programmes, times each patient's library size."""
    structure = np.random.default_rng(_STRUCTURE_SEED)
    level = structure.normal(3.0, 1.5, genes)
    loading = np.zeros((PROGRAMMES, genes))
    loading[structure.integers(PROGRAMMES, size=genes), np.arange(genes)] = structure.normal(0.0, 0.5, genes)
    number = len(patients.age)
    logged = level + patients.programmes @ loading + 0.4 * random.standard_normal((number, genes))
    library = random.normal(0.0, 0.15, (number, 1))
    return np.round(np.maximum(np.exp(logged + library) - 1.0, 0.0), 3)


def _clinical(patients: Patients, random: np.random.Generator) -> list[dict[str, str | int]]:
    """Clinical variables of each patient as CHIMERA writes them, -1 where unknown."""
    number = len(patients.age)

    def drawn(categories: tuple[str, ...], shares: tuple[float, ...]) -> list[str]:
        return random.choice(categories, size=number, p=shares).tolist()

    instillations = np.clip(np.rint(random.normal(20.0, 8.0, number)), 5, 40).astype(int)
    instillations[random.random(number) < 0.05] = -1
    age = np.clip(np.rint(68.9 + 9.0 * patients.age), 30, 95).astype(int)
    substage = np.where(patients.t1, drawn(("T1e", "T1m", "-1"), (0.45, 0.35, 0.20)), "-1").tolist()
    lvi = np.where(random.random(number) < 0.2, "-1", np.where(patients.lvi, "Yes", "No")).tolist()
    subtype = 1 + np.digitize(patients.programmes[:, 0] + 0.5 * random.standard_normal(number), (-0.4, 0.6))
    sex, smoking = drawn(("Male", "Female"), (0.79, 0.21)), drawn(("Yes", "No", "-1"), (0.55, 0.35, 0.10))
    grade, again = drawn(("G3", "G2"), (0.9, 0.1)), drawn(("Yes", "No"), (0.7, 0.3))
    variant, eortc = drawn(("UCC", "UCC + Variant"), (0.87, 0.13)), drawn(("High risk", "Highest risk"), (0.6, 0.4))
    return [
        {
            "age": int(age[place]),
            "no_instillations": int(instillations[place]),
            "sex": sex[place],
            "smoking": smoking[place],
            "tumor": "Primary",
            "stage": "T1HG" if patients.t1[place] else "TaHG",
            "substage": substage[place],
            "grade": grade[place],
            "reTUR": again[place],
            "LVI": lvi[place],
            "variant": variant[place],
            "EORTC": eortc[place],
            "BRS": f"BRS{subtype[place]}",
        }
        for place in range(number)
    ]


def drawn_phenotypes(dimension: int = UNTISSUED_DIMENSION) -> list[Floats]:
    """Examples [40, dimension] of each phenotype's tiles, drawn around a centre of its own; 1,024 at most."""
    structure = np.random.default_rng(_STRUCTURE_SEED)
    centres = structure.standard_normal((PHENOTYPES, 1, UNTISSUED_DIMENSION))
    examples = centres + 0.7 * structure.standard_normal((PHENOTYPES, 40, UNTISSUED_DIMENSION))
    return list(examples[:, :, :dimension])


def _tissue_phenotypes(path: Path) -> list[Floats]:
    """Examples of each phenotype from a real slide: its tiles' features in all eight orientations, clustered."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    features = _orientations(path)
    if len(features) < 8 * PHENOTYPES:
        raise InputError(f"{path.name}: {len(features) // 8} tissue tiles, expected at least {PHENOTYPES}")
    # One thread: the sums behind the clusters come out in one order on every machine.
    with threadpool_limits(1):
        labels = KMeans(PHENOTYPES, n_init=10, random_state=_STRUCTURE_SEED).fit_predict(features)
    # The smallest cluster is the aggressive phenotype, so that the choice does not hang on the labels' order.
    by_size = np.argsort(np.bincount(labels, minlength=PHENOTYPES), kind="stable")
    return [features[labels == label] for label in by_size]


def _orientations(path: Path) -> Floats:
    """The embedded encoder's features [8 N, D] of a slide's N tissue tiles at 1 µm/px, turned and mirrored.

    Tiles start at every half side, for a small slide has few that stand side by side.
    """
    from survfuse.slide.encode import read_ahead
    from survfuse.slide.encoders import load_encoder
    from survfuse.slide.grid import Grid
    from survfuse.slide.pixels import Slide
    from survfuse.slide.tissue import find_tissue

    encoder = load_encoder("efficientnet-lite0", None, torch.device("cpu"))
    with Slide(path) as slide:
        grid = Grid.over(slide.size, slide.mpp, encoder.spec.input_px, 1.0, starts=2)
        origins = find_tissue(slide, grid, None, 0.5).origins
        features = []
        for tiles in read_ahead(slide, grid, origins, encoder.spec.input_px, encoder.batch):
            for turns in range(4):
                turned = tiles.rot90(turns, dims=(1, 2))
                features += [encoder(turned), encoder(turned.flip(2))]
    return torch.cat(features).double().numpy()


def _bag(
    aggressive: float, tiles: int, phenotypes: list[Floats], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features [N, D] and level-0 coordinates [N, 2] of one patient's bag, N within a quarter of ``tiles``.

    Every tile lies between two examples of its phenotype, a little off the line.
    """
    number = max(1, round(tiles * random.uniform(0.75, 1.25)))
    logits = random.normal(0.0, 0.5, PHENOTYPES)
    logits[0] = 0.2 + 1.2 * aggressive
    shares = np.exp(logits) / np.exp(logits).sum()
    kinds = random.choice(PHENOTYPES, size=number, p=shares)
    bag = np.empty((number, phenotypes[0].shape[1]), dtype=np.float32)
    for row, kind in enumerate(kinds):
        examples = phenotypes[kind]
        first, second = examples[random.integers(len(examples), size=2)]
        mix = random.random()
        jitter = 0.1 * examples.std(axis=0) * random.standard_normal(bag.shape[1])
        bag[row] = mix * first + (1.0 - mix) * second + jitter
    across = int(np.ceil(np.sqrt(number)))
    places = np.arange(number)
    return bag, 448 * np.stack([places % across, places // across], axis=1)
