"""Train the network that finds points in a view (`network`): targets, losses, and the measure on whole films."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from models import engine, transforms, weights
from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, FAMILIES, joint_of
from models.detection.data import Film, View, Views
from models.detection.learning import Learning, Sources
from models.detection.network import SIZE_UNIT, STRIDE, HandNet, Output, decode

BLUR_CELLS: Final = 0.8  # standard deviation of the target about the point
SIDE: Final = 192
NEAR_PERCENT: Final = 2.5  # of the hand's length
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class Stream(IterableDataset[View]):
    """An endless stream of views; each worker draws its own."""

    def __init__(self, sources: Sequence[tuple[float, Sequence[Film]]], size: int, seed: int) -> None:
        """Keep the sources with their shares."""
        self.sources, self.size, self.seed = sources, size, seed

    def __iter__(self) -> Iterator[View]:
        worker = torch.utils.data.get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        template, rng = Template.load(), np.random.default_rng(seed)
        views = [Views(films, template, self.size, seed + 17 * k) for k, (_, films) in enumerate(self.sources, start=1)]
        shares = np.array([share for share, _ in self.sources])
        while True:
            yield views[rng.choice(len(views), p=shares / shares.sum())].draw()


def collate(views: list[View]) -> Batch:
    """Stack views into tensors."""
    return (
        torch.from_numpy(np.stack([view.pixels for view in views])),
        torch.from_numpy(np.stack([view.points for view in views])),
        torch.from_numpy(np.stack([view.present for view in views])).long(),
        torch.from_numpy(np.stack([view.sizes for view in views])),
        torch.from_numpy(np.stack([view.facts for view in views])).float(),
    )


def targets(points: Tensor, present: Tensor, cells: int) -> Tensor:
    """Where each channel's mass should be: (n, channels, cells * cells + 1), the last one "not in this view"."""
    centre = (torch.nan_to_num(points) - (STRIDE - 1) / 2) / STRIDE
    grid = torch.arange(cells, dtype=torch.float32, device=points.device)
    column = torch.exp(-((grid - centre[..., 0:1]) ** 2) / (2 * BLUR_CELLS**2))
    row = torch.exp(-((grid - centre[..., 1:2]) ** 2) / (2 * BLUR_CELLS**2))
    maps = (row[..., :, None] * column[..., None, :]).flatten(2)
    here = (present == 1).float()[..., None]
    maps = maps / maps.sum(dim=2, keepdim=True).clamp_min(1e-6) * here
    return torch.cat([maps, (present == 0).float()[..., None]], dim=2)


