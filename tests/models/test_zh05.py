"""The networks of P4 and their ablation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torchvision.models import resnet50

from models.datasets.rsna import HELD_OUT
from models.regression import ablation
from models.regression.data import Thumbnails, part_of
from models.regression.zh05 import (
    ANCHORS,
    ARCHITECTURES,
    CLASSES,
    FEATURES,
    LOOK,
    AgeClassifier,
    China05Attention,
    resnet_50,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_step_of_the_ablation_gives_nineteen_classes(architecture: str) -> None:
    net = AgeClassifier(architecture).eval()
    with torch.inference_mode():
        assert net(torch.rand(2, 3, 64, 64)).shape == (2, CLASSES)


def test_there_is_a_look_at_each_of_the_eleven_regions_and_a_vector_of_512_for_each() -> None:
    # P4 (ZH05-DL-ResNet50): the regions of China-05 that attention is paid to.
    assert tuple(ANCHORS) == ("radius", "ulna", "mc1", "mc3", "mc5", "pp1", "mp3", "mp5", "dp1", "dp3", "dp5")
    attention = China05Attention(3).eval()
    with torch.inference_mode():
        assert attention(torch.rand(2, 3, 48, 48)).shape == (2, 11 * FEATURES)


def test_a_look_begins_at_its_region_and_shows_what_lies_there() -> None:
    attention = China05Attention(1).eval()
    x, y, _ = ANCHORS["radius"]
    film = torch.zeros(1, 1, 100, 100)
    film[0, 0, round(100 * y) - 1 : round(100 * y) + 2, round(100 * x) - 1 : round(100 * x) + 2] = 1.0
    seen: list[torch.Tensor] = []
    attention.recognition[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        place = attention.places(film)[0, 0]
        attention(film)
    assert place.tolist() == pytest.approx([2 * x - 1, 2 * y - 1, 2 * 0.10 * 1.4])
    rows, columns = np.nonzero(seen[0][0, 0].numpy() > 0.3)
    assert rows.mean() == pytest.approx((LOOK - 1) / 2, abs=1)
    assert columns.mean() == pytest.approx((LOOK - 1) / 2, abs=1)


def test_looks_learn_where_to_go() -> None:
    torch.manual_seed(0)
    net = AgeClassifier("zh05-dl-resnet-50")
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert net.attention is not None
    assert net.attention.moves.weight.grad is not None
    assert net.attention.moves.weight.grad.abs().max() > 0


def test_the_trunk_is_resnet_50_and_a_narrow_one_keeps_its_blocks() -> None:
    trunk, features = resnet_50(3)
    library = resnet50(weights=None)
    library.fc = torch.nn.Identity()
    assert features == 2048
    assert sorted(tuple(p.shape) for p in trunk.parameters()) == sorted(tuple(p.shape) for p in library.parameters())
    narrow, features = resnet_50(3, 0.25)
    assert features == 512
    assert [type(m) for m in narrow.modules()] == [type(m) for m in trunk.modules()]


def test_a_label_spread_over_years_has_its_peak_at_the_age_and_none_is_the_class_alone() -> None:
    films = Thumbnails(np.array([1]), np.zeros((1, 100, 100), np.uint8), np.array([126.0], np.float32), np.array([0]))
    assert ablation.labels_of(films, 0.0)[0].tolist() == [float(c == 10) for c in range(CLASSES)]  # 10.5 years
    spread = ablation.labels_of(films, 1.0)[0]
    assert spread.sum().item() == pytest.approx(1)
    assert (spread[9] / spread[10]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)  # one year off, one deviation


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(ValueError, match="'vgg' is not one of cnn, resnet-50"):
        AgeClassifier("vgg")


def test_the_ablation_searches_the_order_takes_four_steps_and_repeats_nothing(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "data"
    (root / "thumbnails").mkdir(parents=True)
    counts, chosen = {"train": 0, "validation": 0, "test": 0}, []
    for identifier in range(1, 400):
        part = part_of(identifier, frozenset()) if identifier not in HELD_OUT else "test"
        if counts[part] < 6:
            counts[part] += 1
            chosen.append(identifier)
    rng = np.random.default_rng(1)
    Picture.fromarray(rng.integers(0, 255, (100, 5000), dtype=np.uint8)).save(
        root / "thumbnails" / "sheet0.webp", lossless=True
    )
    with (root / "thumbnails" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("id", "bone_age_months", "sex", "original_rows", "original_columns"),
                *((i, 12 + i % 200, "F" if i % 2 else "M", 500, 400) for i in chosen),
            ]
        )
    (root / "images.csv").write_text("id,file,rows,columns,bone_age_months,sex\n")
    arguments = [
        "--data",
        root,
        "--out",
        tmp_path / "out",
        "--width",
        0.25,
        "--size",
        32,
        "--steps",
        1,
        "--batch",
        2,
        "--films",
        4,
    ]
    ablation.main([str(argument) for argument in arguments])
    result = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert len(result["order_search"]) == 6
    assert [step["architecture"] for step in result["ablation"]] == list(ARCHITECTURES)
    assert result["best_order"] in [row["order"] for row in result["order_search"]]
    assert result["ablation"][0]["overlay"] is None
    assert result["ablation"][3]["overlay"] == result["best_order"]
    assert result["ablation"][3]["test_mae_years"]["n"] == 6
    assert result["ablation"][0]["more_than_the_step_before_years"] is None
    assert result["ablation"][3]["more_than_the_step_before_years"]["n"] == 6
    assert result["median_age"]["mae_years"]["n"] == 6
    assert len(result["order_differences_years"]) == 5
    assert result["command"].endswith("--films 4 --width 0.25 --size 32 --steps 1 --batch 2")

    def fail(*_: object) -> None:
        raise AssertionError("a network was trained again")

    monkeypatch.setattr(ablation, "seed_everything", fail)
    ablation.main([str(argument) for argument in arguments])
