r"""Train a segmentation network on phantoms, and on films outlined by hand where there are some.

    carpus train segmentation --data phantoms:2000 --out ../runs/unet --minutes 60

`--data` takes a cache folder too (`python -m models.segmentation.data`), `--outlines` one of real crops. A run is resumed by the same
command. The weights kept are the moving average with the lowest validation error; what has no gradient (the classical methods) only
takes the mean of the outlines as its prior. P1 trains by SGD at 1e-8 on Caffe's unnormalised loss (a sum over pixels) with batch 1;
with a mean over 224 x 224 pixels that is a rate of about 5e-4, given as `--optimizer sgd --rate 5e-4 --batch 1`.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from models import refusal, runs, weights
from models.engine import (
    EarlyStop,
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
from models.segmentation.batches import fill_prior, measure, mixed, prepare
from models.segmentation.data import SIZE, Crops, drawn_for
from models.segmentation.losses import LOSSES, total
from models.segmentation.network import ARCHITECTURES, CLASSES, CLASSICAL, build, layout
from models.segmentation.predict import LOOKS
from models.weights import FREE_TERMS, RSNA_TERMS, Metadata

CURVE_STEPS: Final = 5  # steps averaged into one point of the loss curve
CURVE_FILE: Final = "curve.json"


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = runs.parser(
        __doc__,
        architectures=tuple(ARCHITECTURES),
        steps=4000,
        batch=8,
        rate=3e-3,
        decay=5e-4,
        every=250,
        data="folder with train/ and validation/ as models.segmentation.data makes them, or phantoms:N to draw N films first",
    )
    made.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64, 96], help="of the U-Net's levels")
    made.add_argument("--loss", choices=tuple(LOSSES), default="compound")
    made.add_argument("--size", type=int, default=SIZE, help="side of the crop the network sees, pixels")
    made.add_argument("--films", type=int, help="use only so many films of the training part")
    made.add_argument("--start", type=Path, help="weights folder to start from")
    made.add_argument("--outlines", type=Path, help="cache of real crops with outlines drawn by hand")
    made.add_argument("--outlines-share", type=float, default=0.4, help="share of each batch taken from them")
    made.add_argument(
        "--outlines-validation", type=Path, help="real crops that choose the weights, beside the phantoms"
    )
    made.add_argument("--terms", help="terms of the weights; left out: free, or the RSNA's where outlines are given")
    made.add_argument("--source", help="what the outlined films are, for the weights' metadata")
    made.add_argument("--version", default="1", help="version of the weights")
    made.add_argument(
        "--looks",
        type=int,
        choices=range(1, len(LOOKS) + 1),
        default=1,
        help="crops the trained weights see a film through",
    )
    made.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    made.add_argument(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="constant: the moving average does what the cosine does, and a run can be prolonged as if it had never ended",
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train, look at the validation films now and then, keep the best."""
    options = parser().parse_args(argv)
    runs.limit_threads(options)
    device = choose_device(options.device)
    mixing = options.precision == "bf16"
    seed_everything(options.seed)

    # What can be refused is looked at before anything is kept of the run, and before films are drawn for minutes.
    real = Crops.open(options.outlines) if options.outlines else None
    real_held = Crops.open(options.outlines_validation) if options.outlines_validation else None
    hyperparameters: dict[str, Any] = {"widths": options.widths} if options.architecture == "unet" else {}
    hyperparameters |= {"size": options.size} if options.architecture in (*CLASSICAL, "segresnet-vae") else {}
    net = build(options.architecture, hyperparameters)
    net = net.to(device, memory_format=layout(net))  # type: ignore[call-overload]
    if options.start:
        tensors, _ = weights.load(options.start, problem="segmentation", architectures=(options.architecture,))
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise runs.RunRefused(
                f"--start {options.start} does not fit a {options.architecture} {hyperparameters or 'of this kind'}: {error}"
            ) from error
    if runs.phantoms(options.data) is None:
        Crops.open(options.data / "train")
        Crops.open(options.data / "validation")
    kept_options = runs.keep(options)
    source = drawn_for(options.data, options.out)
    train, held = Crops.open(source / "train"), Crops.open(source / "validation")
    films = min(options.films or len(train.films), len(train.films))

    def look(model: nn.Module) -> dict[str, float]:
        values = measure(model, held, device, size=options.size, mixing=mixing)
        if real_held is not None:
            found = measure(model, real_held, device, size=options.size, mixing=mixing)
            values |= {f"real_{name}": value for name, value in found.items()}
        return values

    if options.architecture in CLASSICAL:
        fill_prior(net, train, films, options.size)
        _ship(options, kept_options, net, hyperparameters, films, real, {**look(net), "step": 0})
        where = runs.weights_folder(options)
        print(  # noqa: T201 - a training log
            f"{options.architecture} has no network to train: the mean outline of {films} films is its prior; its weights are in {where}",
            file=sys.stderr,
        )
        return
    optimizer: torch.optim.Optimizer
    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=options.decay)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=options.rate, momentum=0.99, weight_decay=options.decay)
    ema = Ema(net, 0.995)
    first, kept = load_checkpoint(options.out, model=net, optimizer=optimizer, ema=ema)
    step = first
    # A run that goes on draws other crops than it began with.
    draws, generator = np.random.default_rng((options.seed, step)), torch.Generator().manual_seed(options.seed + step)
    stop = EarlyStop(options.patience or options.steps, float(kept.get("best", math.inf)), int(kept.get("waited", 0)))
    minutes, busy = float(kept.get("minutes", 0.0)), float(kept.get("processor_seconds", 0.0))
    curve = _curve(options.out / CURVE_FILE, step)
    progress = Progress(options.steps, every_seconds=60, journal=options.out / "journal.jsonl")
    losses: list[float] = []
    while True:
        began, began_busy = time.monotonic(), time.process_time()
        share = max(
            step / options.steps,
            minutes / options.minutes if options.minutes else 0.0,
        )
        done = share >= 1 or stop.stop
        if losses and (done or step % options.every == 0):
            values = look(ema.model)
            progress.report(step, force=True, loss=float(np.mean(losses[-options.every :])), **values)
            if stop.improved(1 - min(values.values())):
                found = {**values, "step": step, "processor_seconds": round(busy)}
                _ship(options, kept_options, ema.model, hyperparameters, films, real, found)
            save_checkpoint(
                options.out,
                step=step,
                model=net,
                optimizer=optimizer,
                ema=ema,
                best=stop.best,
                waited=stop.waited,
                minutes=minutes,
                processor_seconds=busy,
            )
            _keep_curve(options.out / CURVE_FILE, curve, losses)
            done = done or stop.stop
            began_busy = time.process_time()
        if done:
            break
        fall = cosine(round(share * 10_000), 10_000, floor=0.01) if options.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = options.rate * fall * min(1.0, (step + 1) / 50)
        chosen = mixed(train, films, real, batch=options.batch, share=options.outlines_share, draws=draws)
        x, shares = prepare(*chosen, generator, options.size)
        net.train()
        with mixed_precision(device, enabled=mixing):
            output = net(x.to(device, memory_format=layout(net)))
        loss = total(output, shares.to(device), LOSSES[options.loss])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
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
        minutes += (time.monotonic() - began) / 60
        busy += time.process_time() - began_busy
    runs.ended(options, first, step, stop)


