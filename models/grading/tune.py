r"""Tune a grader on real films that carry a bone age and no stages, and say by cross-validation what that gains.

    carpus train grading-from-ages --data ../films --phantoms phantoms:600 --start models/bundles/grading/small \
        --out ../runs/aged --terms "internal" --source "500 films of this hospital"

Every film is judged by a grader tuned without it (folds by film); the weights written are tuned on all films. Each step takes
real films for their ages and phantoms for their stages, so that stages stay stages; `harmony` keeps the bones of a film together.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import refusal, runs, weights
from models.datasets import splits
from models.datasets.archive import TABLE
from models.engine import Ema, Progress, cosine, git_commit, mixed_precision, seed_everything
from models.grading import ages, harmony, measure
from models.grading.augment import averaged, centre, vary
from models.grading.films import Films, cut_films
from models.grading.losses import Loss, loss
from models.grading.network import ARCHITECTURES, Staged, build
from models.grading.phantoms import FIRST_SEED, Crops, render_cache
from models.grading.tuned import REPORT_FILE, fold_of
from models.metrics.ages import compare
from models.regions import RUS
from models.runs import RunRefused
from models.standards import RUS_CHN, STANDARDS, RusStandard


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = runs.parser(
        __doc__,
        architectures=ARCHITECTURES,
        steps=150,
        batch=12,
        rate=3e-4,
        decay=0.02,
        every=50,
        data="folder of films with films.csv, or a cache made by models.grading.films",
    )
    made.add_argument("--readings", type=Path, help="of the films, where --data is a folder of films")
    made.add_argument(
        "--phantoms", type=Path, required=True, help="cache made by models.grading.phantoms, or phantoms:N"
    )
    made.add_argument("--start", type=Path, required=True, help="weights of the grader to begin with")
    made.add_argument("--terms", required=True, help="terms of the films, which become those of the weights")
    made.add_argument("--source", required=True, help="what the films are, in words")
    made.add_argument("--held-out", default="", help="films whose names begin so never reach the weights written")
    made.add_argument("--folds", type=int, default=5, help="0: no cross-validation")
    made.add_argument("--phantom-batch", type=int, default=6)
    made.add_argument("--phantom-films", type=int, default=600)
    made.add_argument("--share", type=float, default=0.5, help="weight of the phantoms' loss")
    made.add_argument("--harmony", type=float, default=0.5, help="weight of the prior that the bones of a hand agree")
    made.add_argument("--strength", type=float, default=0.7, help="how much crops are varied")
    made.add_argument("--even", type=float, default=0.0, help="0: films as they are; 1: every bone age equally often")
    made.add_argument("--only-cross-validation", action="store_true", help="write no weights")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Cross-validate, tune on all films, write weights and report."""
    options = parser().parse_args(argv)
    runs.limit_threads(options)
    tensors, card = weights.load(options.start, problem="grading", architectures=ARCHITECTURES)
    # Every fold is tuned from the start: a tuning does not go on with more steps, it is another one.
    table = options.data / TABLE
    of_table = {"table_sha256": splits.digest(table)} if table.is_file() else {}
    kept_options = runs.keep(options, architecture=card.architecture, tuning_steps=options.steps, **of_table)
    if (runs.weights_folder(options) / weights.METADATA_FILE).is_file():
        runs.ended(options, options.steps, options.steps)
        return
    films = _films(options, card)
    phantoms = Crops.load(_phantoms(options, card), options.phantom_films)

    def fresh() -> Staged:
        net = build(card.architecture, dict(card.hyperparameters))
        net.load_state_dict(tensors)
        return net

    name: Loss = card.hyperparameters["loss"]
    size = int(card.preprocessing["size"])  # what the grader sees; crops that were cut larger are averaged down
    everything = np.arange(len(films))
    graded = chances_of(fresh(), films, everything, size)
    before = read_ages(graded, films, everything)
    report = {
        "before": {**figures(before, films), **discord(graded, before, films)},
        "films": len(films),
        "commit": git_commit(),
        "seed": options.seed,
    }
    rows = [
        {"file": str(f), "sex": s, "bone_age_years": float(a), "before": _plain(b)}
        for f, s, a, b in zip(films.file, ages.sexes_of(films.male.tolist()), films.bone_age_years, before, strict=True)
    ]
    if options.folds:
        fold = folds_of(films, options.folds, options.seed)
        after = np.full(len(films), np.nan)
        for number in range(options.folds):
            held = np.flatnonzero(fold == number)
            done = options.out / f"fold-{number}.npy"
            if not done.exists():
                net = tune(fresh(), films, np.flatnonzero(fold != number), phantoms, name, options, size)
                np.save(done, chances_of(net, films, held, size))
            graded[held] = fold_of(options.out, number)
            after[held] = read_ages(graded[held], films, held)
            off = 12 * float(np.nanmean(np.abs(after[held] - films.bone_age_years[held])))
            print(json.dumps({"fold": number, "mae_months": round(off, 2)}), flush=True)  # noqa: T201 - a training log
        line = straight(before, films, fold)
        report |= {
            "after": {**figures(after, films), **discord(graded, after, films)},
            "straight_line_only": figures(line, films),
        }
        for row, value, straightened, number in zip(rows, after, line, fold, strict=True):
            row |= {"after": _plain(value), "straight_line_only": _plain(straightened), "fold": int(number)}
        for standard in STANDARDS:
            found = read_ages(graded, films, everything, standard)
            for row, value in zip(rows, found, strict=True):
                row |= {standard.name: _plain(value)}
    (options.out / REPORT_FILE).write_text(json.dumps({**report, "rows": rows}, indent=1), encoding="utf-8")
    if options.only_cross_validation:
        return
    kept = held_out(films, options.held_out)
    print(json.dumps({"tuning": f"the weights that are kept, on {int((~kept).sum())} films"}), flush=True)  # noqa: T201 - a training log
    net = tune(fresh(), films, np.flatnonzero(~kept), phantoms, name, options, size)
    if kept.any():
        seen = np.flatnonzero(kept)
        report["never_seen_by_the_weights"] = {
            "films": f"{options.held_out}*",
            "before": figures(before[kept], films.subset(kept)),
            "after": figures(read_ages(chances_of(net, films, seen, size), films, seen), films.subset(kept)),
        }
        (options.out / REPORT_FILE).write_text(json.dumps({**report, "rows": rows}, indent=1), encoding="utf-8")
    runs.save(
        options,
        kept_options,
        net.state_dict(),
        dataclasses.replace(
            card,
            terms=options.terms,
            data=(*card.data, options.source),
            seed=options.seed,
            commit=git_commit(),
            created="",
            metrics={
                "before_tuning": dict(card.metrics),
                "cross_validation": {k: v for k, v in report.items() if k != "commit"},
            },
            hyperparameters={**card.hyperparameters, "tuning_steps": options.steps, "tuning_rate": options.rate},
        ),
    )
    runs.ended(options, 0, options.steps)


