"""The sides of `halving` that are not this project's: a plain loop, searched by Optuna or by Ray Tune.

python -m tests.bench.halving_sides optuna SEED       # prints the best accuracy and the epochs trained as JSON
python -m tests.bench.halving_sides pydantic SEED     # Ray Tune, which needs that package
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.data.mnist import MNIST

AXES: dict[str, list[Any]] = {
    "model.hidden_size": [32, 128],
    "optimizer.lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
    "model.dropout": [0, 0.3],
    "model.batch_norm": [True, False],
}
EPOCHS, FACTOR, TRAIN, VAL, BATCH = 27, 3, 5_000, 5_000, 64


def count_settings() -> int:
    return math.prod(map(len, AXES.values()))


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and validation images (N, 784), and their digits."""
    data = MNIST(root=os.environ.get("DATA_DIR", "data"), batch_size=BATCH, val_size=VAL, train_size=TRAIN)
    data.prepare_data()
    data.setup()
    assert data.train_set is not None and data.val_set is not None
    parts = [(data.transform(part.inputs).flatten(1), part.targets) for part in (data.train_set, data.val_set)]
    return (*parts[0], *parts[1])


def train(setting: dict[str, Any], seed: int, parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> Iterator[float]:
    """Train with a setting; yield the best validation accuracy so far after each epoch."""
    torch.manual_seed(seed)
    inputs, targets, val_inputs, val_targets = parts
    width = setting["model.hidden_size"]
    norm = [nn.BatchNorm1d(width)] if setting["model.batch_norm"] else []
    net = nn.Sequential(
        nn.Linear(784, width), *norm, nn.ReLU(), nn.Dropout(setting["model.dropout"]), nn.Linear(width, 10)
    )
    optimizer, best = torch.optim.Adam(net.parameters(), setting["optimizer.lr"]), 0.0
    for _ in range(EPOCHS):
        net.train()
        for index in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[index]), targets[index]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            best = max(best, (net(val_inputs).argmax(dim=1) == val_targets).float().mean().item())
        yield best


def search_with_optuna(seed: int) -> dict[str, float]:
    """Try each setting once, in an order drawn by the seed, with Hyperband's pruner, two trials at once."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts, spent = load(), 0
    torch.set_num_threads(1)

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent
        setting = {name: trial.suggest_categorical(name, values) for name, values in AXES.items()}
        best = 0.0
        for epoch, best in enumerate(train(setting, seed, parts), start=1):
            spent += 1
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=FACTOR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(AXES, seed), pruner=pruner)
    study.optimize(objective, n_trials=count_settings(), n_jobs=2)
    return {"best": study.best_value, "epochs": spent}


def search_with_ray(seed: int) -> dict[str, float]:
    """Try each setting once with ASHA, two trials at once."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def objective(config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        for best in train(config, seed, ray.get(shared)):
            tune.report({"best": best})

    with tempfile.TemporaryDirectory(prefix="tune") as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        shared = ray.put(load())
        scheduler = ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=FACTOR)
        tuner = tune.Tuner(
            objective,
            param_space={name: tune.grid_search(values) for name, values in AXES.items()},
            tune_config=tune.TuneConfig(metric="best", mode="max", scheduler=scheduler),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        grid = tuner.fit()
        results = [grid[number] for number in range(len(grid))]
    epochs = sum(each.metrics["training_iteration"] for each in results if each.metrics)
    return {"best": max(each.metrics["best"] for each in results if each.metrics), "epochs": epochs}


if __name__ == "__main__":
    search = {"optuna": search_with_optuna, "pydantic": search_with_ray}[sys.argv[1]]
    print(json.dumps(search(int(sys.argv[2]))))
