"""`make gpu-check`, with the CPU in a GPU's place: its comparisons pass, and each fails on an error that is planted."""

import doctest
import json
import os
import re
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import gpu
import gpu_checks
import gpu_encoders
import gpu_results
import gpu_training
import numpy as np
import pytest
import torch
from conftest import CASES, ROOT
from gpu_checks import FAMILIES, explanation_checks, family_checks, job_checks, precisions
from gpu_encoders import encoder_checks, memory_limited, peak_bytes, same_features, shrinking
from gpu_results import Clock, Compared, Failed, Item, Report, Result, Row, Skipped, failures, line, results_of
from gpu_shared import strictly_deterministic
from gpu_training import training_checks
from pretended_gpu import SECOND, pretended_gpu

import survfuse.runtime.device as device
from survfuse.explanation.explanation import Explainer
from survfuse.networks.sizes import Sizes
from survfuse.prediction.predictor import Predictor
from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import ENCODERS

CPU = torch.device("cpu")
LIGHT = ENCODERS["efficientnet-lite0"]
SMALL = Sizes(tile=12, bag=8, attention=4, genes=9, rna=(8, 6), clinical=5, vector=7)
GOOD = Compared("kind", "good", 1.0, 2.0, "figure")


def failed(results: Iterator[Result]) -> list[str]:
    """What of ``results`` failed, after something was compared."""
    found = list(results)
    assert any(isinstance(result, Compared) for result in found)
    assert not any(isinstance(result, Skipped) for result in found)
    return [result.what if isinstance(result, Failed) else f"{result.kind}: {result.of}" for result in failures(found)]


