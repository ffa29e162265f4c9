"""Train the regressor on thumbnails: `python -m models.regression.train --data DATA --out FOLDER`.

The loss asks for a normal distribution over months around the label (label distribution learning, Gao et al. 2017) and for
its mean to be right. The learning rate falls along half a cosine over the epochs, or over the minutes where `--minutes`
limits the run. A run that was stopped goes on from its last epoch when it is started again with the same folder.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models.regression.data import PARTS, Thumbnails, batches, divided, write_split
from models.regression.network import ARCHITECTURES, MONTHS, MaturityNet, build


def loss_of(network: MaturityNet, logits: Tensor, months: Tensor, sigma_months: float) -> Tensor:
    """Cross-entropy to a normal distribution around the label, plus the error of the mean (weighted per year)."""
    classes = torch.arange(MONTHS, dtype=torch.float32)
    target = torch.softmax(-0.5 * ((classes - months[:, None]) / sigma_months) ** 2, dim=1)
    distribution = -(target * functional.log_softmax(logits.float(), dim=1)).sum(1).mean()
    return distribution + (network.expectation(logits) - months).abs().mean() / 12


@torch.inference_mode()
def predict(network: MaturityNet, thumbnails: Thumbnails, *, mirrored: bool = False, size: int = 128) -> Tensor:
    """Mean predicted age in months of each film, (n,); `mirrored` averages each film with its mirror image."""
    network.eval()
    means = []
    for start in range(0, len(thumbnails), size):
        films = torch.from_numpy(thumbnails.films[start : start + size]).float()[:, None] / 255
        sex = torch.from_numpy(thumbnails.sex[start : start + size])
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(films, sex)
            if mirrored:
                logits = torch.stack((logits, network(films.flip(3), sex)))
        mean = network.expectation(logits.flatten(0, -2)).reshape(logits.shape[:-1])
        means.append(mean.mean(0) if mirrored else mean)
    return torch.cat(means)


def checkpoint(path: Path, network: MaturityNet, average: MaturityNet, optimizer: torch.optim.Optimizer) -> None:
    """Write everything a resumed run needs, in one safetensors file, replaced atomically."""
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def restore(path: Path, network: MaturityNet, average: MaturityNet, optimizer: torch.optim.Optimizer) -> None:
    """Read what `checkpoint` wrote."""
    tensors = load_file(path)
    for prefix, target in (("network.", network), ("average.", average)):
        target.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with thumbnails/ and images.csv, or of films with films.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the split, the log and the checkpoints")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="maturity-net")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--minutes", type=float, help="end after so many minutes of training, annealed to that end")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--films", type=int, help="films drawn an epoch; all by default. Fewer: more frequent checkpoints"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--sigma-months", type=float, default=6.0, help="width of the label distribution")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--start", type=Path, help="run whose best weights to start from, instead of random ones")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the running average of the weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train from top to bottom."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)

    # Data: by patient, so no film of the two measuring parts is ever seen.
    thumbnails, parts = divided(options.data)
    split_sha256 = write_split(options.out / "split.csv", thumbnails.ids, parts)
    train, validation = (thumbnails.take(parts == part) for part in ("train", "validation"))
    print({part: int((parts == part).sum()) for part in PARTS}, flush=True)  # noqa: T201 (a training log)

    # Model: the one that learns, and the running average of its weights that is measured and kept.
    network = build(options.architecture, dropout=options.dropout).to(memory_format=torch.channels_last)
    if options.start:
        network.load_state_dict(load_file(options.start / "best.safetensors"))
    average = build(options.architecture).to(memory_format=torch.channels_last)
    average.load_state_dict(network.state_dict())
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    log_path, latest, best = (options.out / name for name in ("log.jsonl", "latest.safetensors", "best.safetensors"))
    log: list[dict[str, Any]] = (
        [json.loads(line) for line in log_path.read_text().splitlines()] if latest.exists() else []
    )
    if log:
        restore(latest, network, average, optimizer)
    config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    (options.out / "config.json").write_text(json.dumps({**config, "split_sha256": split_sha256}, indent=1))

    # Loop.
    per_epoch = min(options.films or len(train), len(train)) // options.batch
    step = log[-1]["step"] if log else 0
    minutes = log[-1]["minutes"] if log else 0.0
    best_error = min((row["validation_mae_months"] for row in log), default=math.inf)
    progress = 0.0
    for epoch in range(len(log), options.epochs):
        generator = torch.Generator().manual_seed(options.seed * 1000 + epoch)
        network.train()
        began, base, total = time.monotonic(), minutes, 0.0
        for films, sex, months in islice(batches(train, options.batch, generator), per_epoch):
            progress = step / (options.epochs * per_epoch)
            if options.minutes:
                minutes = base + (time.monotonic() - began) / 60
                progress = max(progress, min(1.0, minutes / options.minutes))
            warm = min(1.0, (step + 1) / 300)
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * warm * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * progress)))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(films, sex)
            loss = loss_of(network, logits, months, options.sigma_months)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            step += 1
            decay = min(options.average, step / (step + 20))
            with torch.no_grad():
                for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    kept.lerp_(new, 1 - decay) if kept.is_floating_point() else kept.copy_(new)
            total += loss.item()
        minutes = base + (time.monotonic() - began) / 60

        # Evaluation of the averaged weights on the validation part, and the checkpoint.
        error = (predict(average, validation) - torch.from_numpy(validation.months)).abs()
        row = {
            "epoch": epoch + 1,
            "step": step,
            "minutes": round(minutes, 2),
            "loss": round(total / per_epoch, 4),
            "validation_mae_months": round(error.mean().item(), 3),
            "images_a_second": round(per_epoch * options.batch / (time.monotonic() - began), 1),
            "progress": round(progress, 3),
        }
        log.append(row)
        checkpoint(latest, network, average, optimizer)
        if row["validation_mae_months"] < best_error:
            best_error = row["validation_mae_months"]
            save_file({k: v.contiguous() for k, v in average.state_dict().items()}, best)
        log_path.write_text("".join(json.dumps(entry) + "\n" for entry in log))
        print(json.dumps(row), flush=True)  # noqa: T201 (a training log)
        if progress >= 1:
            break


if __name__ == "__main__":
    main()
