"""The regressor: exact appearance, both values of every input, and the scripts from films to a weights folder."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import save_file

from models import runs, weights
from models.image import Image
from models.reading import ImageFacts
from models.regression import calibrate, data, evaluate, train, widths
from models.regression.appearance import channels, sample_indices, thumbnail, upright
from models.regression.network import build
from models.regression.predict import ENSEMBLE, INTERVALS_FILE, Ensemble, Regressor


def facts(rotation: float = 0.0, polarity: str = "bone bright") -> ImageFacts:
    return ImageFacts(500, 400, None, "L", None, polarity, "MONOCHROME2", rotation)


def film(rows: int = 500, columns: int = 400, seed: int = 0) -> np.ndarray:
    """A smooth film without any symmetry."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    phase = np.random.default_rng(seed).uniform(0, 6)
    return (0.5 + 0.25 * np.sin(x / columns * 9 + phase) + 0.2 * np.cos(y / rows * 5 + x / columns)).astype(np.float32)


@pytest.mark.parametrize("length", [32, 99, 100, 101, 250, 625, 1399, 1495, 2043, 4300])
def test_sampling_picks_the_pixels_that_pillow_picks(length):
    line = np.arange(length, dtype=np.int32)[None]
    expected = np.asarray(PillowImage.fromarray(line).resize((100, 1), PillowImage.Resampling.NEAREST))[0]
    assert sample_indices(length).tolist() == expected.tolist()


def test_thumbnail_keeps_grey_levels_and_loses_the_aspect():
    pixels = np.arange(300 * 200, dtype=np.int32).reshape(300, 200)
    small = thumbnail(pixels)
    assert small.shape == (100, 100)
    # Cells of 3 x 2 pixels: the centre of the first is row 1, column 1.
    assert small[0, 0] == pixels[1, 1]
    assert small[99, 99] == pixels[298, 199]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_undone_exactly(quarters):
    pixels = film()
    turned = np.rot90(pixels, quarters)  # counter-clockwise, as the facts state it
    assert np.array_equal(upright(turned, 90.0 * quarters), thumbnail(pixels))
    assert np.array_equal(upright(turned, 90.0 * quarters - 360), thumbnail(pixels))


def test_small_rotations_leave_the_film_as_it_is():
    assert np.array_equal(upright(film(), 25), thumbnail(film()))


@pytest.mark.parametrize("angle", [40.0, -60.0, 120.0])
def test_large_rotations_are_turned_back(angle):
    # A bright finger from the middle upward; turned counter-clockwise, its tip lies at (sin, cos) of the angle from the middle.
    pixels = np.zeros((400, 400), np.float32)
    for distance in range(120):
        y = 200 - distance * np.cos(np.deg2rad(angle))
        x = 200 - distance * np.sin(np.deg2rad(angle))
        pixels[round(y) - 8 : round(y) + 8, round(x) - 8 : round(x) + 8] = 1
    bright = np.argwhere(upright(pixels, angle) > 0.5)
    assert abs(bright[:, 1].mean() - 49.5) < 2.5  # in the middle column
    assert bright[:, 0].min() < 35
    assert bright[:, 0].max() < 60  # nothing points down


def test_channels_do_not_depend_on_brightness_and_contrast():
    films = torch.from_numpy(np.stack([film(100, 100, seed) for seed in range(3)]))[:, None]
    normal, dim = channels(films), channels(films * 0.2 + 0.4)
    assert normal.shape == (3, 2, 100, 100)
    assert torch.allclose(normal, dim, atol=1e-3)
    assert normal.abs().max() <= 2
    assert torch.isfinite(channels(torch.zeros(1, 1, 100, 100))).all()


def test_the_sex_reaches_the_output_of_the_network():
    torch.manual_seed(0)
    network = build("maturity-net").eval()
    films = torch.from_numpy(film(100, 100))[None, None].expand(2, -1, -1, -1)
    with torch.inference_mode():
        girl, boy = network(films, torch.tensor([0, 1]))
    assert not torch.allclose(girl, boy)
    with pytest.raises(ValueError, match="maturity-net"):
        build("vgg")


