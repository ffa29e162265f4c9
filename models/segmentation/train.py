r"""Train a segmentation network on phantoms.

    python -m models.segmentation.data --out ../cache/train --films 2400 --first-seed 10000000
    python -m models.segmentation.data --out ../cache/validation --films 150 --first-seed 20000000
    python -m models.segmentation.train --crops ../cache/train --validation ../cache/validation --out ../runs/unet \
        --weights models/bundles/segmentation/unet --minutes 30

A run is resumed by the same command. The weights kept are the moving average with the lowest validation error. P1 trains
by SGD at 1e-8 on Caffe's unnormalised loss (a sum over pixels) with batch 1; with a mean over 224 x 224 pixels that is a
rate of about 5e-4, given as `--optimizer sgd --rate 5e-4 --batch 1`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import weights
from models.augment import expose, hide, warp
from models.engine import (
    Ema,
    Progress,
    choose_device,
    cosine,
    git_commit,
    load_checkpoint,
    mixed_precision,
    save_checkpoint,
    seed_everything,
)
from models.segmentation.data import MARGIN, SIZE, Crops
from models.segmentation.network import ARCHITECTURES, CLASSES, build
from models.weights import FREE_TERMS, Metadata


def arguments() -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=Path, required=True, help="cache made by models.segmentation.data")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and journal, outside the tree")
    parser.add_argument("--weights", type=Path, help="where to write the weights folder; default <out>/weights")
    parser.add_argument("--architecture", choices=tuple(ARCHITECTURES), default="unet")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64, 96], help="of the U-Net's levels")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="stop after so long; the schedule then follows the clock")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--films", type=int, help="use only so many films of the cache")
    parser.add_argument("--every", type=int, default=250, help="steps between looks at the validation films")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def batch_of(crops: Crops, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Return films (n, 1, kept, kept) in 0..1 and (n, 3, kept, kept): ulna, radius and what lies on the film, 0..1."""
    films = torch.from_numpy(np.stack([crops.films[i] for i in indices])).float()[:, None] / 255
    masks = torch.from_numpy(np.stack([crops.masks[i] for i in indices])).float() / 255
    inside = torch.from_numpy(np.stack([crops.inside[i] for i in indices])).float()[:, None]
    return films, torch.cat((masks, inside), dim=1)


def scaled(films: Tensor, inside: Tensor) -> Tensor:
    """Do to a batch what `crop.normalise` does to one crop."""
    count = inside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    mean = (films * inside).sum(dim=(1, 2, 3), keepdim=True) / count
    spread = (((films - mean) ** 2 * inside).sum(dim=(1, 2, 3), keepdim=True) / count).sqrt().clamp_min(1e-4)
    return (films - mean) / spread * inside


