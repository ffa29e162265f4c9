"""Measure how text burned into the pixels is removed, and what that does to the reading.

    python -m benchmarks.burned_in_text --part phantoms --n 300 --cases FILE --json benchmarks/burned_in_text.json
    python -m benchmarks.burned_in_text --part ages --data ../shared/data/rsna --json benchmarks/burned_in_text.json

`phantoms`: on each one line over and one beside the hand, 14 to 60 pixels, grey or white, Latin, pinyin or Chinese, in one of
eight positions. Afterwards the recogniser reads the place in all eight, and Tesseract (where installed) in the right one: a line is
readable when two characters of it in order (one ideograph) are in what was read, at whatever confidence. Readers asked for letters
see some in bones, too. How many of these readings are chance is measured in three ways that leave the figure as it is: what is read
on the same place of the phantom without writing, cleaned in the same way; which other strings, written elsewhere, would have been
found in the same readings; and whether the same characters are read again when the place is cut 3 pixels narrower or wider, as
writing is and chance is not. On every fourth
phantom the place is also read as a picture of its grain. The phantom without writing is cleaned too: is anything in a bone changed,
anything in the hand, was anything taken for writing? Every fourth phantom is read by the default Reader: as it was drawn, without
writing, and after its writing was taken out. What is known of a film goes to the file of cases, from which a run that was
interrupted goes on.
`ages`: real films read before and after cleaning, beside the same films with a noise of one grey level, which is what the reading
itself makes of a change nobody sees. Each part is kept beside the others in the JSON file.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from pydicom.dataset import Dataset

from models import pixels, refusal, registry
from models.engine import git_commit
from models.image import Image
from models.metrics.bootstrap import wilson
from models.phantom import draw
from models.regions import Sex
from service.deidentification.burned_in import hand
from service.deidentification.burned_in.cleaning import clean
from service.deidentification.burned_in.recogniser import shared
from service.deidentification.burned_in.words import Words
from tests.writing import ink, write

LATIN = ("SMITH^JOHN", "MUELLER ANNA", "WILSON", "ID 00482913", "20160504", "P1234567", "1998-03-12")
PINYIN = ("ZHANG WEI", "OuYang XiaoMing", "Wang^Fang", "CHEN JIE", "Liu Yang")
CHINESE = ("张伟", "欧阳小明", "王芳", "李娜 女", "陈杰 12岁")
TEXTS = {"Latin": LATIN, "pinyin": PINYIN, "Chinese": CHINESE}
GREY = (140, 220)
AROUND = 8  # pixels about a line that are read with it,
NEARBY = (5, 11)  # and when it is read again
AGES_EVERY = 4  # phantoms: the whole Reader takes longer than all the rest
LEAST_CONTRAST = 30  # grey levels of 256: below, nobody reads it over bone


def phantom(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a film without text, bone bright, 8 bit, and where its bones are."""
    rng = np.random.default_rng([seed, 1])
    rows = int(rng.integers(1000, 1500))
    film = draw(
        50_000 + seed,
        rows=rows,
        columns=int(rows * rng.uniform(0.75, 0.9)),
        furnished=False,
        photometric_interpretation="MONOCHROME2",
    )
    levels = np.rint(film.image.pixels * 255).astype(np.uint8)
    bones = np.zeros(levels.shape, np.bool_)
    for mask in film.masks.values():
        bones |= mask
    return levels, bones