def losses(
    output: Output, points: Tensor, present: Tensor, sizes: Tensor, facts: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy over the cells and "absent", smooth L1 of the log sizes at the true centre, cross-entropy of the facts."""
    cells = output.places.shape[-1]
    logits = torch.cat([output.places.flatten(2), output.absent[..., None]], dim=2).float()
    wanted = targets(points, present, cells)
    stated = (present >= 0).float()
    place = -(wanted * functional.log_softmax(logits, dim=2)).sum(dim=2)
    # An absent point is a one-bit statement beside a place among thousands of cells: weigh the kinds separately.
    place_loss = (place * stated).sum() / stated.sum().clamp_min(1)

    regions = sizes.shape[1]
    known = ~torch.isnan(sizes[..., 0]) & (present[:, :regions] == 1)
    cell = ((torch.nan_to_num(points[:, :regions]) - (STRIDE - 1) / 2) / STRIDE).round().long().clamp(0, cells - 1)
    flat = (cell[..., 1] * cells + cell[..., 0])[:, :, None, None].expand(-1, -1, 2, 1)
    predicted = output.sizes.float().view(len(sizes), regions, 2, -1).gather(3, flat).squeeze(3)
    wanted_size = torch.log(torch.nan_to_num(sizes, nan=SIZE_UNIT).clamp_min(1.0) / SIZE_UNIT)
    gap = functional.smooth_l1_loss(predicted, wanted_size, reduction="none", beta=0.1).sum(dim=2)
    size_loss = (gap * known).sum() / known.sum().clamp_min(1)

    fact = functional.binary_cross_entropy_with_logits(output.facts.float(), facts.clamp_min(0), reduction="none")
    fact_loss = (fact * (facts >= 0)).sum() / (facts >= 0).sum().clamp_min(1)
    total = place_loss + 0.5 * size_loss + 0.5 * fact_loss
    parts = {"place": float(place_loss.detach()), "size": float(size_loss.detach()), "fact": float(fact_loss.detach())}
    return total, parts


@torch.no_grad()
def validate(model: nn.Module, films: Sequence[Film], size: int) -> dict[str, float]:
    """Measure on whole upright films, one look: errors in per cent of the hand's length, share within 2.5 %."""
    model.eval()
    template = Template.load()
    device = next(model.parameters()).device
    errors: dict[str, list[float]] = {name: [] for name in FAMILIES}
    for film in films:
        rows, columns = film.pixels.shape
        true = film.points * np.array([film.aspect, 1.0])
        known = ~np.isnan(true[:, 0])
        if known.sum() < 2:  # a film without a hand: nothing stands anywhere
            continue
        length = template.hand_length * transforms.Similarity.fit(template.points[known], true[known]).scale
        box = transforms.letterbox(film.pixels.shape, size)
        view = transforms.sample(transforms.stretch(film.pixels.astype(np.float32)), box, size)
        found = decode(model(torch.from_numpy(view)[None].to(device))).points[0].cpu().numpy()
        place = (transforms.apply(box, found) + 0.5) / np.array([columns, rows]) * np.array([film.aspect, 1.0])
        error = np.hypot(*(place - true[: len(place)]).T) / length * 100
        for family, names in FAMILIES.items():
            here = [error[CHANNEL[name]] for name in names if CHANNEL[name] < len(error)]
            errors[family] += [float(e) for e in here if not np.isnan(e)]
    return {f"{name}_{kind}": value for name, e in errors.items() if e for kind, value in _summary(e).items()}


def _summary(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "within": float(np.mean(np.array(errors) <= NEAR_PERCENT))}


def grown(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Give weights of fewer channels those of the joint that each further channel names, to begin from."""
    old = len(state["places.weight"])
    rows = [k if k < old else CHANNEL[str(joint_of(CHANNELS[k]))] for k in range(channels)]
    taken = ("places.weight", "places.bias", "absent.weight", "absent.bias")
    return {name: value[rows] if name in taken else value for name, value in state.items()}


class ViewLearning(Learning):
    """Learn points, sizes and facts from views of films."""

    architecture = "handnet"

    def __init__(self, options: argparse.Namespace, sources: Sources, device: torch.device) -> None:
        """Build the network; one of fewer channels is grown."""
        self.options, self.sources, self.device = options, sources, device
        self.size = options.size or SIDE
        self.net = HandNet(width=options.width, channels=len(CHANNELS))
        if options.start:
            state, _ = weights.load(options.start, problem="detection", architectures=(self.architecture,))
            own = self.net.state_dict().keys()
            self.net.load_state_dict(grown({k: v for k, v in state.items() if k in own}, len(CHANNELS)))
        self.net.to(device).to(memory_format=torch.channels_last)
        self.preprocessing = {"size": self.size, "percentiles": list(transforms.PERCENTILES)}
        self.hyperparameters = {"width": options.width, "channels": len(CHANNELS)}
        self.batches: Iterator[Batch] = iter(())

    def begin(self, step: int) -> None:
        """Start the stream of views."""
        drawn, films = self.sources.phantoms, self.sources.films
        mixed: list[tuple[float, Sequence[Film]]] = (
            [(self.options.phantom_share if films else 1.0, drawn)] if drawn else []
        )
        if films:
            others = [film for film in drawn if not film.hand]
            mixed.append((1 - self.options.phantom_share, [*films, *others]))
        stream = Stream(mixed, self.size, self.options.seed + step)
        self.batches = iter(
            DataLoader(stream, batch_size=self.options.batch, num_workers=self.options.workers, collate_fn=collate)
        )

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Draw views and return their loss."""
        pixels, *stated = (value.to(self.device) for value in next(self.batches))
        with engine.mixed_precision(self.device, enabled=self.options.precision == "bf16"):
            output = self.net(pixels.to(memory_format=torch.channels_last))
        return losses(output, *stated)

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measure on the validation films."""
        return validate(net, self.sources.validation, self.size)

    @staticmethod
    def error(metrics: dict[str, float]) -> float:
        """Return how many points of all conventions are missed, each family counting the same."""
        return -float(np.mean([value for name, value in metrics.items() if name.endswith("within")]))
