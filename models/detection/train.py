"""Train the detector: python -m models.detection.train --data ../shared/data/rsna --out runs/detection --bundle NAME.

Without `--data` it learns from phantoms alone, and the weights are free of the films' terms. Interrupted, it goes on from
its last checkpoint. The best state on the validation split is kept by an exponential moving average of the weights.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from models import engine, transforms, weights
from models.detection import phantoms, rsna
from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, JOINTS
from models.detection.data import Film, View, Views
from models.detection.network import SIZE_UNIT, STRIDE, HandNet, Output, decode

ARCHITECTURE = "handnet"
BLUR_CELLS = 0.8  # standard deviation of the target about the point


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the RSNA films; without it phantoms alone are used")
    parser.add_argument(
        "--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"), help="id,split"
    )
    parser.add_argument("--phantoms", type=int, default=1500, help="phantoms to draw")
    parser.add_argument("--phantom-cache", type=Path, help="folder in which drawn phantoms are kept")
    parser.add_argument("--phantom-share", type=float, default=0.35, help="share of the views drawn from phantoms")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and journal")
    parser.add_argument("--bundle", type=Path, help="weights folder to write, e.g. models/bundles/detection/handnet")
    parser.add_argument("--version", default="1", help="version of the weights")
    parser.add_argument("--size", type=int, default=192, help="side of a view in pixels, a multiple of 32")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw views")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


class Stream(IterableDataset[View]):
    """An endless stream of views; each worker draws its own."""

    def __init__(self, sources: list[tuple[float, list[Film]]], size: int, seed: int) -> None:
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


def collate(views: list[View]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Stack views into tensors."""
    return (
        torch.from_numpy(np.stack([view.pixels for view in views])),
        torch.from_numpy(np.stack([view.points for view in views])),
        torch.from_numpy(np.stack([view.present for view in views])).long(),
        torch.from_numpy(np.stack([view.sizes for view in views])),
        torch.from_numpy(np.stack([view.facts for view in views])).float(),
    )


def targets(points: Tensor, present: Tensor, cells: int) -> Tensor:
    """Where each channel's mass should be: (n, 64, cells * cells + 1), the last one "not in this view"."""
    centre = (torch.nan_to_num(points) - (STRIDE - 1) / 2) / STRIDE
    grid = torch.arange(cells, dtype=torch.float32)
    column = torch.exp(-((grid - centre[..., 0:1]) ** 2) / (2 * BLUR_CELLS**2))
    row = torch.exp(-((grid - centre[..., 1:2]) ** 2) / (2 * BLUR_CELLS**2))
    maps = (row[..., :, None] * column[..., None, :]).flatten(2)
    here = (present == 1).float()[..., None]
    maps = maps / maps.sum(dim=2, keepdim=True).clamp_min(1e-6) * here
    return torch.cat([maps, (present == 0).float()[..., None]], dim=2)


def losses(
    output: Output, points: Tensor, present: Tensor, sizes: Tensor, facts: Tensor
) -> tuple[Tensor, tuple[float, float, float]]:
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
    return total, (float(place_loss.detach()), float(size_loss.detach()), float(fact_loss.detach()))


@torch.no_grad()
def validate(model: torch.nn.Module, films: list[Film], size: int) -> dict[str, float]:
    """Measure on whole upright films, one look: errors in per cent of the hand's length, share within 2.5 %."""
    model.eval()
    template = Template.load()
    unit = float(np.hypot(*(template.points[CHANNEL["tip3"]] - template.points[CHANNEL["wrist"]])))
    errors: dict[str, list[float]] = {"joints": [], "loose": [], "regions": []}
    for film in films:
        rows, columns = film.pixels.shape
        true = film.points * np.array([film.aspect, 1.0])
        known = ~np.isnan(true[:, 0])
        if known.sum() < 2:  # a film without a hand: nothing stands anywhere
            continue
        length = unit * transforms.Similarity.fit(template.points[known], true[known]).scale
        box = transforms.letterbox(film.pixels.shape, size)
        view = transforms.sample(transforms.stretch(film.pixels.astype(np.float32)), box, size)
        found = decode(model(torch.from_numpy(view)[None])).points[0].numpy()
        place = (transforms.apply(box, found) + 0.5) / np.array([columns, rows]) * np.array([film.aspect, 1.0])
        error = np.hypot(*(place - true).T) / length * 100
        regions = len(CHANNELS) - len(JOINTS) - 21
        for name, low, high in (
            ("regions", 0, regions),
            ("joints", regions, regions + len(JOINTS)),
            ("loose", regions + len(JOINTS), len(CHANNELS)),
        ):
            errors[name] += [float(e) for e in error[low:high] if not np.isnan(e)]
    return {f"{name}_{kind}": value for name, e in errors.items() if e for kind, value in _summary(e).items()}


