r"""Train the stage grader on phantoms.

    carpus train grading --architecture fine --size 64 --data phantoms:4000 --out ../runs/small --minutes 60

A run is resumed by the same command. The weights kept are the moving average with the lowest validation error.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
from models.grading import measure, phantoms
from models.grading.augment import averaged, centre, vary
from models.grading.losses import HEAD_OF, loss, stage_of
from models.grading.network import ARCHITECTURES, Staged, build
from models.grading.phantoms import Crops, seen_size
from models.regions import RUS
from models.weights import FREE_TERMS, Metadata


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = runs.parser(
        __doc__,
        architectures=ARCHITECTURES,
        steps=6000,
        batch=8,
        rate=3e-3,
        decay=0.02,
        every=400,
        data="folder with train/ and validation/ as models.grading.phantoms makes them, or phantoms:N to draw N films first",
    )
    made.add_argument("--loss", choices=tuple(HEAD_OF), default="quarters")
    made.add_argument("--width", type=int, default=16)
    made.add_argument("--strength", type=float, default=0.3, help="how much crops are varied; 1 for real films")
    made.add_argument("--bend", type=float, default=0.0, help="how much of that changes a bone's proportions as well")
    made.add_argument(
        "--even", type=float, default=0.5, help="0: films as drawn; 1: every stage of a bone equally often"
    )
    made.add_argument("--size", type=int, help="pixels of a crop, at most those of the cache; left out: as cached")
    made.add_argument("--films", type=int, help="use only so many films of the training part")
    made.add_argument("--warmup", type=int, default=200, help="steps until the learning rate reaches its peak")
    made.add_argument("--start", type=Path, help="weights folder to start from, instead of random ones")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train, calibrate on the validation films, and write the weights."""
    options = parser().parse_args(argv)
    runs.limit_threads(options)
    kept_options = runs.keep(options)
    device = choose_device(options.device)
    rng = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    source = phantoms.drawn_for(options.data, options.out)
    train, held = Crops.load(source / "train", options.films), Crops.load(source / "validation")
    size = options.size or seen_size(train.pixels.shape[-1])
    pixels, maturity = averaged(torch.from_numpy(train.pixels), size), torch.from_numpy(train.maturity)
    drawing = shares(maturity, options.even)
    seen, truth = centre(torch.from_numpy(held.pixels), options.size), torch.from_numpy(held.maturity)

    net = build(options.architecture, {"width": options.width, "head": HEAD_OF[options.loss]})
    if options.start:
        net.load_state_dict(weights.load(options.start, problem="grading", architectures=(options.architecture,))[0])
        net.temperature.fill_(1.0)
    net.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=options.decay)
    ema = Ema(net, 0.998)
    first, kept = load_checkpoint(options.out, model=net, optimizer=optimizer, ema=ema)
    stop = EarlyStop(options.patience or options.steps, float(kept.get("best", math.inf)), int(kept.get("waited", 0)))
    spent = float(kept.get("minutes", 0.0))
    progress = Progress(options.steps, every_seconds=60, journal=options.out / "journal.jsonl")

    bones = torch.arange(len(RUS))
    start, step, running = time.monotonic(), first, math.nan

    def minutes() -> float:
        return spent + (time.monotonic() - start) / 60

    def look() -> None:
        _look(options, kept_options, ema, seen, truth, held, stop, progress, step, len(train))
        save_checkpoint(
            options.out,
            step=step,
            model=net,
            optimizer=optimizer,
            ema=ema,
            best=stop.best,
            waited=stop.waited,
            minutes=minutes(),
        )

    while step < options.steps and not stop.stop and not (options.minutes and minutes() >= options.minutes):
        share = max(step / options.steps, minutes() / options.minutes if options.minutes else 0.0)
        warm = min(1.0, (step + 1) / options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * warm * cosine(round(1000 * share), 1000, floor=0.01)
        # Every bone is drawn for itself: a row of the batch holds the 13 bones of 13 hands.
        rows = [np.searchsorted(each[:-1], rng.random(options.batch)) for each in drawing]
        chosen = torch.from_numpy(np.stack(rows, axis=1))
        crops = vary(pixels[chosen, bones], generator, strength=options.strength, bend=options.bend, size=size)
        net.train()
        with mixed_precision(device, enabled=options.precision == "bf16"):
            outputs = net(crops.to(device))
        value = loss(options.loss, net, outputs, maturity[chosen, bones].to(device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        step += 1
        running = float(value.detach()) if math.isnan(running) else 0.98 * running + 0.02 * float(value.detach())
        progress.report(step, loss=running)
        if step % options.every == 0:
            look()
    if step % options.every and step > first:
        look()
    runs.ended(options, first, step, stop)


def shares(maturity: torch.Tensor, even: float) -> NDArray[np.float64]:
    """Return for each bone the running sum of the films' probabilities to be drawn, (13, films).

    A film's is its stage's frequency to the power -`even`: natural hands are fused or without centres for much of childhood, and
    those stages are soon learnt.
    """
    stage = stage_of(maturity).numpy()
    weight = np.stack([np.bincount(each).astype(np.float64).clip(1)[each] ** -even for each in stage.T])
    found: NDArray[np.float64] = (weight / weight.sum(1, keepdims=True)).cumsum(1)
    return found


def _look(
    options: argparse.Namespace,
    kept_options: dict[str, Any],
    ema: Ema[Staged],
    seen: torch.Tensor,
    truth: torch.Tensor,
    held: Crops,
    stop: EarlyStop,
    progress: Progress,
    step: int,
    films: int,
) -> None:
    """Calibrate and measure the average on the validation films; keep it when it is the best so far."""
    net = ema.model
    outputs = measure.run(net, seen)
    measure.calibrate(net, outputs, truth)
    chances = net.probabilities(outputs).numpy()
    found = measure.summary(chances, held)
    score = float(found["log_loss"])
    progress.report(step, force=True, **{name: float(value) for name, value in found.items()})
    if not stop.improved(score):
        return
    runs.save(
        options,
        kept_options,
        net.state_dict(),
        Metadata(
            problem="grading",
            architecture=options.architecture,
            terms=FREE_TERMS,
            data=(f"{films} phantoms",),
            seed=options.seed,
            commit=git_commit(),
            metrics={"validation": {**found, "films": len(held), "data": "phantoms drawn by age"}},
            preprocessing={
                "size": options.size or seen_size(held.pixels.shape[-1]),
                "cut": seen_size(held.pixels.shape[-1]),
                "context": held.context,
                "equalised": True,
                "edges": True,
            },
            hyperparameters={
                "width": options.width,
                "head": HEAD_OF[options.loss],
                "loss": options.loss,
                "steps": step,
                "batch": options.batch,
                "rate": options.rate,
                "decay": options.decay,
                "strength": options.strength,
                "bend": options.bend,
                "even": options.even,
            },
        ),
    )


if __name__ == "__main__":
    refusal.command(main)
