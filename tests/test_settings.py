import pytest
from omegaconf import DictConfig, OmegaConf

from src.errors import InputError
from src.settings import CHECKS, check

WRONG = [
    ("scheduler.T_max", 0),
    ("scheduler.total_steps", "all"),
    ("scheduler.pct_start", 3),
    ("scheduler.div_factor", 0),
    ("scheduler.final_div_factor", -1),
    ("scheduler.anneal_strategy", "steps"),
    ("scheduler.cycle_momentum", "no"),
    ("callbacks.early_stopping.patience", -1),
    ("callbacks.samples.count", 0),
    ("callbacks.misclassified.count", 0),
    ("trainer.max_steps", 0),
    ("seed", -1),
    ("deterministic", "maybe"),
    ("threads", 0),
    ("compile", True),
    ("split", "train"),
    ("model.hidden_size", "abc"),
    ("model.hidden_size", [64, 0]),
    ("model.hidden_size", True),
    ("model.channels", []),
    ("model.activation", "swish2"),
    ("model.activation", ["relu"]),
    ("model.dropout", 1.5),
    ("model.dropout", 1),
    ("model.batch_norm", "yes please"),
    ("model.batch_norm", 1),
    ("model.output_bias", "no"),
    ("model.products", 2),
    ("model.init", "random"),
    ("model.init_std", 0),
    ("model.convolutions", 0),
    ("model.pool", "middle"),
    ("model.whiten", -1),
    ("model.global_pool", "max"),
    ("model.output_scale", 0),
    ("model.norm_scale", 1),
    ("model.norm_bias_lr", -64),
    ("model.norm_momentum", 0),
    ("data.crop_padding", "mirror"),
    ("data.verify", "maybe"),
    ("model.flip_test", "left"),
    ("model.loss", "hinge"),
    ("model.reduction", "max"),
    ("model.l1", -1),
    ("model.l2", "much"),
    ("model.label_smoothing", -0.1),
    ("model.freeze", "head"),
    ("model.backbone_lr_factor", 0),
    ("model.stem", "big"),
    ("model.resize", 0),
    ("optimizer.lr", -1),
    ("optimizer.lr", 0),
    ("optimizer.lr", float("nan")),
    ("optimizer.weight_decay", -1e-4),
    ("optimizer.momentum", 1.0),
    ("scheduler.gamma", 0),
    ("scheduler.interval", "batch"),
    ("data.batch_size", 0),
    ("data.batch_size", 2.5),
    ("data.val_size", -1),
    ("data.val_size", 1.5),
    ("data.train_size", 0),
    ("data.test_size", 0),
    ("data.noise", -0.1),
    ("data.split_seed", -1),
    ("data.shuffle", 1),
    ("data.drop_last", None),
    ("data.gate", "nor"),
    ("data.held_out", -1),
    ("data.folds", 1),
    ("data.fold", -1),
    ("model.distance", "cosine"),
    ("model.k", 0),
    ("model.block", 0),
    ("callbacks.class_probabilities.count", 0),
    ("callbacks.first_layer.count", 0),
    ("callbacks.first_layer.every_n_epochs", -1),
    ("callbacks.feature_maps.count", 0),
    ("callbacks.augmented_batch.count", 0),
    ("callbacks.decision_regions.every_n_epochs", -1),
    ("callbacks.hidden_space.every_n_epochs", 0.5),
    ("callbacks.fit.every_n_epochs", None),
    ("callbacks.gradient_norms.every_n_steps", 0),
    ("data.standardize", 1),
    ("data.flip", "left"),
    ("data.crop", -1),
    ("data.cutout", 0.5),
    ("trainer.max_epochs", 0),
    ("trainer.check_val_every_n_epoch", 0),
    ("trainer.gradient_clip_val", 0),
    ("trainer.accumulate_grad_batches", 0),
    ("trainer.log_every_n_steps", 0),
    ("trainer.devices", 0),
    ("trainer.num_nodes", 0),
    ("trainer.accelerator", "tpu9"),
]
RIGHT = [
    ("scheduler.T_max", "total_steps"),
    ("scheduler.total_steps", 100),
    ("scheduler.pct_start", 0.3),
    ("scheduler.div_factor", 25.0),
    ("scheduler.final_div_factor", 1e4),
    ("scheduler.anneal_strategy", "linear"),
    ("scheduler.cycle_momentum", False),
    ("callbacks.early_stopping.patience", 0),
    ("callbacks.samples.count", 1),
    ("callbacks.misclassified.count", 1),
    ("trainer.max_steps", -1),
    ("seed", 0),
    ("seed", 2**32 - 1),
    ("seed", None),
    ("deterministic", True),
    ("threads", 1),
    ("threads", None),
    ("compile", None),
    ("compile", "max-autotune"),
    ("split", "test"),
    ("model.hidden_size", 1),
    ("model.hidden_size", []),
    ("model.hidden_size", [512, 512]),
    ("model.channels", [8]),
    ("model.activation", "gelu"),
    ("model.dropout", 0),
    ("model.batch_norm", False),
    ("model.batch_norm", "after"),
    ("model.output_bias", False),
    ("model.products", True),
    ("model.init", "he"),
    ("model.init_std", 0.1),
    ("model.init", "dirac"),
    ("model.convolutions", 2),
    ("model.pool", "first"),
    ("model.whiten", 0),
    ("model.global_pool", True),
    ("model.output_scale", 0.1111),
    ("model.norm_scale", False),
    ("model.norm_bias_lr", 64),
    ("model.norm_momentum", 1),
    ("data.crop_padding", "reflect"),
    ("model.flip_test", True),
    ("model.loss", "quadratic"),
    ("model.loss", None),
    ("model.reduction", "sum"),
    ("model.l1", 0.01),
    ("model.l2", 0),
    ("model.label_smoothing", 0.1),
    ("model.freeze", "backbone"),
    ("model.freeze", 3),
    ("model.backbone_lr_factor", 1),
    ("model.stem", "imagenet"),
    ("model.resize", 224),
    ("model.resize", None),
    ("optimizer.lr", 1e-3),
    ("optimizer.weight_decay", 0),
    ("optimizer.momentum", 0.9),
    ("scheduler.gamma", 0.5),
    ("scheduler.interval", "epoch"),
    ("data.batch_size", 1),
    ("data.val_size", 0),
    ("data.val_size", 0.25),
    ("data.train_size", None),
    ("data.train_size", 1.0),
    ("data.test_size", 1),
    ("data.noise", 0),
    ("data.split_seed", 0),
    ("data.shuffle", False),
    ("data.drop_last", True),
    ("data.gate", "nand"),
    ("data.held_out", 3),
    ("data.folds", 5),
    ("data.fold", 0),
    ("model.distance", "l2"),
    ("model.k", 5),
    ("model.block", 1000),
    ("callbacks.class_probabilities.count", 10),
    ("callbacks.first_layer.count", 1),
    ("callbacks.first_layer.every_n_epochs", 0),
    ("callbacks.feature_maps.count", 4),
    ("callbacks.augmented_batch.count", 16),
    ("callbacks.decision_regions.every_n_epochs", 0),
    ("callbacks.hidden_space.every_n_epochs", 10),
    ("callbacks.fit.every_n_epochs", 1),
    ("callbacks.gradient_norms.every_n_steps", 10),
    ("data.standardize", False),
    ("data.flip", True),
    ("data.crop", 0),
    ("data.cutout", 8),
    ("trainer.max_epochs", 1),
    ("trainer.check_val_every_n_epoch", 10),
    ("trainer.gradient_clip_val", None),
    ("trainer.gradient_clip_val", 0.5),
    ("trainer.accumulate_grad_batches", 4),
    ("trainer.log_every_n_steps", 1),
    ("trainer.devices", "auto"),
    ("trainer.devices", [0, 1]),
    ("trainer.num_nodes", 2),
    ("trainer.accelerator", "cuda"),
]


