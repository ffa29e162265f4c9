"""Faster R-CNN with focal loss, as P2 detects: ResNet-101, anchors of ratio 0.5, 1 and 2; torchvision's parts throughout.

P2 starts from ImageNet weights, which are not shipped here; group normalisation stands for batch normalisation, so that two
films a step are enough to learn from random weights. It knows boxes alone: side and rotation follow from them by the shape of
a hand, and what needs the network's other statements (polarity, two hands) is left as the header has it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import fastrcnn_loss

from models import transforms, weights
from models.detection import anatomy
from models.detection.conventions import CHANNELS
from models.detection.predict import PRESENT, WORKING_SIDE, Detection
from models.detection.verdict import Evidence, judge
from models.image import Image
from models.reading import ImageFacts, Region
from models.regions import REGIONS

ARCHITECTURE: Final = "faster-rcnn-resnet101"
RATIOS: Final = (0.5, 1.0, 2.0)
FOCUS: Final = 2.0  # exponent of the focal loss (Lin 2017)
SAMPLED: Final = (
    48  # proposals a film that the head learns from, half of them on a region at most (22 regions; torchvision: 512)
)
SURE: Final = 0.05  # score below which a box is not a region


def _groups(channels: int) -> nn.Module:
    return nn.GroupNorm(32 if channels % 32 == 0 else 8, channels)


def build(options: Mapping[str, Any]) -> FasterRCNN:
    """Build the network; `backbone` is a ResNet of torchvision, `side` the shorter side of a film in pixels (800 in P2)."""
    backbone = resnet_fpn_backbone(
        backbone_name=str(options.get("backbone", "resnet101")), weights=None, norm_layer=_groups, trainable_layers=5
    )
    side = int(options.get("side", 256))
    sizes = tuple((side * part / 800,) for part in (32, 64, 128, 256, 512))
    return FasterRCNN(
        backbone,
        num_classes=len(REGIONS) + 1,
        min_size=side,
        max_size=2 * side,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=150,
        rpn_pre_nms_top_n_test=600,
        rpn_post_nms_top_n_test=200,
        box_batch_size_per_image=SAMPLED,
        box_positive_fraction=0.5,
        box_score_thresh=SURE,
        box_detections_per_img=100,
    )


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in which what is already right counts little."""
    logs = functional.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    return -((1 - logs.exp()) ** FOCUS * logs).mean()


def losses(net: FasterRCNN, films: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the losses of a step: torchvision's, with the focal loss in place of the classifier's cross-entropy."""
    images, placed = net.transform(films, targets)
    features = net.backbone(images.tensors)
    proposals, found = net.rpn(images, features, placed)
    heads = net.roi_heads
    proposals, _, labels, wanted = heads.select_training_samples(proposals, placed)
    pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
    logits, boxes = heads.box_predictor(heads.box_head(pooled))
    _, box_loss = fastrcnn_loss(logits, boxes, labels, wanted)
    return {**found, "classifier": focal(logits, torch.cat(labels)), "boxes": box_loss}


def film_tensor(pixels: NDArray[np.float32]) -> Tensor:
    """Return a stretched film as the network takes it, (3, rows, columns)."""
    return torch.from_numpy(np.ascontiguousarray(pixels))[None].expand(3, -1, -1)


def best_boxes(found: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float, float, float]]:
    """Return the surest box of each region that has one, and its score; pixel edges of the film that was given."""
    best = {}
    for index, name in enumerate(REGIONS):
        scores = found["scores"] * (found["labels"] == index + 1)
        if len(scores) and float(scores.max()) > 0:
            place = int(scores.argmax())
            x1, y1, x2, y2 = (float(v) for v in found["boxes"][place])
            best[name] = (x1, y1, x2, y2, float(scores[place]))
    return best


class RcnnDetector:
    """Finds the regions with one weights folder of this architecture."""

    def __init__(self, folder: Path) -> None:
        """Load and verify the weights.

        Raises
        ------
        models.weights.WeightsRefused
            When the folder holds something else, or not what was saved.
        """
        state, metadata = weights.load(folder, problem="detection", architectures=(ARCHITECTURE,))
        self.network = build(metadata.hyperparameters)
        self.network.load_state_dict(state)
        self.network.eval()
        self.template = anatomy.Template.load()

    def detect(self, image: Image) -> Detection:
        """Find the regions on one film, the best box of each, and judge it."""
        small, block = transforms.shrink(image.pixels, WORKING_SIDE)
        with torch.inference_mode():
            found = self.network([film_tensor(transforms.stretch(small))])[0]
        points = np.full((len(CHANNELS), 2), np.nan)
        regions: list[Region] = []
        for name, (*box, score) in best_boxes(found).items():
            x1, y1, x2, y2 = ((v - 0.5) * block + (block - 1) / 2 for v in box)
            points[REGIONS.index(name)] = (x1 + x2) / 2, (y1 + y2) / 2
            regions.append(Region(name, (x1, y1, x2, y2), round(score, 4)))
        seen = ~np.isnan(points[:, 0])
        pose = anatomy.pose(self.template, np.nan_to_num(points), seen)
        wrong: tuple[str, ...] = ()
        turned = 0.0
        if pose is not None:
            upright = transforms.apply(transforms.invert(pose.matrix), np.nan_to_num(points))
            wrong = anatomy.out_of_order(upright, seen)
            turned = -float(np.rad2deg(pose.upright.radians))
        facts = ImageFacts(
            rows=image.rows,
            columns=image.columns,
            pixel_spacing_mm=image.pixel_spacing_mm,
            laterality=pose.laterality if pose else None,
            laterality_declared=image.laterality,
            polarity="bone bright",
            polarity_declared=image.photometric_interpretation,
            rotation_degrees=round(turned, 1),
        )
        sure = [region.score for region in regions]
        evidence = Evidence(
            hand_probability=float(np.mean(sure)) if len(sure) >= len(REGIONS) * PRESENT else 0.0,
            two_hands_probability=0.0,
            found=tuple(region.name for region in regions),
            fitting=pose.fitting if pose else 0.0,
            misfit=pose.misfit if pose else 0.0,
            out_of_order=wrong,
        )
        flagged = tuple(
            Region(region.name, region.box, region.score, flags=("order",) if region.name in wrong else ())
            for region in regions
        )
        return Detection(flagged, facts, judge(image, facts, evidence), pose.matrix if pose else None, {})
