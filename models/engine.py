"""What every training script shares: seeds, precision, moving average, schedule, checkpoints, progress, early stop.

A script stays readable from top to bottom: it builds its data, its model and its loop, and takes from here only what
would be the same in all of them.
"""

import copy
import json
import math
import random
import subprocess  # a fixed command: git
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.refusal import Refusal

CHECKPOINT_TENSORS: Final = "checkpoint.safetensors"
CHECKPOINT_VALUES: Final = "checkpoint.json"


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, NumPy and torch, and return a generator for what the script draws itself."""
    random.seed(seed)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; "auto" takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def mixed_precision(device: torch.device, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Return the autocast context: bfloat16 on CPU and GPU alike, so that no loss scaling is needed."""
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
    return context


def git_commit() -> str:
    """Return the commit of the training code, "+changes" added where the tree differs from it, or "unknown"."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "."],  # noqa: S607
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changes else head


def cosine(step: int, total: int, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Return the factor of the learning rate: a linear warm-up from 0 to 1, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """An exponential moving average of a model's weights and buffers; the decay warms up with the steps taken."""

    def __init__(self, model: Model, decay: float = 0.999) -> None:
        """Start from a copy of the model."""
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average toward the model; integer buffers are copied."""
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (self.steps + 10))
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value.to(mean.dtype), weight)
            else:
                mean.copy_(value)


@dataclass
class EarlyStop:
    """Remember the best value and say when `patience` looks in a row did not improve on it; smaller is better."""

    patience: int
    best: float = math.inf
    waited: int = 0

    def improved(self, value: float) -> bool:
        """Take one more value; return whether it is the best so far."""
        if value < self.best:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def stop(self) -> bool:
        """Whether to stop."""
        return self.waited >= self.patience


@dataclass
class Progress:
    """One line a report: step, share, rate, time left and the values given; optionally also JSON lines in a file."""

    total: int
    every_seconds: float = 10.0
    journal: Path | None = None
    _start: float = field(default_factory=time.monotonic)
    _last: float = -math.inf
    _first_step: int | None = None

    def report(self, step: int, *, force: bool = False, **values: float) -> None:
        """Report, unless the last report is younger than `every_seconds`."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = step
        if not force and now - self._last < self.every_seconds and step != self.total:
            return
        self._last = now
        rate = (step - self._first_step) / max(now - self._start, 1e-9)
        pace = f"{rate:.2f} steps/s  {(self.total - step) / rate / 60:.1f} min left  " if rate > 0 else ""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        sys.stderr.write(f"{step:>7}/{self.total}  {pace}{shown}\n")
        sys.stderr.flush()
        if self.journal is not None:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(now - self._start, 1), **values}) + "\n")


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema[Any] | None = None,
    **values: Any,
) -> None:
    """Write what a training needs to go on: tensors as safetensors, numbers as JSON; a crash leaves the old one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.model.state_dict().items()}
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    plain = {
        "step": step,
        "ema_steps": ema.steps if ema is not None else None,
        "optimizer": {"scalars": scalars, "groups": state["param_groups"]},
        "values": values,
    }
    # Tensors carry the step too, so that a crash between the two renames is seen when they are read.
    temporary = folder / (CHECKPOINT_TENSORS + ".part")
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        temporary,
        metadata={"step": str(step)},
    )
    text = folder / (CHECKPOINT_VALUES + ".part")
    text.write_text(json.dumps(plain), encoding="utf-8")
    temporary.replace(folder / CHECKPOINT_TENSORS)
    text.replace(folder / CHECKPOINT_VALUES)


def load_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema[Any] | None = None
) -> tuple[int, Mapping[str, Any]]:
    """Restore a training in place; return the steps done and the further values kept, or `(0, {})` where none was kept."""
    path, part = folder / CHECKPOINT_VALUES, folder / f"{CHECKPOINT_VALUES}.part"
    if not path.exists() or not (folder / CHECKPOINT_TENSORS).exists():
        return 0, {}
    plain = json.loads(path.read_text(encoding="utf-8"))
    with safe_open(folder / CHECKPOINT_TENSORS, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if step != plain["step"] and part.exists():  # the run was killed between the two renames: its numbers are whole
        part.replace(path)
        plain = json.loads(path.read_text(encoding="utf-8"))
    if step != plain["step"]:
        raise Refusal(f"checkpoint in {folder}: tensors of step {step}, numbers of step {plain['step']}; remove it")
    model.load_state_dict(_below(tensors, "model."))
    if ema is not None:
        ema.model.load_state_dict(_below(tensors, "ema."))
        ema.steps = int(plain["ema_steps"])
    state: dict[int, dict[str, Any]] = {}
    for index, entries in plain["optimizer"]["scalars"].items():
        state.setdefault(int(index), {}).update(entries)
    for key, value in _below(tensors, "optimizer.").items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["optimizer"]["groups"]})
    return step, plain["values"]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
