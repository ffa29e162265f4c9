r"""Train the regressor on thumbnails.

    carpus train regression --data DATA --out RUN --steps 9000

The loss asks for a normal distribution over months around the label (label distribution learning, Gao et al. 2017) and for
its mean to be right. A run is resumed by the same command; kept is the moving average with the lowest validation error, and at
the end it is written as weights with intervals. `models.regression.calibrate` joins several runs into one.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from models import refusal, runs
from models.engine import (
    EarlyStop,
    Ema,
    Progress,
    choose_device,
    cosine,
    load_checkpoint,
    mixed_precision,
    save_checkpoint,
)
from models.regression import calibrate
from models.regression.data import Thumbnails, batches, divided, split_of
from models.regression.network import ARCHITECTURES, MONTHS, SEXES, MaturityNet, build
from models.runs import RunRefused

SPLIT_FILE: Final = "split.csv"
FEWEST: Final = 9  # validation films of a sex from which 90 % intervals can be made


def loss_of(network: MaturityNet, logits: Tensor, months: Tensor, sigma_months: float) -> Tensor:
    """Cross-entropy to a normal distribution around the label, plus the error of the mean (weighted per year)."""
    classes = torch.arange(MONTHS, dtype=torch.float32, device=months.device)
    target = torch.softmax(-0.5 * ((classes - months[:, None]) / sigma_months) ** 2, dim=1)
    distribution = -(target * functional.log_softmax(logits.float(), dim=1)).sum(1).mean()
    return distribution + (network.expectation(logits) - months).abs().mean() / 12


@torch.inference_mode()
def predict(network: MaturityNet, thumbnails: Thumbnails, size: int = 128) -> Tensor:
    """Mean predicted age in months of each film in a single view, (n,)."""
    network.eval()
    device = next(network.parameters()).device
    means = []
    for start in range(0, len(thumbnails), size):
        films = torch.from_numpy(thumbnails.films[start : start + size]).float()[:, None] / 255
        sex = torch.from_numpy(thumbnails.sex[start : start + size])
        with mixed_precision(device):
            logits = network(films.to(device), sex.to(device))
        means.append(network.expectation(logits).cpu())
    return torch.cat(means)


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = runs.parser(
        __doc__,
        architectures=tuple(ARCHITECTURES),
        steps=6000,
        batch=64,
        rate=2e-3,
        decay=0.02,
        every=150,
        data="folder with thumbnails/ and images.csv, or of films with films.csv",
    )
    made.add_argument("--sigma-months", type=float, default=6.0, help="width of the label distribution")
    made.add_argument("--dropout", type=float, default=0.1)
    made.add_argument("--start", type=Path, help="run whose best weights to start from, instead of random ones")
    made.add_argument("--average", type=float, default=0.998, help="decay of the running average of the weights")
    calibrate.add_provenance(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and write the weights with their intervals."""
    options = parser().parse_args(argv)
    runs.limit_threads(options)
    torch.manual_seed(options.seed)
    device = choose_device(options.device)

    begun = calibrate.best_of(options.start) if options.start else None
    # By patient, so that no film of the two measuring parts is ever seen.
    thumbnails, parts = divided(options.data)
    for index, name in enumerate(SEXES):
        judging = int(((parts == "validation") & (thumbnails.sex == index)).sum())
        if 0 < judging < FEWEST:
            raise RunRefused(
                f"{options.data}: {judging} films of {name} stand in the validation part, a tenth of the patients; "
                f"the 90 % intervals that the weights carry need {FEWEST} of a sex"
            )
    train, validation = (thumbnails.take(parts == part) for part in ("train", "validation"))
    if len(train) < options.batch:
        raise RunRefused(f"--batch {options.batch}: the training part has {len(train)} films only")
    network = build(options.architecture, dropout=options.dropout)
    if begun is not None:
        try:
            network.load_state_dict(begun)
        except RuntimeError as unlike:
            raise RunRefused(f"--start {options.start} holds no weights of a {options.architecture}") from unlike
    split = split_of(thumbnails.ids, parts)
    runs.keep(options, split_sha256=hashlib.sha256(split).hexdigest())
    (options.out / SPLIT_FILE).write_bytes(split)

    network.to(device).to(memory_format=torch.channels_last)
    ema = Ema(network, options.average)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}], lr=options.rate
    )
    first, kept = load_checkpoint(options.out, model=network, optimizer=optimizer, ema=ema)
    stop = EarlyStop(options.patience or options.steps, float(kept.get("best", math.inf)), int(kept.get("waited", 0)))
    spent, start = float(kept.get("minutes", 0.0)), time.monotonic()
    progress = Progress(options.steps, every_seconds=30, journal=options.out / "journal.jsonl")

    def minutes() -> float:
        return spent + (time.monotonic() - start) / 60

    drawn = _endless(train, options.batch, torch.Generator().manual_seed(options.seed * 1_000_003 + first))
    step, running, looked = first, math.nan, first
    while step < options.steps and not stop.stop and not (options.minutes and minutes() >= options.minutes):
        share = max(step / options.steps, minutes() / options.minutes if options.minutes else 0.0)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 300) * cosine(round(1000 * share), 1000, floor=0.002)
        network.train()
        films, sex, months = next(drawn)
        with mixed_precision(device, enabled=options.precision == "bf16"):
            logits = network(films.to(device), sex.to(device))
        loss = loss_of(network, logits, months.to(device), options.sigma_months)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        ema.update(network)
        step += 1
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.98 * running + 0.02 * value
        progress.report(step, loss=running)
        last = step >= options.steps or (options.minutes and minutes() >= options.minutes)
        if step - looked < options.every and not last:
            continue
        looked = step
        error = float((predict(ema.model, validation) - torch.from_numpy(validation.months)).abs().mean())
        progress.report(step, force=True, loss=running, validation_mae_months=error)
        if stop.improved(error):
            state = {name: tensor.contiguous().cpu() for name, tensor in ema.model.state_dict().items()}
            save_file(state, options.out / calibrate.BEST_FILE)
        save_checkpoint(
            options.out,
            step=step,
            model=network,
            optimizer=optimizer,
            ema=ema,
            best=stop.best,
            waited=stop.waited,
            minutes=minutes(),
        )
    calibrate.write(options, [options.out], runs.weights_folder(options), (thumbnails, parts))
    runs.ended(options, first, step, stop)


def _endless(films: Thumbnails, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches, every film once before any comes again."""
    while True:
        yield from batches(films, size, generator)


if __name__ == "__main__":
    refusal.command(main)
