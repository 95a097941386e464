"""What a run's config names: classes of ours, of the right kind, and nothing else without ``trust=``."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import callbacks, loggers

from src.storage.trust import find_packages
from tests.command_line import run, train_bare
from tests.hostile import EVAL, MARK, RESUME, RUN, edit_config, expect_refusal


def test_unmodified_run_is_opened(cwd: Path) -> None:
    """What is refused below is refused for what is spoiled, and for nothing else."""
    for command in (EVAL, RESUME):
        outcome = run(*command, cwd=cwd)
        assert outcome.code == 0, outcome.text


# Names and kinds

TARGETS: dict[str, dict[str, Any]] = {
    "a pickle, by torch": {"_target_": "torch.load", "f": "bomb.pt", "weights_only": False},
    "a pickle, by numpy": {"_target_": "numpy.load", "file": "bomb.npy", "allow_pickle": True},
    "a local hub": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "model", "source": "local"},
    "a function of ours that writes": {"_target_": "src.storage.files.write_text", "path": MARK, "text": "x"},
    "a function of ours that links": {"_target_": "src.storage.files.append_bytes", "path": MARK, "content": "x"},
    "eval": {"_target_": "builtins.eval", "_args_": ["open('ran', 'w')"]},
    "exec": {"_target_": "builtins.exec", "_args_": ["open('ran', 'w')"]},
    "open": {"_target_": "builtins.open", "file": MARK, "mode": "w"},
    "a shell": {"_target_": "os.system", "command": "touch ran"},
    "a process": {"_target_": "subprocess.Popen", "args": ["touch", "ran"]},
    "a module that ours has imported": {"_target_": "src.cli.main.os.system", "command": "touch ran"},
    "another one": {"_target_": "src.storage.records.subprocess.run", "args": ["touch", "ran"]},
    "a class that ours has imported": {"_target_": "src.training.run.Path"},
    "a program of ours": {"_target_": "src.train.main"},
    "an import": {"_target_": "importlib.import_module", "name": "canary"},
    "an import by Hydra": {"_target_": "hydra.utils.get_class", "path": "canary.Model"},
    "a part of a function": {"_target_": "functools.partial", "_args_": [{"_target_": "os.system"}]},
    "a package beside ours": {"_target_": "canary.Model"},
    "a function beside ours": {"_target_": "canary.touch"},
    "a name like ours": {"_target_": "src_.Model"},
    "a name that begins as ours": {"_target_": "srcx.Model"},
    "a name like Lightning's": {"_target_": "lightningx.Model"},
    "another name like it": {"_target_": "lightning_.Model"},
    "a name like torchvision's": {"_target_": "torchvisionx.Model"},
    "a relative name": {"_target_": "..canary.Model"},
    "a name from a dot": {"_target_": ".canary.Model"},
    "a name with an empty part": {"_target_": "src..models.mlp.MLP"},
    "a name with a call": {"_target_": "src.models.mlp.MLP()"},
    "a name with a path": {"_target_": "src/models/mlp.MLP"},
    "a name with letters that look alike": {"_target_": "\uff53rc.models.mlp.MLP"},
    "a name alone": {"_target_": "os"},
    "no name": {"_target_": 5},
    "an empty name": {"_target_": ""},
    "several names": {"_target_": ["src.models.mlp.MLP"]},
    "a name by a reference": {"_target_": "${name}"},
    "a class that is not there": {"_target_": "src.models.mlp.Nothing"},
    "a module that is not there": {"_target_": "src.models.nothing.Nothing"},
    "a network that is no model": {"_target_": "src.models.mlp.MLPNet"},
    "a class of another kind": {"_target_": "src.callbacks.figures.learning_curves.Curves"},
    "a kind's own name": {"_target_": "torch.optim.Optimizer"},
    "a part of it": {"_partial_": True},
    "more for it": {"_args_": [1]},
    "another way to make it": {"_convert_": "object"},
    "a function inside": {"activation": {"_target_": "os.system", "command": "touch ran"}},
    "a function in a list inside": {"extra": [[{"_target_": "builtins.open", "file": MARK, "mode": "w"}]]},
    "a class inside": {"activation": {"_target_": "canary.Model"}},
    "a program inside": {"activation": {"_target_": "lightning.Trainer"}},
}


@pytest.mark.parametrize("settings", TARGETS.values(), ids=TARGETS)
def test_foreign_model_target_is_refused(settings: dict[str, Any], cwd: Path) -> None:
    """A `_target_` that is not a model class of ours is named in the error and does not run."""
    edit_config(cwd, {f"model.{name}": value for name, value in settings.items()})
    error = expect_refusal(cwd, *RESUME)
    assert f"{RUN}/.hydra/config.yaml: model." in error or f"{RUN}/.hydra/config.yaml is damaged: model" in error
    named = settings.get("_target_", "model.")
    assert "${" in str(named) or not named or (named if isinstance(named, str) else str(named)).strip("[]'") in error


SLOTS = {
    "data": "Data",
    "model": "Model",
    "optimizer": "Optimizer",
    "scheduler": "Scheduler",
    "callbacks.curves": "Callback",
    "logger.tensorboard": "Logger",
    "trainer": "Model",
    "trainer.profiler": "Profiler",
}


@pytest.mark.parametrize("slot", SLOTS)
def test_foreign_class_suggests_trust(slot: str, cwd: Path) -> None:
    """Each part of a config refuses foreign classes and suggests the `trust=` that allows them."""
    edit_config(cwd, {f"{slot}._target_": f"canary.{SLOTS[slot]}"})
    for command in (EVAL, RESUME):
        error = expect_refusal(cwd, *command)
        assert f"{slot}._target_=canary.{SLOTS[slot]} is not trusted" in error
        assert error.endswith("add trust=canary")


@pytest.mark.parametrize("slot", SLOTS)
def test_class_of_wrong_kind_is_refused(slot: str, cwd: Path) -> None:
    edit_config(
        cwd,
        {
            f"{slot}._target_": "src.models.mlp.MLP"
            if slot != "model"
            else "src.callbacks.figures.learning_curves.Curves"
        },
    )
    assert f"{slot}._target_=src." in (error := expect_refusal(cwd, *RESUME))
    assert " is not a " in error


WRITERS = {
    "callbacks.more": "lightning.pytorch.callbacks.ModelCheckpoint",
    "callbacks.again": "src.training.checkpointing.checkpoint.RunCheckpoint",
    "callbacks.serve": "lightning.pytorch.serve.ServableModuleValidator",
    "logger.more": "lightning.pytorch.loggers.WandbLogger",
}


@pytest.mark.parametrize("slot", WRITERS)
def test_classes_that_write_elsewhere_need_trust(slot: str, cwd: Path) -> None:
    """Classes that may write elsewhere or use the network need trust, even our own and Lightning's."""
    edit_config(cwd, {f"{slot}._target_": WRITERS[slot]})
    error = expect_refusal(cwd, *RESUME)
    assert WRITERS[slot] in error and "it may write elsewhere or use the network" in error


