"""Keep trained weights beside what they are: tensors as safetensors, the rest as `metadata.json`, each file by its hash.

A *weights folder* is `<anything>/metadata.json` plus the files it lists. Whoever loads one says which problem and which
architectures he can run; a folder that is something else, was changed on disk or is of another format is refused with the
value that was expected and the one that was found. No file is ever unpickled.
"""

import dataclasses
import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from models.refusal import Refusal

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION: Final = 1
PROBLEMS: Final = ("detection", "segmentation", "grading", "regression")
METADATA_FILE: Final = "metadata.json"
TENSOR_FILE: Final = "weights.safetensors"
MAXIMUM_METADATA_BYTES: Final = 16 * 1024**2
MAXIMUM_BYTES: Final = 256 * 1024**2  # of one file; what ships is far smaller

FREE_TERMS: Final = "Apache-2.0; trained on synthetic films alone"
RSNA_TERMS: Final = "non-commercial (RSNA Pediatric Bone Age Challenge terms)"


class WeightsRefused(Refusal):
    """Weights that must not be used; `expected` and `found` say why.

    Parameters
    ----------
    folder
        Where the weights lie.
    what
        What was compared: "sha256 of weights.safetensors", "architecture", "format version", ...
    expected, found
        The two values that differ.
    """

    def __init__(self, folder: Path, what: str, expected: object, found: object) -> None:
        """Keep both values; the text holds them too."""
        super().__init__(f"weights in {folder} are refused: {what}: expected {expected}, found {found}")
        self.what = what
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a weights folder says about itself."""

    problem: str
    architecture: str
    terms: str
    data: tuple[str, ...]  # what it was trained on, one entry a source, with the number of films
    seed: int
    version: str = "1"
    split_sha256: str = ""  # of the file that holds the split; empty where every film is drawn from its seed
    commit: str = ""  # git commit of the training code
    created: str = ""  # ISO 8601, UTC
    metrics: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # what the network's constructor needs, too
    files: Mapping[str, str] = field(default_factory=dict)  # name -> sha256; filled by `save`
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse a problem outside the four, and weights without terms."""
        if self.problem not in PROBLEMS:
            raise ValueError(f"problem {self.problem!r} is not one of {', '.join(PROBLEMS)}")
        if not self.terms:
            raise ValueError("weights without terms cannot be kept; name the licence of the data they were trained on")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `metadata.json`.

        Raises
        ------
        WeightsRefused
            When the file is missing, is not JSON, or is of another format version.
        """
        content = _content(folder, METADATA_FILE, MAXIMUM_METADATA_BYTES)
        try:
            values = json.loads(content)
        except json.JSONDecodeError as error:
            raise WeightsRefused(folder, METADATA_FILE, "JSON", error.msg) from error
        except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, nested without end
            raise WeightsRefused(folder, METADATA_FILE, "JSON", error) from error
        if not isinstance(values, dict):
            raise WeightsRefused(folder, METADATA_FILE, "a mapping", type(values).__name__)
        if values.get("format_version") != FORMAT_VERSION:
            raise WeightsRefused(folder, "format version", FORMAT_VERSION, values.get("format_version"))
        files = values.get("files", {})
        if not (isinstance(files, dict) and all(isinstance(sha256, str) for sha256 in files.values())):
            raise WeightsRefused(folder, "files", "names with their sha256", type(files).__name__)
        try:
            return cls(**{**values, "data": tuple(values.get("data", ()))})
        except (TypeError, ValueError) as error:
            raise WeightsRefused(folder, METADATA_FILE, "the keys of models.weights.Metadata", error) from error


def begun_from(metadata: Metadata, base: Metadata) -> Metadata:
    """Return the metadata of weights that were trained on from `base`: its terms and its data are passed on."""
    bound = [terms for terms in (base.terms, metadata.terms) if terms != FREE_TERMS]
    if len(bound) == 2 and bound[1] in bound[0]:
        bound.pop()
    told = set(base.data) <= set(metadata.data)
    more = () if told else (f"begun from weights that learned from: {'; '.join(base.data)}",)
    return dataclasses.replace(metadata, terms="; ".join(bound) or FREE_TERMS, data=(*metadata.data, *more))


def save(
    folder: Path,
    state_dict: Mapping[str, "Tensor"] | None,
    metadata: Metadata,
    *,
    extra: Mapping[str, bytes] | None = None,
    half: bool = False,
) -> Metadata:
    """Write a weights folder and return its metadata with the hashes filled in.

    Parameters
    ----------
    state_dict
        Tensors by name, or None where the model has none (a booster alone).
    extra
        Further files by name, for example `{"booster.ubj": booster.save_raw("ubj")}`.
    half
        Store float32 tensors as float16; `load` gives them back as float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = dict(extra or {})
    if state_dict is not None:
        files[TENSOR_FILE] = _pack(state_dict, half=half)
    if not files:
        raise ValueError("nothing to save: neither tensors nor files")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    complete = dataclasses.replace(
        metadata,
        files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        created=metadata.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )
    describe(folder, complete)
    return complete