class Noisy(torch.nn.Module):
    """A network whose features differ each time by rounding alone."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._network, self._calls = network, 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        return self._network(pixels) * (1.0 + 2.0**-22 * self._calls)


class Narrow(torch.nn.Module):
    """A network whose memory is too small for more than ``most`` tiles; ``drift`` is an error of small batches."""

    def __init__(self, most: int, drift: float = 0.0) -> None:
        super().__init__()
        self.most, self._drift = most, drift

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return pixels.mean(dim=(2, 3)) * (1.0 + self._drift * (len(pixels) < 8))


def narrow(network: Narrow) -> tuple[Encoder, Callable[[], object]]:
    """An encoder of ``network``, and a context in which its memory is as small as it says."""
    most, network.most = network.most, 100

    @contextmanager
    def limited() -> Iterator[None]:
        network.most = most
        yield

    return Encoder(replace(LIGHT, convolutional=False), network, CPU), limited


def test_an_encoder_agrees_with_itself_and_gives_the_same_bytes_twice():
    _, results = encoder_checks("efficientnet-lite0", CPU, tiles=2)
    assert failed(results) == []


def test_an_encoder_that_is_off_by_a_little_fails():
    encoder, results = encoder_checks("efficientnet-lite0", CPU, tiles=2)
    with torch.no_grad():
        next(encoder.network.parameters()).mul_(1.0 + 1e-3)
    assert failed(results) == ["encoders, float32: a tile's features, relative"]


def test_features_that_differ_by_rounding_from_one_time_to_the_next_fail():
    encoder = Encoder(replace(LIGHT, convolutional=False), Noisy(Narrow(100)), CPU)
    tiles = torch.full((2, 4, 4, 3), 200, dtype=torch.uint8)
    assert failed(same_features(encoder, tiles)) == ["encoders, twice: values that differ"]


def test_half_precision_beyond_its_limit_fails_where_it_is_allowed(monkeypatch):
    """efficientnet-lite0 is not allowed it: what it costs there is a figure."""
    encoder, _ = encoder_checks("efficientnet-lite0", CPU, tiles=2)
    tiles = gpu_encoders.tiles_of(224, 2)
    exact = encoder(tiles)
    monkeypatch.setitem(gpu_encoders.FEATURES, torch.bfloat16, 1e-6)
    assert failures(gpu_encoders.agreement(encoder, tiles, exact)) == []
    encoder.spec = replace(LIGHT, half_cpu=True)
    found = list(gpu_encoders.agreement(encoder, tiles, exact))
    assert [result.kind for result in failures(found)] == ["encoders, bfloat16"]
    (row,) = (result for result in found if isinstance(result, Row))
    assert float(row.cells["lowest cosine"]) <= float(row.cells["mean cosine"]) < 1.0


def test_a_batch_shrinks_where_memory_is_too_small_and_keeps_its_features():
    tiles = torch.randint(0, 255, (16, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder, limited = narrow(Narrow(5))
    before = encoder.batch
    assert failed(shrinking(encoder, tiles, limited)) == []
    assert encoder.batch == before
    encoder, _ = narrow(Narrow(100))
    assert [name.split(": ")[1] for name in failed(shrinking(encoder, tiles, nullcontext))] == ["tiles at a time"]
    encoder, limited = narrow(Narrow(5, drift=1e-3))
    assert [name.split(": ")[1] for name in failed(shrinking(encoder, tiles, limited))] == [
        "a tile's features, relative"
    ]


def test_memory_is_limited_to_what_is_held_and_some_bytes_and_set_free_again(monkeypatch):
    shares: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Namespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, number: shares.append((share, number))
    )
    with pytest.raises(RuntimeError, match="within"), memory_limited(torch.device("cuda"), 200):
        raise RuntimeError("within")
    assert shares == [(0.5, 3), (1.0, 3)]


def test_the_peak_of_an_action_is_what_it_holds_beside_what_was_held_before(monkeypatch):
    held, asked = {"now": 300, "peak": 900}, []

    def reset(where: torch.device) -> None:
        asked.append(where)
        held["peak"] = held["now"]

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: held["peak"])
    assert peak_bytes(SECOND, lambda: held.update(peak=750)) == 450
    assert set(asked) == {SECOND}


def test_an_encoder_in_another_precision_than_its_entry_says_fails(monkeypatch):
    assert failed(precisions(CPU)) == []
    monkeypatch.setattr(gpu_checks, "encoder_precision", lambda *_: torch.float16)
    assert failed(precisions(CPU)) == ["precision: encoders in another one"]


@pytest.mark.parametrize("family", ["bilinear", "slide+vector", "cox"])
def test_a_member_agrees_with_itself_and_one_with_another_weight_fails(monkeypatch, family):
    monkeypatch.setattr(gpu_checks, "BAG", 40)
    assert failed(family_checks(FAMILIES[family], CPU, sizes=SMALL)) == []
    slide = "bag.project.weight" if family != "cox" else "centres"

    def changed(member):
        state = member.state | {slide: member.state[slide] * (1.0 + 1e-4) + (family == "cox")}
        return replace(member, state=state)

    found = failed(family_checks(FAMILIES[family], CPU, changed, SMALL))
    assert "families, float32: a risk, in standard deviations" in found
    assert family == "cox" or "families, float32: the slide's vector, relative" in found


def test_half_precision_that_moves_a_slides_vector_too_far_fails(monkeypatch):
    monkeypatch.setattr(gpu_checks, "BAG", 40)
    monkeypatch.setattr(gpu_checks, "SLIDE_VECTOR", 1e-7)
    found = failed(family_checks(FAMILIES["slide"], CPU, sizes=SMALL))
    assert found == ["families, fp16: the slide's vector, relative"]


def test_a_job_agrees_with_itself_and_one_that_drifts_fails(monkeypatch):
    assert failed(job_checks(CASES / "interf1", CPU)) == []
    predict, calls = Predictor.predict, []

    def drifting(self, case, **options):
        calls.append(case)
        found = predict(self, case, **options)
        return replace(found, risk=found.risk + 1e-5 * len(calls), months=found.months * 1.01 ** len(calls))

    monkeypatch.setattr(Predictor, "predict", drifting)
    assert failed(job_checks(CASES / "interf1", CPU)) == [
        "jobs, with a time limit: the risk, in standard deviations",
        "jobs: the risk, in standard deviations",
        "jobs: months, relative",
        "jobs, twice: values that differ",
    ]


def test_an_explanation_agrees_with_itself_and_one_with_another_part_fails(monkeypatch):
    assert failed(explanation_checks(CASES / "interf1", CPU)) == []
    parts = iter([np.zeros(3), np.array([0.0, 2e-3, 0.0])])
    monkeypatch.setattr(Explainer, "explain", lambda *_: None)
    monkeypatch.setattr(gpu_checks, "_parts", lambda _: next(parts))
    assert failed(explanation_checks(CASES / "interf1", CPU)) == [
        "explanations: a part of the risk, in standard deviations"
    ]


def test_another_gpu_is_checked_where_there_is_one(monkeypatch):
    checked = []
    monkeypatch.setattr(gpu_checks, "job_checks", lambda case, where: checked.append((case.name, where)) or [GOOD])
    monkeypatch.setattr(gpu_checks, "training_checks", lambda family, where: checked.append((family.name, where)) or [])
    monkeypatch.setattr(gpu_checks, "chosen_devices", lambda _: (torch.device("cuda"),))
    assert list(gpu_checks.another_gpu(CPU)) == [Skipped("another GPU", "there is only one")]
    two = (torch.device("cuda:0"), SECOND)
    monkeypatch.setattr(gpu_checks, "chosen_devices", lambda _: two)
    assert list(gpu_checks.another_gpu(CPU)) == [GOOD, GOOD]
    assert checked == [("interf0", SECOND), ("interf1", SECOND), ("bilinear", SECOND)]


def test_training_agrees_with_itself_and_from_other_weights_it_fails(monkeypatch):
    family = FAMILIES["vector+clinical"]
    assert failed(training_checks(family, CPU)) == []
    first, last = "training: the first epoch's loss, relative", "training: risks at the end, in standard deviations"
    assert failed(training_checks(family, CPU, seed_here=100)) == [first, last]
    fitted, seeds = gpu_training.fitted, iter([0, 0, 1])
    monkeypatch.setattr(gpu_training, "fitted", lambda family, where, *_: fitted(family, where, next(seeds)))
    assert failed(training_checks(family, CPU)) == ["training, twice: weights that differ"]


def test_every_tensor_of_a_check_is_where_its_operation_needs_it(monkeypatch):
    """On a pretended GPU, the second of two: its numbers mean nothing, but an operation on two devices would raise."""
    monkeypatch.setattr(gpu_checks, "BAG", 40)
    with pretended_gpu(gpu=SECOND) as second:
        found = [*encoder_checks("efficientnet-lite0", second, tiles=2)[1]]
        found += family_checks(FAMILIES["bilinear"], second, sizes=SMALL)
    kinds = {result.kind for result in found if isinstance(result, Compared)}
    assert {"encoders, float32", "families, fp16"} <= kinds
    assert not any(isinstance(result, Failed | Skipped) for result in found)


def test_an_operation_without_a_deterministic_kernel_raises_and_the_mode_is_put_back():
    before = torch.get_deterministic_debug_mode()
    with pytest.raises(RuntimeError, match="deterministic"), strictly_deterministic():
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
    assert torch.get_deterministic_debug_mode() == before


def test_an_item_that_fails_or_lacks_a_package_stops_no_other():
    def broken(_: Clock) -> Iterator[Result]:
        yield GOOD
        raise RuntimeError("CUDA error:\n device-side assert")

    def ends(_: Clock) -> Iterator[Result]:
        raise SystemExit("ended with 3")
        yield

    def needing(name: str) -> Item:
        def needs(_: Clock) -> Iterator[Result]:
            raise ModuleNotFoundError(name=name)
            yield

        return Item(name, 1.0, needs)

    items = [Item("broken", 1.0, broken), Item("ends", 1.0, ends), needing("openslide.lowlevel")]
    items += [needing("survfuse.nothing"), needing("gpu_checks.nothing"), Item("good", 1.0, lambda _: iter([GOOD]))]
    assert results_of(items, Clock(60.0)) == [
        GOOD,
        Failed("broken", "RuntimeError: CUDA error: device-side assert"),
        Failed("ends", "SystemExit: ended with 3"),
        Skipped("openslide.lowlevel", "needs openslide, which is not installed"),
        Failed("survfuse.nothing", "ModuleNotFoundError"),
        Failed("gpu_checks.nothing", "ModuleNotFoundError"),
        GOOD,
    ]


def test_what_time_is_too_short_for_is_skipped_and_said():
    now = [0.0]
    whole = Clock(10.0, lambda: now[0])
    given = []

    def slow(clock: Clock) -> Iterator[Result]:
        given.append(clock.left)
        now[0] += 20.0
        yield GOOD

    items = [Item(name, 300.0, slow) for name in ("first", "second")]
    assert results_of(items, whole) == [GOOD, Skipped("second", "no time was left")]
    assert given == [pytest.approx(10.0, abs=1.0)]


@pytest.mark.parametrize("found", [2.1, float("nan"), float("inf")])
def test_a_figure_beyond_its_limit_or_none_at_all_fails(found):
    beyond = replace(GOOD, found=found)
    assert GOOD.passed and not beyond.passed
    assert failures([GOOD, beyond, Skipped("a", "b")]) == [beyond]
    assert line(beyond).startswith("FAILED ")


def test_the_report_has_every_figure_and_the_worst_of_a_kind(tmp_path):
    results = [
        GOOD,
        replace(GOOD, what="better", found=0.5),
        replace(GOOD, kind="other", what="infinite", found=float("inf")),
        Row("Speeds", {"encoder": "uni", "alone": 1234.5}),
        Row("Speeds", {"encoder": "phikon", "route": None, "share": float("nan")}),
        Skipped("training", "no time was left"),
        Failed("slide", "RuntimeError"),
    ]
    report = Report({"card": "Tesla T4", "driver": None}, results, 12.3, ["timm"])
    paths = report.write(tmp_path / "new/folder")
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == ["gpu-check.json", "gpu-check.md"]
    stored = json.loads(paths[0].read_text())
    assert [(check["what"], check["found"], check["passed"]) for check in stored["checks"]] == [
        ("good", 1.0, True),
        ("better", 0.5, True),
        ("infinite", None, False),
    ]
    assert stored["figures"][0] == {"table": "Speeds", "cells": {"encoder": "uni", "alone": 1234.5}}
    assert stored["figures"][1]["cells"] == {"encoder": "phikon", "route": None, "share": None}
    assert stored["skipped"] == [{"what": "training", "why": "no time was left"}]
    assert stored["failed"] == [{"what": "slide", "why": "RuntimeError"}] and stored["missing"] == ["timm"]
    assert paths[1].read_text() == (
        "`make gpu-check`, 12 s: card Tesla T4.\n\n"
        "| checks | what | number | worst | of | limit | passed |\n|---|---|---|---|---|---|---|\n"
        "| kind | figure | 2 | 1.0e+00 | good | 2e+00 | yes |\n"
        "| other | figure | 1 | inf | infinite | 2e+00 | **1 failed** |\n\n"
        "Speeds:\n\n| encoder | alone | route | share |\n|---|---|---|---|\n"
        "| uni | 1,234 |  |  |\n| phikon |  |  | nan |\n\n"
        "Skipped or failed:\n\n- training: no time was left\n- slide: RuntimeError\n"
        "- packages that are not installed: timm\n"
    )


@pytest.mark.parametrize(
    ("results", "code"),
    [([GOOD], 0), ([GOOD, replace(GOOD, found=3.0)], 1), ([GOOD, Failed("a", "b")], 1), ([Skipped("a", "b")], 1)],
)
def test_the_exit_code_says_whether_all_checks_passed(tmp_path, capsys, results, code):
    items = [Item("chosen", 1.0, lambda _: iter(results)), Item("other", 1.0, lambda _: iter([Failed("x", "y")]))]
    options = Namespace(only=["chos"], out=tmp_path, seconds=60.0, commit="abc1234")
    assert gpu.checked(CPU, items, options, []) == code
    machine = json.loads((tmp_path / "gpu-check.json").read_text())["machine"]
    assert (machine["torch"], machine["commit"]) == (torch.__version__, "abc1234")
    said = capsys.readouterr().out
    assert all(line(result) in said for result in results)


def test_the_card_and_the_versions_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Namespace(total_memory=15_835_660_288))
    monkeypatch.setattr(gpu, "_commit", lambda: None)
    with pretended_gpu(gpu=SECOND):
        found = gpu.machine(SECOND)
    assert (found["card"], found["card's memory, GB"], found["CUDA"]) == ("a pretended GPU", 15.8, torch.version.cuda)
    assert found["commit"] is None


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """A machine without a GPU; what the program changes of this process is put back."""
    monkeypatch.setattr(device, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(device, "NODES", ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "device cuda: no NVIDIA GPU or driver was found"),
        (["--device", "cuda:1"], "device cuda:1: no NVIDIA GPU or driver was found"),
        (["--device", "cpu"], "expected --device cuda or cuda:N, found cpu"),
        (["--device", "cuda:x"], "unknown device 'cuda:x'"),
    ],
)
def test_without_a_gpu_one_line_says_so_and_nothing_is_written(no_gpu, tmp_path, capsys, arguments, reason):
    assert gpu.main([*arguments, "--out", str(tmp_path / "out")]) == 4
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"gpu-check: {reason}") and said.err.count("\n") == 1
    assert said.err.endswith("; nothing was checked\n") and not (tmp_path / "out").exists()


def test_packages_that_are_not_installed_are_named(monkeypatch, capsys):
    assert gpu.missing_packages() == []
    monkeypatch.setattr(gpu, "_installed", lambda name: name not in ("torch", "openslide-bin", "lifelines"))
    assert gpu.missing_packages() == ["torch", "openslide-bin", "lifelines"]
    assert gpu.main([]) == 4
    assert capsys.readouterr().err == "gpu-check: nothing can be checked without torch; nothing was checked\n"


def test_checks_whose_imports_are_not_installed_are_skipped_by_name(monkeypatch):
    none = Namespace(items=lambda _: [Item("a", 1.0, lambda _: iter([]))])
    for name in ("gpu_checks", "gpu_figures"):
        monkeypatch.setitem(gpu.sys.modules, name, none)
    original = __import__

    def importing(name: str, *given: object) -> object:
        if name == "gpu_speeds":
            raise ModuleNotFoundError("No module named 'imagecodecs'", name="imagecodecs")
        return original(name, *given)

    monkeypatch.setattr("builtins.__import__", importing)
    items = gpu.all_items(CPU)
    monkeypatch.undo()
    assert results_of(items, Clock(60.0)) == [Skipped("gpu_speeds", "needs imagecodecs, which is not installed")]


@pytest.mark.parametrize(
    ("given", "python"),
    [("PY=python3.13", "python3.13"), ("VENV=/nowhere", "python3"), ("PY=.venv/x", ".venv/x")],
)
def test_make_takes_the_python_that_is_named_else_whichever_there_is(given, python):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # as in `make test`
    command = ["make", "--no-print-directory", "-n", "gpu-check", given]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=environment)
    assert ended.stdout.strip() == f"{python} benchmarks/gpu.py", ended.stderr


def test_examples_of_the_results_are_true():
    assert doctest.testmod(gpu_results).failed == 0


def test_nothing_but_pythons_own_modules_is_imported_before_the_packages_are_looked_for():
    text = Path(gpu.__file__).read_text().split("if TYPE_CHECKING:")[0]
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= gpu.sys.stdlib_module_names
