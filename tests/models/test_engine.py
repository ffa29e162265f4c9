from pathlib import Path

import pytest
import torch
from torch import nn

from models import engine
from models.refusal import Refusal


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: "engine.Ema[nn.Module]", inputs: torch.Tensor
) -> None:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
    ema.update(model)


def _training() -> tuple[nn.Module, torch.optim.Optimizer, "engine.Ema[nn.Module]"]:
    engine.seed_everything(5)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01), engine.Ema(model, 0.9)


def test_a_resumed_training_equals_one_that_never_stopped(tmp_path: Path) -> None:
    batches = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(1))
    whole = _training()
    for batch in batches:
        _step(*whole, batch)
    first = _training()
    for batch in batches[:3]:
        _step(*first, batch)
    model, optimizer, ema = first
    engine.save_checkpoint(tmp_path, step=3, model=model, optimizer=optimizer, ema=ema, best=0.5)
    model, optimizer, ema = _training()
    step, values = engine.load_checkpoint(tmp_path, model=model, optimizer=optimizer, ema=ema)
    assert (step, values) == (3, {"best": 0.5})
    for batch in batches[3:]:
        _step(model, optimizer, ema, batch)
    for expected, found in zip(whole[0].state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(expected, found)
    for expected, found in zip(whole[2].model.state_dict().values(), ema.model.state_dict().values(), strict=True):
        assert torch.equal(expected, found)


def test_a_training_that_is_killed_between_the_two_renames_of_its_checkpoint_goes_on(tmp_path: Path) -> None:
    model, optimizer, ema = _training()
    values = tmp_path / engine.CHECKPOINT_VALUES
    engine.save_checkpoint(tmp_path, step=3, model=model, optimizer=optimizer, ema=ema, best=0.5)
    before = values.read_bytes()
    _step(model, optimizer, ema, torch.ones(8, 3))
    engine.save_checkpoint(tmp_path, step=4, model=model, optimizer=optimizer, ema=ema, best=0.4)
    values.rename(tmp_path / f"{values.name}.part")
    values.write_bytes(before)
    model, optimizer, ema = _training()
    for _ in range(2):  # and once more, from what the first left
        step, kept = engine.load_checkpoint(tmp_path, model=model, optimizer=optimizer, ema=ema)
        assert (step, kept) == (4, {"best": 0.4})
    values.write_bytes(before)
    with pytest.raises(Refusal, match="tensors of step 4, numbers of step 3; remove it"):
        engine.load_checkpoint(tmp_path, model=model, optimizer=optimizer, ema=ema)


def test_without_a_checkpoint_a_training_starts_at_step_zero(tmp_path: Path) -> None:
    model, optimizer, ema = _training()
    assert engine.load_checkpoint(tmp_path, model=model, optimizer=optimizer, ema=ema) == (0, {})


def test_the_learning_rate_warms_up_and_ends_at_the_floor() -> None:
    factors = [engine.cosine(step, 100, warmup=10, floor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)  # 1/10
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55)  # half way down: 0.1 + 0.9 * 0.5
    assert factors[100] == pytest.approx(0.1)


def test_early_stop_counts_the_looks_since_the_best() -> None:
    stop = engine.EarlyStop(patience=2)
    assert [stop.improved(v) for v in (3.0, 2.0, 2.0)] == [True, True, False]
    assert not stop.stop
    stop.improved(5.0)
    assert stop.stop
    assert stop.best == 2.0


def test_the_moving_average_follows_with_a_warmed_up_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = engine.Ema(model, decay=0.99)
    nn.init.constant_(model.weight, 11.0)
    ema.update(model)  # first step: decay 1/11, so 10/11 of the way from 0 to 11
    assert ema.model.weight.item() == pytest.approx(10.0)
