r"""Reproduce P4: the search of the overlay's order, and the ablation CNN / ResNet-50 / DL-ResNet50 / ZH05-DL-ResNet50.

    python -m models.regression.ablation --data ../rsna --out ../runs/zh05 --films 9759 --size 224 --steps 12000

Patients are divided by `data.part_of`; P4 takes its test images out of the training set by order, which may put one patient on
both sides. Each network is trained the same way (Adam, batch 16, 19 classes; the rate, 1e-4 in P4, falls along a cosine); accuracy
is the share of films in the right class, the error that of the class in years as in P4, and beside it that of the expected age. The
order is chosen on the validation part with the CNN; everything stated is measured on the test part, beside what the median age of
the training films would give, which is the least that a network has to beat. A run that is there is not trained again. On a
processor: `--size 64 --width 0.25 --rate 3e-3 --batch 32 --label-spread 1 --steps 1500`.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import refusal
from models.engine import Progress, choose_device, cosine, git_commit, mixed_precision, seed_everything
from models.metrics.bootstrap import estimate
from models.regression.data import Thumbnails, divided
from models.regression.texture import best_order, orders, overlay
from models.regression.zh05 import ARCHITECTURES, CLASSES, AgeClassifier

PAPER = {  # P4, table 1 (training accuracy, %) and section 2.2
    "cnn": {"training_accuracy": 93.20},
    "resnet-50": {"training_accuracy": 96.37},
    "dl-resnet-50": {"training_accuracy": 97.31},
    "zh05-dl-resnet-50": {"training_accuracy": 98.14, "mae_years": 0.312},
}


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="folder with thumbnails/ and images.csv")
    made.add_argument("--out", type=Path, required=True, help="folder for the results of every network")
    made.add_argument("--films", type=int, help="train on so many films only")
    made.add_argument("--measured", type=int, help="measure on so many films of each other part only")
    made.add_argument(
        "--width", type=float, default=1.0, help="share of their channels that ResNet-50 and the looks keep"
    )
    made.add_argument(
        "--label-spread", type=float, default=0.0, help="years: ask for a normal distribution about the age; 0 as P4"
    )
    made.add_argument(
        "--overlay-share",
        type=float,
        default=1.0,
        help="of the texture in each layer of the overlay; the rest is the film",
    )
    made.add_argument("--size", type=int, default=224, help="side of the film the networks see, pixels")
    made.add_argument("--steps", type=int, default=12000)
    made.add_argument("--order-steps", type=int, help="of each order's CNN; --steps where left out")
    made.add_argument("--order-films", type=int, help="of each order's CNN; --films where left out")
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--rate", type=float, default=1e-4)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--device", default="auto")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Search the order, run the four steps, write `ablation.json`."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    films, parts = divided(options.data)
    draw = np.random.default_rng(options.seed)
    chosen = {
        part: films.take(draw.permutation(np.flatnonzero(parts == part))[:limit])
        for part, limit in (("train", options.films), ("validation", options.measured), ("test", options.measured))
    }
    options.out.mkdir(parents=True, exist_ok=True)

    fewer = chosen | {"train": chosen["train"].take(np.arange(len(chosen["train"]))[: options.order_films])}
    errors: dict[tuple[str, ...], NDArray[np.float64]] = {}
    searched = []
    for order in orders():
        found = _run(options, "cnn", order, fewer, options.order_steps or options.steps, ("validation",))
        errors[order] = np.array(found["validation_errors_years"])
        searched.append({"order": list(order), "validation_mae_years": found["validation_mae_years"]})
    best = best_order(errors)
    found_of = {
        architecture: _run(
            options, architecture, best if overlaid else None, chosen, options.steps, ("validation", "test")
        )
        for architecture, overlaid in ARCHITECTURES.items()
    }
    result = {
        "problem": "regression",
        "paper": "P4 ZH05-DL-ResNet50",
        "scale": f"{len(chosen['train'])} films to train, {options.size} pixels, ResNet-50 and looks at {options.width:g} of their "
        f"channels, {options.steps} steps of {options.batch}, rate {options.rate:g}, labels spread by {options.label_spread:g} years; "
        f"each order: {len(fewer['train'])} films, {options.order_steps or options.steps} steps; "
        f"{len(chosen['test'])} test films, patient-disjoint",
        "width": options.width,
        "overlay_share": options.overlay_share,
        "commit": git_commit(),
        "seed": options.seed,
        "command": _command(options),
        "order_search": searched,
        "best_order": list(best),
        "order_differences_years": {
            " > ".join(order): _difference(np.array(errors[order]), errors[best]) for order in errors if order != best
        },
        "median_age": _median(chosen),
        "ablation": _steps(found_of, best),
    }
    (options.out / "ablation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _command(options: argparse.Namespace) -> str:
    """Return the command of a run without the places of this machine."""
    made = parser()
    given = [
        f"--{action.dest.replace('_', '-')} {getattr(options, action.dest)}"
        for action in made._actions
        if action.dest not in ("help", "data", "out", "device", "threads")
        and getattr(options, action.dest) != action.default
    ]
    return " ".join(["python -m models.regression.ablation --data DATA --out OUT", *given])


def _steps(found_of: Mapping[str, Mapping[str, Any]], best: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is stated of the four networks, each beside the one before on the same test films."""
    steps = []
    before: NDArray[np.float64] | None = None
    for architecture, found in found_of.items():
        own = np.array(found["test_expected_errors_years"])
        steps.append(
            {
                "architecture": architecture,
                "overlay": list(best) if ARCHITECTURES[architecture] else None,
                **{name: value for name, value in found.items() if not name.endswith("errors_years")},
                "more_than_the_step_before_years": None if before is None else _difference(own, before),
                "paper": PAPER[architecture],
            }
        )
        before = own
    return steps