def config(key: str, value: object, target: str = "src.some.Class") -> DictConfig:
    made = OmegaConf.create({})
    OmegaConf.update(made, key, value)
    if "." in key:
        OmegaConf.update(made, f"{key.split('.')[0]}._target_", target)
    return made


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_named_with_what_it_must_be(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        check(config(key, value))
    assert str(caught.value) == f"{key}={value} must be {CHECKS[key][1]}"


def test_every_check_refuses_something_and_lets_something_pass() -> None:
    assert {key for key, _ in WRONG} == {key for key, _ in RIGHT} == set(CHECKS)


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_a_right_value_passes(key: str, value: object) -> None:
    check(config(key, value))


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"model\.dropout=2 must be .*; optimizer\.lr=-1 must be"):
        check(OmegaConf.create({"model": {"dropout": 2}, "optimizer": {"lr": -1}}))


def test_classes_of_ones_own_take_what_they_like() -> None:
    check(config("model.dropout", [0.1, 0.2], target="mypackage.MyModel"))


def test_a_checkpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"ckpt_path=no/such\.ckpt: there is no such file"):
        check(OmegaConf.create({"ckpt_path": "no/such.ckpt"}))


def test_two_sources_of_first_weights_are_refused() -> None:
    with pytest.raises(InputError, match="use one of them"):
        check(OmegaConf.create({"ckpt_path": __file__, "model": {"weights": "IMAGENET1K_V1"}}))
