"""Faster R-CNN: its losses, its training step, its answer in pixels of the film."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import phantom, weights
from models.detection import phantoms
from models.detection.rcnn import ARCHITECTURE, RATIOS, RcnnDetector, build, focal, losses, stepped
from models.detection.train_rcnn import sample
from models.regions import REGIONS

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


def test_a_few_steps_lower_the_loss_and_the_weights_come_back_as_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build(SMALL).train()
    film, target = sample(phantoms.film(5), np.random.default_rng(3))
    take = stepped(net, torch.optim.AdamW(net.parameters(), lr=3e-4))
    values = [take([film], [target]) for _ in range(12)]
    assert np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
    assert set(losses(net, [film], [target])) == {"loss_objectness", "loss_rpn_box_reg", "classifier", "boxes"}
    metadata = weights.Metadata(
        "detection", ARCHITECTURE, weights.FREE_TERMS, ("one phantom",), 0, hyperparameters=SMALL
    )
    weights.save(tmp_path, net.state_dict(), metadata, half=True)
    found = RcnnDetector(tmp_path).detect(phantom.draw(5, rows=300, columns=240).image)
    assert all(0 <= region.score <= 1 for region in found.regions)
    assert len({region.name for region in found.regions}) == len(found.regions)
