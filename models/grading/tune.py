r"""Tune a grader on real films that carry a bone age and no stages, and say by cross-validation what that gains.

    python -m models.grading.tune --films ../crops/films --phantoms ../crops/train --weights models/bundles/grading/small \
        --out models/bundles/grading/small-aged --terms "..." --data "..." --report ../runs/tune.json

Every film is judged by a grader tuned without it (folds by film); the weights written are tuned on all films. Each step takes
real films for their ages and phantoms for their stages, so that stages stay stages.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import weights
from models.engine import Ema, Progress, cosine, git_commit, mixed_precision, seed_everything
from models.grading import ages, measure
from models.grading.augment import centre, vary
from models.grading.films import Films
from models.grading.losses import Loss, loss
from models.grading.network import ARCHITECTURES, StageNet, build
from models.grading.phantoms import Crops
from models.metrics.ages import compare


def arguments() -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, nargs="+", help="caches made by models.grading.films")
    parser.add_argument("--phantoms", type=Path, required=True, help="cache made by models.grading.phantoms")
    parser.add_argument("--weights", type=Path, required=True, help="the grader to begin with")
    parser.add_argument("--out", type=Path, help="where to write the tuned weights; none: only the cross-validation")
    parser.add_argument("--report", type=Path, required=True, help="JSON with one row a film and the figures")
    parser.add_argument("--terms", required=True, help="terms of the films, which become those of the weights")
    parser.add_argument("--data", required=True, help="what the films are, in words")
    parser.add_argument("--held-out", default="", help="films whose names begin so never reach the weights written")
    parser.add_argument("--folds", type=int, default=5, help="0: no cross-validation")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=12, help="real films a step")
    parser.add_argument("--phantom-batch", type=int, default=6)
    parser.add_argument("--phantom-films", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.5, help="weight of the phantoms' loss")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Cross-validate, tune on all films, write weights and report."""
    options = arguments()
    torch.set_num_threads(options.threads)
    parts = [Films.load(folder) for folder in options.films]
    films = Films(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Films)))
    phantoms = Crops.load(options.phantoms, options.phantom_films)
    tensors, card = weights.load(options.weights, problem="grading", architectures=ARCHITECTURES)

    def fresh() -> StageNet:
        net = build(card.architecture, dict(card.hyperparameters))
        net.load_state_dict(tensors)
        return net

    name: Loss = card.hyperparameters["loss"]
    before = predict(fresh(), films, np.arange(len(films)))
    report = {"before": figures(before, films), "films": len(films), "commit": git_commit(), "seed": options.seed}
    rows = [
        {"file": str(f), "sex": s, "bone_age_years": float(a), "before": _plain(b)}
        for f, s, a, b in zip(films.file, ages.sexes_of(films.male.tolist()), films.bone_age_years, before, strict=True)
    ]
    if options.folds:
        fold = folds_of(films, options.folds, options.seed)
        after = np.full(len(films), np.nan)
        for number in range(options.folds):
            net = tune(fresh(), films, np.flatnonzero(fold != number), phantoms, name, options)
            held = np.flatnonzero(fold == number)
            after[held] = predict(net, films, held)
        line = straight(before, films, fold)
        report |= {"after": figures(after, films), "straight_line_only": figures(line, films)}
        for row, value, straightened, number in zip(rows, after, line, fold, strict=True):
            row |= {"after": _plain(value), "straight_line_only": _plain(straightened), "fold": int(number)}
    options.report.write_text(json.dumps({**report, "rows": rows}, indent=1), encoding="utf-8")
    if options.out is None:
        return
    kept = held_out(films, options.held_out)
    net = tune(fresh(), films, np.flatnonzero(~kept), phantoms, name, options)
    if kept.any():
        report["never_seen_by_the_weights"] = {
            "films": f"{options.held_out}*",
            "before": figures(before[kept], films.subset(kept)),
            "after": figures(predict(net, films, np.flatnonzero(kept)), films.subset(kept)),
        }
        options.report.write_text(json.dumps({**report, "rows": rows}, indent=1), encoding="utf-8")
    weights.save(
        options.out,
        net.state_dict(),
        dataclasses.replace(
            card,
            terms=options.terms,
            data=(*card.data, options.data),
            seed=options.seed,
            commit=git_commit(),
            created="",
            metrics={
                "before_tuning": dict(card.metrics),
                "cross_validation": {k: v for k, v in report.items() if k != "commit"},
            },
            hyperparameters={**card.hyperparameters, "tuning_steps": options.steps, "tuning_rate": options.rate},
        ),
        half=True,
    )


