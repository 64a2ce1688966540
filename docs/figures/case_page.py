"""The picture of an explanation's page in README.md, as Debian's Chromium shows the sample case.

python docs/figures/case_page.py [OUT.png]
"""

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import survfuse

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WIDTH, HEIGHT = 1160, 900  # CSS pixels of each part
COLOURS = 128  # of the palette


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "case-page.png"
    with tempfile.TemporaryDirectory() as folder:
        survfuse.demonstration().explain(ROOT / "test/input/interf0", out=f"{folder}/why")
        parts = _parts(Path(folder, "why", "case.html"))
    picture = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        picture.paste(part, (left, 0))
        left += part.width
    picture.quantize(COLOURS).save(out, optimize=True)


def _parts(page_file: Path) -> list[Image.Image]:
    """The beginning of the page, and the map of the slide."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(500)
        parts = [Image.open(BytesIO(page.screenshot()))]
        page.locator("#view").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('view').scrollIntoView({block: 'center'})")
        page.wait_for_timeout(300)
        parts.append(Image.open(BytesIO(page.screenshot())))
        browser.close()
    return parts


if __name__ == "__main__":
    main()
