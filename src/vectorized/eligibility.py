"""Decide which jobs can be trained in a stack, and how many of them fit into memory."""

import copy
import itertools
import os
import pickle
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_object
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf
from torch.nn import Conv2d, Dropout, Linear, Module
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.callbacks.early_stopping import EarlyStopping
from src.callbacks.figures.base import FigureCallback
from src.callbacks.monitor import resolve_monitor
from src.callbacks.progress import Progress
from src.cli.messages import format_error
from src.cli.names import register_resolvers
from src.core import devices
from src.core.formatting import format_setting_value
from src.core.hints import has_custom_hooks
from src.data.base import TensorDataModule
from src.models.base import SupervisedModule
from src.models.cnn import CNN
from src.models.images import ImageModule
from src.models.mlp import MLP
from src.training.build import build_data, build_model
from src.training.chunking import CALLBACK_HOOKS, LOADING_HOOKS
from src.vectorized.costs import Eligibility, StepCost
from src.vectorized.entry import DTYPES
from src.vectorized.networks.layers import StackedDropout, find_unsupported_layer, list_names, stack_networks
from src.vectorized.schedules import STACKED_OPTIMIZERS

# The only values of these Trainer settings that a stack supports. Settings in HONOURED may have any value; all others
# must be absent.
REQUIRED_TRAINER_SETTINGS: dict[str, Any] = {
    "max_steps": -1,
    "gradient_clip_val": None,
    "accumulate_grad_batches": 1,
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1.0,
    "overfit_batches": 0.0,
    "profiler": None,
    "strategy": "auto",
    "num_nodes": 1,
}
SUPPORTED_TRAINER_SETTINGS = (
    "_target_",
    "accelerator",
    "devices",
    "precision",
    "max_epochs",
    "log_every_n_steps",
    "check_val_every_n_epoch",
)
SUPPORTED_OPTIMIZER_SETTINGS = {"_target_", "lr", "momentum", "nesterov", "weight_decay", "betas", "eps", "fused"}
UNSUPPORTED_SCHEDULER_SETTINGS = ("frequency", "monitor", "strict", "name", "reduce_on_plateau")
TEXT_SCHEDULER_SETTINGS = ("_target_", "interval", "anneal_strategy", "mode")
KNOWN_MODELS = (SupervisedModule, ImageModule, MLP, CNN)  # model classes whose methods a stack reproduces
OVERRIDABLE_METHODS = {
    "get_parameter_groups",
    "images_only",
}  # methods that another class may override, in addition to its network
SUPPORTED_CALLBACKS = (Progress, LearningRateMonitor, EarlyStopping)
SUPPORTED_LOGGER = {  # conf/logger/tensorboard.yaml
    "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
    "name": "",
    "version": "",
    "default_hp_metric": False,
}
# Methods of data modules that a stack does not call: they must not be overridden.
DATA_HOOKS = (*LOADING_HOOKS, "draw_epoch_order", "val_dataloader", "test_dataloader")
# Multiplications of a sample's convolutions, beyond which a CPU computes grouped ones more slowly than one network's
# after the other: a halved sweep of 32 CNNs with 280,000 took 1.5 times as long in stacks as with the local launcher.
MAX_CPU_CONVOLUTIONS = 100_000
# Memory of a job in copies of its weights: weights, gradients, two moments, best and last state, temporary values.
WEIGHT_COPIES = 8
MEMORY_FRACTION = 0.5


def check_configs(configs: list[bytes], processes: int) -> list[Eligibility]:
    """Return a verdict for one example job of each kind.

    Args:
        configs: the examples' configs as Hydra composed them, pickled.
        processes: number of stacks that are trained at once.
    """
    register_resolvers()
    return [check_eligibility(pickle.loads(config), processes) for config in configs]


def check_eligibility(config: DictConfig, processes: int) -> Eligibility:
    HydraConfig.instance().set_config(config)
    cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        if reason := _find_unsupported_setting(cfg):
            return Eligibility(reason)
        kind = devices.resolve_device_kind(cfg.trainer.accelerator)
        if devices.resolve_precision(cfg.trainer.precision, kind) not in DTYPES:
            return Eligibility(f"trainer.precision={cfg.trainer.precision}")
        data = build_data(cfg)
        model = build_model(cfg, data, kind)
        if not isinstance(data, TensorDataModule) or has_custom_hooks(data, TensorDataModule, DATA_HOOKS):
            return Eligibility(f"{type(data).__name__}, which loads its batches in a custom way")
        if data.is_mixing:
            return Eligibility("data.mixup or data.cutmix")
        reason = _find_unsupported_monitor(cfg, data) or _explain_unsupported_model(model)
    except Exception as error:  # Hydra wraps errors of the objects that it instantiates
        return Eligibility(f"an error that each job reports itself ({format_error(error)})")
    if reason is not None:
        return Eligibility(reason)
    verdict = _estimate_capacity(model, data, kind, processes)
    if kind == devices.CPU and verdict.cost.convolutions > MAX_CPU_CONVOLUTIONS:
        return Eligibility("convolutions, which a CPU computes faster for one network at a time")
    return verdict


