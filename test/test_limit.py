"""A job that may only take so long."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import pyvips
import torch
from conftest import CASES, MASK, OUTPUT_FILE, PLACES, ROOT, SLIDE

import survfuse.runtime.clock
from survfuse.container.job import main
from survfuse.prediction.time_estimate import time_limit
from survfuse.runtime.clock import MARGIN, TimeLimit, chosen_limit, elapsed
from survfuse.runtime.errors import EnvironmentFailure
from survfuse.slide.encode import tile_features
from survfuse.slide.encoders import load_encoder
from survfuse.slide.grid import Grid
from survfuse.slide.order import even_order
from survfuse.slide.pixels import Slide
from survfuse.slide.tissue import find_tissue

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A case of more tiles than a limit must leave: two by two copies of the sample slide."""
    root = tmp_path_factory.mktemp("large")
    for source, place, options in (
        (SLIDE, "slide", {"compression": "jpeg"}),
        (MASK, "mask", {"compression": "deflate", "region_shrink": "nearest"}),
    ):
        image = pyvips.Image.new_from_file(str(source)).copy_memory()
        copies = pyvips.Image.arrayjoin([image, image.fliphor(), image.flipver(), image], across=2)
        (root / PLACES[place]).mkdir(parents=True)
        copies.copy(xres=image.xres, yres=image.yres).tiffsave(
            str(root / PLACES[place] / "large.tif"), tile=True, pyramid=True, **options
        )
    for place in ("rna", "clinical"):
        (root / PLACES[place]).write_bytes((CASES / "interf0" / PLACES[place]).read_bytes())
    return root


@pytest.fixture(scope="module")
def opened(large):
    """Slide, grid and the tiles' origins."""
    with Slide(large / PLACES["slide"] / "large.tif") as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        yield slide, grid, find_tissue(slide, grid, large / PLACES["mask"] / "large.tif", 0.5).origins


@pytest.fixture(scope="module")
def encoder():
    made = load_encoder("efficientnet-lite0", None, CPU)
    made.batch = 8
    return made


class Batches(TimeLimit):
    """A limit that allows so many batches, whatever the time."""

    left = 0

    def allows(self, seconds: float, tiles: int) -> bool:  # noqa: ARG002
        Batches.left -= 1
        return Batches.left >= 0


def allow(batches: int, monkeypatch) -> None:
    monkeypatch.setattr(Batches, "left", batches)
    monkeypatch.setattr("survfuse.prediction.time_estimate.TimeLimit", Batches)


def test_time_counts_from_the_process_s_start():
    """Not from when the module was imported, and no more than its parent saw pass."""
    code = "import time; time.sleep(0.4)\nfrom survfuse.runtime.clock import elapsed\nprint(elapsed())"
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert 0.4 <= float(ended.stdout) <= time.monotonic() - started + 0.011  # the system counts hundredths


def test_where_the_system_does_not_tell_time_counts_from_the_import(monkeypatch, tmp_path):
    monkeypatch.setattr(survfuse.runtime.clock, "Path", lambda _: tmp_path / "absent")
    assert survfuse.runtime.clock._started() == pytest.approx(time.monotonic(), abs=0.05)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "soon"])
