r"""Train the closer look on phantoms and put it beside a detector's network.

    python -m models.detection.train_closer --films 800 --cache ../cache --out ../runs/closer --base models/bundles/detection/handnet \\
        --bundle ../runs/handnet-closer --minutes 30

The weights folder written holds the base's tensors unchanged and those of the closer look; its terms are the base's.
"""

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import engine, phantom, transforms, weights
from models.augment import expose, hide, uniform
from models.detection.closer import CONTEXT, SIDE, Closer, normalised
from models.detection.phantoms import region_boxes
from models.detection.predict import CLOSER
from models.regions import REGIONS

KEPT: Final = 96  # pixels of a view in the cache
WIDE: Final = 2.8  # its side over that of the box


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=800, help="phantoms to draw")
    parser.add_argument("--first-seed", type=int, default=30_000_000)
    parser.add_argument("--cache", type=Path, required=True, help="folder in which the views are kept")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and journal")
    parser.add_argument("--base", type=Path, required=True, help="weights folder of the detector to complete")
    parser.add_argument("--bundle", type=Path, required=True, help="weights folder to write")
    parser.add_argument("--version", default="2")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def views_of(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the wide, upright views (22, KEPT, KEPT) of one phantom and the boxes' (22, 2) sizes over the mean side."""
    rng = np.random.default_rng((seed, 23))
    rows = int(rng.integers(360, 640))
    drawn = phantom.draw(
        seed, rows=rows, columns=int(rows * rng.uniform(0.72, 0.9)), low_contrast=bool(rng.random() < 0.1)
    )
    pixels = transforms.stretch(drawn.image.pixels)
    turn = -np.deg2rad(drawn.rotation_degrees)
    upright = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    upright = upright @ np.diag([-1.0 if drawn.laterality == "R" else 1.0, 1.0])
    views, sizes = [], []
    for box in (region_boxes(drawn)[name] for name in REGIONS):
        size = np.array([box[2] - box[0], box[3] - box[1]])
        linear = upright * (WIDE * size.mean() / KEPT)
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        matrix = np.hstack([linear, (middle - linear @ np.full(2, (KEPT - 1) / 2))[:, None]])
        views.append(transforms.sample(pixels, matrix, KEPT)[0])
        sizes.append(size / size.mean())
    return np.round(255 * np.stack(views)).astype(np.uint8), np.array(sizes, np.float32)


def cached(args: argparse.Namespace) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the views of all films, drawn once."""
    path = args.cache / f"closer-{args.first_seed}-{args.films}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = [views_of(args.first_seed + k) for k in range(args.films)]
        np.savez(path, views=np.stack([d[0] for d in drawn]), sizes=np.stack([d[1] for d in drawn]))
    with np.load(path, allow_pickle=False) as kept:
        return kept["views"], kept["sizes"]


def batch_of(
    views: NDArray[np.uint8], sizes: NDArray[np.float32], chosen: NDArray[np.int64], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return close views as an inexact first look gives them, their regions, and what the network should say."""
    n = len(chosen)
    regions = torch.from_numpy(chosen % len(REGIONS))
    wide = torch.from_numpy(views.reshape(-1, KEPT, KEPT)[chosen]).float()[:, None] / 255
    size = torch.from_numpy(sizes.reshape(-1, 2)[chosen])

    def normal(sigma: float) -> Tensor:
        return (sigma * torch.randn(n, generator=generator)).clamp(-3 * sigma, 3 * sigma)

    turn, grow = normal(math.radians(5)), normal(0.09).exp()
    spread = torch.where(torch.rand(n, generator=generator) < 0.5, 0.03, 0.09)
    shift = spread[:, None] * torch.randn(n, 2, generator=generator)  # of the view's middle, in sides of the view
    zoom = grow * CONTEXT / WIDE
    turned = torch.stack(
        (torch.stack((turn.cos(), -turn.sin()), 1), torch.stack((turn.sin(), turn.cos()), 1)), 1
    )  # (n, 2, 2) from the view to the cache
    moved = torch.einsum("nij,nj->ni", turned, shift) * 2 * zoom[:, None]
    theta = torch.cat((turned * zoom[:, None, None], moved[:, :, None]), dim=2)
    grid = functional.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    seen = functional.grid_sample(wide, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    coarse = functional.interpolate(
        functional.avg_pool2d(seen, 2), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    seen = torch.lerp(seen, coarse, uniform(n, -1.0, 1.0, generator).clamp_min(0))
    seen = hide(expose(seen, generator, dark=0.0), generator, chance=0.15)
    wanted = torch.cat((-shift, size.log() - grow.log()[:, None]), dim=1)
    return normalised(seen), regions, wanted


def error(found: Tensor, wanted: Tensor) -> Tensor:
    """Smooth absolute error; a shift of 1 % of the view counts as much as a size that is wrong by 1.7 %."""
    scale = torch.tensor([1.0, 1.0, 1 / CONTEXT, 1 / CONTEXT])
    return functional.smooth_l1_loss(found * scale, wanted * scale, beta=0.01)


def main() -> None:
    """Train, and write both looks into one weights folder."""
    args = arguments()
    torch.set_num_threads(args.threads)
    draws = engine.seed_everything(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    views, sizes = cached(args)
    last = len(views) - max(1, len(views) // 20)  # the last films choose nothing: they only say how it goes
    training, checking = last * len(REGIONS), np.arange(last * len(REGIONS), len(views) * len(REGIONS))
    check = batch_of(views, sizes, checking, torch.Generator().manual_seed(0))
    net = Closer(args.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.01)
    ema = engine.Ema(net, 0.998)
    step, kept = engine.load_checkpoint(args.out, model=net, optimizer=optimizer, ema=ema)
    progress = engine.Progress(1_000_000, every_seconds=60, journal=args.out / "journal.jsonl")
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic() - float(kept.get("seconds", 0.0))
    while (share := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.rate * engine.cosine(round(1e4 * share), 10_000, warmup=200, floor=0.01)
        seen, regions, wanted = batch_of(views, sizes, draws.integers(training, size=args.batch), generator)
        net.train()
        loss = error(net(seen.to(memory_format=torch.channels_last), regions), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ema.update(net)
        step += 1
        if step % 500 == 0:
            metrics = measured(ema.model, check)
            progress.report(step, force=True, loss=float(loss.detach()), **metrics)
            engine.save_checkpoint(
                args.out, step=step, model=net, optimizer=optimizer, ema=ema, seconds=time.monotonic() - start
            )
            ship(args, ema.model, step, metrics)
    ship(args, ema.model, step, measured(ema.model, check))


@torch.inference_mode()
def measured(net: Closer, check: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Return the median error of the middle and of the side, in sides of the box."""
    away = (net(check[0].to(memory_format=torch.channels_last), check[1]) - check[2]).numpy()
    return {
        "middle_percent": float(100 * CONTEXT * np.median(np.hypot(away[:, 0], away[:, 1]))),
        "side_percent": float(100 * np.median(np.abs(away[:, 2:]))),
    }


def ship(args: argparse.Namespace, net: Closer, step: int, metrics: dict[str, float]) -> None:
    """Write the base's tensors and the closer look's."""
    tensors, base = weights.load(args.base, problem="detection", architectures=("handnet",))
    tensors = {name: value for name, value in tensors.items() if not name.startswith(CLOSER)}
    closer = {CLOSER + name: value for name, value in net.state_dict().items()}
    metadata = dataclasses.replace(
        base,
        version=args.version,
        created="",
        commit=engine.git_commit(),
        data=(*base.data, f"closer look: {args.films} phantoms"),
        metrics={**base.metrics, "closer": {**metrics, "step": step}},
        hyperparameters={**base.hyperparameters, "closer": args.width},
    )
    weights.save(args.bundle, {**tensors, **closer}, metadata, half=True)


if __name__ == "__main__":
    main()
