"""The page of an explanation: what it says, that it runs nothing else, and its viewer in Debian's Chromium."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib.path
import numpy as np
import openslide
import pandas as pd
import pytest
import pyvips
from conftest import CASES, DEMONSTRATION, SLIDE
from lifelines import CoxPHFitter, KaplanMeierFitter
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from scipy.stats import percentileofscore

from survfuse.bundle.load import load
from survfuse.evaluation.svg import svg_element
from survfuse.explanation.attribution import Parts
from survfuse.explanation.colours import colour_limit, diverging
from survfuse.explanation.drawings import curve_figure, position_figure
from survfuse.explanation.explanation import Explainer, Explanation
from survfuse.explanation.page import page
from survfuse.explanation.pictures import outline, pictures
from survfuse.explanation.ranking import told_from_zero
from survfuse.explanation.record import TOP, record
from survfuse.inputs.case import Case
from survfuse.inputs.sockets import read_case
from survfuse.prediction.predictor import Predictor
from survfuse.runtime.log import Note
from survfuse.slide.tile_places import TilePlaces
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve

LARGEST = 12_000_000  # bytes of a page
SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(Predictor(load(DEMONSTRATION), "cpu"))


@pytest.fixture(scope="module")
def explanation(explainer) -> Explanation:
    """Of the sample case with a slide."""
    return explainer.explain(read_case(CASES / "interf0"))


@pytest.fixture(scope="module")
def of_features(explainer) -> Explanation:
    """Of the sample case with precomputed features and their coordinates."""
    return explainer.explain(read_case(CASES / "interf1"))


@pytest.fixture(scope="module")
def clear(explanation) -> Explanation:
    """The same with contributions of both signs, of which every other one is told from zero, and a random attention."""
    random = np.random.default_rng(5)
    number = len(explanation.attribution.tiles.values)
    values = random.normal(size=number) * 0.1
    parts = Parts(values, np.abs(values) * np.where(np.arange(number) % 2, 2.0, 0.5))
    attention = random.dirichlet(np.full(number, 8.0))
    return replace(explanation, attribution=replace(explanation.attribution, tiles=parts, attention=attention))


def written(explanation: Explanation) -> str:
    return page(explanation, record(explanation))


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and its text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, _: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def number(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-").replace(",", ""))


# The record


def test_the_record_says_what_the_explanation_does(explanation):
    found = record(explanation)
    parts, prediction = explanation.attribution, explanation.prediction
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    sums = sum(found[kind]["sum"] for kind in ("tiles", "genes", "variables"))
    total = found["baseline"]["value"] + sums + sum(part["value"] for part in found["joint"])
    assert total == pytest.approx(prediction.risk, abs=1e-5)
    reference = explanation.bundle.calibration.reference_risks
    assert found["prediction"]["percentile"] == pytest.approx(percentileofscore(reference, prediction.risk, "mean"))
    assert [each["event_free"] for each in found["prediction"]["survival"]] == prediction.survival(
        [12, 24, 60]
    ).tolist()
    assert found["prediction"]["last_event"] == 165.0 and found["prediction"]["beyond_last_event"]
    names = [explanation.genes[row] for row in np.argsort(parts.genes.values)[:TOP]]
    assert [gene["name"] for gene in found["genes"]["lowering"]] == names
    assert found["model"]["sha256"] == json.loads((DEMONSTRATION / "manifest.json").read_text())["sha256"]
    assert found["model"]["members"] == len(prediction.member_risks) == sum(found["model"]["families"].values())


def test_variables_have_the_patients_values_and_say_what_is_missing(explainer):
    case = Case(clinical={"age": 71, "sex": "Male", "smoking": -1, "stage": "T9", "grade": "unknown"}, name="P")
    found = record(explainer.explain(case))
    states = {each["name"]: (each["stated"], each["state"]) for each in found["variables"]["all"]}
    assert states["age"] == ("71", "given") and states["sex"] == ("Male", "given")
    assert states["smoking"] == (None, "missing") and states["LVI"] == (None, "missing")
    assert states["grade"] == (None, "missing") and states["stage"] == ("T9", "unknown category")
    assert found["tiles"] is None and found["genes"] is None and found["joint"] == []
    sizes = [abs(each["value"]) for each in found["variables"]["all"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_single_member_has_no_spread(explanation):
    parts = explanation.attribution
    single = replace(
        explanation,
        attribution=replace(
            parts,
            risk_spread=None,
            joint={},
            **{name: Parts(getattr(parts, name).values, None) for name in ("baseline", "tiles", "genes", "variables")},
        ),
    )
    found = record(single)
    assert found["prediction"]["risk_sd"] is None and found["tiles"]["lowering"][0]["sd"] is None
    text = Elements(page(single, found)).text
    assert "±" not in text.replace("(±)", "") and "confidence interval" not in text


# What the page says


def test_the_page_says_first_whose_it_is_and_that_the_weights_are_a_demonstration(explanation):
    text = " ".join(Elements(written(explanation)).text.split())
    assert "Confidential: this page carries a patient’s values and tissue. Demonstration weights." in text
    assert text.index("Confidential") < text.index("Demonstration weights") < text.index("Predicted time")


def test_the_page_has_the_figures_of_the_record(explanation):
    found = record(explanation)
    text = " ".join(Elements(page(explanation, found)).text.split())
    assert "169.7 months" in text and "Only a ranking" in text and "−2.01" in text
    assert "higher than the risk of 2% of the 500 reference patients, lower than that of 98%" in text
    for each in found["prediction"]["survival"]:
        assert f"{each['months']:g} months{each['event_free']:.1%}" in text
    assert f"without the slide it would be {found['risks']['rna+clinical']:.3f}".replace("-", "−") in text
    for value in found["modality_values"].values():
        assert f"{value:.3f}".replace("-", "−") in text
    for gene in (*found["genes"]["raising"], *found["genes"]["lowering"]):
        assert gene["name"] in text
    assert "smokingmissing" in text and "2 extra genes ignored" in text
    assert found["model"]["sha256"] in text and found["schema"] in text


def test_a_research_bundle_has_no_notice_of_a_demonstration(explanation):
    manifest = replace(explanation.bundle.manifest, purpose="research", notice="For research.")
    text = Elements(written(replace(explanation, bundle=replace(explanation.bundle, manifest=manifest)))).text
    assert "Demonstration" not in text and "For research." in text


def test_what_a_case_lacks_has_no_part_on_its_page(explainer):
    text = Elements(written(explainer.explain(Case(clinical={"age": 71}, name="P")))).text
    assert "Clinical variables" in text and "Genes" not in text and "Where on the slide" not in text
    assert "If something were missing" not in text


def test_tiles_without_pixels_are_mapped_on_a_plain_background(of_features):
    elements = Elements(written(of_features))
    assert "the map has no pixels" in elements.text and elements.of("canvas") and not elements.of("img")
    layers = [each["id"] for each in elements.of("input") if each["type"] == "checkbox"]
    assert layers == ["layer-contribution", "layer-attention", "layer-grid"]


def test_tiles_without_places_have_no_map(of_features):
    elements = Elements(written(replace(of_features, places=None)))
    assert "there is no map" in elements.text and not elements.of("canvas") and not elements.of("button")
    assert "Tiles that lower the risk most" in elements.text


def test_months_before_the_last_event_are_no_mere_ranking(explanation):
    sooner = replace(explanation.prediction, months=40.0, beyond=False)
    text = Elements(written(replace(explanation, prediction=sooner))).text
    assert "40.0 months" in text and "Only a ranking" not in text and "rank only" not in text


def test_warnings_come_before_the_figures(explanation):
    text = Elements(written(replace(explanation, warnings=("the mask is empty",)))).text
    assert text.index("the mask is empty") < text.index("Predicted time")


def test_a_page_needs_nothing_that_only_training_has():
    code = (
        "import sys, survfuse.explanation.page; print({'lifelines', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


# Names from inputs run nothing


@pytest.fixture(scope="module")
def hostile(explanation) -> str:
    """A page whose every text from inputs is an attack."""
    stated = {name: SCRIPT for name in explanation.variables if name not in ("age", "no_instillations")}
    notes = (("expression", Note(SCRIPT)), (IMAGE, Note(IMAGE)))
    prediction = replace(explanation.prediction, name=IMAGE, notes=notes, warnings=(SCRIPT, IMAGE))
    manifest = replace(explanation.bundle.manifest, notice=SCRIPT)
    genes = tuple(f"{SCRIPT}{row}" for row in range(len(explanation.genes) - 1))
    return written(
        replace(
            explanation,
            prediction=prediction,
            case=Case(slide=SLIDE, clinical=stated, name=IMAGE),
            bundle=replace(explanation.bundle, manifest=manifest),
            reference=SCRIPT,
            genes=(*genes, "G" * 300),
        )
    )


def test_names_from_inputs_are_text_and_nothing_else(explanation, hostile):
    elements, usual = Elements(hostile), Elements(written(explanation))
    assert len(elements.of("script")) == len(usual.of("script")) == 2
    assert elements.of("script")[0] == {"type": "application/json", "id": "tile-data"}
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in elements.of("img"))
    assert len(elements.of("img")) == len(usual.of("img"))
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert elements.text.count(SCRIPT) > 30 and IMAGE in elements.text


def test_a_drawings_label_is_escaped():
    drawn = Elements(svg_element("x", Figure(), f"{IMAGE} & <em>more</em>"))
    assert [tag for tag, _ in drawn.tags if tag in ("img", "script", "em")] == []
    assert "onerror" not in drawn.of("svg")[0] and drawn.of("svg")[0]["aria-label"].endswith("& more")


def test_the_pages_policy_allows_no_request_and_its_own_script_only(explanation):
    policy = next(each["content"] for each in Elements(written(explanation)).of("meta") if "http-equiv" in each)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])


# Pictures and drawings


def difference(picture: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference of two pictures, of 255, at a size at which they are equally sharp."""
    small = (np.asarray(each.resize((56, 56)), dtype=float) for each in (picture, other))
    return float(np.abs(next(small) - next(small)).mean())


