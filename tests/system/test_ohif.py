"""Every result as OHIF shows it: a headless browser over an Orthanc's DICOMweb, judged by what stands on the screen where.

    python -m tests.system.test_ohif FOLDER     the same views as PNG files, for a look

The picture a view is compared with is computed from the Reading, by structure: where boxes, outlines and grey levels lie.
"""

import base64
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from pydicom import Dataset, dcmread

from models.phantom import Phantom, draw
from models.reading import Box, Reading
from models.regions import RUS
from service.demo.pacs import find_orthanc, stop, wait_until
from service.reporting import result_set, source
from service.reporting.results import ResultContext
from service.result_profile import BUILT_IN
from service.wrap import Patient, wrap
from tests.factories import encoded
from tests.integration.serving import free_ports
from tests.service import truth
from tests.service.test_sr import AT
from tests.system import ohif
from tests.system.browser import Browser
from tests.system.tools import tool

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

Pixels = NDArray[np.uint8]
FRAME = 5  # pixels


@dataclass(frozen=True)
class Views:
    """What was seen: whole pages, and the geometry and text of the page that belong to them."""

    phantom: Phantom
    reading: Reading
    objects: dict[str, Dataset]
    pages: dict[str, Pixels]
    canvas: tuple[int, int, int, int]  # x, y, width, height on the page
    film: tuple[float, float, float, float]  # left, top, right, bottom of the film on the canvas
    polylines: list[str]
    labels: list[list[str]]
    pdf: str  # what the page embeds, as base64
    errors: list[str]

    def picture(self, name: str) -> Pixels:
        """Return the canvas of a page."""
        x, y, width, height = self.canvas
        return self.pages[name][y : y + height, x : x + width]

    def on_film(self, name: str) -> Pixels:
        """Return the part of the canvas that shows the film, cut at the canvas."""
        left, top, right, bottom = (round(value) for value in self.film)
        return self.picture(name)[max(0, top) : bottom, max(0, left) : right]


def objects_of(phantom: Phantom) -> tuple[dict[str, Dataset], Reading]:
    """Return the film and every result of a perfect reading of it, by kind."""
    film = wrap(phantom.image, Patient("TEST^VIEWER", "T-1", phantom.sex), kind="DX", study="viewer", laterality="L")
    header = source.normalise(dcmread(io.BytesIO(encoded(film))))
    reading = truth.reading(phantom)
    context = ResultContext("2.25.1", AT, kinds=BUILT_IN["everything"].objects)
    built = result_set.of_reading(header, reading, context, lambda: phantom.image)
    return {"film": film, **built}, reading


@contextmanager
def archive(folder: Path, instances: dict[str, Dataset]) -> Iterator[str]:
    """Run an Orthanc that holds these instances; yield its address."""
    program = find_orthanc()
    assert program is not None
    dicom_port, port = free_ports(2)
    configuration = ohif.orthanc_configuration(folder, dicom_port, port)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/system", timeout=2):
                return True
        except OSError:
            return False

    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(answers, 60, "Orthanc to answer")
            for ds in instances.values():
                with urllib.request.urlopen(f"{url}/instances", data=encoded(ds), timeout=30) as answer:
                    assert json.loads(answer.read())["Status"] == "Success"
            yield url
        finally:
            stop(process)


def look(folder: Path, dist: Path, chromium: str) -> Views:
    """Open every result in the viewer."""
    phantom = draw(3, age_years=9, rows=1000, columns=800, laterality="L", rotation_degrees=0.0, furnished=False)
    objects, reading = objects_of(phantom)
    pages: dict[str, Pixels] = {}
    with (
        archive(folder, objects) as url,
        ohif.Viewer(dist, url) as viewer,
        Browser(chromium, folder / "profile") as browser,
    ):
        browser.open(f"{viewer.url}/viewer?StudyInstanceUIDs={objects['film'].StudyInstanceUID}")
        browser.wait_for(ohif.LOADED, timeout_s=120)
        browser.wait_for(ohif.CORNERS, timeout_s=120)
        ohif.settle(browser)
        browser.evaluate(ohif.CLICK.format(label="Skip all"))
        pages["film"] = ohif.settle(browser)
        ohif.show(browser, objects["SR"].SeriesInstanceUID)
        browser.wait_for(f"{ohif.POLYLINES}.length", timeout_s=60)
        browser.evaluate(ohif.CLICK.format(label="No"))  # to go on with these regions as measurements of one's own
        pages["SR"] = ohif.settle(browser)
        canvas, film = browser.evaluate(ohif.CANVAS), browser.evaluate(ohif.CORNERS)
        polylines, labels = browser.evaluate(ohif.POLYLINES), browser.evaluate(ohif.LABELS)
        ohif.show(browser, objects["SEG"].SeriesInstanceUID)
        browser.wait_for("services.segmentationService.getSegmentations().length", timeout_s=60)
        browser.wait_for(ohif.CLICK.format(label="Yes"), timeout_s=60)  # to open this segmentation
        pages["SEG"] = ohif.settle(browser)
        ohif.show(browser, objects["SC"].SeriesInstanceUID)
        pages["SC"] = ohif.settle(browser)
        ohif.show(browser, objects["PDF"].SeriesInstanceUID)
        pdf = browser.wait_for(ohif.PDF, timeout_s=60)
        errors = browser.errors()
    x, y, width, height = (round(value) for value in canvas)
    return Views(phantom, reading, objects, pages, (x, y, width, height), tuple(film), polylines, labels, pdf, errors)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Views:
    """One look at everything, shared by the tests of this file."""
    tool("Orthanc", "orthanc")
    chromium, npm = tool("chromium", "chromium"), tool("npm", "npm")
    if not ohif.DICOMWEB_PLUGIN.exists():
        pytest.skip("the DICOMweb plugin of Orthanc is not installed (Debian: orthanc-dicomweb)")
    return look(tmp_path_factory.mktemp("ohif"), ohif.distribution(npm), chromium)