def describe(folder: Path, metadata: Metadata) -> None:
    """Write `metadata.json` of a weights folder whose files are there and are those that the metadata names."""
    text = json.dumps(dataclasses.asdict(metadata), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path, *, problem: str, architectures: Collection[str]) -> "tuple[dict[str, Tensor], Metadata]":
    """Verify a weights folder and return its tensors (on the CPU, float16 widened to float32) and metadata.

    Raises
    ------
    WeightsRefused
        When it is for another problem, of an architecture the caller cannot run, or not the bytes that were saved.
    """
    metadata = verify(folder, problem=problem, architectures=architectures)
    if TENSOR_FILE not in metadata.files:
        return {}, metadata
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        tensors = unpack((folder / TENSOR_FILE).read_bytes())
    except (SafetensorError, KeyError) as error:  # what was hashed was no such file, or of a type without a tensor
        raise WeightsRefused(folder, TENSOR_FILE, "tensors as safetensors", error) from error
    return {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}, metadata


def load_file(folder: Path, name: str) -> bytes:
    """Return one further file of a weights folder (a booster), its hash checked."""
    metadata = Metadata.read(folder)
    if name not in metadata.files:
        raise WeightsRefused(folder, "files", name, ", ".join(metadata.files) or "none")
    return _checked(folder, name, metadata.files[name])


def verify(folder: Path, *, problem: str | None = None, architectures: Collection[str] | None = None) -> Metadata:
    """Check a weights folder without loading it into memory for use; None asks for no particular value.

    Raises
    ------
    WeightsRefused
        As in `load`.
    """
    metadata = Metadata.read(folder)
    if problem is not None and metadata.problem != problem:
        raise WeightsRefused(folder, "problem", problem, metadata.problem)
    if architectures is not None and metadata.architecture not in architectures:
        raise WeightsRefused(folder, "architecture", " or ".join(sorted(architectures)), metadata.architecture)
    if not metadata.files:
        raise WeightsRefused(folder, "files", "at least one", "none")
    for name, expected in metadata.files.items():
        _checked(folder, name, expected)
    return metadata


def digest(folder: Path) -> str:
    """Return the sha256 of a weights folder: of its metadata, which holds the hash of every other file."""
    return hashlib.sha256((folder / METADATA_FILE).read_bytes()).hexdigest()


def _checked(folder: Path, name: str, expected: str) -> bytes:
    if (folder / name).parent != folder or "\0" in name:
        raise WeightsRefused(folder, "file name", "a plain name", name)
    content = _content(folder, name, MAXIMUM_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise WeightsRefused(folder, f"sha256 of {name}", expected, found)
    return content


def _content(folder: Path, name: str, maximum: int) -> bytes:
    """Return what a file holds; a pipe or a device, which may never end, is not opened."""
    path = folder / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise WeightsRefused(folder, name, "a readable file", "what is none")
        if found.st_size > maximum:
            raise WeightsRefused(folder, f"size of {name}", f"at most {maximum} bytes", f"{found.st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise WeightsRefused(folder, name, "a readable file", error.strerror) from error
    except UnicodeEncodeError as error:  # half a letter, which JSON can write
        raise WeightsRefused(folder, "file name", "a plain name", ascii(name)) from error


def _pack(state_dict: Mapping[str, "Tensor"], *, half: bool) -> bytes:
    import torch
    from safetensors.torch import save as pack

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    if half:
        tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    packed: bytes = pack(tensors)
    return packed