def test_expectation_of_a_certain_month_is_that_month():
    network = build("maturity-net")
    logits = torch.full((1, 240), -50.0)
    logits[0, 137] = 50
    assert network.expectation(logits).item() == pytest.approx(137)


def test_each_patient_is_in_one_part_and_held_out_ids_in_none():
    whole = frozenset({1377})
    parts = [data.part_of(identifier, whole) for identifier in range(1377, 4360)]
    assert 0.77 < parts.count("train") / len(parts) < 0.83
    assert data.part_of(1377, whole) == "test"
    for identifier in (4360, 4559):
        with pytest.raises(ValueError, match="held out"):
            data.part_of(identifier, whole)


def test_augmentation_is_repeatable_and_keeps_the_shape():
    films = torch.from_numpy(np.stack([film(100, 100, seed) for seed in range(4)]))[:, None]
    first, again, other = (data.augment(films, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == films.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A weights folder with an untrained network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights")
    metadata = weights.Metadata(
        "regression",
        ENSEMBLE,
        "none: untrained",
        (),
        0,
        hyperparameters={"members": ["maturity-net"], "method": "test"},
    )
    bands = [
        {"method": "test", "sex": sex, "from_years": 0, "to_years": 20, "half_width_years": width, "n": 99}
        for sex, width in (("F", 1.0), ("M", 1.5))
    ]
    content = json.dumps({"coverage": 0.9, "bands": bands}).encode()
    state = Ensemble(["maturity-net"]).state_dict()
    weights.save(path, state, metadata, extra={INTERVALS_FILE: content}, half=True)
    return path


def test_an_unknown_sex_gives_both_results(folder):
    regressor = Regressor(folder)
    girl, boy = regressor.estimate(Image(film()), None)
    assert (girl.sex, boy.sex) == ("F", "M")
    assert girl.bone_age_years != boy.bone_age_years
    assert regressor.estimate(Image(film()), "F")[0].bone_age_years == pytest.approx(girl.bone_age_years, abs=1e-4)
    assert regressor.estimate(Image(film()), "M")[0].bone_age_years == pytest.approx(boy.bone_age_years, abs=1e-4)
    assert boy.interval_years == (pytest.approx(boy.bone_age_years - 1.5), pytest.approx(boy.bone_age_years + 1.5))


def test_side_polarity_and_quarter_turns_do_not_change_the_age(folder):
    regressor = Regressor(folder)
    pixels = film()
    (plain,) = regressor.estimate(Image(pixels), "F", facts())
    # The thumbnail of a mirrored film is the mirrored thumbnail only where the cells are symmetric: 500 x 400 is.
    (mirrored,) = regressor.estimate(Image(np.ascontiguousarray(pixels[:, ::-1])), "F", facts())
    (negative,) = regressor.estimate(Image(1 - pixels), "F", facts(polarity="bone dark"))
    (turned,) = regressor.estimate(Image(np.ascontiguousarray(np.rot90(pixels))), "F", facts(rotation=90))
    assert negative.bone_age_years == pytest.approx(plain.bone_age_years, abs=1e-3)
    assert turned.bone_age_years == pytest.approx(plain.bone_age_years, abs=1e-4)
    assert mirrored.bone_age_years == pytest.approx(plain.bone_age_years, abs=0.2)


def test_unknown_members_are_refused_with_both_values(folder, tmp_path):
    metadata = weights.Metadata("regression", ENSEMBLE, "x", (), 0, hyperparameters={"members": ["vgg"], "method": "t"})
    weights.save(tmp_path, {}, metadata, extra={INTERVALS_FILE: b"{}"})
    with pytest.raises(weights.WeightsRefused, match=r"expected maturity-net.*found vgg"):
        Regressor(tmp_path)


@pytest.fixture(scope="module")
def films_folder(tmp_path_factory):
    """A data folder of the layout the scripts read: 64 films to train on, 40 to validate, 12 to test, 2 whole films."""
    root = tmp_path_factory.mktemp("films")
    (root / "thumbnails").mkdir()
    (root / "fullres").mkdir()
    wanted = {"train": 64, "validation": 40, "test": 12}
    rows, tiles = [], []
    for identifier in range(5000, 9000):
        part = data.part_of(identifier, frozenset())
        if wanted[part] == 0:
            continue
        wanted[part] -= 1
        months = 12 + identifier % 190
        rows.append((identifier, months, "FM"[len(rows) % 2], 500, 400))
        tiles.append((film(100, 100, identifier) * 255 * (0.5 + months / 400)).astype(np.uint8))
    tiles += [np.zeros((100, 100), np.uint8)] * (-len(tiles) % 50)
    sheet = np.stack(tiles).reshape(-1, 50, 100, 100).swapaxes(1, 2).reshape(-1, 5000)
    PillowImage.fromarray(sheet).save(root / "thumbnails" / "sheet0.webp", lossless=True)
    with (root / "thumbnails" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "bone_age_months", "sex", "original_rows", "original_columns"), *rows])
    lines = [("id", "file", "rows", "columns", "bone_age_months", "sex")]
    for identifier in (20000, 20001):
        pixels = (film(300, 240, identifier) * 255).astype(np.uint8)
        PillowImage.fromarray(pixels).save(root / "fullres" / f"{identifier}.webp", lossless=True)
        lines.append((identifier, f"fullres/{identifier}.webp", 300, 240, 120, "F"))
    with (root / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def _run(monkeypatch, main, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    main()


def test_films_become_a_weights_folder_and_a_stopped_run_goes_on(films_folder, tmp_path, monkeypatch, capsys):
    run, out = tmp_path / "run", tmp_path / "bundle"
    for steps in (2, 4):
        train.main(
            ["--data", str(films_folder), "--out", str(run), "--steps", str(steps), "--every", "2", "--batch", "32"]
        )
    looks = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert sorted({row["step"] for row in looks if "validation_mae_months" in row}) == [2, 4]
    written = weights.verify(run / "weights", problem="regression", architectures=(ENSEMBLE,))
    assert written.hyperparameters["training"][0]["steps"] == 4
    with (run / "split.csv").open() as file:
        parts = [row["part"] for row in csv.DictReader(file)]
    assert {part: parts.count(part) for part in data.PARTS} == {"train": 64, "validation": 40, "test": 12}

    _run(monkeypatch, calibrate.main, "--data", films_folder, "--member", run, "--out", out, "--terms", "test")
    metadata = weights.verify(out, problem="regression", architectures=(ENSEMBLE,))
    assert metadata.hyperparameters["members"] == ["maturity-net"]
    assert metadata.split_sha256 == json.loads((run / runs.CONFIG_FILE).read_text())["split_sha256"]

    results = tmp_path / "results" / "regression.json"
    rows = tmp_path / "rows.csv"
    _run(monkeypatch, evaluate.main, "--data", films_folder, "--weights", out, "--json", results, "--rows", rows)
    measured = json.loads(results.read_text())
    assert measured["parts"]["test thumbnails"]["all"]["n"] == 12
    assert measured["weights_sha256"] == weights.digest(out)
    with rows.open() as file:
        assert sum(row["part"] == "fullres films" for row in csv.DictReader(file)) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["estimate_ms"]["n"] == 2

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    parts = [word for part in ("validation", "test") for word in ("--part", part)]
    widths.main(["--weights", str(out), "--data", str(films_folder), *parts, "--version", "2"])
    told = json.loads(capsys.readouterr().out)
    card = weights.verify(out, problem="regression", architectures=(ENSEMBLE,))
    assert (card.version, card.metrics["intervals"]) == ("2", told)
    assert told["films"] == told["coverage_across_folds"]["all"]["n"] == 52  # the thumbnails of whole films stay apart
    assert {name for name, kept in before.items() if (out / name).read_bytes() != kept} == {
        "intervals.json",
        "metadata.json",
    }
    _run(monkeypatch, evaluate.main, "--data", films_folder, "--weights", out, "--json", results)
    assert json.loads(results.read_text())["coverage_across_folds"]["parts"] == ["test", "validation"]
    assert json.loads(results.read_text())["coverage_across_folds"]["all"] == told["coverage_across_folds"]["all"]


def test_runs_on_different_splits_are_not_joined(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / runs.CONFIG_FILE).write_text(
            json.dumps({"split_sha256": name, "seed": 1, "architecture": "maturity-net"})
        )
    with pytest.raises(runs.RunRefused, match="2 different splits"):
        calibrate.write(None, [tmp_path / "a", tmp_path / "b"], tmp_path / "out", (None, None))


def test_a_batch_larger_than_the_training_part_is_refused_and_nothing_is_written(films_folder, tmp_path) -> None:
    with pytest.raises(runs.RunRefused, match="--batch 65: the training part has 64 films only"):
        train.main(["--data", str(films_folder), "--out", str(tmp_path / "run"), "--steps", "1", "--batch", "65"])
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_leaves_the_split_of_the_one_that_is_there(films_folder, tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / runs.CONFIG_FILE).write_text(json.dumps({"split_sha256": "of other films"}))
    (run / "split.csv").write_text("id,part\n1,train\n")
    with pytest.raises(runs.RunRefused, match="holds a run with split_sha256 of other films"):
        train.main(["--data", str(films_folder), "--out", str(run), "--steps", "1", "--batch", "32"])
    assert (run / "split.csv").read_text() == "id,part\n1,train\n"


def test_weights_to_start_from_that_do_not_fit_are_refused_and_nothing_is_written(films_folder, tmp_path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    save_file({"stem.weight": torch.zeros(1)}, start / "best.safetensors")
    with pytest.raises(runs.RunRefused, match=r"--start \S+start holds no weights of a maturity-net$"):
        train.main(
            ["--data", str(films_folder), "--out", str(tmp_path / "run"), "--start", str(start), "--batch", "32"]
        )
    assert not (tmp_path / "run").exists()


def test_a_hospitals_folder_becomes_thumbnails_divided_by_patient(tmp_path) -> None:
    rows = [("file", "sex", "patient", "bone_age_years")]
    for index in range(12):
        pixels = (film(300, 240, index) * 255).astype(np.uint8)
        PillowImage.fromarray(pixels).save(tmp_path / f"{index}.png")
        rows.append((f"{index}.png", "F" if index % 2 else "M", f"P{index // 2}", 5 + index / 2))
    rows.append(("0.png", "", "P9", 7))
    PillowImage.fromarray(pixels).save(tmp_path / "x.png")
    rows[-1] = ("x.png", "O", "P9", 7)
    rows[1:] = [
        (name, "F" if patient in ("P0", "P2") else sex if patient == "P9" else "M", patient, age)
        for name, sex, patient, age in rows[1:]
    ]
    with (tmp_path / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    films, parts = data.divided(tmp_path)
    assert len(films) == 12  # the film of unknown sex teaches nothing
    assert films.films.shape == (12, 100, 100)
    assert films.months[3] == pytest.approx(12 * 6.5)
    assert all(parts[2 * patient] == parts[2 * patient + 1] for patient in range(6))
    sampled = thumbnail(film(300, 240, 0))
    assert np.corrcoef(sampled.ravel(), films.films[0].ravel())[0, 1] > 0.999


def test_too_few_films_to_make_intervals_from_are_refused_before_anything_is_trained(tmp_path) -> None:
    for index in range(60):
        pixels = (film(120, 90, index) * 255).astype(np.uint8)
        PillowImage.fromarray(pixels).save(tmp_path / f"{index}.png")
    rows = [(f"{index}.png", "FM"[index % 2], f"P{index}", 3 + index / 6) for index in range(60)]
    with (tmp_path / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "sex", "patient", "bone_age_years"), *rows])
    with pytest.raises(runs.RunRefused, match=r"films of [FM] stand in the validation part.* need 9 of a sex"):
        train.main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--steps", "1", "--batch", "4"])
    assert not (tmp_path / "run").exists()