# trust=


def test_trusted_package_is_used(cwd: Path) -> None:
    edit_config(cwd, {"model._target_": "canary.Model", "callbacks.curves._target_": "srcx.Callback"})
    error = expect_refusal(cwd, "src.eval", f"run={RUN}", "trust=canary")
    assert "callbacks.curves._target_=srcx.Callback is not trusted" in error
    for command in (("src.eval", f"run={RUN}"), ("src.train", f"resume={RUN}", "trainer.max_epochs=2")):
        outcome = run(*command, "trust=[canary,srcx]", cwd=cwd)
        assert outcome.code == 0, outcome.text
        assert (cwd / MARK).exists()
        (cwd / MARK).unlink()


@pytest.mark.parametrize("trust", ["can", "canar", "canary.Mode", "canary_", "src", "[os,sys]"])
def test_trust_covers_only_named_package(trust: str, cwd: Path) -> None:
    edit_config(cwd, {"model._target_": "canary.Model"})
    assert "model._target_=canary.Model is not trusted" in expect_refusal(cwd, *RESUME[:-1], f"trust={trust}")


@pytest.mark.parametrize("trust", ["''", "canary.", "..", "canary.Model()", "5", "[canary,5]", "{a: 1}", "a b", "[a"])
def test_invalid_trust_is_refused(trust: str, cwd: Path) -> None:
    assert " must be null or a package's name or a list of them" in expect_refusal(cwd, *RESUME[:-1], f"trust={trust}")


