"""Tables of the age models beside the papers' figures: the networks and weightings of P5, the ablation of P4."""

from collections.abc import Mapping
from typing import Any

# P5: mean absolute error in years by TW3-C RUS, boys and girls, and the size of the weights.
P5_WEIGHTINGS = {"classic": (0.4630, 0.4557), "Top2": (0.4409, 0.4343), "TopN": (0.4141, 0.4108)}
P5_NETWORKS = {
    "resnext-50": ("0.4141 / 0.4108", "88.07"),
    "csp-resnext-50": ("0.4214 / 0.4128", "46.28"),
    "resnext-50-half": ("0.4141 / 0.4108", "88.07 (whole)"),
    "csp-resnext-50-half": ("0.4214 / 0.4128", "46.28 (whole)"),
    "resnext-50-quarter": ("0.4141 / 0.4108", "88.07 (whole)"),
    "csp-resnext-50-quarter": ("0.4214 / 0.4128", "46.28 (whole)"),
}
# P2, table 3: mean absolute error in years by year of age, girls and boys.
P2_BY_YEAR = {
    "(0, 1]": (0.330, 0.309), "(1, 2]": (0.343, 0.308), "(2, 3]": (0.413, 0.409), "(3, 4]": (0.450, 0.468), "(4, 5]": (0.452, 0.480),
    "(5, 6]": (0.443, 0.474), "(6, 7]": (0.482, 0.395), "(7, 8]": (0.508, 0.633), "(8, 9]": (0.483, 0.476), "(9, 10]": (0.519, 0.525),
    "(10, 11]": (0.492, 0.486), "(11, 12]": (0.493, 0.524), "(12, 13]": (0.569, 0.448), "(13, 14]": (0.542, 0.440),
    "(14, 15]": (0.478, 0.446), "(15, 16]": (0.442, 0.321), "(16, 17]": (0.668, 0.600), "(17, 18]": (1.983, 1.940),
}  # fmt: skip
GPU = "not measured: no GPU was available"


def networks(result: Mapping[str, Any]) -> str:
    """Lay the graders side by side, then the three weightings of each with their paired differences."""
    head = ["grader", "loss", "trained", "MB (32 bit)", "P5: MB", "stages exact", "within one", "log loss"]
    rows = [[*head, "TW3-C RUS age by TopN, y: boys", "girls", "P5: boys / girls", "RUS-CHN age by TopN, y"]]
    for name, one in result["graders"].items():
        ages = one["bone_age"]
        paper = P5_NETWORKS.get(one["architecture"], ("", ""))
        rows.append(
            [
                name,
                one["loss"],
                one["trained"],
                f"{one['megabytes_fp32']:.2f}",
                paper[1],
                _share(one["stages"]["exact"]),
                _share(one["stages"]["within_one"]),
                f"{one['log_loss']:.3f}",
                *(_value(ages["TW3-C RUS"][sex]["mae_years"]["TopN"]) for sex in ("M", "F")),
                paper[0],
                _value(ages["RUS-CHN"]["all"]["mae_years"]["TopN"]),
            ]
        )
    lines = [
        "## Graders side by side: " + " and ".join(sorted({one["architecture"] for one in result["graders"].values()})),
        "",
        f"`{result['command']}` · commit {result['commit']} · {result['data']}",
        "",
        *([result["note"], ""] if result.get("note") else []),
        table(rows),
    ]
    for pair, ratio in result["ratios"].items():
        error = ratio["error"]
        cells = ", ".join(
            f"{label} {_value(error[key])}" for key, label in (("all", "all"), ("M", "boys"), ("F", "girls"))
        )
        lines += ["", f"{pair}: parameters {100 * ratio['size']:.1f} %; error by TopN {cells}."]
    lines += ["", *_weightings(result)]
    return "\n".join(lines)


def _weightings(result: Mapping[str, Any]) -> list[str]:
    head = ["grader", "standard", "films", "classic, y", "Top2, y", "TopN, y (threshold)"]
    rows = [[*head, "TopN - Top2 (paired)", "Top2 - classic (paired)", "TopN - classic (paired)", "order of P5"]]
    for name, one in result["graders"].items():
        for standard, groups in one["bone_age"].items():
            for group, label in (("all", "all"), ("M", "boys"), ("F", "girls")):
                mae, off = groups[group]["mae_years"], groups[group]["difference_years"]
                rows.append(
                    [
                        name,
                        standard,
                        f"{label}, {mae['TopN']['n']}",
                        *(f"{mae[rule]['value']:.4f}" for rule in ("classic", "Top2")),
                        f"{mae['TopN']['value']:.4f} ({one['topn_threshold']:g})",
                        *(_value(off[pair], 4) for pair in ("TopN - Top2", "Top2 - classic", "TopN - classic")),
                        _order(mae, off),
                    ]
                )
    boys, girls = (" / ".join(f"{P5_WEIGHTINGS[rule][i]:.4f}" for rule in P5_WEIGHTINGS) for i in (0, 1))
    return [
        f"Classic, Top2 and TopN on the same films (P5: boys {boys}, girls {girls}). A difference below zero favours the first.",
        "",
        table(rows),
    ]


