"""The resolution that a slide's file states, wherever it states it; one that no scanner has is refused as such."""

import io

import h5py
import numpy as np
import pytest
import pyvips
import tifffile
from conftest import DEMONSTRATION, SLIDE, end_of, give_slide, months
from slide_writers import write_dicom

import survfuse
from survfuse.cli.main import main
from survfuse.runtime.errors import InputError
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.resolution import resolution
from survfuse.slide.settings import PLAUSIBLE_MPP, SlideSettings

WHOLE = pyvips.Image.new_from_file(str(SLIDE)).numpy()
PIXELS = WHOLE[600:1112, 700:1468]
SIZE = (768, 512)


def tiff(description: str | bytes = b"", mpp: float | None = None, pixels: np.ndarray = PIXELS, **options) -> bytes:
    """A tiled TIFF with this description, and with ``mpp`` in its resolution tags."""
    held = io.BytesIO()
    tags = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    text = description.encode() if isinstance(description, str) else description
    extra = [(270, "s", 0, text + b"\0", True)] if text else []
    layout = {"tile": (256, 256), "photometric": "rgb", "compression": "lzw", "metadata": None}
    tifffile.imwrite(held, pixels, extratags=extra, **(layout | tags | options))
    return held.getvalue()


def ome(pixels: str, prefix: str = "") -> str:
    """OME-XML of one image."""
    name = f'xmlns{":" + prefix if prefix else ""}="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    start = f"{prefix}:" if prefix else ""
    body = f'<{start}Image ID="Image:0"><{start}Pixels {pixels}><{start}TiffData/></{start}Pixels></{start}Image>'
    return f'<?xml version="1.0" encoding="UTF-8"?><{start}OME {name}>{body}</{start}OME>'


def sized(x: float | str, unit: str | None = None, size: tuple[int, int] = SIZE) -> str:
    """The attributes of OME-XML's Pixels."""
    units = "".join(f' PhysicalSize{axis}Unit="{unit}"' for axis in "XY") if unit is not None else ""
    return f'SizeX="{size[0]}" SizeY="{size[1]}" PhysicalSizeX="{x}" PhysicalSizeY="{x}"{units}'


def opened(tmp_path, data: bytes) -> tuple[tuple[float, float], str]:
    (tmp_path / "s.tif").write_bytes(data)
    with Slide(tmp_path / "s.tif") as slide:
        return slide.mpp, slide.mpp_source


# --- OME-XML ---


@pytest.mark.parametrize(
    ("x", "unit"),
    [
        (0.499, None),
        (0.499, "µm"),
        (0.499, "μm"),  # the Greek letter
        (0.499, "&#181;m"),
        (499, "nm"),
        (0.000499, "mm"),
        (0.0000499, "cm"),
        ("4.99E-7", "m"),
        (4990, "Å"),
        (0.499 / 25_400, "in"),
        (0.499 / 25_400 * 72, "pt"),
    ],
)
def test_ome_xml_states_it_in_any_unit_of_length(tmp_path, x, unit):
    mpp, source = opened(tmp_path, tiff(ome(sized(x, unit))))
    assert mpp == pytest.approx((0.499, 0.499), rel=1e-6) and source == "its OME-XML"


def test_as_tifffile_writes_it_with_a_pyramid(slide_case, tmp_path, capsys):
    held = io.BytesIO()
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.499, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 0.499, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(held, bigtiff=True, ome=True) as file:
        layout = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
        file.write(WHOLE, subifds=1, metadata=metadata, **layout)
        file.write(np.ascontiguousarray(WHOLE[::2, ::2]), subfiletype=1, **layout)
    give_slide(slide_case, "s.ome.tif", held.getvalue())
    assert end_of(slide_case, tmp_path / "ome") == 0
    assert "2220 × 2967 px at 0.499 µm/px from its OME-XML" in capsys.readouterr().out
    give_slide(slide_case, "s.tif", tiff(mpp=0.499, pixels=WHOLE, compression="jpeg"))
    assert end_of(slide_case, tmp_path / "tags") == 0
    assert months(tmp_path / "ome") == pytest.approx(months(tmp_path / "tags"), abs=0.05)


