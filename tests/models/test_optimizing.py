"""How often a schedule is stepped, what its settings stand for, and optimisers made of others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import lr_scheduler

from src.core.errors import InputError
from src.models.base import Settings
from src.optimizers.muon import Muon
from src.optimizers.settings import count_learning_rates, make_optimizer, make_schedule
from src.optimizers.warmup_cosine import WarmupCosine
from tests.doubles import LearningRates, quiet_trainer
from tests.models.test_base import data, linear

COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "total_steps"}
EXPONENTIAL = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def train_with_schedule(scheduler: Settings, folder: Path, **settings: Any) -> tuple[list[float], Trainer]:
    """The learning rate of each batch, ten an epoch, and the trainer as it ends."""
    noted = LearningRates()
    trainer = quiet_trainer(folder, callbacks=[noted, *settings.pop("callbacks", [])], **settings)
    trainer.fit(linear(optimizer=SGD, scheduler=scheduler), datamodule=data(train=100, val=10))
    return [step[0] for step in noted.steps], trainer


@pytest.mark.parametrize(
    ("pace", "settings"),
    [
        ({"interval": "step"}, {"max_epochs": 2}),
        ({"interval": "epoch"}, {"max_epochs": 3}),
        ({"interval": "epoch", "frequency": 2}, {"max_epochs": 4}),
        ({"interval": "epoch", "frequency": 2}, {"max_epochs": 5}),
        ({"interval": "step", "frequency": 3}, {"max_epochs": 2}),
        ({"interval": "step"}, {"max_epochs": 2, "accumulate_grad_batches": 3}),
        ({"interval": "step", "frequency": 2}, {"max_epochs": 2, "accumulate_grad_batches": 3}),
        ({"interval": "epoch"}, {"max_epochs": 2, "accumulate_grad_batches": 4}),
        ({"interval": "step"}, {"max_epochs": 3, "limit_train_batches": 4}),
        ({"interval": "step"}, {"max_epochs": 3, "limit_train_batches": 0.35}),
        ({"interval": "step"}, {"max_epochs": 9, "max_steps": 13}),
        ({"interval": "epoch"}, {"max_epochs": 9, "max_steps": 13}),
        ({"interval": "step"}, {"max_epochs": -1, "max_steps": 13}),
    ],
    ids=str,
)
def test_schedule_steps_match_count(pace: Settings, settings: Settings, tmp_path: Path) -> None:
    """A schedule is stepped as often as `count_learning_rates` says."""
    rates, trainer = train_with_schedule({**EXPONENTIAL, **pace}, tmp_path, **settings)
    assert len(set(rates)) == count_learning_rates(trainer, **{"frequency": 1, **pace})


@pytest.mark.parametrize("pace", [{"interval": "epoch"}, {"interval": "step"}], ids=str)
def test_cosine_ends_at_minimum(pace: Settings, tmp_path: Path) -> None:
    settings = {"max_epochs": 4, "accumulate_grad_batches": 3}  # four steps in each epoch of ten batches
    rates, trainer = train_with_schedule({**COSINE, **pace, "eta_min": 0.01}, tmp_path, **settings)
    count = 4 if pace["interval"] == "epoch" else 16
    expected = [0.01 + 0.09 * (1 + torch.tensor(torch.pi * step / count).cos().item()) / 2 for step in range(count + 1)]
    assert sorted(set(rates), reverse=True) == pytest.approx(expected[:-1], abs=1e-7)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_unknown_total_steps_are_refused(tmp_path: Path) -> None:
    """`total_steps` is refused if a time limit leaves the number of steps open."""
    with pytest.raises(InputError, match=r"trainer\.max_time total_steps is not known"):
        train_with_schedule({**COSINE, "interval": "step"}, tmp_path, callbacks=[Timer("00:01:00:00")])


def test_plateau_steps_at_each_validation(tmp_path: Path) -> None:
    """The loss never falls by 99%: the rate is halved at each validation but the first."""
    settings: Settings = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "monitor": "val/loss"}
    settings |= {"patience": 0, "factor": 0.5, "threshold": 0.99}
    rates, _ = train_with_schedule(settings, tmp_path, max_epochs=7, check_val_every_n_epoch=2)
    assert rates[::10] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def simulate_schedule(settings: Settings, steps: int, lr: float = 0.1, batches: int = 20) -> list[float]:
    """The learning rates by which so many steps are taken."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    trainer = quiet_trainer(Path(), max_epochs=1, limit_train_batches=batches)
    trainer.fit_loop.setup_data = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.max_batches = batches
    return step_schedule(make_schedule(settings, optimizer, trainer)["scheduler"], optimizer, steps)


