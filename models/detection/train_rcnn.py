"""Train Faster R-CNN on phantoms: python -m models.detection.train_rcnn --cache CACHE --out RUN --bundle WEIGHTS --minutes 60.

P2 trains at a shorter side of 800 pixels, two films a step, a rate of 1e-3 that falls tenfold every 20,000 steps, with flips and
rotations, by SGD. Here the side is an option, small by default: the network is the paper's, the training a CPU's.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import engine, weights
from models.detection import phantoms
from models.detection.data import Film
from models.detection.rcnn import ARCHITECTURE, build, film_tensor, stepped
from models.regions import REGIONS


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=300, help="phantoms to draw")
    parser.add_argument("--cache", type=Path, help="folder in which drawn phantoms are kept")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and journal")
    parser.add_argument("--bundle", type=Path, required=True, help="weights folder to write")
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--side", type=int, default=256, help="shorter side of a film, pixels; P2: 800")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4, help="peak rate of AdamW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def sample(film: Film, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a film and its boxes, mirrored or turned by a right angle now and then (P2: flips and rotations)."""
    rows, columns = film.pixels.shape
    pixels: NDArray[np.float32] = film.pixels.astype(np.float32) / np.float32(255)
    middles = film.points[: len(REGIONS)] * np.array([columns, rows], np.float32)
    halves = film.sizes * np.array([columns, rows], np.float32) / 2
    if rng.random() < 0.5:
        pixels = np.fliplr(pixels)
        middles = np.stack((columns - middles[:, 0], middles[:, 1]), axis=1)
    for _ in range(int(rng.integers(4)) if rng.random() < 0.3 else 0):
        rows, columns = pixels.shape
        pixels = np.rot90(pixels)  # counter-clockwise: (x, y) goes to (y, columns - x)
        middles = np.stack((middles[:, 1], columns - middles[:, 0]), axis=1)
        halves = halves[:, ::-1]
    boxes = np.concatenate((middles - halves, middles + halves), axis=1)
    boxes = np.clip(boxes, 0, np.array([*pixels.shape[::-1], *pixels.shape[::-1]], np.float32))
    shown = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 2
    labels = torch.arange(1, len(REGIONS) + 1)[torch.from_numpy(shown)]
    target = {"boxes": torch.from_numpy(boxes[shown].astype(np.float32)), "labels": labels}
    return film_tensor(pixels), target


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the weights folder."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    rng = engine.seed_everything(args.seed)
    films = [film for film in phantoms.films(args.phantoms, args.seed, args.cache) if film.hand]
    options = {"backbone": args.backbone, "side": args.side}
    net = build(options).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=1e-4)
    step, kept = engine.load_checkpoint(args.out, model=net, optimizer=optimizer)
    start = time.monotonic() - float(kept.get("seconds", 0.0))
    args.out.mkdir(parents=True, exist_ok=True)
    progress = engine.Progress(1_000_000, every_seconds=60, journal=args.out / "journal.jsonl")
    take = stepped(net, optimizer)
    loss = float("nan")
    while (share := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.rate * engine.cosine(round(1e4 * share), 10_000, warmup=200, floor=0.01)
        drawn = [sample(films[i], rng) for i in rng.integers(len(films), size=args.batch)]
        loss = take([film for film, _ in drawn], [target for _, target in drawn])
        step += 1
        progress.report(step, loss=loss)
        if step % 100 == 0:
            seconds = time.monotonic() - start
            engine.save_checkpoint(args.out, step=step, model=net, optimizer=optimizer, seconds=seconds)
    metadata = weights.Metadata(
        problem="detection",
        architecture=ARCHITECTURE,
        terms=weights.FREE_TERMS,
        data=(f"{len(films)} phantoms",),
        seed=args.seed,
        commit=engine.git_commit(),
        metrics={"step": step, "last_loss": round(loss, 4)},
        hyperparameters={**options, "batch": args.batch, "rate": args.rate},
    )
    weights.save(args.bundle, net.state_dict(), metadata, half=True)


if __name__ == "__main__":
    main()