@pytest.mark.parametrize(
    "description",
    [
        ome(sized(0.499), prefix="ome"),
        ome(sized(0.499).replace('"', "'")),
        ome(sized(0.499)).replace("<Image", f"<Image><Pixels {sized(9.98, size=(300, 200))}/></Image><Image", 1),
        ome(sized(0.499, "µm")).encode("latin-1"),
        ome(sized(0.499)).replace("<Image", "<!-- scanned by Müller --><Image", 1).encode("latin-1"),
    ],
    ids=["prefix", "single quotes", "after the label's image", "another encoding", "a name in another encoding"],
)
def test_ome_xml_in_other_forms(tmp_path, description):
    assert opened(tmp_path, tiff(description)) == (pytest.approx((0.499, 0.499)), "its OME-XML")


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (sized(1, "pixel"), "an unknown unit in its OME-XML"),
        (sized(1, "reference frame"), "an unknown unit in its OME-XML"),
        (sized(0.499, size=(300, 200)), "none"),  # another picture's
        (sized("half"), "none"),
        (sized(0.0499), "0.0499 µm in its OME-XML"),
        (sized("NaN"), "an unknown unit in its OME-XML"),
    ],
)
def test_what_ome_xml_does_not_state_is_not_taken(tmp_path, pixels, found):
    with pytest.raises(InputError, match=rf"s\.tif: no usable resolution \(found {found}; expected"):
        opened(tmp_path, tiff(ome(pixels)))


def test_entities_are_not_expanded(tmp_path):
    """The billion laughs: each entity is ten of the one before."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    start = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "0">{entities}]>'
    xml = start + ome(sized("&a11;")).partition("?>")[2]
    with pytest.raises(InputError, match="no usable resolution"):
        opened(tmp_path, tiff(xml))


# --- other places ---


def test_aperios_header_counts_in_any_tiff(tmp_path):
    text = "SVS Slide Image\r\n2220x2967 (256x256) LZW|AppMag = 20|MPP = 0.4990|Left = 1"
    assert opened(tmp_path, tiff(text)) == ((0.499, 0.499), "its Aperio header")


@pytest.mark.parametrize(("unit", "length"), [("micron", 1.0), ("\\u00B5m", 1.0), ("mm", 1e3), ("inch", 25_400.0)])
def test_imagejs_unit_belongs_to_the_tags(tmp_path, unit, length):
    text = f"ImageJ=1.54f\nunit={unit}\n"
    data = tiff(text, resolution=(length / 0.499, length / 0.499), resolutionunit="NONE")
    mpp, source = opened(tmp_path, data)
    assert mpp == pytest.approx((0.499, 0.499), rel=1e-4) and source == "its ImageJ header"


def test_a_dicom_slide_without_its_spacing_states_its_volume(tmp_path):
    with Slide(write_dicom(tmp_path / "s.dcm", PIXELS, "1.2.3", None)) as slide:
        assert slide.mpp == pytest.approx((0.499, 0.499), rel=1e-5) and slide.mpp_source == "its imaged volume"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize(
    "header", ["MPP = 0.499|User = Müller", "Prüfer = 7|MPP = 0.499", "MPP = 0.499|µm", "by Müller"]
)
def test_a_header_in_another_encoding_is_read_all_the_same(tmp_path, header, encoding):
    """Also a name that is not UTF-8, which openslide-python lists without finding its value."""
    start = "Aperio Image Library v12\r\n2220x2967 |AppMag = 20|" if "MPP" in header else ""
    data = tiff(f"{start}{header}".encode(encoding), 0.499)
    assert opened(tmp_path, data) == (pytest.approx((0.499, 0.499)), "the slide")


def test_a_job_takes_a_header_in_another_encoding(slide_case, output):
    text = "Aperio Image Library v12\r\n2220x2967 |AppMag = 20|MPP = 0.499|Prüfer = Müller"
    give_slide(slide_case, "s.svs", tiff(text.encode("latin-1"), pixels=WHOLE))
    assert end_of(slide_case, output) == 0


# --- what cannot be, and what is doubtful ---


@pytest.mark.parametrize("mpp", [0.0212, 0.0499, 0.0503, 0.055, 0.0999])
def test_ten_times_too_fine_is_refused_as_a_resolution(slide_case, output, tmp_path, capsys, mpp):
    """TRIDENT #135. The tissue is not to blame."""
    path = give_slide(slide_case, "s.tif", tiff(mpp=mpp))
    expected = f"s.tif: no usable resolution (found {mpp} µm in the slide and its TIFF resolution tags; expected "
    expected += "pixels of 0.1 to 5.0 µm, at most twice as long as wide"
    for options in ([], ["--unusable-slide", "refuse"]):
        assert end_of(slide_case, output, None, *options) == 2
        said = capsys.readouterr().err
        assert expected in said and f"if it is ten times too fine, assume {10 * mpp:.4g}" in said
        assert "tissue" not in said
    assert main(["extract", str(path), "--out", str(tmp_path / "s.h5")]) == 2
    assert expected in capsys.readouterr().err
    with pytest.raises(InputError, match="no usable resolution"):
        survfuse.load(DEMONSTRATION, device="cpu").predict(survfuse.Case(slide=path))