def _summary(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "within": float(np.mean(np.array(errors) <= 2.5))}


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the weights folder."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    engine.seed_everything(args.seed)
    device = engine.choose_device("cpu")

    # Data: phantoms always, annotated films where given.
    drawn = phantoms.films(args.phantoms, args.seed, args.phantom_cache)
    sources: list[tuple[float, list[Film]]] = [(args.phantom_share if args.data else 1.0, drawn)] if drawn else []
    data = [f"{len(drawn)} phantoms"]
    validation = phantoms.films(40, 900_000, args.phantom_cache)
    split_hash = ""
    if args.data:
        thumbnails, split = rsna.read_thumbnails(args.data / "thumbnails"), rsna.read_split(args.split)
        merged = {
            i: rsna.merge(r, thumbnails[i])
            for i, r in rsna.by_film(args.data / "annotations.csv").items()
            if i in thumbnails
        }
        films = [film for i, film in merged.items() if split[i] == "train"]
        validation = [film for i, film in merged.items() if split[i] == "validation"]
        others = [film for film in drawn if not film.hand]
        sources.append((1 - args.phantom_share, films + others))
        data.append(f"{len(films)} annotated films of the RSNA Pediatric Bone Age Challenge at 100 x 100 pixels")
        split_hash = hashlib.sha256(args.split.read_bytes()).hexdigest()

    # Model and optimiser.
    model = HandNet(width=args.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.02)
    ema = engine.Ema(model, decay=0.998)
    first, _ = engine.load_checkpoint(args.out, model=model, optimizer=optimizer, ema=ema)
    loader = DataLoader(
        Stream(sources, args.size, args.seed + first),
        batch_size=args.batch,
        num_workers=args.workers,
        collate_fn=collate,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    progress = engine.Progress(args.steps, every_seconds=30, journal=args.out / "journal.jsonl")

    # Loop.
    metrics: dict[str, float] = {}
    for step, (pixels, points, present, sizes, facts) in enumerate(loader, start=first + 1):
        if step > args.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.rate * engine.cosine(step, args.steps, warmup=150, floor=0.01)
        model.train()
        with engine.mixed_precision(device):
            output = model(pixels.to(memory_format=torch.channels_last))
        loss, parts = losses(output, points, present, sizes, facts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        ema.update(model)
        progress.report(step, loss=float(loss.detach()), place=parts[0], size=parts[1], fact=parts[2])
        if step % 500 == 0 or step == args.steps:
            metrics = validate(ema.model, validation, args.size)
            progress.report(step, force=True, **dict(metrics))
            engine.save_checkpoint(args.out, step=step, model=model, optimizer=optimizer, ema=ema)

    # Weights.
    if args.bundle:
        metadata = weights.Metadata(
            problem="detection",
            architecture=ARCHITECTURE,
            terms=weights.RSNA_TERMS if args.data else weights.FREE_TERMS,
            data=tuple(data),
            seed=args.seed,
            version=args.version,
            split_sha256=split_hash,
            commit=engine.git_commit(),
            metrics=metrics or validate(ema.model, validation, args.size),
            preprocessing={"size": args.size, "percentiles": list(transforms.PERCENTILES)},
            hyperparameters={"width": args.width, "steps": args.steps, "batch": args.batch, "rate": args.rate},
        )
        weights.save(args.bundle, ema.model.state_dict(), metadata, half=True)


if __name__ == "__main__":
    main()