def step_schedule(schedule: lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


def compute_sequence_rates(steps: int, rising: int) -> list[float]:
    """The rates of PyTorch's own schedules, one after the other."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    parts: list[lr_scheduler.LRScheduler] = [
        lr_scheduler.LinearLR(optimizer, 0.01, total_iters=rising),
        lr_scheduler.CosineAnnealingLR(optimizer, steps - rising, eta_min=0.002),
    ]
    return step_schedule(lr_scheduler.SequentialLR(optimizer, parts, [rising]), optimizer, steps)


def test_warmup_cosine_matches_pytorch_sequence() -> None:
    """Warmup and cosine give the rates of PyTorch's own schedules in sequence."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = WarmupCosine(optimizer, 20, warmup=0.25, start_factor=0.01, eta_min=0.002)
    assert step_schedule(schedule, optimizer, 20) == pytest.approx(compute_sequence_rates(20, 5))


def test_sequential_schedule_joins_parts() -> None:
    """A sequential schedule runs each part for its own number of steps; impossible milestones are refused."""
    parts = [
        {"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 0.01, "total_iters": "total_steps"},
        {**COSINE, "eta_min": 0.002},
    ]
    settings = {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": parts, "milestones": [5]}
    assert simulate_schedule({**settings, "interval": "step"}, 20) == pytest.approx(compute_sequence_rates(20, 5))
    with pytest.raises(
        InputError, match=r"scheduler\.milestones=\[25\]: give increasing numbers of steps, below .* 20"
    ):
        simulate_schedule({**settings, "milestones": [25], "interval": "step"}, 20)


def halve(step: int) -> float:
    return 0.5**step


def make_step_schedule(optimizer: torch.optim.Optimizer, by: float) -> lr_scheduler.LRScheduler:
    return lr_scheduler.StepLR(optimizer, 1, gamma=1 / by)


def return_nothing(optimizer: torch.optim.Optimizer) -> None:
    pass


def test_functions_are_resolved_by_name() -> None:
    by_name = {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": f"{__name__}.halve"}
    assert simulate_schedule(by_name, 3) == pytest.approx([0.1, 0.05, 0.025])
    assert simulate_schedule({**by_name, "lr_lambda": [f"{__name__}.halve"]}, 3) == pytest.approx([0.1, 0.05, 0.025])
    assert simulate_schedule({"_target_": f"{__name__}.make_step_schedule", "by": 4}, 3) == pytest.approx(
        [0.1, 0.025, 0.00625]
    )
    with pytest.raises(InputError, match=r"scheduler: there is no tests\.nothing"):
        simulate_schedule({**by_name, "lr_lambda": "tests.nothing"}, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**EXPONENTIAL, "gama": 1}, "scheduler.gama: torch.optim.lr_scheduler.ExponentialLR has no such setting"),
        ({**EXPONENTIAL, "monitor": "val/loss"}, "scheduler.monitor: torch.optim.lr_scheduler.ExponentialLR watches"),
        ({"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "scheduler.monitor is missing"),
        ({"_target_": f"{__name__}.return_nothing"}, "return_nothing returns no learning rate schedule, but NoneType"),
    ],
)
def test_wrong_schedule_settings_are_refused(settings: Settings, words: str) -> None:
    """Missing settings and those that a schedule does not take are named in an error."""
    with pytest.raises(InputError) as caught:
        simulate_schedule(settings, 3)
    assert words in str(caught.value)


# Optimisers


def make_parameter_groups(lr: float) -> list[Settings]:
    return [{"params": [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))], "lr": lr}]


def test_unknown_optimizer_settings_are_listed() -> None:
    """All settings that an optimizer does not take are named in one error."""
    settings = {"_target_": "torch.optim.LBFGS", "lr": 1.0, "betas": [0.9, 0.9], "weight_decay": 0.0, "fused": None}
    with pytest.raises(InputError) as caught:
        make_optimizer(settings, make_parameter_groups, "cpu")
    told = "optimizer.betas, optimizer.weight_decay: torch.optim.LBFGS has no such settings; leave out: "
    assert str(caught.value) == told + "'~optimizer.betas' '~optimizer.weight_decay'"


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "ASGD", "Rprop", "Adafactor"])
def test_optimizers_without_fused_kernel_are_built(name: str) -> None:
    """Optimizers without a fused kernel are built, with `fused` in their settings or without it."""
    settings = {"_target_": f"torch.optim.{name}", "lr": 0.5, "fused": None}
    made = make_optimizer(settings, make_parameter_groups, "cpu")
    assert (type(made).__name__, made.param_groups[0]["lr"]) == (name, 0.5)
    assert (
        make_optimizer({"_target_": f"torch.optim.{name}"}, make_parameter_groups, "cpu").param_groups[0]["lr"] > 0
    )  # its own