def _films(options: argparse.Namespace, card: weights.Metadata) -> Films:
    """Return the films as crops of the grader's size, cut now where `--data` is a folder of films."""
    if not (options.data / TABLE).is_file():
        return Films.load(options.data)
    if options.readings is None:
        raise RunRefused(f"{options.data} is a folder of films: --readings says where their regions are")
    size, context = int(card.preprocessing["size"]), float(card.preprocessing["context"])
    return cut_films(options.data, options.readings, options.out / "films", size, context)


def _phantoms(options: argparse.Namespace, card: weights.Metadata) -> Path:
    """Return the cache of phantoms of the grader's size, drawn now for "phantoms:N"."""
    films = runs.phantoms(options.phantoms)
    if films is None:
        return Path(options.phantoms)
    folder: Path = options.out / "phantoms"
    size, context = int(card.preprocessing["size"]), float(card.preprocessing["context"])
    render_cache(folder, films, FIRST_SEED["train"], size=size, context=context)
    return folder


def held_out(films: Films, prefix: str) -> NDArray[np.bool_]:
    """Return which films are kept from the weights: those whose names begin so, and all others of their patients."""
    named = np.array([bool(prefix) and str(name).startswith(prefix) for name in films.file])
    found: NDArray[np.bool_] = np.isin(films.patient, films.patient[named])
    return found


def folds_of(films: Films, folds: int, seed: int) -> NDArray[np.int64]:
    """Return each film's fold; the films of one patient share theirs."""
    unique = np.unique(films.patient)
    drawn = np.random.default_rng(seed).permutation(len(unique)) % folds
    fold: NDArray[np.int64] = drawn[np.searchsorted(unique, films.patient)]
    return fold


