r"""Train a segmentation network on phantoms.

    python -m models.segmentation.data --out ../cache/train --films 2400 --first-seed 10000000
    python -m models.segmentation.data --out ../cache/validation --films 150 --first-seed 20000000
    python -m models.segmentation.train --crops ../cache/train --validation ../cache/validation --out ../runs/unet \
        --weights models/bundles/segmentation/unet --minutes 30

Real outlines are added by `--outlines CACHE` (made by the same `data` script). A run is resumed by the same command. The weights
kept are the moving average with the lowest validation error; what has no gradient (the classical methods) only takes the mean of
the outlines as its prior. P1 trains
by SGD at 1e-8 on Caffe's unnormalised loss (a sum over pixels) with batch 1; with a mean over 224 x 224 pixels that is a
rate of about 5e-4, given as `--optimizer sgd --rate 5e-4 --batch 1`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import weights
from models.augment import collimate, expose, hide, warp
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
from models.segmentation.losses import LOSSES, total
from models.segmentation.network import ARCHITECTURES, CLASSES, CLASSICAL, build, layout
from models.weights import FREE_TERMS, RSNA_TERMS, Metadata

CURVE_STEPS = 5  # steps averaged into one point of the loss curve


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=Path, required=True, help="cache made by models.segmentation.data")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and journal, outside the tree")
    parser.add_argument("--weights", type=Path, help="where to write the weights folder; default <out>/weights")
    parser.add_argument("--architecture", choices=tuple(ARCHITECTURES), default="unet")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64, 96], help="of the U-Net's levels")
    parser.add_argument("--loss", choices=tuple(LOSSES), default="compound")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the crop the network sees, pixels")
    parser.add_argument("--start", type=Path, help="weights folder to start from")
    parser.add_argument("--outlines", type=Path, help="cache of real crops with outlines drawn by hand")
    parser.add_argument("--outlines-share", type=float, default=0.4, help="share of each batch taken from them")
    parser.add_argument(
        "--outlines-validation", type=Path, help="real crops that choose the weights, beside the phantoms"
    )
    parser.add_argument("--version", default="1", help="version of the weights")
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
    return parser.parse_args(argv)


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


def prepare(films: Tensor, truth: Tensor, generator: torch.Generator | None, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Return the network's input and the share of each class in each pixel; varied when a generator is given."""
    if generator is None:
        start = round((films.shape[-1] - films.shape[-1] / MARGIN) / 2)
        both = torch.cat((films, truth), dim=1)[..., start:-start, start:-start]
        both = functional.interpolate(both, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    else:
        both = warp(
            torch.cat((films, truth), dim=1),
            size,
            generator,
            window=1 / MARGIN,
            degrees=7,
            scale=0.10,
            shift=0.05,
            bend=0.012,
        )
    films, bones, inside = both[:, :1], both[:, 1:3], (both[:, 3:] > 0.5).float()
    if generator is not None:
        films, seen = collimate(hide(expose(films, generator), generator, chance=0.2), generator)
        bones = bones * seen
    shares = torch.cat((1 - bones.sum(dim=1, keepdim=True).clamp(max=1), bones), dim=1)
    return scaled(films, inside), shares / shares.sum(dim=1, keepdim=True)


@torch.inference_mode()
def measure(
    net: nn.Module, crops: Crops, device: torch.device, *, size: int = SIZE, batch: int = 16
) -> dict[str, float]:
    """Return the mean IoU of each bone over the crops in which it shows, at the network's resolution."""
    rows: dict[str, list[float]] = {name: [] for name in CLASSES[1:]}
    for start in range(0, len(crops.films), batch):
        x, shares = prepare(*batch_of(crops, list(range(start, min(start + batch, len(crops.films))))), None, size)
        with mixed_precision(device):
            found = net(x.to(device, memory_format=layout(net))).argmax(dim=1).cpu()
        for index, name in enumerate(CLASSES[1:], start=1):
            predicted, wanted = found == index, shares[:, index] > 0.5
            shared = (predicted & wanted).sum(dim=(1, 2)).float()
            either = (predicted | wanted).sum(dim=(1, 2)).float()
            rows[name] += [float(v) for v in (shared / either.clamp_min(1))[wanted.any(dim=2).any(dim=1)]]
    return {f"iou_{name}": float(np.mean(values)) for name, values in rows.items()}


def fill_prior(net: nn.Module, crops: Crops, films: int, size: int) -> None:
    """Give a classical method the mean outline of the crops, all it learns."""
    total_share = torch.zeros(len(CLASSES), size, size)
    for index in range(films):
        total_share += prepare(*batch_of(crops, [index]), None, size)[1][0]
    net.prior.copy_(total_share / films)  # type: ignore[operator]  # a buffer of models.segmentation.classical


def main(argv: Sequence[str] | None = None) -> None:
    """Train, look at the validation films now and then, keep the best."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    draws = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    device = choose_device(options.device)
    train, validation = Crops.open(options.crops), Crops.open(options.validation)
    films = min(options.films or len(train.films), len(train.films))
    real = Crops.open(options.outlines) if options.outlines else None
    real_validation = Crops.open(options.outlines_validation) if options.outlines_validation else None
    hyperparameters: dict[str, Any] = {"widths": options.widths} if options.architecture == "unet" else {}
    hyperparameters |= {"size": options.size} if options.architecture in (*CLASSICAL, "segresnet-vae") else {}
    net = build(options.architecture, hyperparameters)
    net = net.to(device, memory_format=layout(net))  # type: ignore[call-overload]
    if options.start:
        tensors, _ = weights.load(options.start, problem="segmentation", architectures=(options.architecture,))
        net.load_state_dict(tensors)
    options.out.mkdir(parents=True, exist_ok=True)

    def look(model: nn.Module) -> dict[str, float]:
        values = measure(model, validation, device, size=options.size)
        if real_validation is not None:
            found = measure(model, real_validation, device, size=options.size)
            values |= {f"real_{name}": value for name, value in found.items()}
        return values

    if options.architecture in CLASSICAL:
        fill_prior(net, train, films, options.size)
        _ship(options, net, hyperparameters, films, 0, look(net))
        return
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
    start = time.monotonic() - spent
    losses: list[float] = []
    net.train()
    while True:
        elapsed = time.monotonic() - start
        share = elapsed / (60 * options.minutes) if options.minutes else step / options.steps
        done = share >= 1
        if step and (done or step % options.every == 0):
            values = look(ema.model)
            worst = min(values.values())
            progress.report(step, force=True, loss=float(np.mean(losses[-options.every :] or [0.0])), **values)
            if worst > best:
                best = worst
                _ship(options, ema.model, hyperparameters, films, step, values)
            train = Crops.open(options.crops)  # the cache may still be growing
            films = min(options.films or len(train.films), len(train.films))
            save_checkpoint(options.out, step=step, model=net, optimizer=optimizer, ema=ema, best=best, seconds=elapsed)
            _keep_curve(options.out / "curve.json", losses)
        if done:
            break
        for group in optimizer.param_groups:
            group["lr"] = (
                options.rate * cosine(round(share * 10_000), 10_000, floor=0.01) * min(1.0, 0.1 + share / 0.05)
            )
        chosen = batch_of(train, draws.integers(films, size=options.batch).tolist())
        if real is not None:
            count = int(draws.binomial(options.batch, options.outlines_share))
            drawn = batch_of(real, draws.integers(len(real.films), size=count).tolist()) if count else None
            if drawn is not None:
                chosen = (torch.cat((drawn[0], chosen[0][count:])), torch.cat((drawn[1], chosen[1][count:])))
        x, shares = prepare(*chosen, generator, options.size)
        with mixed_precision(device):
            output = net(x.to(device, memory_format=layout(net)))
        loss = total(output, shares.to(device), LOSSES[options.loss])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the loss of step {step + 1} is {losses[-1]}: the run is lost, its last state is kept"
            )
        step += 1
        progress.report(step, loss=losses[-1])
    print(json.dumps({"steps": step, "best_worst_iou": round(best, 4), "seconds": round(time.monotonic() - start)}))  # noqa: T201 - a script


def _keep_curve(path: Path, losses: list[float]) -> None:
    """Keep the loss, each point the mean of `CURVE_STEPS` steps, of the steps since the run was last started."""
    whole = len(losses) // CURVE_STEPS * CURVE_STEPS
    points = np.array(losses[:whole]).reshape(-1, CURVE_STEPS).mean(axis=1)
    path.write_text(json.dumps({"steps_a_point": CURVE_STEPS, "loss": np.round(points, 4).tolist()}), encoding="utf-8")


def _ship(
    options: argparse.Namespace,
    net: nn.Module,
    hyperparameters: dict[str, Any],
    films: int,
    step: int,
    values: dict[str, float],
) -> None:
    data = [f"phantom crops: {films} films drawn from their seeds"]
    if options.outlines:
        drawn = len(Crops.open(options.outlines).films)
        data.append(f"{drawn} films of the RSNA Pediatric Bone Age Challenge with self-annotated outlines")
    weights.save(
        options.weights or options.out / "weights",
        net.state_dict(),
        Metadata(
            problem="segmentation",
            architecture=options.architecture,
            terms=RSNA_TERMS if options.outlines else FREE_TERMS,
            data=tuple(data),
            seed=options.seed,
            version=options.version,
            commit=git_commit(),
            metrics={"validation": {name: round(value, 5) for name, value in values.items()}, "step": step},
            hyperparameters=hyperparameters,
            preprocessing={
                "size": options.size,
                "classes": list(CLASSES),
                "normalisation": "mean and standard deviation of the crop",
            },
        ),
        half=True,
    )


if __name__ == "__main__":
    main()