def test_muon_combines_muon_and_adamw() -> None:
    """Matrices are trained by Muon and all other parameters by AdamW, also after loading a state."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (4,), (2, 3, 1, 1)]]
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    both = Muon([{"params": weights, "lr": 0.1}], weight_decay=0.2)
    apart: list[torch.optim.Optimizer] = [
        torch.optim.Muon(copies[:1], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(copies[1:], lr=0.1, weight_decay=0.2, fused=True),
    ]
    for step in range(3):
        for weight, copy in zip(weights, copies, strict=True):
            weight.grad = torch.randn(weight.shape)
            copy.grad = weight.grad.clone()
        if step == 2:  # it goes on from what it has kept
            kept = both.state_dict()
            both = Muon([{"params": weights, "lr": 0.7}])
            both.load_state_dict(kept)
        both.step()
        for each in apart:
            each.step()
        assert all(torch.equal(weight, copy) for weight, copy in zip(weights, copies, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_unscaled_before_clipping(fused: bool, tmp_path: Path) -> None:
    """As 16-mixed does on a GPU."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    model = linear(optimizer={"_target_": "torch.optim.SGD", "lr": 1.0, "fused": fused})
    before = [weight.detach().clone() for weight in model.parameters()]
    trainer = quiet_trainer(tmp_path, plugins=[plugin], gradient_clip_val=0.01, max_steps=1)
    trainer.fit(model, datamodule=data(train=10))
    steps = [(weight - old).flatten() for weight, old in zip(model.parameters(), before, strict=True)]
    assert float(torch.cat(steps).detach().norm()) == pytest.approx(0.01, rel=1e-3)


class TwiceEvaluatingSGD(torch.optim.SGD):
    """Evaluates a batch twice before it takes a step, as sharpness-aware minimisation does."""

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
        return super().step(closure)


def test_batch_evaluated_twice_counts_once(tmp_path: Path) -> None:
    model = linear(optimizer={"_target_": f"{__name__}.TwiceEvaluatingSGD", "lr": 0.1})
    trainer = quiet_trainer(tmp_path, max_epochs=2, log_every_n_steps=2)
    trainer.fit(model, datamodule=data(train=45))
    assert trainer.global_step == 10
    assert model.train_sums is not None and model.train_sums[2] == 45
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(float(model.train_sums[0]) / 45)


def test_repeated_evaluation_refuses_accumulation(tmp_path: Path) -> None:
    """An optimizer that evaluates a batch several times is refused with gradient accumulation."""
    model = linear(optimizer={"_target_": f"{__name__}.TwiceEvaluatingSGD", "lr": 0.1})
    with pytest.raises(InputError, match=r"_batches=2: TwiceEvaluatingSGD evaluates a batch several times"):
        quiet_trainer(tmp_path, accumulate_grad_batches=2).fit(model, datamodule=data(train=40))