def prepare(films: Tensor, truth: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the network's input and the share of each class in each pixel; varied when a generator is given."""
    if generator is None:
        start = round((films.shape[-1] - films.shape[-1] / MARGIN) / 2)
        both = torch.cat((films, truth), dim=1)[..., start:-start, start:-start]
        both = functional.interpolate(both, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    else:
        both = warp(
            torch.cat((films, truth), dim=1),
            SIZE,
            generator,
            window=1 / MARGIN,
            degrees=7,
            scale=0.10,
            shift=0.05,
            bend=0.012,
        )
    films, bones, inside = both[:, :1], both[:, 1:3], (both[:, 3:] > 0.5).float()
    if generator is not None:
        films = hide(expose(films, generator), generator, chance=0.2)
    shares = torch.cat((1 - bones.sum(dim=1, keepdim=True).clamp(max=1), bones), dim=1)
    return scaled(films, inside), shares / shares.sum(dim=1, keepdim=True)


def loss_of(scores: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy with the share of each class in the pixel, and one minus the soft Dice of the two bones."""
    scores = scores.float()
    entropy = -(shares * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()
    chances = scores.softmax(dim=1)[:, 1:]
    bones = shares[:, 1:]
    dice = (2 * (chances * bones).sum(dim=(0, 2, 3)) + 1) / ((chances + bones).sum(dim=(0, 2, 3)) + 1)
    return entropy + (1 - dice).mean()


@torch.inference_mode()
def measure(net: nn.Module, crops: Crops, device: torch.device, batch: int = 16) -> dict[str, float]:
    """Return the mean IoU of each bone over the crops in which it shows, at the network's resolution."""
    rows: dict[str, list[float]] = {name: [] for name in CLASSES[1:]}
    for start in range(0, len(crops.films), batch):
        x, shares = prepare(*batch_of(crops, list(range(start, min(start + batch, len(crops.films))))), None)
        with mixed_precision(device):
            found = net(x.to(device, memory_format=torch.channels_last)).argmax(dim=1).cpu()
        for index, name in enumerate(CLASSES[1:], start=1):
            predicted, wanted = found == index, shares[:, index] > 0.5
            shared = (predicted & wanted).sum(dim=(1, 2)).float()
            either = (predicted | wanted).sum(dim=(1, 2)).float()
            rows[name] += [float(v) for v in (shared / either.clamp_min(1))[wanted.any(dim=2).any(dim=1)]]
    return {f"iou_{name}": float(np.mean(values)) for name, values in rows.items()}


def main() -> None:
    """Train, look at the validation films now and then, keep the best."""
    options = arguments()
    torch.set_num_threads(options.threads)
    draws = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    device = choose_device(options.device)
    train, validation = Crops.open(options.crops), Crops.open(options.validation)
    films = min(options.films or len(train.films), len(train.films))
    hyperparameters = {"widths": options.widths} if options.architecture == "unet" else {}
    net = build(options.architecture, hyperparameters).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            net.parameters(), lr=options.rate, weight_decay=options.decay
        )
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=options.rate, momentum=0.99, weight_decay=options.decay)
    ema = Ema(net, 0.995)
    step, kept = load_checkpoint(options.out, model=net, optimizer=optimizer, ema=ema)
    best, spent = float(kept.get("best", -1.0)), float(kept.get("seconds", 0.0))
    progress = Progress(options.steps, every_seconds=30, journal=options.out / "journal.jsonl")
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic() - spent
    losses: list[float] = []
    while True:
        elapsed = time.monotonic() - start
        share = elapsed / (60 * options.minutes) if options.minutes else step / options.steps
        done = share >= 1
        if step and (done or step % options.every == 0):
            values = measure(ema.model, validation, device)
            worst = min(values.values())
            progress.report(step, force=True, loss=float(np.mean(losses[-options.every :] or [0.0])), **values)
            if worst > best:
                best = worst
                _ship(options, ema.model, hyperparameters, films, step, values)
            train = Crops.open(options.crops)  # the cache may still be growing
            films = min(options.films or len(train.films), len(train.films))
            save_checkpoint(options.out, step=step, model=net, optimizer=optimizer, ema=ema, best=best, seconds=elapsed)
        if done:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine(round(share * 10_000), 10_000, floor=0.01) * min(1.0, (step + 1) / 100)
        x, shares = prepare(*batch_of(train, draws.integers(films, size=options.batch).tolist()), generator)
        with mixed_precision(device):
            scores = net(x.to(device, memory_format=torch.channels_last))
        loss = loss_of(scores, shares.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        losses.append(float(loss.detach()))
        step += 1
        progress.report(step, loss=losses[-1])
    print(json.dumps({"steps": step, "best_worst_iou": round(best, 4), "seconds": round(time.monotonic() - start)}))  # noqa: T201 - a script


def _ship(
    options: argparse.Namespace,
    net: nn.Module,
    hyperparameters: dict[str, list[int]],
    films: int,
    step: int,
    values: dict[str, float],
) -> None:
    weights.save(
        options.weights or options.out / "weights",
        net.state_dict(),
        Metadata(
            problem="segmentation",
            architecture=options.architecture,
            terms=FREE_TERMS,
            data=(f"phantom crops: {films} films drawn from their seeds",),
            seed=options.seed,
            commit=git_commit(),
            metrics={"validation": {name: round(value, 5) for name, value in values.items()}, "step": step},
            hyperparameters=hyperparameters,
            preprocessing={
                "size": SIZE,
                "classes": list(CLASSES),
                "normalisation": "mean and standard deviation of the crop",
            },
        ),
        half=True,
    )


if __name__ == "__main__":
    main()
