"""A detector measured on boxes of films that it did not learn from: every region that has a box counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from models.datasets.faults import BadData
from models.detection import held_back
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.annotated import Boxed, boxed
from models.detection.predict import Detection
from models.image import Image
from models.phantom import annotations, draw
from models.reading import ImageFacts, Region, Verdict

BOXES = {
    "radius": (100.0, 200.0, 140.0, 260.0),
    "ulna": (180.0, 210.0, 200.0, 250.0),
    "mp3": (120.0, 40.0, 140.0, 60.0),
}


class Stub:
    """Finds the radius where it is, the ulna 10 pixels to the right, and no middle phalanx."""

    def __init__(self, *, accepted: bool) -> None:
        self.accepted = accepted

    def detect(self, image: Image) -> Detection:
        """Return the same for every film."""
        x1, y1, x2, y2 = BOXES["ulna"]
        regions = (Region("radius", BOXES["radius"], 1.0), Region("ulna", (x1 + 10, y1, x2 + 10, y2), 1.0))
        facts = ImageFacts(image.rows, image.columns, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
        return Detection(regions, facts, Verdict(accepted=self.accepted))


@pytest.fixture
def film(tmp_path: Path) -> Boxed:
    Picture.fromarray(np.arange(300 * 220, dtype=np.uint16).reshape(300, 220)).save(tmp_path / "a.png")
    return Boxed(tmp_path / "a.png", 300, 220, BOXES, 0.5)


def test_a_region_that_is_not_found_counts_as_a_miss_and_as_no_overlap(film: Boxed) -> None:
    found = held_back.measure(Stub(accepted=True), [film])
    # Radius 1; ulna 20 wide moved by 10: 10 / 30; the phalanx 0.
    assert found["mean_iou"]["value"] == pytest.approx((1 + 1 / 3 + 0) / 3, abs=1e-4)
    rows = {name: error for name, error, _ in held_back.cases(Stub(accepted=True), Template.load(), film)}
    assert rows["radius"] == 0
    assert rows["ulna"] > LIMIT_PERCENT  # 10 pixels of a hand some 300 long
    assert rows["mp3"] == np.inf
    assert found["within_2.5_percent"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["misses_by_region"] == {"ulna": 1, "mp3": 1}
    assert (found["films"], found["regions"], found["not_found"]) == (1, 3, 1)


def test_every_region_of_a_refused_film_is_missed(film: Boxed) -> None:
    found = held_back.measure(Stub(accepted=False), [film])
    assert (found["within_2.5_percent"]["value"], found["mean_iou"]["value"], found["not_found"]) == (0, 0, 3)


def test_the_shipped_detector_finds_a_phantom_by_the_boxes_of_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw(7, age_years=9)
    annotations.save_png(tmp_path / "a.png", drawn)
    (tmp_path / "a.xml").write_text(annotations.voc("a.png", drawn))
    (tmp_path / "split.csv").write_text("id,part\na,test\n")
    assert len(boxed(tmp_path)["test"]) == 1
    weights = Path("models/bundles/detection/handnet-phantoms")
    held_back.main([str(tmp_path), "--weights", str(weights)])
    found = json.loads(capsys.readouterr().out)
    assert found["within_2.5_percent"]["value"] > 0.9
    assert found["mean_iou"]["value"] > 0.7
    with pytest.raises(BadData, match="no film with boxes stands in this part"):
        held_back.main([str(tmp_path), "--weights", str(weights), "--part", "train"])
