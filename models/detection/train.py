r"""Train a detector of the 22 regions.

    carpus train detection --data ../shared/data/rsna --out ../runs/detection --minutes 60
    carpus train detection --annotations films --terms internal --source "60 films of ours" --start models/bundles/detection/handnet-sets \
        --out runs/own
    carpus train detection --architecture closer --start ../runs/detection/weights --out ../runs/closer --batch 128
    carpus train detection --architecture cast --start ../runs/closer/weights --data ../shared/data/rsna --phantoms 250 --out ../runs/cast
    carpus train detection --architecture faster-rcnn-resnet101 --out ../runs/rcnn --batch 2 --rate 1e-4 --minutes 60

Without `--data` and `--annotations` it learns from phantoms alone, and the weights are free of the films' terms; what a run is
begun from (`--start`) passes its terms on. A run is resumed by the same command. What is kept is the moving average that places
most of the validation films' points.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from models import engine, refusal, runs, weights
from models.datasets import splits
from models.detection import annotated, phantoms, rsna
from models.detection.data import Film
from models.detection.learning import Learning, Sources
from models.detection.learning_boxes import BoxLearning
from models.detection.learning_cast import CastLearning
from models.detection.learning_closer import CloserLearning
from models.detection.learning_views import ViewLearning
from models.runs import RunRefused

LEARNING: Final[dict[str, type[Learning]]] = {
    ViewLearning.architecture: ViewLearning,
    CloserLearning.architecture: CloserLearning,
    CastLearning.architecture: CastLearning,
    BoxLearning.architecture: BoxLearning,
}
SAVED_EVERY: Final = 100  # steps
CHECKING: Final = 40  # phantoms that say how it goes where there are no films


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = runs.parser(
        __doc__,
        architectures=tuple(LEARNING),
        steps=6000,
        batch=16,
        rate=2e-3,
        decay=0.02,
        every=500,
        data="folder of the RSNA films; without it phantoms alone are used",
        data_required=False,
    )
    made.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"), help="id,split")
    made.add_argument(
        "--annotations",
        type=Path,
        help="boxes of your own films: a folder of labelImg files or a COCO file, and split.csv",
    )
    made.add_argument("--terms", help="terms of your own films, for the weights' metadata")
    made.add_argument("--source", help="what your own films are, for the weights' metadata")
    made.add_argument("--phantoms", type=int, default=1500, help="phantoms to draw")
    made.add_argument("--phantom-cache", type=Path, help="folder in which drawn phantoms are kept")
    made.add_argument("--phantom-share", type=float, default=0.35, help="share of what is drawn that is a phantom")
    made.add_argument("--start", type=Path, help="weights folder of the same architecture to begin from")
    made.add_argument("--version", default="1", help="version of the weights")
    made.add_argument(
        "--size", type=int, help="side of a view, pixels, a multiple of 32 (192); of a film's shorter side (256)"
    )
    made.add_argument("--width", type=int, default=32, help="handnet: channels of the first stage")
    made.add_argument("--workers", type=int, default=0, help="handnet: processes that draw views; 0: this one")
    made.add_argument("--backbone", default="resnet101", help="faster-rcnn: a ResNet of torchvision")
    made.add_argument(
        "--teacher", type=Path, help="faster-rcnn: weights folder of a detector that gives real films boxes"
    )
    return made


def sources(options: argparse.Namespace, own: annotated.Annotated | None) -> Sources:
    """Draw or read the phantoms, read the annotated films, and split them; `own` are those of `--annotations`."""
    drawn = phantoms.films(options.phantoms, options.seed, options.phantom_cache)
    hands = sum(film.hand for film in drawn)
    data = [f"{hands} phantoms and {len(drawn) - hands} phantom pictures of chest, foot and nothing"] if drawn else []
    parts: dict[str, list[Film]] = {"train": [], "validation": []}
    if options.data:
        thumbnails, split = rsna.read_thumbnails(options.data), rsna.read_split(options.split)
        for number, records in rsna.by_film(options.data).items():
            if number in thumbnails:
                parts[split[number]].append(rsna.merge(records, thumbnails[number]))
        data.append(
            f"{len(parts['train'])} annotated films of the RSNA Pediatric Bone Age Challenge at 100 x 100 pixels"
        )
    if own is not None:
        for part, films in parts.items():
            films += own.films[part]
        data.append(f"{options.source} ({len(own.films['train'])} films with boxes)")
    checking = parts["validation"] or phantoms.films(min(CHECKING, options.phantoms), 900_000, options.phantom_cache)
    return Sources(drawn, parts["train"], checking, tuple(data), _split_sha256(options, own))


def _split_sha256(options: argparse.Namespace, own: annotated.Annotated | None) -> str:
    """Return the sha256 of each split file that divides the films; empty where every film is drawn."""
    digests = [splits.digest(options.split)] if options.data else []
    return " ".join([*digests, own.split_sha256] if own is not None else digests)


def _check(options: argparse.Namespace, way: type[Learning]) -> None:
    """Refuse what no run can begin with, before anything is kept of it."""
    if options.data and not (options.data / "thumbnails").is_dir():
        raise RunRefused(
            f"--data {options.data} holds no folder thumbnails, so it is not that of the RSNA films; "
            "your own annotated films are given with --annotations"
        )
    if options.annotations and not way.from_films:
        raise RunRefused(f"{options.architecture} does not learn from boxes of films: --annotations is for the others")
    if options.annotations and not (options.terms and options.source):
        raise RunRefused("--annotations are films of your own: --terms and --source say under which terms and whose")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the weights folder."""
    options = parser().parse_args(argv)
    runs.limit_threads(options)
    way = LEARNING[options.architecture]
    _check(options, way)
    # Faults in what people annotated are told before anything is kept of the run, and before phantoms are drawn for minutes.
    own = annotated.read(options.annotations) if options.annotations else None
    kept_options = runs.keep(options, split_sha256=_split_sha256(options, own))
    engine.seed_everything(options.seed)
    found = sources(options, own) if way.from_films else Sources((), (), (), ())
    device = engine.choose_device(options.device)
    learning = way(options, found, device)
    net = learning.net
    optimizer = torch.optim.AdamW(
        [value for value in net.parameters() if value.requires_grad],
        lr=options.rate,
        weight_decay=options.decay,
        fused=True,
    )
    ema = engine.Ema(net, decay=0.998)
    first, kept = engine.load_checkpoint(options.out, model=net, optimizer=optimizer, ema=ema)
    step, patience = first, options.patience or options.steps
    stop = engine.EarlyStop(patience, float(kept.get("best", math.inf)), int(kept.get("waited", 0)))
    spent = float(kept.get("minutes", 0.0))
    learning.begin(step)
    progress = engine.Progress(options.steps, every_seconds=60, journal=options.out / "journal.jsonl")
    start = time.monotonic()

    def minutes() -> float:
        return spent + (time.monotonic() - start) / 60

    def look() -> None:
        metrics = learning.validate(ema.model)
        progress.report(step, force=True, **metrics)
        if stop.improved(learning.error(metrics)):
            _keep(options, kept_options, found, learning, ema, step, metrics)

    def save() -> None:
        engine.save_checkpoint(
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
        for group in optimizer.param_groups:
            group["lr"] = (
                options.rate * min(1.0, (step + 1) / 150) * engine.cosine(round(1e4 * share), 10_000, floor=0.01)
            )
        net.train()
        loss, parts = learning.loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        step += 1
        progress.report(step, force=False, loss=float(loss.detach()), **parts)
        if step % options.every == 0:
            look()
        if step % min(options.every, SAVED_EVERY) == 0:
            save()
    if step % options.every and step > first:
        look()
        save()
    runs.ended(options, first, step, stop)


def _keep(
    options: argparse.Namespace,
    kept_options: dict[str, Any],
    found: Sources,
    learning: Learning,
    ema: engine.Ema[Any],
    step: int,
    metrics: dict[str, float],
) -> None:
    """Write the weights folder: the best average so far."""
    terms = (*((weights.RSNA_TERMS,) if options.data else ()), *((options.terms,) if options.terms else ()))
    metadata = weights.Metadata(
        problem="detection",
        architecture=options.architecture,
        terms="; ".join(terms) or weights.FREE_TERMS,
        data=found.data,
        seed=options.seed,
        version=options.version,
        split_sha256=found.split_sha256,
        commit=engine.git_commit(),
        metrics=metrics,
        preprocessing=learning.preprocessing,
        hyperparameters={
            **learning.hyperparameters,
            "steps": step,
            "batch": options.batch,
            "rate": options.rate,
            "decay": options.decay,
        },
    )
    runs.save(options, kept_options, learning.state(ema.model), learning.described(metadata))


if __name__ == "__main__":
    refusal.command(main)
