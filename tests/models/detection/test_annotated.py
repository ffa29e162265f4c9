"""A hospital's own boxes: read from labelImg and COCO files, learned from, and their terms passed on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from models import weights
from models.datasets.faults import BadData
from models.detection import annotated, learning_boxes
from models.detection.train import main
from models.regions import REGIONS
from models.runs import RunRefused

ROWS, COLUMNS = 645, 500  # more than twice the working side: films are averaged down, less than a block is cut off
BOX = (100, 200, 140, 260)  # first and last column and row, counted from 0
OTHERS = {"ulna": (180, 210, 200, 250), "mp3": (120, 40, 140, 60)}


def voc(name: str, boxes: dict[str, tuple[int, int, int, int]]) -> str:
    """Return a labelImg file, which counts pixels from 1."""
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax>"
        f"<ymax>{y2 + 1}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2) in boxes.items()
    )
    size = f"<size><width>{COLUMNS}</width><height>{ROWS}</height></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two films with three boxes each, in a folder of labelImg files."""
    rng = np.random.default_rng(1)
    for name in ("one", "two"):
        Picture.fromarray(rng.integers(0, 255, (ROWS, COLUMNS), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(voc(name, {"radius": BOX, **OTHERS}))
    (tmp_path / "split.csv").write_text("id,part\none,train\ntwo,validation\n")
    return tmp_path


def test_boxes_lie_on_the_averaged_film_where_they_lay_on_the_whole_one(folder: Path) -> None:
    found = annotated.read(folder)
    (film,) = found.films["train"]
    rows, columns = film.pixels.shape
    block = ROWS // rows
    assert (block, film.aspect) == (2, columns / rows)
    middle = (
        np.array([BOX[0] + BOX[2], BOX[1] + BOX[3]]) / 2 + 0.5
    ) / block  # from the film's edge, pixels of the averaged film
    radius = REGIONS.index("radius")
    assert film.points[radius] * (columns, rows) == pytest.approx(middle, abs=1e-3)
    assert film.sizes[radius] * (columns, rows) == pytest.approx((20, 30), abs=1e-3)
    assert int(np.isfinite(film.points[:, 0]).sum()) == 3


def test_a_coco_file_says_the_same_as_labelimg(folder: Path) -> None:
    (expected,) = annotated.read(folder).films["train"]
    boxes = (BOX, *OTHERS.values())
    names = ("radius", *OTHERS)
    document = {
        "images": [{"id": 1, "file_name": "one.png", "height": ROWS, "width": COLUMNS}],
        # COCO counts from the edge of pixel 0: its middle lies at 0.5.
        "annotations": [
            {"image_id": 1, "category_id": name, "bbox": [x1 + 0.5, y1 + 0.5, x2 - x1, y2 - y1]}
            for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)
        ],
        "categories": [{"id": name, "name": name} for name in names],
    }
    (folder / "boxes.json").write_text(json.dumps(document))
    (film,) = annotated.read(folder / "boxes.json").films["train"]
    np.testing.assert_allclose(film.points, expected.points, atol=1e-5)
    np.testing.assert_allclose(film.sizes, expected.sizes, atol=1e-5)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("id,part\none,train\n", "'two': stands in no part"),
        ("id,part\none,test\ntwo,validation\n", "'train': no film with boxes"),
        ("id,part\none,training\ntwo,test\n", "split.csv:2: 'one,training'"),
    ],
)
def test_a_film_without_a_part_and_a_split_without_training_are_refused(folder: Path, split: str, said: str) -> None:
    (folder / "split.csv").write_text(split)
    with pytest.raises(BadData, match=said):
        annotated.read(folder)


def test_a_run_on_own_boxes_asks_for_terms_and_passes_those_of_its_start_on(folder: Path) -> None:
    options = ["--annotations", str(folder), "--phantoms", "2", "--batch", "2", "--width", "8", "--size", "64"]
    options += ["--precision", "fp32", "--steps", "1", "--phantom-cache", str(folder / "cache")]
    with pytest.raises(RunRefused, match="--terms and --source"):
        main([*options, "--out", str(folder / "refused")])
    with pytest.raises(RunRefused, match="closer does not learn from boxes"):
        main([*options, "--architecture", "closer", "--out", str(folder / "other")])
    assert not (folder / "refused").exists()
    assert not (folder / "other").exists()
    own = ["--terms", "internal", "--source", "films of ours"]
    main([*options, *own, "--out", str(folder / "run")])
    first = weights.Metadata.read(folder / "run" / "weights")
    assert first.terms == "internal"
    assert "films of ours (1 films with boxes)" in first.data
    assert len(first.split_sha256) == 64
    begun = [*options[2:], "--start", str(folder / "run" / "weights"), "--out", str(folder / "again")]
    main(begun)  # on phantoms alone, which are free
    second = weights.Metadata.read(folder / "again" / "weights")
    assert second.terms == "internal"
    assert "films of ours" in second.data[-1]


def test_the_boxes_of_an_own_film_are_what_a_box_detector_learns(folder: Path) -> None:
    (film,) = annotated.read(folder).films["train"]
    grey, target = learning_boxes.sample(film, np.random.default_rng(0))
    assert grey.shape[-2:] in (film.pixels.shape, film.pixels.shape[::-1])
    assert target["labels"].tolist() == sorted(1 + REGIONS.index(name) for name in ("radius", *OTHERS))


def test_a_film_with_too_few_boxes_is_refused(folder: Path) -> None:
    (folder / "one.xml").write_text(voc("one", {"radius": BOX}))
    with pytest.raises(BadData, match=r"one\.png: 1: boxes; how the hand lies is seen from 3 regions"):
        annotated.read(folder)


def test_a_fault_in_the_boxes_ends_a_run_before_anything_is_kept_or_drawn(folder: Path, tmp_path: Path) -> None:
    (folder / "one.xml").write_text(voc("one", {"radius": BOX, "Speiche": BOX, "mp3": BOX}))
    with pytest.raises(BadData, match=r"one\.xml:1: 'Speiche'"):
        main([f"--annotations={folder}", "--terms=x", "--source=y", "--phantoms=1500", f"--out={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_film_with_boxes_that_cannot_be_decoded_is_refused_by_name(folder: Path) -> None:
    (folder / "one.png").write_bytes((folder / "one.png").read_bytes()[:2000])
    with pytest.raises(BadData, match=r"one\.png: 'undecodable': "):
        annotated.read(folder)
