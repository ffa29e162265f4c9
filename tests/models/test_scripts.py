"""Every script of `models` ends on what it cannot use with one line: the file, the line, the value."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from models import refusal
from models.datasets import rsna

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "models/bundles"
DETECTOR = BUNDLES / "detection/handnet-phantoms"
GRADER = BUNDLES / "grading/small"
REGRESSOR = BUNDLES / "regression/rsna-cnn"
HAND = "".join(
    f"\n1,joints13,point,{label},{20 + 5 * k},{90 - 6 * k},,,100,100"
    for k, label in enumerate(sorted(rsna.LABELS["joints13"]["point"]))
)


def test_every_script_of_models_is_run_by_the_one_that_ends_it_with_a_line() -> None:
    scripts = [path for path in (ROOT / "models").rglob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert len(scripts) > 25
    other = [path.name for path in scripts if not path.read_text("utf-8").endswith("\n    refusal.command(main)\n")]
    assert other == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of films, one of RSNA's kind, and files that are none; the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, table in (
        ("films", "file,sex,bone_age_years\na.png,F,10\n"),
        ("columns", "file,sex,age\na.png,F,10\n"),
        ("lost", "file,sex,bone_age_years\nb.png,F,10\n"),
        ("broken", "file,sex,bone_age_years\na.png,F,10\n"),
    ):
        (tmp_path / name).mkdir()
        Picture.fromarray(np.arange(200 * 150, dtype=np.uint16).reshape(200, 150)).save(tmp_path / name / "a.png")
        (tmp_path / name / "films.csv").write_text(table)
    whole = (tmp_path / "broken/a.png").read_bytes()
    (tmp_path / "broken/a.png").write_bytes(whole[: len(whole) // 2])
    sheets = tmp_path / "rsna/thumbnails"
    sheets.mkdir(parents=True)
    (sheets / "index.csv").write_text("id,bone_age_months,sex,original_rows,original_columns\n2,100,F,100,100\n")
    Picture.fromarray(np.zeros((100, 5000), np.uint8)).save(sheets / "sheet0.webp")
    head = "id,set,kind,label,x1,y1,x2,y2,original_columns,original_rows"
    (tmp_path / "rsna/annotations.csv").write_text(f"{head}{HAND}\n")
    (tmp_path / "rsna/images.csv").write_text("id,file,rows,columns,bone_age_months,sex\n")
    (tmp_path / "split.csv").write_text("id,split\n1,validation\n")
    (tmp_path / "other.csv").write_text("id,split\n2,validation\n")
    (tmp_path / "parts.csv").write_text("id,split\n1,test\n")
    (tmp_path / "rubbish.json").write_text("{rubbish")
    (tmp_path / "rubbish.jsonl").write_text('{"file": "b.png", "error": "no film"}\nrubbish\n')
    (tmp_path / "empty.jsonl").write_text('{"file": "a.png"}\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run/training.json").write_text("{}")
    (tmp_path / "arrays").mkdir()
    for name in ("file", "name", "films", "truth-0", "pixels-0"):
        (tmp_path / f"arrays/{name}.npy").write_bytes(b"rubbish")
    (tmp_path / "arrays/cache.json").write_text("{}")
    row = {"file": "a.png", "sex": "F", "bone_age_years": 10, "fold": 0}
    (tmp_path / "arrays/tuning.json").write_text(json.dumps({"rows": [row]}))
    return tmp_path


@pytest.mark.parametrize(
    ("script", "options", "line"),
    [
        ("features", f"--archive none --trunk {REGRESSOR} --out o", "none: 'none': cannot be read: No such file"),
        ("features", f"--archive columns --trunk {REGRESSOR} --out o", "columns/films.csv:1: 'file,sex,age': lacks"),
        ("features", f"--archive broken --trunk {REGRESSOR} --out o", "broken/a.png: 'undecodable': a.png could not"),
        ("features", "--archive films --trunk none --out o", "weights in none are refused: metadata.json"),
        ("regression.train", "--data lost --out o", "lost/films.csv:2: 'b.png': there is no such file"),
        ("regression.train", "--data films --start run --out o", "run/best.safetensors: 'best.safetensors': holds no"),
        ("regression.ablation", "--data broken --out o", "broken/a.png: 'undecodable'"),
        (
            "regression.calibrate",
            "--data films --member none --out o",
            "none/training.json: 'training.json': cannot be",
        ),
        ("regression.calibrate", "--data films --member run --out o", "run/training.json: '': lacks split_sha256"),
        (
            "regression.widths",
            f"--data none --weights {REGRESSOR} --part test --version 2",
            "none/thumbnails/index.csv",
        ),
        ("regression.boost", f"--data arrays --trunk {REGRESSOR} --out o", "arrays/name.npy: 'name.npy': is no array"),
        ("grading.films", "--data films --readings none --out o", "none: 'none': cannot be read: No such file"),
        ("grading.films", "--data films --readings rubbish.jsonl --out o", "rubbish.jsonl:2: 'rubbish': is no line of"),
        (
            "grading.films",
            "--data films --readings empty.jsonl --out o",
            "empty.jsonl:1: 'a.png': is no reading of this",
        ),
        ("grading.train", "--data none --out o", "no crops in none/train; draw them with"),
        ("grading.train", "--data arrays --out o", "no crops in arrays/train; draw them with"),
        (
            "grading.evaluate",
            f"--weights {GRADER} --validation arrays --test arrays --json o",
            "arrays/truth-0.npy: 'tr",
        ),
        ("grading.consistency", "--films arrays --tuning arrays --json o", "arrays/file.npy: 'file.npy': is no array"),
        (
            "grading.weightings",
            "--films none --tuning arrays --json o",
            "none/file.npy: 'file.npy': is not there; models",
        ),
        (
            "agreement",
            "--tuning rubbish.json --readings r --bundle b --json o",
            "rubbish.json:1: 'rubbish.json': is not",
        ),
        (
            "agreement",
            "--tuning arrays/tuning.json --readings empty.jsonl --bundle b --json o",
            "empty.jsonl:1: 'a.png'",
        ),
        ("segmentation.data", "--out o --smaller arrays", "arrays/cache.json: '': lacks films"),
        ("segmentation.train", "--data none --out o", "none/train: 'train': holds no crops"),
        (
            "segmentation.outlined",
            "--out o --outlines none --images none",
            "none/split.csv: 'split.csv': cannot be read",
        ),
        ("detection.held_back", "none --weights none", "none: 'none': there is no such folder or file"),
        ("detection.held_back", f"films --weights {DETECTOR}", "films/split.csv: 'split.csv': cannot be read"),
        ("detection.evaluate", "--weights none --out o", "weights in none are refused: metadata.json"),
        (
            "detection.evaluate",
            f"--weights {DETECTOR} --dicom none --parts others --others 1 --out o",
            "none: 'none': th",
        ),
        (
            "detection.evaluate",
            f"--weights {DETECTOR} --data none --parts real_films --out o",
            "none/fullres: 'fullres':",
        ),
        (
            "detection.evaluate",
            f"--weights {DETECTOR} --parts real_films --out o",
            "--parts real_films measures real film",
        ),
        (
            "detection.evaluate",
            f"--weights {DETECTOR} --parts latency --out rubbish.json",
            "rubbish.json:1: 'rubbish.json",
        ),
        (
            "detection.template",
            "--data rsna --split other.csv --out o",
            "other.csv: 1: has annotations and stands in no",
        ),
        ("detection.template", "--data rsna --split split.csv --out o", "split.csv: 'train': no film with annotations"),
        ("detection.template", "--data rsna --split parts.csv --out o", "parts.csv:2: 'test': a film is in train or"),
        (
            "detection.misses",
            f"--weights {DETECTOR} --data rsna --split split.csv --json o",
            "index.csv: 1: has annotations",
        ),
        (
            "detection.stress",
            f"--weights {DETECTOR} --data rsna --split split.csv --films 1 --json o",
            "rsna/fullres: 'jo",
        ),
        ("datasets.splits", "none", "none: 'none': the folder holds no .xml and no .json file"),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_script_ends_on_what_it_cannot_use_with_one_line(
    script: str, options: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{script}.py", *options.split()])
    with pytest.raises(SystemExit) as ended:
        refusal.command(importlib.import_module(f"models.{script}").main)
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"^{re.escape(script)}\.py: .*{re.escape(line)}", said), said
