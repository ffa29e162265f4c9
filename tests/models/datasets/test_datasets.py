"""Training data: what is right is read, what is wrong is named with file, line and value."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets import coco, labelimg, labelme, rsna, splits
from models.datasets import phantom as cache
from models.datasets.faults import BadData

BOX = "<object><name>{label}</name>\n<bndbox><xmin>{x1}</xmin><ymin>3</ymin><xmax>{x2}</xmax><ymax>9</ymax></bndbox></object>"


def _picture(path: Path, rows: int = 20, columns: int = 30) -> None:
    Image.fromarray(np.zeros((rows, columns), np.uint8)).save(path)


def _voc(folder: Path, label: str = "radius", x1: object = 2, x2: object = 8, film: str = "a.png") -> Path:
    _picture(folder / "a.png")
    path = folder / "a.xml"
    path.write_text(
        f"<annotation><filename>{film}</filename>\n<size><width>30</width><height>20</height></size>\n"
        f"{BOX.format(label='ulna', x1=1, x2=30)}\n{BOX.format(label=label, x1=x1, x2=x2)}\n</annotation>"
    )
    return path


def test_labelimg_boxes_are_counted_from_zero(tmp_path: Path) -> None:
    read = labelimg.read(_voc(tmp_path))
    assert (read.rows, read.columns, read.image) == (20, 30, tmp_path / "a.png")
    assert read.boxes == (("ulna", (0.0, 2.0, 29.0, 8.0)), ("radius", (1.0, 2.0, 7.0, 8.0)))
    assert labelimg.read_folder(tmp_path) == [read]


@pytest.mark.parametrize(
    ("change", "line", "value"),
    [
        ({"label": "femur"}, 5, "femur"),
        ({"x2": 31}, 6, "(2, 3, 31, 9)"),
        ({"x1": 8, "x2": 8}, 6, "(8, 3, 8, 9)"),
        ({"x1": "left"}, 6, "left"),
        ({"x1": "inf"}, 6, "inf"),
        ({"film": "b.png"}, 1, "b.png"),
        ({"label": "ulna"}, 5, "ulna"),  # a second box of one region
    ],
)
def test_a_bad_labelimg_file_is_refused_with_its_line_and_value(
    tmp_path: Path, change: dict[str, object], line: int, value: str
) -> None:
    path = _voc(tmp_path, **change)  # type: ignore[arg-type]
    with pytest.raises(BadData, match=rf"a\.xml:{line}: ") as refused:
        labelimg.read(path)
    assert refused.value.path == path
    assert str(refused.value.value) == value


def test_an_annotation_nested_without_end_is_refused(tmp_path: Path) -> None:
    """140 kB of it took six seconds, and ten times as much a hundred times as long."""
    path = tmp_path / "a.xml"
    path.write_text("<a>" * 200 + "</a>" * 200)
    with pytest.raises(BadData, match=r"a\.xml:1: 'a': is nested too deeply"):
        labelimg.read(path)


def test_an_annotation_that_is_not_xml_or_declares_entities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotation>\n<size>\n")
    with pytest.raises(BadData, match=r"a\.xml:3: .*is not XML"):
        labelimg.read(path)
    path.write_text('<!DOCTYPE a [\n<!ENTITY lol "lol">]>\n<annotation/>')
    with pytest.raises(BadData, match=r"a\.xml:2: 'lol'"):
        labelimg.read(path)


def _labelme(folder: Path, **shape: object) -> Path:
    _picture(folder / "a.png")
    first = {"label": "ulna", "points": [[2, 3], [8, 3], [8, 9], [2, 9]], "shape_type": "polygon"}
    document = {"shapes": [first, {**first, **shape}], "imagePath": "a.png", "imageHeight": 20, "imageWidth": 30}
    path = folder / "a.json"
    path.write_text(json.dumps(document, indent=1))
    return path


def test_a_labelme_outline_covers_the_pixels_it_encloses(tmp_path: Path) -> None:
    outlines = labelme.read(_labelme(tmp_path, label="radius", points=[[10, 10], [14, 10], [14, 13], [10, 13]]))
    mask = outlines.mask("radius")
    ys, xs = np.nonzero(mask)
    # 10 <= x < 14 and 10 <= y < 13: 4 x 3 pixels.
    assert (mask.sum(), xs.min(), xs.max(), ys.min(), ys.max()) == (12, 10, 13, 10, 12)
    assert outlines.mask("ulna").sum() == 36


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ({"label": "femur"}, "femur"),
        ({"points": [[1, 1], [2, 2]]}, "2"),
        ({"points": [[1, 1], [40, 2], [3, 3]]}, "(1.0, 1.0, 40.0, 3.0)"),
        ({"points": None}, "0"),
        ({"points": [[1, 1], [float("nan"), 2], [3, 3]]}, "nan"),
        ({"points": [[1, 1], ["x", 2], [3, 3]]}, "x"),
        ({"points": [[1, 1], [2], [3, 3]]}, "[2]"),
        ({"shape_type": "circle"}, "circle"),
    ],
)
def test_a_bad_labelme_outline_is_refused_with_its_line_and_value(
    tmp_path: Path, shape: dict[str, object], value: str
) -> None:
    path = _labelme(tmp_path, **shape)
    line = [n for n, text in enumerate(path.read_text().splitlines(), start=1) if '"label"' in text][1]
    with pytest.raises(BadData, match=rf"a\.json:{line}: ") as refused:
        labelme.read(path)
    assert str(refused.value.value) == value


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"imageHeight": "tall"}, "tall"),
        ({"imageHeight": 40, "imageWidth": 60}, "(60, 40)"),  # drawn on a larger copy of the film
        ({"shapes": None}, "None"),
        ({"shapes": ["radius"]}, "radius"),
        ({"imagePath": "b.png"}, "b.png"),
    ],
)
def test_a_bad_labelme_file_is_refused_with_its_line_and_value(
    tmp_path: Path, change: dict[str, object], value: str
) -> None:
    path = _labelme(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}, indent=1))
    with pytest.raises(BadData, match=r"a\.json:\d+: ") as refused:
        labelme.read(path)
    assert str(refused.value.value) == value


@pytest.mark.parametrize("read", [labelme.read, labelimg.read, coco.read, splits.load])
def test_a_file_that_is_missing_or_no_text_is_refused_by_name(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(BadData, match=r"none\.json: 'none\.json': cannot be read: No such file"):
        read(tmp_path / "none.json")
    (tmp_path / "other.json").write_bytes(b"\n\xff\xfe")
    with pytest.raises(BadData, match=r"other\.json:[12]: "):
        read(tmp_path / "other.json")


@pytest.mark.parametrize(("read", "suffix"), [(labelme.read_folder, ".json"), (labelimg.read_folder, ".xml")])
def test_a_folder_without_annotations_is_refused(tmp_path: Path, read: Callable[[Path], object], suffix: str) -> None:
    with pytest.raises(BadData, match=f"the folder holds no {suffix} file"):
        read(tmp_path)
    with pytest.raises(BadData, match="there is no such folder"):
        read(tmp_path / "none")


def test_a_split_keeps_patients_apart_and_survives_its_file(tmp_path: Path) -> None:
    patients = [str(number) for number in range(1000)] * 2
    sexes = {patient: "FM"[int(patient) % 2] for patient in patients}
    division = splits.divide(patients, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=1, strata=sexes)
    assert [len(splits.members(division, part)) for part in splits.PARTS] == [800, 100, 100]
    assert sum(sexes[p] == "F" for p in splits.members(division, "test")) == 50
    digest = splits.save(tmp_path / "split.csv", division)
    assert splits.load(tmp_path / "split.csv") == division
    assert splits.digest(tmp_path / "split.csv") == digest


@pytest.mark.parametrize(
    ("text", "line", "value"),
    [
        ("id,part\n1,train\n1,test\n", 3, "1"),
        ("id,part\n1,exam\n", 2, "1,exam"),
        ("patient\n", 1, "patient"),
        ("id,part\n1,train\n4400,train\n", 3, "4400"),
    ],
)
def test_a_bad_split_file_is_refused_with_its_line_and_value(tmp_path: Path, text: str, line: int, value: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(BadData, match=rf"split\.csv:{line}: ") as refused:
        splits.load(path, held_out=[str(film) for film in rsna.HELD_OUT])
    assert refused.value.value == value


def test_the_annotated_films_of_a_patient_go_into_one_part_and_a_split_is_not_written_twice(tmp_path: Path) -> None:
    for film in range(40):
        (tmp_path / f"film{film:02d}.xml").write_text("<annotation/>")
    (tmp_path / "boxes.json").write_text(json.dumps({"images": [{"file_name": "other.png"}]}))
    (tmp_path / "films.csv").write_text("file,patient\n" + "".join(f"film{k:02d}.png,P{k // 4}\n" for k in range(40)))
    splits.main([str(tmp_path), "--patients", str(tmp_path / "films.csv"), "--validation", "0.2", "--test", "0.2"])
    division = splits.load(tmp_path / "split.csv")
    assert len(division) == 41
    assert all(division[f"film{k:02d}"] == division[f"film{k // 4 * 4:02d}"] for k in range(40))
    assert set(division.values()) == set(splits.PARTS)
    with pytest.raises(BadData, match=r"split\.csv: 'split\.csv': is there already"):
        splits.main([str(tmp_path)])
    with pytest.raises(BadData, match=r"holds no \.xml and no \.json file"):
        splits.annotated(tmp_path / "none")


def _rsna(folder: Path, row: str = "4,fullres/4.webp,2000,1500,120,F") -> Path:
    (folder / "fullres").mkdir()
    _picture(folder / "fullres" / "4.webp")
    (folder / "images.csv").write_text(f"id,file,rows,columns,bone_age_months,sex\n{row}\n")
    return folder


def test_rsna_films_carry_age_sex_and_whether_they_are_held_out(tmp_path: Path) -> None:
    film = rsna.films(_rsna(tmp_path), subset="fullres")[0]
    assert (film.id, film.sex, film.bone_age_years, film.held_out) == ("4", "F", 10.0, False)


def test_rsna_rows_out_of_range_are_refused_with_line_and_value(tmp_path: Path) -> None:
    folder = _rsna(tmp_path, "4,fullres/4.webp,2000,1500,300,F")
    with pytest.raises(BadData, match=r"images\.csv:2: '300': bone_age_months is outside of 0 to 240"):
        rsna.films(folder)
    (folder / "images.csv").write_text("id,file,rows,columns,bone_age_months,sex\n9,fullres/9.webp,2000,1500,30,F\n")
    with pytest.raises(BadData, match=r"images\.csv:2: 'fullres/9.webp': the film is not in the folder"):
        rsna.films(folder)
    assert rsna.Film("4400", folder, 1, 1, 1.0, "F").held_out


def test_rsna_thumbnails_stand_in_the_order_of_their_index(tmp_path: Path) -> None:
    place = tmp_path / "thumbnails"
    place.mkdir()
    sheet = np.repeat(np.repeat(np.arange(100, dtype=np.uint8).reshape(2, 50), 100, axis=0), 100, axis=1)
    Image.fromarray(sheet).save(place / "sheet0.webp", lossless=True)
    rows = "\n".join(f"{1000 + k},{k},M,2000,1500" for k in range(60))
    (place / "index.csv").write_text(f"id,bone_age_months,sex,original_rows,original_columns\n{rows}\n")
    tiles, films = rsna.thumbnails(tmp_path)
    assert tiles.shape == (60, 100, 100)
    assert [int(tiles[k].mean()) for k in (0, 49, 50, 59)] == [0, 49, 50, 59]
    assert films[59].id == "1059"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            "7,epiphyses21,box,Radius,300,200,100,400,1000,2000",
            r"\(300.0, 200.0, 100.0, 400.0\): the box is turned inside out",
        ),
        ("7,epiphyses21,box,Radius,100,200,1300,400,1000,2000", r"'1300': x2 is outside of -50 to 1050"),
        ("7,epiphyses21,box,Radius,100,200,,400,1000,2000", r"'': x2 is not a number"),
        (
            "7,epiphyses21,box,Scaphoid,100,200,300,400,1000,2000",
            r"'Scaphoid': labels of a box in epiphyses21 are .*Radius",
        ),
        ("7,epiphyses21,point,Radius,100,200,,,1000,2000", r"'point': epiphyses21 states a box"),
        ("7,epiphyses12,box,Radius,100,200,300,400,1000,2000", r"'epiphyses12': sets are epiphyses21, handpose"),
    ],
)
def test_bad_annotations_of_rsna_films_are_refused_with_line_and_value(tmp_path: Path, row: str, reason: str) -> None:
    header = "id,set,kind,label,x1,y1,x2,y2,original_columns,original_rows"
    (tmp_path / "annotations.csv").write_text(
        f"{header}\n7,epiphyses21,box,Ulna,100,200,300,400,1000,2000\n7,joints13,point,w1,10,20,,,1000,2000\n{row}\n"
    )
    with pytest.raises(BadData, match=rf"annotations\.csv:4: {reason}"):
        rsna.annotations(tmp_path)


def test_a_point_of_an_rsna_film_is_a_box_without_size(tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text(
        "id,set,kind,label,x1,y1,x2,y2,original_columns,original_rows\n7,handpose,point,wrist,10,20,,,1000,2000\n"
    )
    assert rsna.annotations(tmp_path)["7"][0].box == (10.0, 20.0, 10.0, 20.0)


def test_a_cache_of_phantoms_gives_back_what_was_drawn(tmp_path: Path) -> None:
    cache.render(tmp_path, 3, 2, rows=200, columns=160)
    cases = cache.load(tmp_path)
    for case, (_, drawn) in zip(cases, cache.generate(3, 2, rows=200, columns=160), strict=True):
        assert (case.sex, case.stages) == (drawn.sex, drawn.stages)
        assert case.boxes["radius"] == pytest.approx(drawn.boxes["radius"], abs=0.01)
    (tmp_path / "phantom-00000004.png").unlink()
    with pytest.raises(BadData, match=r"cases\.csv:3: 'phantom-00000004.png'"):
        cache.load(tmp_path)
    table = tmp_path / "boxes.csv"
    table.write_text(table.read_text().replace("x1,", "left,"))
    with pytest.raises(BadData, match=r"boxes\.csv:1: .*lacks the columns x1"):
        cache.load(tmp_path)


@pytest.mark.parametrize(
    ("xml", "line", "value"),
    [
        ('<?xml version="1.0" encoding="gbk"?>\n<annotation/>', 1, "a.xml"),
        ('<?xml version="1.0" encoding="klingon"?>\n<annotation/>', 1, "a.xml"),
        (f"<annotation>\n<filename>{'x' * 300}.png</filename>\n</annotation>", 2, f"{'x' * 300}.png"),
        # A box without a name, before one that has a name: it was left out without a word.
        (
            "<annotation><filename>a.png</filename><size><width>30</width><height>20</height></size>\n"
            "<object><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>\n"
            f"{BOX.format(label='ulna', x1=1, x2=30)}</annotation>",
            2,
            "",
        ),
    ],
)
def test_a_labelimg_file_of_an_unknown_encoding_a_long_name_or_a_box_without_a_name_is_refused(
    tmp_path: Path, xml: str, line: int, value: str
) -> None:
    _voc(tmp_path).write_text(xml)
    with pytest.raises(BadData, match=rf"a\.xml:{line}: ") as refused:
        labelimg.read(tmp_path / "a.xml")
    assert refused.value.value == value


def test_the_parts_of_a_labelimg_object_do_not_take_the_place_of_its_own_name_and_box(tmp_path: Path) -> None:
    path = _voc(tmp_path)
    part = "<part><name>tip</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    path.write_text(path.read_text().replace("</object>", f"{part}</object>"))
    assert dict(labelimg.read(path).boxes) == {"ulna": (0.0, 2.0, 29.0, 8.0), "radius": (1.0, 2.0, 7.0, 8.0)}


@pytest.mark.parametrize("read", [labelme.read, coco.read])
@pytest.mark.parametrize(("text", "reason"), [("[" * 100_000, "nested"), ('{"shapes": ' + "1" * 5000 + "}", "digits")])
def test_json_that_python_cannot_hold_is_refused_by_name(
    tmp_path: Path, read: Callable[[Path], object], text: str, reason: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadData, match=rf"a\.json: .*{reason}"):
        read(path)


@pytest.mark.parametrize(
    ("change", "value"),
    [({"imageHeight": 10**400}, 10**400), ({"imagePath": "x" * 300}, "x" * 300), ({"imagePath": "a\0.png"}, "a\0.png")],
)
def test_a_labelme_number_or_name_that_no_machine_holds_is_refused_in_a_short_line(
    tmp_path: Path, change: dict[str, object], value: object
) -> None:
    path = _labelme(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}, indent=1))
    with pytest.raises(BadData, match=r"a\.json:\d+: ") as refused:
        labelme.read(path)
    assert refused.value.value == value
    assert len(str(refused.value)) < 250 + 2 * len(str(tmp_path))


@pytest.mark.parametrize("images", ['"abc"', "[3]", "[{}]", '[{"file_name": 3}]'])
def test_a_list_of_films_that_is_none_is_refused_before_a_split_is_made(tmp_path: Path, images: str) -> None:
    (tmp_path / "films.json").write_text(f'{{"images": {images}}}')
    with pytest.raises(BadData, match=r"films\.json: .*file_name"):
        splits.annotated(tmp_path)


@pytest.mark.parametrize("cell", ["a" * 200_000, '"a\n'])
def test_a_split_that_is_no_table_is_refused_by_name(tmp_path: Path, cell: str) -> None:
    (tmp_path / "split.csv").write_text(f"id,part\n{cell},train\n")
    with pytest.raises(BadData, match=r"split\.csv"):
        splits.load(tmp_path / "split.csv")


def test_two_films_of_one_name_and_two_patients_are_refused_before_they_are_split(tmp_path: Path) -> None:
    (tmp_path / "film1.xml").write_text("<annotation/>")
    table = tmp_path / "films.csv"
    table.write_text("file,patient\nstudy1/film1.dcm,P1\nstudy2/film1.dcm,P2\n")
    with pytest.raises(BadData, match=r"films\.csv:3: 'study2/film1\.dcm': "):
        splits.main([str(tmp_path), "--patients", str(table)])
    assert not (tmp_path / "split.csv").exists()


def test_a_film_that_the_table_of_patients_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for film in ("film1", "film2"):
        (tmp_path / f"{film}.xml").write_text("<annotation/>")
    (tmp_path / "films.csv").write_text("file,patient\nfilm1.dcm,P1\n")
    splits.main([str(tmp_path), "--patients", str(tmp_path / "films.csv")])
    assert "1 film without a patient in films.csv counts as a patient of its own: film2" in capsys.readouterr().out
    (tmp_path / "split.csv").unlink()
    (tmp_path / "films.csv").write_text("file,sex\nfilm1.dcm,F\n")  # as `carpus phantom` writes it
    splits.main([str(tmp_path), "--patients", str(tmp_path / "films.csv")])
    assert (
        "2 films without a patient in films.csv count as patients of their own: film1, film2" in capsys.readouterr().out
    )