def _order(mae: Mapping[str, Any], off: Mapping[str, Any]) -> str:
    """Say whether TopN errs less than Top2 and Top2 less than classic, and whether by more than chance."""
    if not mae["TopN"]["value"] < mae["Top2"]["value"] < mae["classic"]["value"]:
        return "no"
    shown = all(off[pair]["high"] < 0 for pair in ("TopN - Top2", "Top2 - classic"))
    return "yes, beyond chance" if shown else "yes, within chance"


def ablation(result: Mapping[str, Any]) -> str:
    """Return the order search and the four steps of P4 beside the paper and the median age."""
    orders = [
        ["order of the texture operators", "validation MAE of the class, y", "more than the order chosen, y (paired)"]
    ]
    for row in result["order_search"]:
        name = " > ".join(row["order"])
        more = result["order_differences_years"].get(name)
        orders.append([name, _value(row["validation_mae_years"]), _value(more) if more else "chosen"])
    steps = [
        [
            "network",
            "overlay",
            "parameters",
            "processor s",
            "MAE of the class, y",
            "MAE of the expected age, y",
            "more than the step before, y (paired)",
            "training accuracy",
            "P4",
        ],
        ["median age of the training films", "", "", "", _value(result["median_age"]["mae_years"]), "", "", "", ""],
    ]
    for step in result["ablation"]:
        paper = step["paper"]
        narrow = "" if step["architecture"] == "cnn" or result["width"] == 1 else f" x {result['width']:g}"
        more = step["more_than_the_step_before_years"]
        steps.append(
            [
                step["architecture"] + narrow,
                " > ".join(step["overlay"]) if step["overlay"] else "none",
                f"{step['parameters_millions']} M",
                str(step["cpu_seconds"]),
                _value(step["test_mae_years"]),
                _value(step["test_mae_of_expected_age_years"]),
                _value(more) if more else "",
                f"{100 * step['training_accuracy']:.1f} %",
                f"{paper['training_accuracy']} %" + (f", MAE {paper['mae_years']} y" if "mae_years" in paper else ""),
            ]
        )
    test = result["ablation"][0]["test_mae_years"]["n"]
    held = result["order_search"][0]["validation_mae_years"]["n"]
    share = result["overlay_share"]
    overlaid = "the film replaced by texture" if share == 1 else f"texture laid over the film by {100 * share:g} %"
    lines = [f"## P4: the order of the overlay and the four steps, {overlaid}", ""]
    lines += [f"`{result['command']}` · commit {result['commit']} · {result['scale']}", ""]
    lines += [
        table(orders),
        "",
        f"n = {held} validation films. Chosen: {' > '.join(result['best_order'])} (P4: rotation-invariant > plain > circular).",
        "",
        table(steps),
        "",
        f"n = {test} test films. x {result['width']:g}: of the channels of ResNet-50 and of the looks' networks. The paired "
        "differences are of the expected age.",
    ]
    return "\n".join([*lines, *(["", result["note"]] if result.get("note") else [])])


LIMITS = "Limits on 2 cores: detection 150 ms, segmentation 60 ms, the whole 400 ms, memory 1.5 GB."


def reader(result: Mapping[str, Any]) -> str:
    """Return the time of each step of a Reader; the row of the GPU says that there was none."""
    rows = [["step", "median, ms", "95th percentile, ms"]]
    rows += [[step, str(ms["p50"]), str(ms["p95"])] for step, ms in result["milliseconds"].items()]
    rows += [["films a second on a GPU, batches of 1, 8 and 64, and the share that is not the GPU's", GPU, ""]]
    facts = f"{result['threads']} threads; {result['cpu_milliseconds_a_film']} ms of processor time a film; "
    return facts + f"{result['peak_memory_mib']} MiB at the peak. {LIMITS}\n\n" + table(rows)


