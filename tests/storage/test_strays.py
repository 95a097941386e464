"""What has no place in the folder of a run or a sweep."""

import os
import socket
from pathlib import Path

import pytest

from src.core.errors import InputError
from src.storage.strays import refuse_job_strays, refuse_strays
from src.sweeps.store.jobs import refuse_strays_outside_jobs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep's folder with a job; beside it what a link may lead to."""
    folder = tmp_path / "sweep"
    (folder / "0_a" / "figures").mkdir(parents=True)
    (folder / "0_a" / "job.json").write_text("{}")
    (folder / "figures").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "job.json").write_text("{}")
    (tmp_path / "sweep2").mkdir()  # whose name begins with that of the other
    return folder


def test_folder_without_strays_is_accepted(sweep: Path) -> None:
    """A link to such a folder and links within it are accepted, too."""
    (sweep / "best").symlink_to("0_a")  # inside
    (sweep / "0_a" / "figures" / "again").symlink_to("../job.json")
    (sweep / "0_a" / "round").symlink_to(".")
    (sweep / "0_a" / "dangling").symlink_to("nothing")
    (sweep.parent / "link").symlink_to("sweep")
    for folder in (sweep, sweep.parent / "link", sweep / "nothing", sweep / "0_a" / "job.json"):
        refuse_strays(folder)
        refuse_strays_outside_jobs(folder)
    refuse_job_strays(sweep / "0_a")
    refuse_job_strays(sweep / "best")


@pytest.mark.parametrize("target", ["../../../secret", "/etc/passwd", "../../../sweep2", "../../figures", "../../../x"])
def test_link_leading_out_is_refused(sweep: Path, target: str) -> None:
    (sweep / "0_a" / "figures" / "link").symlink_to(target)
    for refuse, folder in ((refuse_strays, sweep / "0_a"), (refuse_job_strays, sweep / "0_a")):
        with pytest.raises(InputError) as error:
            refuse(folder)
        assert str(error.value).startswith(f"{sweep}/0_a/figures/link is a link that leads out of {sweep}/0_a; ")


def test_indirect_link_leading_out_is_refused(sweep: Path) -> None:
    (sweep / "0_a" / "first").symlink_to("figures/second")
    (sweep / "0_a" / "figures" / "second").symlink_to(sweep.parent / "secret")
    with pytest.raises(InputError, match="first is a link that leads out"):
        refuse_strays(sweep / "0_a")


def test_pipes_and_sockets_are_refused(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(sweep / "0_a" / "train.log")
    with pytest.raises(InputError, match=r"0_a/train\.log is not a regular file"):
        refuse_strays(sweep)
    monkeypatch.chdir(sweep / "figures")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x.png")
        with pytest.raises(InputError, match=r"figures/x\.png is not a regular file"):
            refuse_strays_outside_jobs(sweep)


def test_job_strays_do_not_affect_sweep(sweep: Path) -> None:
    """Outside the jobs, only what does not belong to a job counts."""
    (sweep / "0_a" / "link").symlink_to("/etc")
    (sweep / "1_b").symlink_to("../secret")
    refuse_strays_outside_jobs(sweep)
    for folder in ("0_a", "1_b"):
        with pytest.raises(InputError, match="leads out"):
            refuse_job_strays(sweep / folder)


@pytest.mark.parametrize("name", ["figures", "report.html", ".lock", "study.journal", "7_not_a_job", "stacks"])
def test_links_beside_jobs_are_refused(sweep: Path, name: str) -> None:
    (sweep / "figures").rmdir()
    (sweep / name).symlink_to("../sweep2" if name == "7_not_a_job" else "../secret")
    with pytest.raises(InputError, match=f"{name} is a link that leads out"):
        refuse_strays_outside_jobs(sweep)


def test_figures_folder_is_not_a_job(sweep: Path) -> None:
    """A folder of figures is not a job, whatever it contains."""
    (sweep / "figures" / "job.json").write_text("{}")
    (sweep / "figures" / "x.png").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"figures/x\.png is a link"):
        refuse_strays_outside_jobs(sweep)


def test_folder_with_too_many_files_is_refused(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.storage.strays.MAX_FILES", 20)
    for number in range(30):
        (sweep / "figures" / f"{number}.png").touch()
    with pytest.raises(InputError, match="more than 20 files"):
        refuse_strays(sweep)