def _find_unsupported_setting(cfg: DictConfig) -> str | None:
    """Return the first setting that a stack does not support; ``None`` if it supports all."""
    for name, value in cfg.trainer.items():
        wanted = REQUIRED_TRAINER_SETTINGS.get(name, value if name in SUPPORTED_TRAINER_SETTINGS else ...)
        # Compare types, too: for limits, the integer 1 means one batch, the float 1.0 all batches.
        if (type(value), value) != (type(wanted), wanted):
            return f"trainer.{name}={value}"
    if cfg.trainer.devices not in (1, "auto"):
        return f"trainer.devices={cfg.trainer.devices}"
    if cfg.seed is None:
        return "seed=null"
    if cfg.get("data_on_device") is False:
        return "data_on_device=false"
    if cfg.get("compile"):
        return f"compile={cfg.compile}"
    if cfg.get("ema"):
        return f"ema={cfg.ema}"
    if cfg.get("metrics"):
        return f"metrics={format_setting_value(list(cfg.metrics))}"
    if unknown := set(cfg.optimizer) - SUPPORTED_OPTIMIZER_SETTINGS:
        return f"optimizer.{min(unknown)}"
    if get_object(cfg.optimizer._target_) not in STACKED_OPTIMIZERS:
        return f"optimizer {cfg.optimizer._target_}"
    if reason := _find_unsupported_schedule(OmegaConf.to_container(cfg.scheduler, resolve=True)):
        return reason
    if cfg.get("deterministic"):
        return "deterministic=true"
    if any(dict(each) != SUPPORTED_LOGGER for each in cfg.logger.values() if each):
        return "a custom logger"
    return next(
        (f"callbacks.{name}" for name, each in cfg.callbacks.items() if each and _is_needed_in_training(each)), None
    )


def _find_unsupported_schedule(settings: Any) -> str | None:
    """Return the first setting of a schedule that a stack does not support; ``None`` if it supports all.

    A stack supports schedules that are stepped in each step or epoch, and whose settings are numbers.
    """
    if not settings:
        return None
    kind = get_object(settings["_target_"])
    if not isinstance(kind, type):
        return f"scheduler {settings['_target_']}, a function"
    if issubclass(kind, ReduceLROnPlateau):
        return "a scheduler that needs a metric"
    for name, value in settings.items():
        entries = value if isinstance(value, list) else [value]
        numbers = all(isinstance(entry, (int, float)) or entry in ("total_steps", "lr") for entry in entries)
        if name in UNSUPPORTED_SCHEDULER_SETTINGS or not (name in TEXT_SCHEDULER_SETTINGS or numbers):
            return f"scheduler.{name}"
    return None


def _is_needed_in_training(settings: DictConfig) -> bool:
    """Return True if a callback must be called during training.

    Figures need not: they are drawn later, when the user opens them.
    """
    kind = get_class(settings._target_)
    if kind in SUPPORTED_CALLBACKS:
        return kind is LearningRateMonitor and len(settings) > 1  # with custom settings, such as logging every step
    steps = any(getattr(kind, hook) is not getattr(Callback, hook) for hook in CALLBACK_HOOKS)
    return steps or not issubclass(kind, FigureCallback)


def _find_unsupported_monitor(cfg: DictConfig, data: TensorDataModule) -> str | None:
    """Return a monitor setting whose metric a stack does not compute, or that lacks a validation set; else ``None``."""
    known = (None, "val/loss", *(["val/acc"] if data.num_classes else []))
    judge, _ = resolve_monitor(cfg, data)
    if judge not in known:
        return f"monitor={judge}"
    for name, each in cfg.callbacks.items():
        if each and get_class(each._target_) is EarlyStopping:
            if judge is None:
                return f"callbacks.{name} without a validation set"
            if each.get("monitor") not in known:
                return f"callbacks.{name}.monitor={each.get('monitor')}"
    return None