def test_the_pictures_are_the_slides(explanation):
    found = pictures(explanation, [0, 8])
    slide = openslide.OpenSlide(SLIDE)
    side = round(explanation.places.side[0])
    for row, jpeg in found.tiles.items():
        corner = tuple(explanation.places.origins[row].tolist())
        region = slide.read_region(corner, 0, (side, side))
        expected = Image.new("RGB", region.size, "white")
        expected.paste(region, mask=region.getchannel("A"))
        picture = Image.open(io.BytesIO(jpeg))
        assert picture.size == (224, 224)
        assert difference(picture, expected) < 8.0 and difference(picture.rotate(180), expected) > 20.0
    whole = Image.open(io.BytesIO(found.whole))
    assert whole.size == found.size and max(whole.size) == 2400 and whole.format == "JPEG"


def test_the_outline_goes_round_the_tissue_and_round_its_holes():
    random = np.random.default_rng(2)
    noise = Image.fromarray(random.random((12, 9)).astype(np.float32)).resize((90, 120), Image.Resampling.BICUBIC)
    tissue = np.asarray(noise) > 0.5
    tissue[:, 0] = True  # up to the border
    places = TilePlaces(np.zeros((1, 2), dtype=np.int64), (10.0, 10.0), (9000, 12000))
    polygons = outline(tissue, places)
    centres = np.stack(np.meshgrid(np.arange(90) + 0.5, np.arange(120) + 0.5), axis=-1).reshape(-1, 2) * 100.0
    inside = np.zeros(len(centres), dtype=bool)
    for polygon in polygons:
        inside ^= matplotlib.path.Path(np.vstack([polygon, polygon[:1]])).contains_points(centres)
    assert len(polygons) > 5
    assert (inside == tissue.ravel()).all()