def _curve(path: Path, step: int) -> list[float]:
    """Return the points of the loss curve up to the step that a resumed run goes on from."""
    if not step or not path.exists():
        return []
    points: list[float] = json.loads(path.read_text(encoding="utf-8"))["loss"]
    return points[: step // CURVE_STEPS]


def _keep_curve(path: Path, before: list[float], losses: list[float]) -> None:
    """Keep the loss, each point the mean of `CURVE_STEPS` steps; steps that fill no point are left out."""
    whole = len(losses) // CURVE_STEPS * CURVE_STEPS
    points = np.array(losses[:whole]).reshape(-1, CURVE_STEPS).mean(axis=1)
    kept = {"steps_a_point": CURVE_STEPS, "loss": [*before, *np.round(points, 4).tolist()]}
    path.write_text(json.dumps(kept), encoding="utf-8")


def _ship(
    options: argparse.Namespace,
    kept_options: dict[str, Any],
    net: nn.Module,
    hyperparameters: dict[str, Any],
    films: int,
    real: Crops | None,
    values: dict[str, float],
) -> None:
    data = [f"phantom crops: {films} films drawn from their seeds"]
    if real is not None:
        films_of = "films of the RSNA Pediatric Bone Age Challenge with self-annotated outlines"
        data.append(options.source or f"{len(real.films)} {films_of}")
    runs.save(
        options,
        kept_options,
        net.state_dict(),
        Metadata(
            problem="segmentation",
            architecture=options.architecture,
            terms=options.terms or (RSNA_TERMS if real is not None else FREE_TERMS),
            data=tuple(data),
            seed=options.seed,
            version=options.version,
            commit=git_commit(),
            metrics={"validation": {name: round(value, 5) for name, value in values.items()}},
            hyperparameters=hyperparameters,
            preprocessing={
                "size": options.size,
                "looks": options.looks,
                "classes": list(CLASSES),
                "normalisation": "mean and standard deviation of the crop",
            },
        ),
    )


if __name__ == "__main__":
    refusal.command(main)