def test_nothing_on_the_page_failed(views: Views) -> None:
    assert views.errors == []


def test_the_film_fills_the_viewport_and_looks_like_itself(views: Views) -> None:
    shown = views.on_film("film").mean(axis=2)
    assert correlation(shown, views.phantom.image.pixels) > 0.97


def test_every_region_of_the_report_is_drawn_on_its_bone(views: Views) -> None:
    drawn = [box_of(points, views) for points in views.polylines]
    overlaps = {name: max(iou(box, views.phantom.boxes[name]) for box in drawn) for name in RUS}
    assert {name: overlap for name, overlap in overlaps.items() if overlap < 0.97} == {}


def test_the_boxes_of_the_report_are_on_the_screen(views: Views) -> None:
    """What the page says it draws is drawn: the box sides are coloured pixels."""
    left, top, right, _ = views.film
    scale = (right - left) / views.phantom.image.columns
    coloured = saturated(views.picture("SR"))
    for name in ("radius", "dp3", "mc1"):
        x1, _, x2, y2 = (value * scale for value in views.phantom.boxes[name])
        edge = coloured[round(top + y2) - 2 : round(top + y2) + 3, round(left + x1) : round(left + x2)]
        assert edge.any(axis=0).mean() > 0.4, f"{name}: a dashed line is drawn along its lower side"


def test_the_labels_of_the_report_give_the_bone_age(views: Views) -> None:
    default = next(m for m in views.reading.methods if m.name == views.reading.default_method)
    assert f"Bone age: {default.bone_age_years:.2f} a" in {line for label in views.labels for line in label}
    assert len(views.labels) >= len(RUS) + 1


def test_the_segmentation_covers_radius_and_ulna(views: Views) -> None:
    shown = views.on_film("SEG").astype(int)
    shown[:FRAME], shown[-FRAME:] = 0, 0  # the viewport's own blue frame lies over the film's edge
    hue = {"radius": shown[..., 0] - shown[..., 2] > 40, "ulna": shown[..., 2] - shown[..., 0] > 40}
    for name, found in hue.items():
        wanted = resized(views.phantom.masks[name], found.shape) > 0.5
        assert (found & wanted).sum() / (found | wanted).sum() > 0.9, name


def test_the_overview_picture_is_shown_whole(views: Views) -> None:
    picture = views.picture("SC").mean(axis=2)
    rows, columns = views.objects["SC"].Rows, views.objects["SC"].Columns
    height, width = picture.shape
    scale = min(height / rows, width / columns)
    y, x = (round((size - scale * side) / 2) for size, side in ((height, rows), (width, columns)))
    shown = picture[y : height - y, x : width - x]
    assert correlation(shown, views.objects["SC"].pixel_array.mean(axis=2)) > 0.95


def test_the_pdf_is_embedded_byte_for_byte(views: Views) -> None:
    """The browser's own PDF plug-in draws it on a screen; a headless one has none, so the bytes given to it are judged."""
    document = views.objects["PDF"].EncapsulatedDocument.rstrip(b"\0")
    given = base64.b64decode(views.pdf)
    assert given.startswith(b"%PDF-")
    assert given.rstrip(b"\0") == document


def saturated(picture: Pixels) -> NDArray[np.bool_]:
    """Return where a picture has a colour."""
    return np.asarray(picture.max(axis=2).astype(int) - picture.min(axis=2) > 60)


def box_of(points: str, views: Views) -> Box:
    """Return the rectangle around a polyline of the page, in pixels of the film."""
    numbers = np.array([[float(v) for v in pair.split(",")] for pair in points.replace(", ", ",").split()])
    left, top, right, bottom = views.film
    scale = np.array([views.phantom.image.columns / (right - left), views.phantom.image.rows / (bottom - top)])
    corners = (numbers - (left, top)) * scale
    return (*corners.min(axis=0), *corners.max(axis=0))


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return float(common / (areas - common))


def resized(array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
    picture = Picture.fromarray(np.asarray(array, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Picture.Resampling.BOX))


def correlation(shown: NDArray[np.generic], wanted: NDArray[np.generic]) -> float:
    """Compare two pictures by structure: the correlation of their means over a coarse grid."""
    coarse = (48, 48)
    return float(np.corrcoef(resized(shown, coarse).ravel(), resized(wanted, coarse).ravel())[0, 1])


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        seen = look(Path(scratch), ohif.distribution(tool("npm", "npm")), tool("chromium", "chromium"))
    for title, page in seen.pages.items():
        Picture.fromarray(page).save(out / f"{title}.png")