def test_specks_are_not_outlined():
    tissue = np.zeros((100, 100), dtype=bool)
    tissue[10, 10] = tissue[40:60, 40:60] = True
    places = TilePlaces(np.zeros((1, 2), dtype=np.int64), (200.0, 200.0), (1000, 1000))
    assert len(outline(tissue, places)) == 1


def line(figure: Figure, label: str) -> tuple[np.ndarray, np.ndarray]:
    found = next(each for each in figure.axes[0].lines if each.get_label() == label)
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def test_the_curves_are_the_libraries(explanation):
    random = np.random.default_rng(4)
    risks = random.normal(size=300)
    times = random.exponential(50.0 * np.exp(-risks)).clip(0.1, 120.0).round(1)
    events = times < 100.0
    calibration, curve = Calibration.fit(times, events, risks), SurvivalCurve.fit(risks, times, events)
    said = record(explanation)
    said["prediction"] |= {"risk": 0.7, "risk_sd": 0.3, "follow_up": float(calibration.times[-1])}
    figure = curve_figure(said, calibration, curve)
    months, survival = line(figure, "reference patients")
    kaplan_meier = KaplanMeierFitter().fit(times, events)
    assert survival == pytest.approx(kaplan_meier.survival_function_at_times(months).to_numpy())
    months, survival = line(figure, "this case")
    cox = CoxPHFitter().fit(pd.DataFrame({"risk": risks, "time": times, "event": events}), "time", "event")
    expected = cox.predict_survival_function(pd.DataFrame({"risk": [0.4, 0.7, 1.0]}), times=months[1:]).to_numpy()
    assert months[0] == 0.0 and survival[0] == 1.0
    assert survival[1:] == pytest.approx(expected[:, 1], abs=2e-3)
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    last = corners[np.isclose(corners[:, 0], months[-1]), 1]
    assert (last.min(), last.max()) == pytest.approx((expected[-1, 2], expected[-1, 0]), abs=2e-3)


