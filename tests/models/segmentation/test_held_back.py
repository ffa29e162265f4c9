"""A segmenter measured on outlines of films that it did not learn from: every bone counts, found or not."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.datasets import labelme
from models.datasets.faults import BadData
from models.image import Image
from models.phantom import Phantom, annotations, draw
from models.reading import Box
from models.segmentation import held_back, outlined

UNET = Path("models/bundles/segmentation/unet")


class Stub:
    """Outlines the radius as it is drawn, and no ulna."""

    def __init__(self, outline: labelme.Outlines) -> None:
        self.outline = outline

    def masks(self, image: Image, boxes: dict[str, Box]) -> dict[str, NDArray[np.bool_]]:
        """Return the same for every film."""
        return {"radius": self.outline.mask("radius")}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw(7, age_years=9)


@pytest.fixture
def folder(tmp_path: Path, phantom: Phantom) -> Path:
    annotations.save_png(tmp_path / "a.png", phantom)
    (tmp_path / "a.json").write_text(annotations.labelme("a.png", phantom))
    (tmp_path / "split.csv").write_text("id,part\na,test\n")
    regions = [{"name": name, "box": box} for name, box in phantom.boxes.items()]
    (tmp_path / "readings.jsonl").write_text(json.dumps({"file": "a.png", "regions": regions}))
    return tmp_path


def test_a_bone_that_is_not_found_counts_as_no_overlap_and_one_outlined_alike_as_a_whole_one(folder: Path) -> None:
    films = outlined.drawn(folder, folder, "test")
    boxes = outlined.read_boxes(folder / "readings.jsonl")
    found = held_back.measure(Stub(films["a"]), films, boxes)
    assert (found["radius"]["iou"]["value"], found["ulna"]["iou"]["value"]) == (1, 0)
    assert (found["films"], found["not_found"]) == (1, 1)
    # The same film twice, once without boxes: 1 and 0 of the radius, 0 and 0 of the ulna.
    found = held_back.measure(Stub(films["a"]), {**films, "b": films["a"]}, boxes)
    assert (found["radius"]["iou"]["value"], found["radius"]["iou_median"]) == (0.5, 0.5)
    assert (found["films"], found["not_found"]) == (2, 3)


def test_what_lies_outside_of_the_crop_does_not_count(folder: Path, phantom: Phantom) -> None:
    outline = outlined.drawn(folder, folder, "test")["a"]
    radius = outline.mask("radius")
    fingers = radius.copy()
    fingers[: outline.rows // 3] = True  # far above the wrist
    case = held_back.overlaps({"radius": fingers}, outline, phantom.boxes)
    assert case["radius"] == held_back.overlaps({"radius": radius}, outline, phantom.boxes)["radius"]
    assert case["radius"].precision == 1


def test_the_shipped_segmenter_outlines_a_phantom_by_the_outlines_of_its_own_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), "--images", str(folder), "--readings", str(folder / "readings.jsonl"), "--weights", str(UNET)]
    held_back.main(words)
    found = json.loads(capsys.readouterr().out)
    assert found["part"] == "test"
    assert min(found[bone]["iou"]["value"] for bone in ("radius", "ulna")) > 0.9
    with pytest.raises(BadData, match="no film stands in this part"):
        held_back.main([*words, "--part", "train"])
