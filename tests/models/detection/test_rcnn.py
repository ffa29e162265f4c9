"""Faster R-CNN: its losses, its training, its answer in pixels of the film."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import phantom, runs, weights
from models.detection import phantoms
from models.detection.data import Film
from models.detection.learning_boxes import sample, taught
from models.detection.predict import Detector
from models.detection.rcnn import ARCHITECTURE, RATIOS, RcnnDetector, build, focal, losses
from models.detection.train import main
from models.regions import REGIONS

FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet"
SMALL = {"backbone": "resnet18", "side": 96}


def test_the_focal_loss_lets_the_certain_count_little() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    # Probability 0.5 of the right class: cross-entropy ln 2 = 0.6931, weighed by (1 - 0.5) ** 2.
    assert float(focal(logits, torch.tensor([0]))) == pytest.approx(0.25 * 0.6931, rel=1e-3)


def test_the_network_is_the_papers() -> None:
    with torch.device("meta"):
        net = build({"side": 800})
    blocks = {name.split(".")[2] for name, _ in net.backbone.named_modules() if name.startswith("body.layer3.")}
    assert len(blocks) == 23  # of ResNet-101; ResNet-50 has 6 there
    assert net.rpn.anchor_generator.aspect_ratios == (RATIOS,) * 5
    assert net.roi_heads.box_predictor.cls_score.out_features == len(REGIONS) + 1


def test_boxes_follow_the_film_when_it_is_mirrored_and_turned() -> None:
    film = phantoms.film(5)
    for seed in range(8):
        pixels, target = sample(film, np.random.default_rng(seed))
        boxes = target["boxes"]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor(pixels.shape[:0:-1])).all()
        rays = {
            REGIONS[int(label) - 1]: (box[:2] + box[2:]) / 2 for label, box in zip(target["labels"], boxes, strict=True)
        }
        # The tip of the middle finger lies on bright bone, whatever was done to the film.
        x, y = (int(v) for v in rays["mp3"])
        assert float(pixels[0, y - 3 : y + 4, x - 3 : x + 4].mean()) > float(pixels.mean())


def test_a_film_learns_its_boxes_from_a_teacher_and_its_places_from_readers() -> None:
    film = phantoms.film(5)
    points = film.points.copy()
    points[0] += 0.02  # the one region that a reader states; the others are the teacher's
    points[1:] = np.nan
    stated = Film(film.pixels, film.aspect, points, np.full_like(film.sizes, np.nan))
    (found,) = taught([stated, phantoms.other(2)], Detector(FOLDER))
    assert np.allclose(found.points[0], points[0])
    assert np.abs(found.points[1 : len(REGIONS)] - film.points[1 : len(REGIONS)]).max() < 0.05
    assert np.median(np.abs(np.log(found.sizes / film.sizes))) < 0.2


def test_the_training_script_trains_it_and_the_weights_come_back_as_a_detector(tmp_path: Path) -> None:
    options = [
        "--architecture",
        ARCHITECTURE,
        "--backbone",
        "resnet18",
        "--size",
        "96",
        "--phantoms",
        "4",
        "--batch",
        "1",
    ]
    options += ["--steps", "2", "--every", "2", "--out", str(tmp_path), "--phantom-cache", str(tmp_path / "cache")]
    main([*options, "--precision", "fp32"])
    metadata = weights.Metadata.read(tmp_path / "weights")
    assert (metadata.architecture, metadata.terms) == (ARCHITECTURE, weights.FREE_TERMS)
    assert metadata.hyperparameters["backbone"] == "resnet18"
    assert str(tmp_path) not in (tmp_path / "weights" / runs.CONFIG_FILE).read_text()
    found = RcnnDetector(tmp_path / "weights").detect(phantom.draw(5, rows=300, columns=240).image)
    assert all(0 <= region.score <= 1 for region in found.regions)
    assert len({region.name for region in found.regions}) == len(found.regions)


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    net = build(SMALL).train()
    film, target = sample(phantoms.film(5), np.random.default_rng(3))
    optimizer, values = torch.optim.AdamW(net.parameters(), lr=3e-4), []
    for _ in range(12):
        parts = losses(net, [film], [target])
        assert set(parts) == {"loss_objectness", "loss_rpn_box_reg", "classifier", "boxes"}
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