def tune(
    net: Staged,
    films: Films,
    chosen: NDArray[np.intp],
    phantoms: Crops,
    name: Loss,
    options: argparse.Namespace,
    size: int,
) -> Staged:
    """Return the moving average of a grader tuned on the chosen films; it sees crops of `size` pixels."""
    rng = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    scores, curve = ages.score_table(), ages.curve_table()
    real, kept = (averaged(torch.from_numpy(pixels), size) for pixels in (films.pixels, phantoms.pixels))
    maturity = torch.from_numpy(phantoms.maturity)
    net.to(memory_format=torch.channels_last)
    ema = Ema(net, 0.97)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=options.decay)
    progress = Progress(options.steps, every_seconds=20)
    share = rarity(films.bone_age_years[chosen], films.male[chosen]) ** options.even
    net.train()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine(step, options.steps, warmup=10, floor=0.02)
        ours = rng.choice(chosen, options.batch, p=share / share.sum())
        theirs = torch.from_numpy(rng.integers(0, len(phantoms), options.phantom_batch))
        crops = torch.cat(
            [
                vary(pixels, generator, strength=options.strength, size=size)
                for pixels in (real[torch.from_numpy(ours)], kept[theirs])
            ]
        )
        with mixed_precision(torch.device("cpu"), enabled=options.precision == "bf16"):
            outputs = net(crops)
        chances = net.log_probabilities(outputs[: options.batch]).exp()
        male, label = torch.from_numpy(films.male[ours]), torch.from_numpy(films.bone_age_years[ours])
        aged = ages.age_loss(chances, male, label, scores, curve)
        apart = harmony.loss(chances, male, label)
        staged = loss(name, net, outputs[options.batch :], maturity[theirs])
        optimizer.zero_grad(set_to_none=True)
        (aged + options.share * staged + options.harmony * apart).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        progress.report(
            step + 1, years=float(aged.detach()), stages=float(staged.detach()), apart=float(apart.detach())
        )
    return ema.model


def rarity(bone_age_years: NDArray[np.float32], male: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each film one over the number of films of its sex within a year of its bone age: few hands are mature, or very young."""
    near = (np.abs(bone_age_years[:, None] - bone_age_years) <= 1) & (male[:, None] == male)
    found: NDArray[np.float64] = 1 / near.sum(1)
    return found


def chances_of(net: Staged, films: Films, chosen: NDArray[np.intp], size: int) -> NDArray[np.float64]:
    """Return the stage probabilities of the chosen films, (films, 13, widest); the grader sees crops of `size` pixels."""
    crops: Tensor = centre(torch.from_numpy(films.pixels[chosen]), size)
    found: NDArray[np.float64] = net.probabilities(measure.run(net, crops)).detach().double().numpy()
    return found


def read_ages(
    chances: NDArray[np.float64], films: Films, chosen: NDArray[np.intp], standard: RusStandard = RUS_CHN
) -> NDArray[np.float64]:
    """Return the bone age of the chosen films by TopN, NaN where a region is missing or the standard has no age."""
    found = measure.ages(chances, ages.sexes_of(films.male[chosen].tolist()), standard=standard)
    found[~films.found[chosen].all(1)] = np.nan
    return found


def straight(before: NDArray[np.float64], films: Films, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what a straight line per sex through the untuned ages of the other folds gives: the least that tuning must beat."""
    result = np.full(len(before), np.nan)
    for number in np.unique(fold):
        for sex in (0, 1):
            others = (fold != number) & (films.male == sex) & np.isfinite(before)
            held = (fold == number) & (films.male == sex)
            if others.sum() > 2:
                result[held] = np.polyval(np.polyfit(before[others], films.bone_age_years[others], 1), before[held])
    return result


def figures(predicted: NDArray[np.float64], films: Films) -> dict[str, object]:
    """Return MAE in months with its interval, correlation, bias, and how many films have no age."""
    months = [None if np.isnan(value) else 12 * float(value) for value in predicted]
    found = compare(months, (12 * films.bone_age_years).tolist(), tolerance=12, patients=films.patient.tolist())
    return {
        "mae_months": found.mae.to_dict(),
        "within_one_year": found.within.to_dict(),
        "correlation": round(found.correlation, 4),
        "bias_months": round(found.bland_altman.bias, 2),
        "without_age": found.missed,
    }


def discord(chances: NDArray[np.float64], years: NDArray[np.float64], films: Films) -> dict[str, object]:
    """Return how far bones lie from what is usual at the bone age their own total gives, in standard deviations (root mean square).

    1.0 is the scatter of phantoms' hands; more means stages that no hand shows together.
    """
    known = np.isfinite(years)
    z = harmony.deviations(
        torch.from_numpy(chances[known]).float(),
        torch.from_numpy(films.male[known]),
        torch.from_numpy(years[known]).float(),
    ).numpy()
    by_bone = np.sqrt((z**2).mean(0))
    return {
        "discord": round(float(np.sqrt((z**2).mean())), 3),
        "discord_by_bone": {bone: round(float(value), 2) for bone, value in zip(RUS, by_bone, strict=True)},
        "mean_deviation_by_bone": {bone: round(float(value), 2) for bone, value in zip(RUS, z.mean(0), strict=True)},
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


if __name__ == "__main__":
    refusal.command(main)