def test_the_histogram_holds_every_reference_risk(explanation):
    reference = explanation.bundle.calibration.reference_risks
    figure = position_figure(record(explanation), reference)
    assert sum(figure.axes[0].patches[0].get_data().values) == len(reference)
    assert line(figure, "this case")[0].tolist() == [explanation.prediction.risk] * 2


@pytest.fixture(scope="module")
def many(explanation, tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    """20,000 tiles of a slide of noise, which hardly compresses."""
    path = tmp_path_factory.mktemp("noise") / "noise.tif"
    noise = np.random.default_rng(1).integers(0, 256, (4000, 4000, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(noise)
    image.tiffsave(str(path), tile=True, compression="jpeg", Q=90, xres=2000, yres=2000)
    x, y = np.meshgrid(np.arange(160) * 25, np.arange(125) * 32)
    places = TilePlaces(np.stack([x.ravel(), y.ravel()], axis=1), (25.0, 32.0), (4000, 4000), (0.5, 0.5))
    random = np.random.default_rng(3)
    parts = Parts(random.normal(size=20_000) * 1e-4, random.exponential(size=20_000) * 1e-4)
    attribution = replace(explanation.attribution, tiles=parts, attention=random.dirichlet(np.ones(20_000)))
    return replace(explanation, case=Case(slide=path), places=places, attribution=attribution)


def test_a_page_of_20_000_tiles_of_noise_stays_small(many):
    assert len(written(many).encode("utf-8")) < LARGEST


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens a page; afterwards it has said nothing on the console, and asked for nothing but itself."""
    said: list[str] = []
    asked: list[str] = []
    path = tmp_path / "case.html"
    contexts = []

    def open_page(text: str, width: int = 1400, height: int = 1000, **options: object) -> Page:
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url[:100]))
        context.route(lambda url: url != path.as_uri() and not url.startswith("data:"), lambda route: route.abort())
        shown = context.new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        shown.goto(path.as_uri())
        if options.get("java_script_enabled", True) and shown.locator("#whole").count():
            shown.evaluate("document.getElementById('whole').decode()")
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if url != path.as_uri() and not url.startswith("data:image/jpeg")] == []


class Viewer:
    """The viewer of an open page, with its view as the data attributes state it."""

    def __init__(self, shown: Page, places: TilePlaces) -> None:
        self.shown, self.places = shown, places
        self.canvas = shown.locator("#view")
        self.canvas.scroll_into_view_if_needed()

    def view(self) -> tuple[float, float, float]:
        """Zoom, and the level-0 place of the upper left corner."""
        zoom, x, y = (float(self.canvas.get_attribute(f"data-{name}")) for name in ("zoom", "x", "y"))
        return zoom, x, y

    def on_canvas(self, *corners: float) -> list[float]:
        """x, y, x, … in level-0 pixels as CSS pixels of the canvas."""
        zoom, *origin = self.view()
        width, height = self.shown.evaluate("(c => [c.clientWidth, c.clientHeight])(document.getElementById('view'))")
        scale = zoom * 0.97 * min(width / self.places.size[0], height / self.places.size[1])
        return [(corner - origin[at % 2]) * scale for at, corner in enumerate(corners)]

    def place(self, row: int) -> tuple[float, float]:
        """Where on the canvas the middle of a tile is, in CSS pixels."""
        left, top, right, bottom = self.on_canvas(*self.places.corners()[row])
        return (left + right) / 2, (top + bottom) / 2

    def seen(self) -> Image.Image:
        """The canvas as it is seen, without its border of 1 px."""
        shot = Image.open(io.BytesIO(self.canvas.screenshot())).convert("RGB")
        return shot.crop((1, 1, shot.width - 1, shot.height - 1))

    def slide(self) -> Image.Image:
        """What is seen of the slide."""
        return self.seen().crop(tuple(map(round, self.on_canvas(0.0, 0.0, *self.places.size))))

    def hover(self, row: int) -> str:
        """What is said of a tile under the pointer."""
        x, y = self.place(row)
        self.canvas.hover(position={"x": x, "y": y})
        return self.said()

    def said(self) -> str:
        return self.shown.locator("#view-tile").inner_text()

    def colours(self) -> np.ndarray:
        """RGB [N, 3] of what is seen in the middle of each tile."""
        seen = self.seen()
        places = [self.place(row) for row in range(len(self.places.origins))]
        return np.array([seen.getpixel((int(x), int(y))) for x, y in places])


def eventually(shown: Page, holds: Callable[[], bool]) -> None:
    """Waits until something ``holds`` that the browser does in its own time."""
    for _ in range(200):
        if holds():
            return
        shown.wait_for_timeout(20)
    pytest.fail("it does not come to hold")


TILE = re.compile(
    r"Tile (\d+): contribution ([+−]?[\d.]+) ± ([\d.]+)(, not told from zero)?; attention ([\d.]+); rank (\d+) of (\d+)"
)


@pytest.mark.page
def test_hovering_shows_what_the_explanation_says_of_the_tile(opened, clear):
    viewer = Viewer(opened(written(clear)), clear.places)
    parts = clear.attribution.tiles
    order = np.argsort(-parts.values).tolist()
    for row, value in enumerate(parts.values.tolist()):
        found = TILE.match(viewer.hover(row))
        assert int(found[1]) == row + 1
        assert number(found[2]) == pytest.approx(value, abs=5.1e-4) and len(found[2]) >= 6
        assert float(found[3]) == pytest.approx(parts.spread[row], abs=5.1e-4)
        assert (found[4] is None) == (abs(value) > parts.spread[row])
        assert float(found[5]) == pytest.approx(clear.attribution.attention[row] * len(order), rel=1e-3)
        assert (int(found[6]), int(found[7])) == (order.index(row) + 1, len(order))
    viewer.shown.mouse.move(5, 5)
    assert viewer.said() == "No tile chosen."


@pytest.mark.page
def test_layers_are_switched_and_have_the_colours_of_the_other_files(opened, clear):
    shown = opened(written(clear))
    viewer, parts, attention = Viewer(shown, clear.places), clear.attribution.tiles, clear.attribution.attention
    assert viewer.colours().std(axis=0).max() > 10  # the slide shows through
    shown.locator("#strength").fill("100")
    for name in ("tissue", "grid"):
        shown.locator(f"#layer-{name}").uncheck()
    expected = diverging(parts.values, told_from_zero(parts), colour_limit(parts.values))[:, :3].astype(int)
    assert np.abs(viewer.colours() - expected).max() <= 2
    shown.locator("#layer-attention").check()
    assert not shown.locator("#layer-contribution").is_checked()
    assert np.argsort(-viewer.colours().sum(axis=1)).tolist() == np.argsort(attention).tolist()
    shown.locator("#layer-attention").uncheck()
    assert difference(viewer.slide(), openslide.OpenSlide(SLIDE).get_thumbnail((600, 600))) < 4.0
    shown.locator("#layer-slide").uncheck()
    assert (viewer.colours() == 255).all()


@pytest.mark.page
def test_zoom_and_pan_by_wheel_buttons_and_dragging(opened, explanation):
    shown = opened(written(explanation))
    viewer = Viewer(shown, explanation.places)
    home = viewer.view()
    assert home[0] == 1.0
    place, before = viewer.place(4), shown.evaluate("scrollY")
    viewer.canvas.hover(position={"x": place[0], "y": place[1]})
    shown.mouse.wheel(0, -50)
    eventually(shown, lambda: shown.evaluate("scrollY") < before)
    assert viewer.view() == home  # over a picture that was not clicked, the wheel is the page's
    viewer.canvas.click(position={"x": place[0], "y": place[1]})
    before, box = shown.evaluate("scrollY"), viewer.canvas.bounding_box()
    x, y = (edge + 1 + at for edge, at in zip((box["x"], box["y"]), place, strict=True))  # its border is 1 px wide
    shown.mouse.wheel(0, -400)
    eventually(shown, lambda: viewer.view() != home)
    assert viewer.view()[0] == pytest.approx(math.e, abs=0.01)
    assert viewer.place(4) == pytest.approx(place, abs=1.5)  # what is under the pointer stays
    assert shown.evaluate("scrollY") == before
    shown.mouse.down()
    shown.mouse.move(x + 40, y - 30)
    shown.mouse.up()
    assert viewer.place(4) == pytest.approx((place[0] + 40, place[1] - 30), abs=1.5)
    zoom = viewer.view()[0]
    shown.locator("#zoom-in").click()
    assert viewer.view()[0] == pytest.approx(1.6 * zoom, rel=1e-3)
    shown.locator("#zoom-out").click()
    assert viewer.view()[0] == pytest.approx(zoom, rel=1e-3)
    shown.locator("#zoom-fit").click()
    assert viewer.view() == home


@pytest.mark.page
def test_two_fingers_zoom(opened, explanation):
    shown = opened(written(explanation), width=500, has_touch=True)
    viewer = Viewer(shown, explanation.places)
    box = viewer.canvas.bounding_box()
    touch = shown.context.new_cdp_session(shown)

    def send(kind: str, apart: float) -> None:
        middle = (box["x"] + box["width"] / 2, box["y"] + 150)
        points = [{"x": middle[0] + side * apart, "y": middle[1], "id": side} for side in (0, 1)] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80), ("touchEnd", 0)):
        send(kind, apart)
    assert viewer.view()[0] == pytest.approx(2.0, rel=0.05)


@pytest.mark.page
def test_everything_is_reached_by_keyboard(opened, clear):
    shown = opened(written(clear))
    viewer = Viewer(shown, clear.places)
    for _ in range(30):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.id") == "view":
            break
    assert shown.evaluate("document.activeElement.id") == "view"
    assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    order = np.argsort(-clear.attribution.tiles.values).tolist()
    for key, row in (("n", order[0]), ("n", order[1]), ("p", order[0]), ("End", order[-1]), ("Home", order[0])):
        shown.keyboard.press(key)
        assert viewer.said().startswith(f"Tile {row + 1}:"), key
    home = viewer.view()
    shown.keyboard.press("+")
    zoom, x, y = viewer.view()
    assert zoom == pytest.approx(1.4, abs=1e-3)
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowUp")
    moved = viewer.view()
    assert moved[1] > x and moved[2] < y
    shown.keyboard.press("0")
    assert viewer.view() == home
    shown.keyboard.press("Escape")
    assert viewer.said() == "No tile chosen."
    shown.locator("button[data-tile]").first.focus()
    shown.keyboard.press("Enter")
    assert viewer.said().startswith(f"Tile {order[0] + 1}:")


@pytest.mark.page
def test_20_000_tiles_are_found_under_the_pointer(opened, many):
    viewer = Viewer(opened(written(many)), many.places)
    for row in (0, 9_999, 19_999):
        assert viewer.hover(row).startswith(f"Tile {row + 1}: contribution ")


@pytest.mark.page
@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_is_wider_than_the_window(opened, explanation, of_features, hostile, width):
    for text in (written(explanation), written(of_features), hostile):
        assert opened(text, width=width).evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.page
def test_an_attack_stays_text_in_a_browser(opened, hostile):
    shown = opened(hostile)
    assert shown.locator("h1").inner_text() == f"Why this risk: {IMAGE}"
    assert shown.locator("img[src='x']").count() == 0


@pytest.mark.page
def test_no_other_script_runs(browser, tmp_path, explanation):
    path = tmp_path / "case.html"
    path.write_text(written(explanation), encoding="utf-8")
    shown = browser.new_page()
    shown.goto(path.as_uri())
    shown.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    assert shown.title() == f"{explanation.prediction.name}: why this risk"
    assert shown.evaluate("fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')") == "refused"
    shown.close()


CONTRAST = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const colour = parse(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(element))].sort();
    found.push([(b + 0.05) / (a + 0.05), walker.currentNode.data]);
  }
  return found;
}
"""


@pytest.mark.page
def test_text_stands_out_from_its_background_as_wcag_aa_asks(opened, explanation):
    found = opened(written(explanation)).evaluate(CONTRAST)
    assert len(found) > 200
    assert [text for ratio, text in found if ratio < 4.5] == []


@pytest.mark.page
def test_everything_has_a_name(opened, explanation):
    shown = opened(written(explanation))
    nameless = """() => [
      ...[...document.images].filter((each) => !each.alt),
      ...[...document.querySelectorAll("input")].filter((each) => !each.labels.length),
      ...[...document.querySelectorAll("button")].filter((each) => !(each.ariaLabel || each.textContent.trim())),
      ...[...document.querySelectorAll("svg:not([aria-hidden])")].filter((each) => !each.getAttribute("aria-label")),
    ].map((each) => each.outerHTML.slice(0, 80))"""
    assert shown.evaluate(nameless) == []
    assert shown.evaluate("document.documentElement.lang") == "en"
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = shown.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.page
def test_it_prints_without_controls_on_a_light_background(opened, explanation):
    shown = opened(written(explanation))
    printed = shown.pdf()
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    shown.emulate_media(media="print")
    assert not shown.locator(".controls").is_visible() and not shown.locator(".tiles button").first.is_visible()
    assert shown.locator("#view").is_visible()
    assert shown.locator(".private").evaluate("getComputedStyle").get("backgroundColor", "rgb(255, 255, 255)") == (
        "rgb(255, 255, 255)"
    )


@pytest.mark.page
def test_without_scripts_the_slide_is_a_picture(opened, explanation):
    shown = opened(written(explanation), java_script_enabled=False)
    assert shown.locator("#whole").is_visible() and not shown.locator("#view").is_visible()
    assert not shown.locator(".controls").is_visible()