def _explain_unsupported_model(model: Any) -> str | None:
    if not isinstance(model, SupervisedModule):
        return type(model).__name__
    if model.num_tokens or (model.kind.has_classes and not model.kind.has_one_class):
        return f"the task {model.task}" if not model.num_tokens else "inputs that are tokens"
    if model.num_values > 1:
        return f"a regression of {model.num_values} values"
    if getattr(model, "flip_test", False):
        return "model.flip_test=true"
    if model.class_weights_setting is not None:
        return f"model.class_weights={format_setting_value(model.class_weights_setting)}"
    if _has_custom_training(model):
        return f"{type(model).__name__}, which customises its training"
    if layer := find_unsupported_layer(model.net):
        return f"{type(model).__name__} with {layer} in it"
    if not _is_stackable(model):
        return f"{type(model).__name__}, whose network computes something outside its layers"
    return None


def _has_custom_training(model: SupervisedModule) -> bool:
    """Return True if a model's class overrides methods of `SupervisedModule` or Lightning, not only the network."""
    kinds = itertools.takewhile(lambda kind: kind is not SupervisedModule, type(model).__mro__)
    own = {name for kind in kinds if kind not in KNOWN_MODELS for name in vars(kind) if not name.startswith("__")}
    return bool(own & set(dir(SupervisedModule)) - OVERRIDABLE_METHODS)


@torch.no_grad()
def _is_stackable(model: SupervisedModule) -> bool:
    """Return True if two stacked copies of a network give the same outputs as the copies alone.

    They do not if code outside the layers mixes channels, which belong to different jobs in a stack.
    """
    nets = [copy.deepcopy(model.net).double().train() for _ in range(2)]
    for parameter in nets[1].parameters():
        parameter.mul_(1.5).add_(0.1)
    first = next(module for module in model.net.modules() if not list(module.children()))
    if not isinstance(first, (Linear, Conv2d)):  # only these accept inputs that all jobs share
        return False
    inputs = torch.randn(3, 2, *model.in_shape, dtype=torch.float64)
    wanted = torch.stack([_disable_dropout(net)(inputs[:, index]) for index, net in enumerate(nets)], dim=1)
    try:
        found = _disable_dropout(stack_networks(nets))(inputs.flatten(1, 2)).view(wanted.shape)
    except (RuntimeError, ValueError, IndexError):
        return False
    return torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)


def _disable_dropout(net: Module) -> Module:
    """Disable a network's dropout layers in place, and return the network."""
    for module in net.modules():
        if isinstance(module, (Dropout, StackedDropout)):
            module.eval()
    return net


# Memory


def _estimate_capacity(model: Any, data: TensorDataModule, device_kind: str, processes: int) -> Eligibility:
    """Return a positive verdict with the numbers of jobs and samples that fit into memory."""
    values = sum(output.numel() for _, output in _list_outputs(model))
    weights = WEIGHT_COPIES * sum(parameter.numel() for parameter in model.parameters())
    inputs = 2 * int(torch.tensor(data.in_shape).prod()) + 2  # gathered and preprocessed inputs, with targets
    budget = (
        MEMORY_FRACTION * _get_free_memory(device_kind) / processes / 8
    )  # 8 bytes per number: float64, the larger type
    most = int(budget / (weights + data.batch_size * (inputs + 3 * values)))
    return Eligibility(None, max(1, most), int(budget / (2 * values)), _describe_cost(model, data, device_kind))


def _describe_cost(model: Any, data: TensorDataModule, device_kind: str) -> StepCost:
    """Return what a step of a job costs."""
    uses = {
        name: output[0, 0].numel() for name, output in _list_outputs(model) if output.ndim == 4
    }  # a convolution's weights are used at each place of an image
    shapes = {own: tuple(value.shape) for own, value in model.net.state_dict().items() if value.ndim > 1}
    weights = {
        slot: (shapes[own], uses.get(own.rpartition(".")[0], 1)) for slot, own in list_names(model.net) if own in shapes
    }
    return StepCost(weights, data.batch_size, "cpu" if device_kind == devices.CPU else "gpu")


def _list_outputs(model: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the name and the output of each layer of a network for one sample."""
    found: list[tuple[str, torch.Tensor]] = []

    def keep(name: str) -> Any:
        return lambda module, given, output: found.append((name, output))

    leaves = [(name, module) for name, module in model.net.named_modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(keep(name)) for name, leaf in leaves]
    with torch.no_grad():
        model.eval()(model.example_input_array)
    for hook in hooks:
        hook.remove()
    return found


def _get_free_memory(device_kind: str) -> float:
    """Return the free memory of the GPU or the machine, in bytes."""
    if device_kind == devices.CUDA:
        return float(torch.cuda.mem_get_info()[0])
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return float(os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE"))