def place(rng: np.random.Generator, wanted: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return a random corner (x, y) at which most of a line lies where it is wanted."""
    rows, columns = wanted.shape[0] - shape[0], wanted.shape[1] - shape[1]
    if rows <= 0 or columns <= 0:
        return None
    for _ in range(200):
        y, x = int(rng.integers(0, rows)), int(rng.integers(0, columns))
        if wanted[y : y + shape[0] : 3, x : x + shape[1] : 3].mean() > 0.8:
            return x, y
    return None


def whole(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask of the reduced film at the size of the film."""
    rows = np.arange(shape[0]) * mask.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask.shape[1] // shape[1]
    return mask[np.ix_(rows, columns)]


def plain(text: str) -> str:
    """Return letters, digits and ideographs without case."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def readable(text: str, read: str) -> bool:
    """Whether what was read holds two characters of the text in order, or one of its ideographs."""
    return bool(signs(text, [read]))


def signs(text: str, reads: list[str]) -> set[str]:
    """Return which two characters of the text in order, and which of its ideographs, are in what was read."""
    wanted, seen = plain(text), [plain(read) for read in reads]
    pairs = {wanted[index : index + 2] for index in range(len(wanted) - 1)}
    return {sign for sign in pairs | {c for c in wanted if ord(c) > 0x2E80} if any(sign in each for each in seen)}


def cut(film: NDArray[np.uint8], box: tuple[int, int, int, int], around: int = AROUND) -> NDArray[np.uint8]:
    """Return a place with so many pixels about it."""
    x1, y1, x2, y2 = box
    return film[max(y1 - around, 0) : y2 + around, max(x1 - around, 0) : x2 + around]


def read(place: NDArray[np.uint8], line: dict[str, Any]) -> list[str]:
    """Read a place in all eight positions with the recogniser, in the right one with Tesseract."""
    upright = np.rot90(place, -line["turns"])
    upright = np.ascontiguousarray(upright[:, ::-1] if line["mirrored"] else upright)
    return [text.text for text in shared().read(place)] + [tesseract(upright, line["kind"])]


def again(line: dict[str, Any], reads: list[str], film: NDArray[np.uint8], box: tuple[int, int, int, int]) -> bool:
    """Whether the same signs are read once more where the place is cut a little narrower or wider: chance does not repeat."""
    found = signs(line["text"], reads)
    if not found:
        return False
    nearby = [text for around in NEARBY for text in read(cut(film, box, around), line)]
    return bool(found & signs(line["text"], nearby))


def tesseract(picture: NDArray[np.uint8], kind: str) -> str:
    """Read one line with Tesseract in the language of its kind; empty where it is not installed."""
    if shutil.which("tesseract") is None:
        return ""
    stream = subprocess.run(
        ["tesseract", "-", "-", "-l", "chi_sim" if kind == "Chinese" else "eng", "--psm", "7"],
        input=_png(picture),
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    return stream.stdout.decode("utf-8", "replace")


def _png(picture: NDArray[np.uint8]) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    Picture.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def phantoms(
    seeds: range, cases: Path, keep: Callable[[dict[str, dict[str, Any]]], None], *, backwards: bool = False
) -> None:
    """Write on phantoms, clean them, read again; keep what is known after every tenth film."""
    reader = None
    for seed in seeds[:: -1 if backwards else 1]:
        known = _known(cases)
        if seed in known:
            continue
        film, bones = phantom(seed)
        plain_film, unwritten = _unwritten(film, bones)
        case = _written(seed, film, plain_film) | unwritten
        if seed % AGES_EVERY == 0:
            reader = reader or registry.load("default")
            case["ages"] = _ages(reader, film, case.pop("cleaned"), "FM"[seed // AGES_EVERY % 2])
        case.pop("cleaned", None)
        with cases.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(case, ensure_ascii=False) + "\n")
        if seed % 10 == 9:
            keep(_of_phantoms(_known(cases)))
    keep(_of_phantoms(_known(cases)))


def _known(cases: Path) -> dict[int, dict[str, Any]]:
    lines = cases.read_text(encoding="utf-8").splitlines() if cases.exists() else []
    return {case["film"]: case for case in map(json.loads, lines)}


def _written(seed: int, drawn_film: NDArray[np.uint8], unwritten: NDArray[np.uint8]) -> dict[str, Any]:
    """Write two lines on a phantom, clean it, and say what can still be read."""
    film = drawn_film.copy()
    rng = np.random.default_rng([seed, 2])
    outline = hand.find(film)
    over = whole(outline.mask, film.shape) if outline is not None else np.ones(film.shape, np.bool_)
    lines: list[dict[str, Any]] = []
    for where, wanted in (("over", over), ("beside", ~over)):
        kind, texts = tuple(TEXTS.items())[int(rng.integers(3))]
        size, turns, mirrored = int(rng.integers(14, 61)), int(rng.integers(4)), bool(rng.random() < 0.25)
        text = str(rng.choice(texts))
        drawn = ink(text, size, turns=turns, mirrored=mirrored)
        corner = place(rng, wanted, drawn.shape)
        if corner is None:
            continue
        x, y = corner
        ground = float(np.median(film[y : y + drawn.shape[0], x : x + drawn.shape[1]]))
        level = 255.0 if rng.random() < 0.5 else float(rng.integers(*GREY))
        if abs(level - ground) < LEAST_CONTRAST:
            level = 255.0 if ground < 200 else 90.0
        box = write(film, drawn, x, y, level)
        lines.append({"text": text, "kind": kind, "size": size, "turns": turns, "mirrored": mirrored,
                      "where": where, "level": level, "box": box})  # fmt: skip
    before = time.process_time()
    cleaned, _ = clean(film, Words.of(Dataset()), shared())
    seconds = time.process_time() - before
    for line in lines:
        box = line.pop("box")
        after = cut(cleaned, box)
        others = [text for text in TEXTS[line["kind"]] if plain(text) != plain(line["text"])]
        reads, nothing = read(after, line), read(cut(unwritten, box), line)
        line |= {
            "film": seed,
            "readable_before": any(readable(line["text"], text.text) for text in shared().read(cut(film, box))),
            "readable_after": bool(signs(line["text"], reads)),
            "read_after": next((text for text in reads if readable(line["text"], text)), ""),
            "read_again": again(line, reads, cleaned, box),
            "read_where_nothing_was": bool(signs(line["text"], nothing)),
            "read_again_where_nothing_was": again(line, nothing, unwritten, box),
            "other_strings_read": round(float(np.mean([bool(signs(text, reads)) for text in others])), 4),
            "filled": round(float((after != cut(film, box)).mean()), 3),
        }
        if seed % AGES_EVERY == 0:
            line["readable_in_the_grain"] = any(
                readable(line["text"], read.text) for read in shared().read(grain(after))
            )
    return {"film": seed, "lines": lines, "seconds": round(seconds, 3), "cleaned": cleaned}


def grain(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return how much neighbours differ, as a picture: letters that a fill left as smoothness or as noise would be seen."""
    film = picture.astype(np.float32)
    apart = np.sqrt(cv2.blur((film - cv2.medianBlur(film, 3)) ** 2, (3, 3)))
    return np.clip(apart * (255 / max(float(np.percentile(apart, 99)), 1e-6)), 0, 255).astype(np.uint8)


def _unwritten(film: NDArray[np.uint8], bones: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Clean a phantom without text; return it so, and what was done to it."""
    outline = hand.find(film)
    before = time.process_time()
    cleaned, report = clean(film, Words(frozenset()), shared())
    seconds = time.process_time() - before
    inside = whole(outline.mask, film.shape) if outline is not None else np.ones(film.shape, np.bool_)
    return cleaned, {
        "outlined": outline is not None,
        "changed_in_bone": bool((cleaned != film)[bones].any()),
        "bone_changed": round(float((cleaned != film)[bones].mean()), 4),
        "lines_found": report.lines,
        "changed_in_the_hand": bool((cleaned != film)[inside].any()),
        "markers": list(report.markers),
        "seconds_unwritten": round(seconds, 3),
    }


def _ages(reader: Any, film: NDArray[np.uint8], cleaned: NDArray[np.uint8], sex: str) -> list[dict[str, float | None]]:
    """Read a phantom as it was drawn and after writing was taken out of it."""
    readings = [reader.read(Image(pixels.scale(levels)), sex) for levels in (film, cleaned)]
    return [{method.name: method.bone_age_years for method in reading.methods} for reading in readings]


def _of_phantoms(known: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    films = list(known.values())
    lines = [line for film in films for line in film["lines"]]
    read = [{"readings": film["ages"]} for film in films if "ages" in film]
    names = sorted({name for case in read for name, age in case["readings"][0].items() if age is not None})
    return {
        "writing": _of_writing(lines, [film["seconds"] for film in films]),
        "clean": {
            "films": len(films),
            "hand_outlined": _share([film["outlined"] for film in films]),
            "changed_in_bone": _share([film["changed_in_bone"] for film in films]),
            "taken_for_writing": _share([film["lines_found"] > 0 for film in films]),
            "changed_in_the_hand": _share([film["changed_in_the_hand"] for film in films]),
            "markers_read_where_none_is": _share([bool(film["markers"]) for film in films]),
            "processor_seconds_per_film": _times([film["seconds_unwritten"] for film in films]),
        },
        "phantom_ages": {
            "films": len(read),
            "change_years": {name: _changes(read, name, 1) for name in names if _pairs(read, name, 1)},
        },
    }


def _of_writing(cases: list[dict[str, Any]], seconds: list[float]) -> dict[str, Any]:
    gone = [not case["readable_after"] for case in cases]
    return {
        "films": len(seconds),
        "lines": len(cases),
        "lines_readable_before": sum(case["readable_before"] for case in cases),
        "unreadable_after": _share(gone),
        "by_place": {
            w: _share([not c["readable_after"] for c in cases if c["where"] == w]) for w in ("over", "beside")
        },
        "by_kind": {
            kind: _share([not c["readable_after"] for c in cases if c["kind"] == kind])
            for kind in ("Latin", "pinyin", "Chinese")
        },
        "not_read_again": _share([not case["read_again"] for case in cases]),
        "read_where_nothing_was": _share([case["read_where_nothing_was"] for case in cases]),
        "read_again_where_nothing_was": _share([case["read_again_where_nothing_was"] for case in cases]),
        "other_strings_read": round(float(np.mean([case["other_strings_read"] for case in cases])), 4),
        "readable_in_the_grain": _share([c["readable_in_the_grain"] for c in cases if "readable_in_the_grain" in c]),
        "processor_seconds_per_film": _times(seconds),
        "left": [case for case in cases if case["readable_after"]],
    }


def ages(data: Path, folder: str) -> dict[str, Any]:
    """Read real films before and after cleaning."""
    reader = registry.load("default")
    rows = [row for row in csv.DictReader((data / "images.csv").open()) if row["file"].startswith(folder + "/")]
    cases: list[dict[str, Any]] = []
    for row in rows:
        film = np.asarray(Picture.open(data / row["file"]).convert("L"))
        cleaned, report = clean(film, Words(frozenset()), shared())
        noisy = film + np.random.default_rng(0).normal(0, 1, film.shape)
        sex: Sex = "F" if row["sex"] == "F" else "M"
        readings = [
            {method.name: method.bone_age_years for method in reader.read(Image(pixels.scale(levels)), sex).methods}
            for levels in (film, cleaned, np.clip(noisy, 0, 255))
        ]
        cases.append({"id": row["id"], "cleaning": str(report), "lines": report.lines, "readings": readings})
        print(row["id"], report, flush=True)
    names = [name for name, age in cases[0]["readings"][0].items() if age is not None]
    return {
        "films": len(rows),
        "folder": folder,
        "hand_outlined": _share([not case["cleaning"].startswith("no hand") for case in cases]),
        "change_years": {name: _changes(cases, name, 1) for name in names},
        "change_by_noise_years": {name: _changes(cases, name, 2) for name in names},
        "cleanings": {case["id"]: case["cleaning"] for case in cases},
    }


def _changes(cases: list[dict[str, Any]], name: str, index: int) -> dict[str, Any]:
    change = np.array(_pairs(cases, name, index))
    return {
        "n": len(change),
        "mean": round(float(change.mean()), 4),
        "mean_absolute": round(float(np.abs(change).mean()), 4),
        "interval_95_of_mean": [round(value, 4) for value in _interval(change)],
    }


def _pairs(cases: list[dict[str, Any]], name: str, index: int) -> list[float]:
    """Return by how much a method's age changed, where it gave one both times."""
    pairs = [(case["readings"][0].get(name), case["readings"][index].get(name)) for case in cases]
    return [after - before for before, after in pairs if before is not None and after is not None]


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bootstrap interval of a mean."""
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _share(flags: list[bool]) -> dict[str, Any]:
    """Return a share with its 95 % interval (Wilson)."""
    if not flags:
        return {"value": None, "low": None, "high": None, "n": 0}
    value = sum(flags) / len(flags)
    low, high = wilson(value, len(flags))
    return {"value": value, "low": low, "high": high, "n": len(flags)}


def _times(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(seconds)), 3),
        "p95": round(float(np.percentile(seconds, 95)), 3),
        "maximum": round(max(seconds), 3),
    }


def main() -> None:
    """Run one part, keep it with the others; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("phantoms", "ages"), required=True)
    parser.add_argument("--n", type=int, default=300, help="phantoms")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="of the phantoms; other than 0: kept as `unseen`, beside the looked-at ones",
    )
    parser.add_argument(
        "--cases", type=Path, help="for `phantoms`: one line a film; what is in it is not measured again"
    )
    parser.add_argument("--backwards", action="store_true", help="begin with the last phantom: for a second process")
    parser.add_argument("--data", type=Path, help="for `ages`: folder of images.csv and the films it names")
    parser.add_argument("--folder", default="fullres")
    parser.add_argument("--json", type=Path, help="add the part to this file")
    options = parser.parse_args()
    shared().find(np.zeros((64, 64), np.uint8))  # the weights are loaded once for many films

    def keep(results: dict[str, dict[str, Any]]) -> None:
        for result in results.values():
            result |= {
                "commit": git_commit(),
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "machine": f"{platform.machine()}, one thread",
            }
        if options.json:
            kept = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
            added: dict[str, Any] = results
            if options.first_seed:
                others = [run for run in kept.get("unseen", []) if run["first_seed"] != options.first_seed]
                added = {"unseen": [*others, {"first_seed": options.first_seed, **results}]}
            text = json.dumps({**kept, **added}, indent=1, ensure_ascii=False)
            options.json.write_text(text + "\n", encoding="utf-8")
        print(json.dumps(results, ensure_ascii=False), flush=True)

    if options.part == "ages":
        if options.data is None:
            parser.error("--part ages needs --data")
        keep({f"ages_{options.folder}": ages(options.data, options.folder)})
    elif options.cases is None:
        parser.error("--part phantoms needs --cases")
    else:
        seeds = range(options.first_seed, options.first_seed + options.n)
        phantoms(seeds, options.cases, keep, backwards=options.backwards)


if __name__ == "__main__":
    refusal.command(main)