def _difference(errors: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, float | int]:
    """Return by how much more `errors` err than `others` on the same films, years."""
    return estimate(np.abs(errors) - np.abs(others), lambda rows: float(rows.mean())).to_dict()


def _median(films: Mapping[str, Thumbnails]) -> dict[str, Any]:
    """Return what the median age of the training films says of the test films."""
    years = float(np.median(films["train"].months)) / 12
    errors = np.abs(films["test"].months / 12 - years)
    return {"years": round(years, 2), "mae_years": estimate(errors, lambda rows: float(rows.mean())).to_dict()}


def prepared(films: Thumbnails, order: Sequence[str] | None, size: int, share: float = 1.0) -> Tensor:
    """Return films as the networks take them, (n, 3, size, size) in 0..1 (P4: scaled by 1/255), overlaid where an order is given."""
    pixels = films.films if order is None else np.stack([overlay(film, order, share=share) for film in films.films])
    x = torch.from_numpy(pixels).float()[:, None] / 255
    x = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return x.expand(-1, 3, -1, -1)


def classes_of(films: Thumbnails) -> NDArray[np.int64]:
    """Return the class of each film: whole years of bone age, 0 to 18."""
    return np.clip(films.months // 12, 0, CLASSES - 1).astype(np.int64)


def labels_of(films: Thumbnails, spread_years: float) -> Tensor:
    """Return what is asked of each film, (n, 19): its class, or a normal distribution about its age."""
    if not spread_years:
        return functional.one_hot(torch.from_numpy(classes_of(films)), CLASSES).float()
    middles = torch.arange(CLASSES) + 0.5
    off = (middles - torch.from_numpy(films.months)[:, None] / 12) / spread_years
    return torch.softmax(-0.5 * off.square(), dim=1)


def _run(
    options: argparse.Namespace,
    architecture: str,
    order: tuple[str, ...] | None,
    films: Mapping[str, Thumbnails],
    steps: int,
    measured: Sequence[str],
) -> dict[str, Any]:
    """Train one network and measure it on the parts named, or return what an earlier run of the same left."""
    name = architecture if order is None else f"{architecture}-{'-'.join(part[0] for part in order)}"
    path = options.out / f"{name}-{steps}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    rng = seed_everything(options.seed)
    device = choose_device(options.device)
    seen = {part: prepared(films[part], order, options.size, options.overlay_share) for part in ("train", *measured)}
    asked = labels_of(films["train"], options.label_spread)
    net = AgeClassifier(architecture, width=options.width).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), lr=options.rate)
    progress = Progress(steps, every_seconds=30, journal=options.out / f"{name}.jsonl")
    began = time.process_time()
    net.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine(step - 1, steps, warmup=min(50, steps // 10), floor=0.01)
        drawn = torch.from_numpy(rng.integers(0, len(asked), options.batch))
        batch = seen["train"][drawn].to(device, memory_format=torch.channels_last)
        with mixed_precision(device):
            logits = net(batch)
        loss = functional.cross_entropy(logits.float(), asked[drawn].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        progress.report(step, loss=float(loss.detach()))
    result = {
        "steps": steps,
        "cpu_seconds": round(time.process_time() - began),
        "parameters_millions": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "training_accuracy": _measure(net, seen["train"][:500], films["train"].take(np.arange(min(500, len(asked)))))[
            1
        ],
    }
    for part in measured:
        error, accuracy, expected = _measure(net, seen[part], films[part])
        result |= {
            f"{part}_errors_years": [round(float(value), 4) for value in error],
            f"{part}_expected_errors_years": [round(float(value), 4) for value in expected],
            f"{part}_mae_years": estimate(np.abs(error), lambda rows: float(rows.mean())).to_dict(),
            f"{part}_accuracy": accuracy,
            f"{part}_mae_of_expected_age_years": estimate(np.abs(expected), lambda rows: float(rows.mean())).to_dict(),
        }
    path.write_text(json.dumps(result), encoding="utf-8")
    return result


@torch.inference_mode()
def _measure(
    net: AgeClassifier, seen: Tensor, films: Thumbnails, size: int = 64
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Return the signed error of the class in years, the share of right classes, and the error of the expected age in years."""
    net.eval()
    device = next(net.parameters()).device
    parts = [net(seen[i : i + size].to(device)).float().softmax(1).cpu() for i in range(0, len(seen), size)]
    net.train()
    chances = torch.cat(parts).double().numpy()
    truth = classes_of(films)
    error = (chances.argmax(1) - truth).astype(np.float64)
    expected = chances @ (np.arange(CLASSES) + 0.5) - films.months / 12
    return error, round(float((error == 0).mean()), 4), expected


if __name__ == "__main__":
    refusal.command(main)