def test_what_is_assumed_instead_gives_the_features_of_the_slide_at_that_resolution(tmp_path, capsys):
    features = []
    for name, mpp, options in (("fine", 0.0499, ["--assume-mpp", "0.499"]), ("right", 0.499, [])):
        (tmp_path / f"{name}.tif").write_bytes(tiff(mpp=mpp))
        out = tmp_path / f"{name}.h5"
        assert main(["extract", str(tmp_path / f"{name}.tif"), "--out", str(out), *options]) == 0
        with h5py.File(out) as file:
            features.append(file["features"][:])
    assert np.allclose(*features, atol=0.01)
    assert "found 0.0499 µm in the slide" in capsys.readouterr().err


@pytest.mark.parametrize("mpp", [0.1, 0.11, 0.12, 0.16, 0.25, 1.0, 5.0])
def test_what_scanners_have_is_read(tmp_path, mpp):
    assert opened(tmp_path, tiff(mpp=mpp))[0] == pytest.approx((mpp, mpp), rel=1e-4)


def test_ten_times_too_coarse_is_longer_than_glass():
    stated = {"openslide.mpp-x": "2.5", "openslide.mpp-y": "2.5"}
    with pytest.raises(InputError, match=r"on at most 250 mm.* if it is ten times too coarse, assume 0.25 "):
        resolution("s.tif", stated, None, (120_000, 80_000))


def test_more_tiles_than_any_slide_has_are_the_resolutions_fault_and_name_the_file():
    with pytest.raises(InputError, match=r"s\.tif: 63,232 × 63,232 px at 5 µm/px are 1,993,744 tiles"):
        Grid.over((63_232, 63_232), (5.0, 5.0), 224, 1.0, name="s.tif")


def test_a_slide_that_its_resolution_makes_tiny_is_not_only_said_to_lack_tissue(tmp_path, capsys):
    """Plausible by itself: 0.12 µm per pixel make the sample slide four tiles."""
    (tmp_path / "s.tif").write_bytes(tiff(mpp=0.12, pixels=np.full_like(WHOLE, 240)))
    assert main(["extract", str(tmp_path / "s.tif"), "--out", str(tmp_path / "s.h5")]) == 2
    said = capsys.readouterr().err
    assert "none of 4 tiles is at least 50% tissue" in said
    assert "with so few tiles, check its resolution, 0.12 µm per pixel" in said


def test_width_and_height_that_differ_by_ten_are_no_resolution():
    stated = {"openslide.mpp-x": "0.499", "openslide.mpp-y": "4.99"}
    with pytest.raises(InputError, match=r"found 0.499 × 4.99 µm in the slide; expected pixels"):
        resolution("s.tif", stated, None)


def test_an_assumed_resolution_has_the_same_bounds():
    for mpp in (0.0999, 5.1):
        problem = SlideSettings("uni", 1024, assumed_mpp=mpp).problem()
        assert problem == f"expected an assumed resolution of 0.1 to 5.0 µm per pixel, found {mpp}"
    assert all(SlideSettings("uni", 1024, assumed_mpp=mpp).problem() is None for mpp in PLAUSIBLE_MPP)


def test_two_places_that_contradict_each_other_are_warned_of(tmp_path, capsys):
    assert opened(tmp_path, tiff(ome(sized(0.25)), 0.499))[1] == "the slide"
    assert (
        "s.tif: 0.25 µm per pixel in its OME-XML contradicts 0.499 µm in the slide, which comes first and is used"
        in capsys.readouterr().err
    )
    opened(tmp_path, tiff(ome(sized(0.4991)), 0.499))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("power", "mpp", "doubtful"),
    [(20, 0.499, False), (20, 0.25, False), (40, 0.25, False), (40, 0.499, False), (20, 0.12, True), (20, 4.99, True)],
)
def test_a_resolution_that_the_objective_does_not_give_is_warned_of(capsys, power, mpp, doubtful):
    """A scanner may enlarge by two what its objective shows, and exports may shrink it by two; not by four."""
    stated = {"openslide.mpp-x": str(mpp), "openslide.mpp-y": str(mpp), "openslide.objective-power": str(power)}
    assert resolution("s.svs", stated, None)[0] == (mpp, mpp)
    said = capsys.readouterr().err
    assert (f"its objective of {power}× usually gives about {10 / power:g}" in said) == doubtful == bool(said)


def test_an_objective_alone_is_no_resolution(tmp_path):
    text = "Aperio Image Library v12\r\n2220x2967 |AppMag = 20"
    with pytest.raises(InputError, match=r"found none; .* an objective of 20×, which is no resolution"):
        opened(tmp_path, tiff(text))
