r"""Train the stage grader on phantoms.

    python -m models.grading.train --crops ../crops/train --validation ../crops/validation --out ../runs/small \
        --weights models/bundles/grading/small --minutes 25

A run is resumed by the same command. The weights kept are the moving average with the lowest validation error.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

from models import weights
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
from models.grading import measure
from models.grading.augment import centre, vary
from models.grading.crops import CONTEXT, SIZE
from models.grading.losses import HEAD_OF, loss
from models.grading.network import StageNet
from models.grading.phantoms import Crops
from models.weights import FREE_TERMS, Metadata


def arguments() -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=Path, required=True, help="cache made by models.grading.phantoms")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and the journal, outside the tree"
    )
    parser.add_argument("--weights", type=Path, help="where to write the weights folder; default <out>/weights")
    parser.add_argument("--loss", choices=tuple(HEAD_OF), default="ordered")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="stop after so long; the schedule then follows the clock")
    parser.add_argument("--batch", type=int, default=16, help="films, 13 crops each")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--films", type=int, help="use only so many films of the cache")
    parser.add_argument("--every", type=int, default=400, help="steps between looks at the validation films")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main() -> None:
    """Train, calibrate on the validation films, and write the weights."""
    options = arguments()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    rng = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    train, held = Crops.load(options.crops, options.films), Crops.load(options.validation)
    pixels, maturity = torch.from_numpy(train.pixels), torch.from_numpy(train.maturity)
    seen, truth = centre(torch.from_numpy(held.pixels)), torch.from_numpy(held.maturity)

    net = StageNet(options.width, HEAD_OF[options.loss]).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=options.decay)
    ema = Ema(net, 0.998)
    first, kept = load_checkpoint(options.out, model=net, optimizer=optimizer, ema=ema)
    best = float(kept.get("best", math.inf))
    spent = float(kept.get("minutes", 0.0))
    progress = Progress(options.steps, journal=options.out / "journal.jsonl")
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.weights or options.out / "weights"

    start, step, running = time.monotonic(), first, math.nan
    while step < options.steps:
        minutes = spent + (time.monotonic() - start) / 60
        if options.minutes and minutes >= options.minutes:
            break
        share = max(step / options.steps, minutes / options.minutes if options.minutes else 0.0)
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * warm * cosine(round(1000 * share), 1000, floor=0.01)
        chosen = torch.from_numpy(rng.integers(0, len(train), options.batch))
        crops = vary(pixels[chosen], generator).to(device)
        net.train()
        with mixed_precision(device):
            outputs = net(crops)
        value = loss(options.loss, net, outputs, maturity[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        step += 1
        running = float(value.detach()) if math.isnan(running) else 0.98 * running + 0.02 * float(value.detach())
        progress.report(step, loss=running)
        if step % options.every == 0:
            best = _look(options, ema, seen, truth, held, best, progress, step, folder)
            minutes = spent + (time.monotonic() - start) / 60
            save_checkpoint(options.out, step=step, model=net, optimizer=optimizer, ema=ema, best=best, minutes=minutes)
    _look(options, ema, seen, truth, held, best, progress, step, folder)


def _look(
    options: argparse.Namespace,
    ema: Ema[StageNet],
    seen: torch.Tensor,
    truth: torch.Tensor,
    held: Crops,
    best: float,
    progress: Progress,
    step: int,
    folder: Path,
) -> float:
    """Calibrate and measure the average on the validation films; keep it when it is the best so far."""
    net = ema.model
    outputs = measure.run(net, seen)
    measure.calibrate(net, outputs, truth)
    chances = net.probabilities(outputs).numpy()
    found = measure.summary(chances, held)
    score = float(found["log_loss"])
    progress.report(step, force=True, **{name: float(value) for name, value in found.items()})
    if score >= best:
        return best
    weights.save(
        folder,
        net.state_dict(),
        Metadata(
            problem="grading",
            architecture="small",
            terms=FREE_TERMS,
            data=(
                f"phantoms: {options.films or 'all'} films of {json.loads((options.crops / 'settings.json').read_text())}",
            ),
            seed=options.seed,
            commit=git_commit(),
            metrics={"validation": {**found, "films": len(held), "data": "phantoms drawn by age"}},
            preprocessing={"size": SIZE, "context": CONTEXT, "equalised": True, "edges": True},
            hyperparameters={
                "width": options.width,
                "head": HEAD_OF[options.loss],
                "loss": options.loss,
                "steps": step,
                "batch": options.batch,
                "rate": options.rate,
                "decay": options.decay,
            },
        ),
        half=True,
    )
    return score


if __name__ == "__main__":
    main()
