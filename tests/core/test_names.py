"""The name that is meant by a wrong one."""

import pytest

from src.cli.catalog import list_choices, list_groups, list_settings
from src.core.names import suggest_name


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ("lr learning_rate learningRate lrate model.lr optimizer.learning_rate", "optimizer.lr"),
        ("epochs epoch n_epochs nepochs num_epochs max_epoch trainer.epochs Epochs", "trainer.max_epochs"),
        ("hidden hidden_dim n_hidden hidden_units hidden_sizes model.hidden layers num_layers", "model.hidden_size"),
        ("batch_size batchsize batch-size batch bs BatchSize data.bs train_batch_size", "data.batch_size"),
        ("drop_out p_drop dropout_rate droput", "model.dropout"),
        ("act activation_fn activations nonlinearity", "model.activation"),
        ("gpus n_gpus devices", "trainer.devices"),
        ("device", "trainer.accelerator"),
        ("dataset Data dataset_name", "data"),
        ("net network arch model_name modle MODEL", "model"),
        ("opt optim optimiser optimizer_type", "optimizer"),
        ("wd weight-decay weight_decays optimizer.weight_decy", "optimizer.weight_decay"),
        ("random_seed seeds sead", "seed"),
        ("steps num_steps max_iter", "trainer.max_steps"),
        ("grad_clip clip_norm gradient_clip", "trainer.gradient_clip_val"),
        ("data_dir", "paths.data"),
    ],
)
def test_misspelt_name_suggests_setting(names: str, meant: str) -> None:
    known = [*list_settings(), *list_groups()]
    assert {name: suggest_name(name, known) for name in names.split()} == dict.fromkeys(names.split(), meant)


@pytest.mark.parametrize("name", ["foo", "xyz", "0.1", "-1", "x", "", "optimizer.learning_speed_of_my_net", "a" * 5000])
def test_unrelated_name_suggests_nothing(name: str) -> None:
    assert suggest_name(name, [*list_settings(), *list_groups()]) is None


@pytest.mark.parametrize(
    ("group", "choice", "meant"),
    [
        ("model", "CNN", "cnn"),
        ("model", "resnet", "resnet18"),
        ("data", "FashionMNIST", "fashion_mnist"),
        ("data", "cifar", "cifar10"),
        ("trainer", "cuda", "gpu"),
        ("optimizer", "AdamW", "adamw"),
    ],
)
def test_misspelt_choice_suggests_choice(group: str, choice: str, meant: str) -> None:
    assert suggest_name(choice, list_choices(group)) == meant