def test_a_limit_is_a_number_of_seconds(text, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SURVFUSE_TIME_LIMIT", text)
    with pytest.raises(EnvironmentFailure, match=f"SURVFUSE_TIME_LIMIT={text}: expected seconds above 0"):
        chosen_limit()
    assert main(["--input", str(CASES / "interf1"), "--output", str(tmp_path)]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_option_goes_before_the_variable(monkeypatch):
    monkeypatch.setenv("SURVFUSE_TIME_LIMIT", "7")
    assert (chosen_limit(), chosen_limit(3.5)) == (7.0, 3.5)
    monkeypatch.setenv("SURVFUSE_TIME_LIMIT", "")
    assert chosen_limit() is None


def test_what_follows_the_encoding_and_a_margin_are_kept_back(monkeypatch):
    monkeypatch.setattr("survfuse.runtime.clock.elapsed", lambda: 50.0)
    for seconds in (60.0, 1000.0):
        limit = TimeLimit(seconds, lambda tiles: 0.01 * tiles)
        left = seconds - 50.0 - max(MARGIN[0], MARGIN[1] * seconds)
        assert limit.allows(left - 1.0 - 1e-6, 100) and not limit.allows(left - 1.0 + 1e-6, 100)


def test_neither_order_nor_batches_change_a_tile_s_features(opened, encoder, two_threads):
    slide, grid, origins = opened
    plain, rows, _ = tile_features(slide, grid, origins, encoder)
    spread_out, again, _ = tile_features(slide, grid, origins, encoder, TimeLimit(1e9, lambda _: 0.0))
    assert rows.tolist() == again.tolist() == list(range(len(origins)))
    assert torch.equal(plain, spread_out)


def test_a_limit_leaves_the_first_of_the_even_order(opened, encoder, monkeypatch, two_threads):
    slide, grid, origins = opened
    whole, *_ = tile_features(slide, grid, origins, encoder)
    monkeypatch.setattr(Batches, "left", 3)
    features, rows, _ = tile_features(slide, grid, origins, encoder, Batches(1.0, lambda _: 0.0))
    assert rows.tolist() == sorted(even_order(*grid.places(origins).T)[: 3 * encoder.batch].tolist())
    assert torch.equal(features, whole[torch.from_numpy(rows)])


def test_encoding_ends_in_time(opened, encoder, monkeypatch):
    """An encoder that takes half a second a batch, with half a second to follow: one batch more would show."""
    slide, grid, origins = opened
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda tiles: time.sleep(0.5) or encode(tiles))
    monkeypatch.setattr("survfuse.runtime.clock.MARGIN", (0.0, 0.0))
    end = elapsed() + 2.4
    _, rows, _ = tile_features(slide, grid, origins, encoder, TimeLimit(end, lambda _: 0.5))
    assert elapsed() + 0.5 <= end + 0.1
    assert 0 < len(rows) < len(origins)


def test_a_job_in_time_says_how_many_tiles_it_used(large, tmp_path, capsys, monkeypatch):
    allow(2, monkeypatch)
    assert main(["--input", str(large), "--output", str(tmp_path), "--time-limit", "900"]) == 0
    out, err = capsys.readouterr()
    total = json.loads(out.split(" tiles kept")[0].split()[-1])
    assert total > 32 and "features     32 tiles" in out
    assert f"time limit of 900 s: 32 of {total} tissue tiles encoded in time, spread evenly" in err
    assert len(err.splitlines()) == 1
    assert 0.0 < json.loads((tmp_path / OUTPUT_FILE).read_text()) < np.inf


def test_too_few_tiles_in_time_end_the_job(large, tmp_path, capsys, monkeypatch):
    allow(1, monkeypatch)
    assert main(["--input", str(large), "--output", str(tmp_path), "--time-limit", "900"]) == 4
    err = capsys.readouterr().err
    assert "16 of " in err and "expected at least 32" in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_slide_of_few_tiles_may_use_all_of_them(tmp_path, capsys):
    """Eleven tiles, all encoded, are not too few."""
    for name, options in (("limited", ["--time-limit", "1e6"]), ("free", [])):
        assert main(["--input", str(CASES / "interf0"), "--output", str(tmp_path / name), *options]) == 0
    assert not capsys.readouterr().err
    assert (tmp_path / "limited" / OUTPUT_FILE).read_bytes() == (tmp_path / "free" / OUTPUT_FILE).read_bytes()


def test_a_limit_that_is_over_before_the_first_tile(tmp_path, capsys):
    assert main(["--input", str(CASES / "interf0"), "--output", str(tmp_path), "--time-limit", "0.1"]) == 4
    assert "0 of 11 tissue tiles encoded in time, expected at least 11" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_first_batch_s_start_up_counts_for_the_second_alone(opened, encoder, monkeypatch):
    """A pretended clock: the first batch takes 10 s, since it starts the device, every other one a tenth."""
    slide, grid, origins = opened
    now, encode, expected = [0.0], encoder._encode, []

    class Noted(TimeLimit):
        def allows(self, seconds: float, tiles: int) -> bool:  # noqa: ARG002
            expected.append(round(seconds, 6))
            return True

    def encoded(tiles):
        now[0] += 10.0 if not now[0] else 0.1
        return encode(tiles)

    monkeypatch.setattr("survfuse.slide.encode.elapsed", lambda: now[0])
    monkeypatch.setattr(encoder, "_encode", encoded)
    tile_features(slide, grid, origins, encoder, Noted(1.0, lambda _: 0.0))
    assert expected[:2] == [0.0, 10.0] and set(expected[2:]) == {0.1}


@pytest.mark.parametrize("half", [True, False])
def test_what_follows_is_measured_in_the_precision_of_the_job(half):
    given = []

    def ensemble(tiles, rna, clinical, half, vector):
        given.append(half)

    time_limit(60.0, ensemble, None, None, 4, half)
    assert given == [half] * 3