def held_out(films: Films, prefix: str) -> NDArray[np.bool_]:
    """Return which films are kept from the weights: those whose names begin so, under whatever other name they appear."""
    names = [str(name) for name in films.file]
    numbers = {Path(name).stem for name in names if prefix and name.startswith(prefix)}
    return np.array([Path(name).stem in numbers for name in names])


def folds_of(films: Films, folds: int, seed: int) -> NDArray[np.int64]:
    """Return each film's fold; the same film under two names of one number (`fullres/1.webp`, `medium/1.webp`) is one."""
    numbers = np.array([Path(str(name)).stem for name in films.file])
    unique = np.unique(numbers)
    drawn = np.random.default_rng(seed).permutation(len(unique)) % folds
    fold: NDArray[np.int64] = drawn[np.searchsorted(unique, numbers)]
    return fold


def tune(
    net: StageNet, films: Films, chosen: NDArray[np.intp], phantoms: Crops, name: Loss, options: argparse.Namespace
) -> StageNet:
    """Return the moving average of a grader tuned on the chosen films."""
    rng = seed_everything(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    scores, curve = ages.score_table(), ages.curve_table()
    real, kept = torch.from_numpy(films.pixels), torch.from_numpy(phantoms.pixels)
    maturity = torch.from_numpy(phantoms.maturity)
    net.to(memory_format=torch.channels_last)
    ema = Ema(net, 0.97)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.02)
    progress = Progress(options.steps, every_seconds=20)
    net.train()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * cosine(step, options.steps, warmup=10, floor=0.02)
        ours = rng.choice(chosen, options.batch)
        theirs = torch.from_numpy(rng.integers(0, len(phantoms), options.phantom_batch))
        crops = torch.cat((vary(real[torch.from_numpy(ours)], generator), vary(kept[theirs], generator)))
        with mixed_precision(torch.device("cpu")):
            outputs = net(crops)
        chances = net.log_probabilities(outputs[: options.batch]).exp()
        aged = ages.age_loss(
            chances,
            torch.from_numpy(films.male[ours]),
            torch.from_numpy(films.bone_age_years[ours]),
            scores,
            curve,
        )
        staged = loss(name, net, outputs[options.batch :], maturity[theirs])
        optimizer.zero_grad(set_to_none=True)
        (aged + options.share * staged).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        ema.update(net)
        progress.report(step + 1, years=float(aged.detach()), stages=float(staged.detach()))
    return ema.model


def predict(net: StageNet, films: Films, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the RUS-CHN bone age of the chosen films by TopN, NaN where a region is missing or the standard has no age."""
    crops: Tensor = centre(torch.from_numpy(films.pixels[chosen]))
    chances = net.probabilities(measure.run(net, crops)).detach().numpy()
    found = measure.ages(chances, ages.sexes_of(films.male[chosen].tolist()))
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
    found = compare(months, (12 * films.bone_age_years).tolist(), tolerance=12, patients=films.file.tolist())
    return {
        "mae_months": found.mae.to_dict(),
        "within_one_year": found.within.to_dict(),
        "correlation": round(found.correlation, 4),
        "bias_months": round(found.bland_altman.bias, 2),
        "without_age": found.missed,
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


if __name__ == "__main__":
    main()
