"""Starting and ending fast: what the program says, does and leaves stays as it was."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.object_type import ObjectType

from src.cli.startup import disable_gc_for_imports, find_group_options, freeze_imported
from tests.command_line import BARE, CONF, ROOT, run_process

# A callback that leaves something to be done at exit, before any of which the program must not end.
AT_EXIT = """
import atexit
from pathlib import Path
from lightning import Callback

class AtExit(Callback):
    def __init__(self):
        atexit.register(Path("at_exit").touch)
"""

# The command line as a part of another program, which ends with a status of its own.
HOST = """
import runpy, sys
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("src.train", run_name="__main__", alter_sys=True)
sys.exit(3)
"""

ONE_EPOCH = (*BARE, "trainer.max_epochs=1")
HYDRA_GET_GROUP_OPTIONS = ConfigLoaderImpl.get_group_options


def test_run_completes_exit_handlers(tmp_path: Path) -> None:
    """The exit status is 0, everything is written and the functions registered at exit have run."""
    (tmp_path / "mine.py").write_text(AT_EXIT)
    outcome = run_process("src.train", *ONE_EPOCH, "+callbacks.mine._target_=mine.AtExit", cwd=tmp_path, is_fresh=True)
    assert outcome.code == 0 and outcome.err == ""
    assert (tmp_path / "at_exit").is_file()
    assert outcome.out.rstrip().endswith("trainer.max_epochs=2")  # the last of its last words


def test_failed_run_prints_only_one_line(tmp_path: Path) -> None:
    """No warnings of leaks are printed."""
    outcome = run_process(
        "src.train", *ONE_EPOCH, "optimizer.lr=1e30", "model.activation=relu", cwd=tmp_path, is_fresh=True
    )
    assert "the loss became" in outcome.error


def test_host_program_continues_after_run(tmp_path: Path) -> None:
    """A program that runs the command line as a part of itself continues afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", HOST, *ONE_EPOCH],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_gc_freezes_imports_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected again after the imports."""
    frozen: list[int] = []
    freeze_imported.cache_clear()
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    for _ in range(2):
        with disable_gc_for_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
    assert len(frozen) == 1


def test_failed_import_reenables_gc() -> None:
    with pytest.raises(ImportError), disable_gc_for_imports():
        import nothing_of_this_name  # noqa: F401
    assert gc.isenabled()


@pytest.mark.parametrize("group", ["", "model", "hydra", "hydra/launcher", "nothing"])
@pytest.mark.parametrize("kind", [ObjectType.CONFIG, ObjectType.GROUP, None])
def test_group_options_match_hydra(group: str, kind: ObjectType | None) -> None:
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    shown = [
        name for name in HYDRA_GET_GROUP_OPTIONS(loader, group, kind) if not name.startswith("_")
    ]  # `_` marks bases
    assert find_group_options(loader, group, kind) == shown


def test_group_options_include_search_path(tmp_path: Path) -> None:
    """The search path is given on the command line."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("width: 3\n")
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    there = find_group_options(
        loader, "model", config_name="train", overrides=[f"hydra.searchpath=[file://{tmp_path}]"]
    )
    assert set(there) - set(find_group_options(loader, "model", config_name="train")) == {"mine"}
