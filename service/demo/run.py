"""The main job on one machine: a PACS routes films to Carpus, the results come back, a table says what came of each.

`carpus demo` draws phantom films of several ages and both sexes (one MONOCHROME1, one JPEG 2000, one rotated, one chest that must be
refused) or takes a film of your own; starts `carpus serve` and a PACS; sends, waits, checks that every returned object stands in the
film's own study, and writes each report as HTML and each overlay as PNG.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image as Pillow
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless
from rich.console import Console
from rich.table import Table

from models import phantom, pixels
from models.image import Image
from models.reading import MethodResult, Reading
from models.regions import Sex
from service import db
from service.demo.pacs import BuiltInPacs, DemoPacs, OrthancPacs, find_orthanc, stop, wait_until
from service.errors import Permanent
from service.queue.jobs import Jobs
from service.reporting import sr_html
from service.sending.requestor import Address
from service.settings import load
from service.tables import Job, State
from service.wrap import Patient, wrap

SAME_AS_THE_FILM = ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "SpecificCharacterSet")
SR, SC = "SR", "SC"
KINDS = {
    "1.2.840.10008.5.1.4.1.1.88.22": SR,
    "1.2.840.10008.5.1.4.1.1.88.33": SR,
    "1.2.840.10008.5.1.4.1.1.88.34": SR,
    "1.2.840.10008.5.1.4.1.1.7": SC,
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.11.1": "GSPS",
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
    "1.2.840.10008.5.1.4.1.1.88.59": "KOS",
}
FINAL = {State.CONFIRMED, State.REJECTED, State.FILTERED, State.FAILED, State.CANCELLED}
PATIENCE_SECONDS = 180
READY = "carpus is ready"
DRAWN = (
    "These films are drawn. Where a report remarks that its film is unlike those learned from, or that the whole-hand regression "
    "disagrees with the stages, that is why: it learned from real films alone."
)
PROCESS_DEATHS = 3  # before anything is up: something is wrong that waiting will not mend


@dataclass(frozen=True, slots=True)
class Film:
    """One film of the demo and what is known about it beforehand."""

    title: str
    dataset: Dataset
    truth_years: float | None = None
    must_be_refused: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back for one film; `faults` is empty when everything stands where it belongs."""

    film: Film
    job: Job
    returned: tuple[Dataset, ...]
    latency_seconds: float | None  # from the C-STORE response to the SR stored in the PACS
    faults: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the objects that came back."""
        return tuple(sorted(kind(item) for item in self.returned))


def phantom_films(seed: int = 7) -> list[Film]:
    """Draw the films of the demo; the truth of a phantom is known exactly."""
    plan: list[tuple[str, float, Sex, int, dict[str, Any]]] = [
        ("girl of 6", 6.0, "F", 0, {"kind": "CR"}),
        ("boy of 9, MONOCHROME1", 9.0, "M", 0, {"kind": "DX", "photometric_interpretation": "MONOCHROME1"}),
        ("girl of 11, JPEG 2000", 11.0, "F", 0, {"kind": "DX", "transfer_syntax": JPEG2000Lossless}),
        ("boy of 13, lying on its side", 13.0, "M", 1, {"kind": "CR"}),
        ("boy of 15, Chinese name", 15.0, "M", 0, {"kind": "DX", "character_set": "GB18030"}),
    ]
    films = []
    for number, (title, age, sex, quarter_turns, options) in enumerate(plan):
        drawn = phantom.draw(seed + number, age_years=age, sex=sex)
        turned = Image(np.ascontiguousarray(np.rot90(drawn.image.pixels, quarter_turns)))
        patient = Patient(
            "Wang^Xiaodong=王^小东" if "character_set" in options else f"DEMO^PHANTOM {number + 1}",
            f"DEMO-{number + 1}",
            sex,
            date.today() - timedelta(days=365.25 * age),  # noqa: DTZ011 - a birth date has no time zone
        )
        films.append(Film(title, wrap(turned, patient, **options), drawn.bone_age_years))
    chest = phantom.draw_other("chest", seed)
    patient = Patient("DEMO^WRONG PART", f"DEMO-{len(plan) + 1}", "F")
    films.append(Film("chest, routed by mistake", wrap(chest, patient, kind="DX", body_part=""), must_be_refused=True))
    return films


def own_film(path: Path, sex: Sex | None) -> list[Film]:
    """Take a film from a file: a DICOM instance as it is, a picture wrapped.

    Raises
    ------
    UnreadablePixels
        When the file is neither DICOM nor a picture.
    """
    with path.open("rb") as stream:
        is_dicom = stream.read(132)[128:] == b"DICM"
    if is_dicom:
        return [Film(path.name, dcmread(path))]
    return [Film(path.name, wrap(pixels.load(path), Patient("DEMO^OWN FILM", "DEMO-1", sex or "O"), kind="CR"))]


def run(
    folder: Path, films: Sequence[Film], *, orthanc: bool = True, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Start everything below `folder`, send the films through the PACS and wait for what comes back.

    Raises
    ------
    CarpusError
        When a process does not start or a film gets no final state in time.
    """
    carpus_port, pacs_port, http_port, web_port = free_ports(4)
    carpus = Address("CARPUS", "127.0.0.1", carpus_port)
    folder = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        pacs: OrthancPacs | BuiltInPacs
        if orthanc and find_orthanc():
            pacs = OrthancPacs(folder / "pacs", dicom_port=pacs_port, http_port=http_port, carpus=carpus)
        else:
            pacs = BuiltInPacs(folder / "pacs", dicom_port=pacs_port, carpus=carpus)
        config = configure(folder, carpus_port=carpus_port, web_port=web_port, pacs=pacs.address)
        say(f"Starting Carpus on port {carpus_port} (admin page http://127.0.0.1:{web_port}/) and a PACS ({pacs.name})")
        serve(config, folder / "carpus.log", stack)
        stack.enter_context(pacs)
        jobs = Jobs(db.connect(load(config).resolved_database_url), process="demo")
        say(f"{len(films)} films go into the PACS, which routes them to Carpus")
        pacs.receive([film.dataset for film in films])
        outcomes = [_outcome(film, pacs, jobs) for film in films]
        write_results(outcomes, folder)
    # Piped or on a narrow terminal the table would fold every word; it has a width of its own.
    Console(width=max(Console().width, 170)).print(table(outcomes))
    if any(film.truth_years is not None for film in films):
        say(DRAWN)
    say(f"Reports as HTML and overlays as PNG: {folder.resolve()}")
    return outcomes