def bones(result: Mapping[str, Any]) -> str:
    """Return what each bone's stage alone says of the age, and the corrections tried."""
    rows = [["bone", "girls: bias, y (95 %)", "SD, y", "n", "boys: bias, y (95 %)", "SD, y", "n"]]
    for row in result["bones"]:
        cells = [row["bone"]]
        for sex in ("F", "M"):
            cells += [
                _value(row[sex]["bias_years"], 2),
                f"{row[sex]['sd_years']:.2f}",
                str(row[sex]["bias_years"]["n"]),
            ]
        rows.append(cells)
    head = ["correction, fitted on the other folds", "RUS-CHN MAE, months", "less than as it is, months (paired)"]
    tried = [[*head, "off by more than two years", "discord"]]
    for name, own in result["corrections"].items():
        tried.append(
            [
                name,
                _value(own["mae_months"], 2),
                "" if name == "as it is" else _value(own["less_than_as_it_is_months"], 2),
                _share(own["grossly_wrong"]),
                f"{own['discord']:.2f}",
            ]
        )
    return "\n".join(
        [
            "## Bone by bone on real films",
            "",
            f"`{result['command']}` · commit {result['commit']} · {result['data']} · {result['what']}",
            "",
            "The age that a bone's maturity alone implies minus the film's bone age; absent and fused bones are left out.",
            "",
            table(rows),
            "",
            table(tried),
            "",
            "With the prior, by year of the film's bone age:",
            "",
            by_year(result["by_year"]),
        ]
    )


def by_year(years: list[dict[str, Any]], *, paper: bool = False) -> str:
    """Return the table of P2: mean absolute error in years by year of bone age and sex, beside its own where `paper`."""
    rows = [
        [
            "bone age, years",
            "girls n",
            "MAE",
            "boys n",
            "MAE",
            "all n",
            "MAE",
            *(["P2 girls", "P2 boys"] if paper else []),
        ]
    ]
    for year in years:
        cells = [year["years"]]
        for group in ("F", "M", "all"):
            error = year[group]["mae_years"]
            cells += [str(year[group]["n"]), "" if error is None else f"{error:.3f}"]
        theirs = P2_BY_YEAR.get(year["years"])
        rows.append([*cells, *([f"{error:.3f}" for error in theirs] if theirs else ["", ""])] if paper else cells)
    return table(rows)


def rules(result: Mapping[str, Any]) -> str:
    """Return classic, Top2 and TopN on real films by every standard."""
    head = [
        "standard",
        "films",
        "classic, y",
        "Top2, y",
        "TopN, y (thresholds by fold)",
        "within a year: classic",
        "TopN",
    ]
    rows = [[*head, "TopN - Top2 (paired)", "Top2 - classic (paired)", "TopN - classic (paired)", "order of P5"]]
    for standard, groups in result["rules"].items():
        thresholds = ", ".join(f"{value:g}" for value in groups["topn_thresholds"])
        for group, label in (("all", "all"), ("M", "boys"), ("F", "girls")):
            mae, within, off = (groups[group][key] for key in ("mae_years", "within_one_year", "difference_years"))
            rows.append(
                [
                    standard,
                    f"{label}, {mae['TopN']['n']}",
                    *(_value(mae[rule]) for rule in ("classic", "Top2")),
                    f"{_value(mae['TopN'])} ({thresholds})",
                    *(_share(within[rule]) for rule in ("classic", "TopN")),
                    *(_value(off[pair], 4) for pair in ("TopN - Top2", "Top2 - classic", "TopN - classic")),
                    _order(mae, off),
                ]
            )
    return "\n".join(
        [
            "## Classic, Top2 and TopN on real films",
            "",
            f"`{result['command']}` · commit {result['commit']} · {result['data']} · {result['what']}",
            "",
            table(rows),
            "",
            "TW3-C RUS by TopN, by year of the film's bone age:",
            "",
            by_year(result["rules"]["TW3-C RUS"]["by_year"]),
        ]
    )


def reachable(rows: list[dict[str, Any]]) -> str:
    """Return what a reader of a given precision gets right."""
    head = ["error of the maturity read, stages (one SD)", "stages exact", "within one", "RUS-CHN age, y"]
    body = [
        [
            f"{r['error_stages']:g}",
            f"{100 * r['exact']:.1f} %",
            f"{100 * r['within_one']:.1f} %",
            f"{r['mae_years']:.3f}",
        ]
        for r in rows
    ]
    return table([head, *body])


def table(rows: list[list[str]]) -> str:
    """Return rows as a table of Markdown, the first as its head."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in body])


def _value(estimate: Mapping[str, Any], digits: int = 3) -> str:
    return f"{estimate['value']:.{digits}f} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"


def _share(estimate: Mapping[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
