"""Load a finished run to predict with: its network on a device, and what its data are."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from src.callbacks.explanations.saliency import Saliency, compute_saliency
from src.core.errors import InputError
from src.data.base import TensorDataModule
from src.data.loading.samples import cast_inputs, check_tokens
from src.data.preprocessing import DataDescription, describe_data, read_description
from src.data.tasks import TASKS
from src.storage.configs import open_config
from src.storage.trust import read_packages
from src.storage.weights import load_weights, read_checkpoint
from src.training.build import (
    build_data,
    build_model,
    build_plain_trainer,
    load_data,
    prepare_machine,
    select_model_arguments,
)
from src.training.checkpointing.checkpoint import find_checkpoint
from src.training.validation.config import find_wrong_settings

log = logging.getLogger(__name__)
DENSE_BATCH_SIZE = 32  # samples whose maps, as large as the inputs, are in memory together


class _DescribedData(LightningDataModule):
    """A stand-in for a data module that is only asked for the shape and the classes of its data."""

    def __init__(self, description: DataDescription) -> None:
        super().__init__()
        self.task, self.in_shape = description.task, description.in_shape
        self.class_names, self.num_classes = description.class_names, description.num_classes
        self.value_names, self.num_values = description.value_names, description.num_values
        self.num_tokens = description.num_tokens


class LoadedRun:
    """A finished run: its network on a device, in evaluation mode, and the description of its data.

    The description is read from the checkpoint; the data set is needed only for its own samples and for checkpoints
    of earlier code.

    Args:
        cfg: the config of a command: ``run``, ``checkpoint``, ``trust``, ``trainer``, ``paths.data``.
        can_download: whether a data set that is not there is downloaded, when its samples are asked for.

    Raises:
        InputError: if the run cannot be opened or there is no such device.
    """

    def __init__(self, cfg: DictConfig, can_download: bool = True) -> None:
        self.kind, self.can_download = prepare_machine(cfg), can_download
        torch.backends.cudnn.benchmark = False  # each time the same algorithms
        self.folder = Path(cfg.run)
        self.config = _open_config(cfg)
        self.path = find_checkpoint(self.folder, cfg.checkpoint)
        self._data: LightningDataModule | None = None
        self.description = self._describe()
        self.model = self._load_model()
        self.trainer = self._prepare_device(cfg)

    @property
    def data(self) -> LightningDataModule:
        """The run's data module with its samples, which are loaded when they are asked for."""
        if self._data is None:
            data = build_data(self.config)
            if self.can_download:
                load_data(data)
            elif isinstance(data, TensorDataModule):
                data.setup()
            self._data = data
        return self._data

    def _describe(self) -> DataDescription:
        """Return the description of the run's data, from its checkpoint or, if that has none, from the data set."""
        found = read_description(read_checkpoint(self.path), self.path)
        if found is None:
            log.info("note: %s does not describe its data, as earlier code wrote it: they are loaded again", self.path)
            found = describe_data(self.data)
        if found is None or found.task not in TASKS:
            needed = "a data module with task, in_shape, class_names and describe_preprocessing()"
            raise InputError(f"{self.folder}: it is not known what its network predicts; that takes {needed}")
        return found

    def build_model(self) -> LightningModule:
        """Return the run's model with new weights."""
        self.config.scheduler = {}  # it may need the data set, and is not used
        return build_model(self.config, _DescribedData(self.description), self.kind)

    def collect_model_settings(self) -> dict[str, Any]:
        """Return the arguments with which the model is built to predict, and its class's name as ``_target_``."""
        settings: Any = OmegaConf.to_container(self.config.model, resolve=True)
        parts = {"model": settings, "optimizer": None, "scheduler": None}
        about = select_model_arguments(parts, _DescribedData(self.description))
        return {**settings, **{name: value for name, value in about.items() if value is not None}}

    def _load_model(self) -> LightningModule:
        model = self.build_model()
        load_weights(model, self.path)
        return model.eval()

    def _prepare_device(self, cfg: DictConfig) -> Any:
        """Move the network to the device, in the precision of the run or the one that is given."""
        if cfg.trainer.precision is None:
            cfg.trainer.precision = self.config.trainer.get("precision") or "32-true"
        trainer = build_plain_trainer(cfg, self.kind, self.folder)
        if trainer.num_devices > 1 or trainer.num_nodes > 1:
            raise InputError(f"trainer.devices={cfg.trainer.devices}: a prediction uses one device")
        self.device = trainer.strategy.root_device
        trainer.precision_plugin.convert_module(self.model)  # in place
        self.model.to(self.device)
        return trainer

    def compute_outputs(self, inputs: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the network's outputs for a batch of raw inputs, (B, out_features) float32, on the CPU.

        Args:
            inputs: as the data set stores them.
            prepare: the preprocessing.

        Raises:
            InputError: if the outputs are not of that shape, or the inputs should be tokens and are not.
        """
        about, task = self.description, TASKS[self.description.task]
        if about.task == "dense" and len(inputs) > DENSE_BATCH_SIZE:
            return torch.cat([self.compute_outputs(part, prepare) for part in inputs.split(DENSE_BATCH_SIZE)])
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            prepared = prepare(inputs).to(device=self.device)
            check_tokens(prepared, about.num_tokens)
            outputs = self.model(cast_inputs(prepared, self.model.dtype, about.num_tokens))
        shape = (len(inputs), task.count_outputs(about.num_classes, about.num_values))
        if not isinstance(outputs, Tensor) or outputs.shape[:2] != shape or outputs.ndim != task.output_dims:
            raise InputError(f"{self.folder}: its network does not return one output for each class or value")
        return outputs.float().cpu()

    def compute_saliency(self, inputs: Tensor, prepare: Callable[[Tensor], Tensor]) -> Saliency:
        """Return what in raw images the predictions rest on, see `compute_outputs`.

        Raises:
            InputError: if the outputs have no gradient with respect to the inputs.
        """
        found = compute_saliency(self.model, prepare(inputs).to(device=self.device).to(self.model.dtype))
        if found is None:
            raise InputError(f"explain=true: the outputs of {self.folder} have no gradient, so nothing explains them")
        return found

    def get_samples(self, split: str) -> TensorDataModule:
        """Return the data module if it has samples in a split ("train", "val" or "test").

        Raises:
            InputError: if it has none.
        """
        data = self.data
        if not isinstance(data, TensorDataModule):
            raise InputError(f"split={split}: {type(data).__name__} is no TensorDataModule, its samples are not known")
        samples = getattr(data, f"{split}_set")
        if samples is None or not samples.size:
            raise InputError(f"split={split}: {self.folder} has no such samples")
        self._check_unchanged(split)
        return data

    def _check_unchanged(self, split: str) -> None:
        """Compare the data set with what the checkpoint says about it; log a warning if only its values differ.

        Raises:
            InputError: if it has other classes or inputs.
        """
        now, then = describe_data(self.data), self.description
        if now is None or replace(now, preprocessing=None) != replace(then, preprocessing=None):
            raise InputError(f"split={split}: the data have other classes or inputs than {self.folder} was trained on")
        if now.preprocessing != then.preprocessing:
            log.warning("the data have changed since %s was trained: they are prepared as they are now", self.folder)


def _open_config(cfg: DictConfig) -> DictConfig:
    """Return a run's own config, checked."""
    run = open_config(Path(cfg.run), read_packages(cfg.trust), ["paths.data"] if cfg.paths.data else [])
    run.paths.data = cfg.paths.data or run.paths.data
    settings: Any = OmegaConf.to_container(run, resolve=True)
    if wrong := find_wrong_settings(settings):
        raise InputError(f"{cfg.run}: {'; '.join(wrong)}")
    return run