def configure(folder: Path, *, carpus_port: int, web_port: int, pacs: Address, **settings: Any) -> Path:
    """Write the configuration of an installation on loopback whose one PACS both sends and receives; return its path."""
    configuration = {
        "data_directory": str(folder / "carpus"),
        "scp_port": carpus_port,
        "peers": [{"ae_title": pacs.ae_title}],
        "destinations": [{"name": "pacs", "ae_title": pacs.ae_title, "host": pacs.host, "port": pacs.port}],
        "web": {"port": web_port},
        **settings,
    }
    path = folder / "carpus.yaml"
    path.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    return path


def serve(config: Path, log: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start `carpus serve` and wait until it says that everything is up; the stack stops it.

    Raises
    ------
    Permanent
        When it ends before; its last lines are in the text.
    """
    stream = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "service", "serve", "--config", str(config)], stdout=stream, stderr=subprocess.STDOUT
    )
    stack.callback(stop, process)

    def ready() -> bool:
        text = log.read_text(encoding="utf-8", errors="replace")
        if process.poll() is not None:
            raise Permanent(
                f"carpus serve ended with status {process.returncode}: {text[-600:]}", next_action=f"see {log}"
            )
        if text.count('"process died"') >= PROCESS_DEATHS:
            cause = next((line for line in reversed(text.splitlines()) if line and not line.startswith("{")), "")
            raise Permanent(f"a process of carpus serve keeps ending: {cause}", next_action=f"see {log}")
        return READY in text

    wait_until(ready, 240, f"carpus serve to be ready (its log: {log})")
    return process


def write_results(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write each report as HTML and each overlay as PNG, as the PACS returned them."""
    for number, outcome in enumerate(outcomes, 1):
        for ds in outcome.returned:
            if kind(ds) == SR:
                (folder / f"{number}-report.html").write_text(sr_html.render(ds), encoding="utf-8")
            elif kind(ds) == SC:
                Pillow.fromarray(ds.pixel_array).save(folder / f"{number}-overlay.png")


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return the table a person reads: film, truth, bone age by method, latency, objects returned."""
    names = sorted({method.name for outcome in outcomes for method in methods(outcome.job)})
    shown = Table(title="For research, not for clinical use")
    for heading in ("film", "truth", *names, "state", "latency", "returned", "in its study, complete"):
        shown.add_column(heading, justify="right" if heading in ("truth", "latency", *names) else "left")
    for outcome in outcomes:
        ages = dict.fromkeys(names, "")
        for method in methods(outcome.job):
            ages[method.name] = method.qualifier or "-"
            if method.bone_age_years is not None:
                ages[method.name] = f"{method.bone_age_years:.1f}"
        shown.add_row(
            outcome.film.title,
            "" if outcome.film.truth_years is None else f"{outcome.film.truth_years:.1f}",
            *ages.values(),
            outcome.job.state
            + (", confirmed" if outcome.job.state == State.REJECTED and outcome.job.confirmed_at else "")
            + (f": {outcome.job.cause_code}" if outcome.job.cause_code else ""),
            "" if outcome.latency_seconds is None else f"{outcome.latency_seconds:.2f} s",
            " ".join(outcome.kinds),
            "; ".join(outcome.faults) or "yes",
        )
    return shown


def free_ports(number: int) -> list[int]:
    """Return ports of loopback that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def finished(jobs: Jobs, sop_instance_uid: str) -> Job:
    """Wait until the newest job of a film has reached a state it stays in, its report confirmed, and return it.

    Raises
    ------
    Retryable
        When that takes longer than `PATIENCE_SECONDS`.
    """

    def final() -> Job | None:
        found = jobs.find(sop_instance_uid)
        if not found or State(found[0].state) not in FINAL:
            return None
        return None if found[0].state == State.REJECTED and found[0].confirmed_at is None else found[0]

    job: Job = wait_until(final, PATIENCE_SECONDS, "the film's final state")
    return job


def latency_seconds(jobs: Jobs, job: Job) -> float | None:
    """Return the time from the film's C-STORE response to its SR stored in the PACS, or None where there is no SR there."""
    stored = [
        row.updated_at for row in jobs.results(job.id) if row.kind == SR and row.state in ("accepted", "confirmed")
    ]
    return (stored[0] - jobs.instance(job.instance_id).received_at).total_seconds() if stored else None


def _outcome(film: Film, pacs: DemoPacs, jobs: Jobs) -> Outcome:
    ds = film.dataset
    # The PACS routes on in its own time: first the film must have arrived at all.
    job = finished(jobs, ds.SOPInstanceUID)
    objects = pacs.objects(ds.StudyInstanceUID)
    returned = tuple(item for item in objects if item.SOPInstanceUID != ds.SOPInstanceUID)
    return Outcome(film, job, returned, latency_seconds(jobs, job), _faults(film, job, returned))


def kind(ds: Dataset) -> str:
    """Return the short name of a result object's kind, or its SOP class where it is none of ours."""
    return KINDS.get(ds.SOPClassUID, str(ds.SOPClassUID))


def methods(job: Job) -> Sequence[MethodResult]:
    """Return the methods' results of a job, none where it has no Reading."""
    return Reading.from_json(job.reading).methods if job.reading else ()


def _faults(film: Film, job: Job, returned: Sequence[Dataset]) -> tuple[str, ...]:
    expected = {State.REJECTED} if film.must_be_refused else {State.CONFIRMED}
    faults = [] if State(job.state) in expected else [f"state {job.state}"]
    if job.confirmed_at is None:
        faults.append("not confirmed by the PACS")
    wanted = {SR} if film.must_be_refused else {SR, SC, "GSPS", "SEG"}
    if missing := wanted - {kind(item) for item in returned}:
        faults.append(f"missing {' '.join(sorted(missing))}")
    for item in returned:
        faults += [
            f"{kind(item)}: {keyword} differs"
            for keyword in SAME_AS_THE_FILM
            if item.get(keyword) != film.dataset.get(keyword)
        ]
    return tuple(faults)