def test_function_of_trusted_package_is_refused(cwd: Path) -> None:
    """A function in place of a class is not called, even if its package is trusted."""
    edit_config(cwd, {"model._target_": "os.system", "model.command": f"touch {MARK}"})
    assert "model._target_=os.system is not a LightningModule" in expect_refusal(cwd, *RESUME[:-1], "trust=os")


CALLS = {
    "a function beside ours": "canary.touch",
    "one in a list": ["canary.touch"],
    "a function of Python's": "os.system",
    "a function of ours": "src.storage.files.remove_file",
}


@pytest.mark.parametrize("name", CALLS.values(), ids=CALLS)
def test_schedule_function_needs_trust(name: Any, cwd: Path) -> None:
    """A schedule may name functions only of a trusted package."""
    edit_config(cwd, {"scheduler": {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": name}})
    for trust in ("trust=null", "trust=srcx"):
        assert (
            "scheduler.lr_lambda" in (error := expect_refusal(cwd, *RESUME[:-1], trust)) and "is not trusted" in error
        )


def test_module_name_is_not_imported(cwd: Path) -> None:
    """The name of a module in place of a function does not import the module."""
    edit_config(cwd, {"scheduler": {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": "canary"}})
    run(*RESUME, cwd=cwd)
    assert not (cwd / MARK).exists()


def test_folder_cannot_trust_itself(cwd: Path) -> None:
    edit_config(cwd, {"model._target_": "canary.Model", "trust": "canary"})
    for command in (EVAL, RESUME):
        assert "canary.Model is not trusted" in expect_refusal(cwd, *command)


def test_typed_classes_are_trusted(cwd: Path) -> None:
    """Classes given on the command line need no trust."""
    edit_config(cwd, {"callbacks.more": {"_target_": "canary.Nothing"}})
    typed = ("callbacks.more._target_=canary.Callback", "+callbacks.typed._target_=canary.Callback")
    outcome = run(*RESUME, *typed, cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert (cwd / MARK).exists()


def test_new_run_prints_trust_for_later(cwd: Path) -> None:
    """A new run needs no trust, and its last lines give the `trust=` that opens it again."""
    assert "trust=canary is for resume=" in expect_refusal(
        cwd, "src.train", "model._target_=canary.Model", "trust=canary"
    )
    typed = ("model._target_=canary.Model", "+callbacks.a._target_=srcx.Callback", "trainer.max_epochs=1", "name=mine")
    outcome = train_bare(*typed, cwd=cwd)
    for words in ("src.eval run=outputs/runs/mine", "src.train resume=outputs/runs/mine"):
        assert f"python -m {words} 'trust=[srcx,canary]'" in outcome.out


def test_untrusted_lightning_classes_are_known() -> None:
    """Lightning's classes that write elsewhere are known by name, before any import."""
    elsewhere = (loggers.CometLogger, loggers.LitLogger, loggers.MLFlowLogger, loggers.WandbLogger)
    kinds = (callbacks.Checkpoint, callbacks.SpikeDetection, *elsewhere)
    for module in (callbacks, loggers):
        for name, found in vars(module).items():
            if isinstance(found, type):
                config = {"callbacks": {"it": {"_target_": f"{module.__name__}.{name}"}}}
                assert find_packages(config) == (("lightning",) if issubclass(found, kinds) else ()), name
