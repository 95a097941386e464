"""A stranger's sweep: what its report, its comparison and a start that goes on with it read, write and show."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.storage.files import format_yaml, write_csv, write_json
from src.sweeps.report.write import load_sweeps, write_report
from tests.command_line import BARE, ROOT, read_json, run
from tests.hostile import MARK, RUN, SECRET, edit_config, expect_refusal
from tests.sweeps import made_job
from tests.sweeps.reports import Page

SWEEP = "outputs/sweeps/theirs"
REPORT, COMPARE = ("src.report", SWEEP), ("src.compare", SWEEP)
RESUME_SWEEP = ("src.train", "-m", *BARE, "name=theirs", "seed=0,1", "trainer.max_epochs=1")
METRICS = {"val/acc": 0.5, "test/acc": 0.5, "monitor": "val/acc", "mode": "max", "best": 0.5, "seconds": 1.0}


@pytest.fixture
def sweep(cwd: Path) -> Path:
    """A sweep of two finished jobs without weights, so that there is nothing to draw."""
    folder = cwd / SWEEP
    for seed in (0, 1):
        made_job(folder, f"{seed}_seed-{seed}", f"seed={seed}", metrics=METRICS)
    (folder / "multirun.yaml").write_text(format_yaml({"hydra": {"overrides": {"task": ["seed=0,1"]}}}))
    return folder


def set_figures(sweep: Path, pictures: Any) -> None:
    edit_config(sweep, {"hydra.callbacks.pictures": {"pictures": pictures}}, "multirun.yaml")


def make_report_page(cwd: Path) -> Page:
    """The report, made anew; status 1 tells that something could not be read or drawn."""
    outcome = run(*REPORT, cwd=cwd)
    assert outcome.code == 1 and "Traceback" not in outcome.text, outcome.text
    assert not (cwd / MARK).exists()
    return Page(cwd / SWEEP / "report.html")


# Links


@pytest.mark.parametrize(
    "name",
    [".report.html.partial", "report.html", "results.csv", ".lock", ".results.lock", "figures", "stacks", "x.log"],
)
def test_sweep_with_outside_link_is_refused(name: str, sweep: Path, cwd: Path) -> None:
    """A sweep with a symbolic link that leads out of its folder is refused."""
    (sweep / name).symlink_to("../../../secret" if "." not in name else "../../../secret/file")
    for command in (REPORT, COMPARE, RESUME_SWEEP):
        assert f"{name} is a link that leads out of {SWEEP}" in expect_refusal(cwd, *command)


@pytest.mark.parametrize(
    "name", ["train.log", "figures/curves.png", "metrics.json", "", "events.out.tfevents.0.hparams"]
)
def test_job_with_outside_link_is_reported(name: str, sweep: Path, cwd: Path) -> None:
    """A job with a link that leads out of the sweep is left out of the report, which says so."""
    secret = cwd / "secret"
    if name:
        target = secret / "file"
        link = sweep / "1_seed-1" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    else:
        shutil.move(sweep / "1_seed-1", secret / "job")
        (secret / "job" / "train.log").write_text(SECRET)
        (sweep / "1_seed-1").symlink_to("../../../secret/job")
    before = {path: path.read_bytes() for path in secret.rglob("*") if path.is_file()}
    page = make_report_page(cwd)
    told = f"{SWEEP}/1_seed-1{'/' if name else ''}{name} is a link that leads out of"
    assert told in page.text.partition("Could not be read or drawn:")[2]
    assert "2 jobs 1 finished 1 damaged training 1 s" in page.text  # nothing of the second
    assert SECRET not in page.source
    assert "leads out of" in expect_refusal(cwd, *RESUME_SWEEP)
    assert {path: path.read_bytes() for path in secret.rglob("*") if path.is_file()} == before


def test_resumed_sweep_writes_through_no_link(sweep: Path, cwd: Path) -> None:
    (sweep / "multirun.yaml").unlink()
    (sweep / "multirun.yaml").symlink_to("../../../secret/file")
    assert "multirun.yaml is a link" in expect_refusal(cwd, *RESUME_SWEEP)
    assert (cwd / "secret" / "file").read_text() == SECRET


def test_pipe_in_job_does_not_block(sweep: Path, cwd: Path) -> None:
    os.mkfifo(sweep / "1_seed-1" / "history.csv")
    assert "1_seed-1/history.csv is not a regular file" in make_report_page(cwd).text


def test_stack_state_must_be_in_sweep(sweep: Path, cwd: Path) -> None:
    """The saved state of a stack is read only from inside the sweep's folder."""
    from src.sweeps.store.jobs import read_job

    job = sweep / "0_seed-0"
    for state in (
        "../../../secret/file",
        f"{cwd}/secret/file",
        "stacks/../../../../secret/file",
        "stacks/..",
        5,
        ["a"],
    ):
        write_json(job / "stack.json", {"state": state})
        assert read_job(job).stack is None
    (sweep / "stacks").mkdir()
    (sweep / "stacks" / "0-1_a.ckpt").touch()
    write_json(job / "stack.json", {"state": "stacks/0-1_a.ckpt"})
    assert read_job(job).stack == sweep / "stacks" / "0-1_a.ckpt"


def test_run_list_reads_nothing_through_links(sweep: Path, cwd: Path) -> None:
    """The list of runs shows a folder with links as damaged and reads nothing in it."""
    (cwd / RUN / ".lock").unlink()
    (cwd / RUN / ".lock").symlink_to("../../../secret/file")
    (sweep / "0_seed-0" / "metrics.json").unlink()
    (sweep / "0_seed-0" / "metrics.json").symlink_to("/dev/zero")
    out = run("src.runs", cwd=cwd).out
    assert out.count("damaged: ") == 2 and "trained/.lock is a link" in out and "metrics.json is a link" in out
    assert (cwd / "secret" / "file").read_text() == SECRET


# Pictures


def test_only_png_of_limited_size_is_shown(sweep: Path, cwd: Path) -> None:
    """The report shows only PNG figures of a limited size."""
    figures = sweep / "0_seed-0" / "figures"
    figures.mkdir()
    Image.new("RGB", (20, 20)).save(figures / "good.png")
    Image.new("RGB", (20, 20)).save(figures / "other.png", format="gif")
    (figures / "script.png").write_text("%!PS\n(ran) (w) file\nshowpage\n%%EOF")
    Image.new("1", (9_000, 9_000)).save(figures / "large.png")
    page = make_report_page(cwd)
    assert len(page.all("img")) == 1
    notes = page.text.partition("Could not be read or drawn:")[2]
    assert notes.count("cannot be shown: ") == 3 and "pixels are more than allowed" in notes


FIGURES: dict[str, Any] = {
    "torch.load": {"x": {"_target_": "torch.load", "f": "bomb.pt", "weights_only": False}},
    "canary.Picture": {"x": {"_target_": "canary.Picture"}},
    "src.callbacks.figures.learning_curves.Curves": {"x": {"_target_": "src.callbacks.figures.learning_curves.Curves"}},
    "../../../x is not a valid name for a figure": {"../../../x": {"_target_": "src.sweeps.figures.base.Scores"}},
    "/etc/x is not a valid name for a figure": {"/etc/x": {"_target_": "src.sweeps.figures.base.Scores"}},
    "pictures.x.picture=../../../secret": {
        "x": {"_target_": "src.sweeps.figures.base.ImageGrid", "columns": 1, "picture": "../../../secret"}
    },
    "x refers to other settings": {"x": {"_target_": "src.sweeps.figures.base.Scores", "title": "${oc.env:HOME}"}},
    "pictures.x._args_": {"x": {"_target_": "src.sweeps.figures.base.Scores", "_args_": [1]}},
    "is damaged": {"x": 5},
}


@pytest.mark.parametrize("told", FIGURES)
def test_foreign_sweep_figures_are_refused(told: str, sweep: Path, cwd: Path) -> None:
    """A sweep's config may name only figure classes of ours, with valid names and settings."""
    set_figures(sweep, FIGURES[told])
    error = expect_refusal(cwd, *COMPARE)
    assert f"{SWEEP}/multirun.yaml" in error and told in error


def test_figure_of_trusted_package_is_drawn(sweep: Path, cwd: Path) -> None:
    set_figures(sweep, {"mine": {"_target_": "canary.Picture", "metric": "val/acc", "title": "$x/y$"}})
    assert expect_refusal(cwd, *COMPARE).endswith("add trust=canary")
    outcome = run(*COMPARE, "trust=canary", cwd=cwd)
    assert outcome.code == 0, outcome.text
    assert (sweep / "figures" / "mine.png").is_file()


@pytest.mark.parametrize("content", [5, {"hydra": 5}, {"hydra": {"callbacks": {"pictures": [1]}}}, [1], None])
def test_other_multirun_yaml_has_no_figures(content: Any, sweep: Path, cwd: Path) -> None:
    """A multirun.yaml with other content gives no figures and no error."""
    (sweep / "multirun.yaml").write_text(format_yaml(content))
    for command in (COMPARE, REPORT):
        assert run(*command, cwd=cwd).code == 0


# What the page shows

TAG = "<img src=x onerror=alert(1)></script></title><script>alert(1)</script>"


def fill_sweep(sweep: Path, tag: str) -> None:
    """Two finished jobs and a failed one with a text wherever there is one."""
    values = {"model.a": tag, f"model.{tag}": 1, "seed": 0, "data.class_names": [tag], "model._target_": tag}
    metrics = {**METRICS, f"val/{tag}": 0.5, f"test/{tag}": 0.5, "test/acc_per_class": {tag: 0.5}}
    for number, first in enumerate((tag, "b")):
        typed = (f"model.a={number}", f"+model.{'x' if '=' in tag else tag}={number}")
        folder = made_job(
            sweep, f"{number}{tag.replace('/', '')}", *typed, metrics=metrics, settings=values | {"model.a": first}
        )
        write_csv(folder / "history.csv", [{"epoch": 1, "val/loss": 0.5, f"val/{tag}": 0.5}])
        git = {"commit": tag, "dirty": True}
        origin = {"command": tag, "started": tag, "git": git, "python": tag, "packages": {tag: tag}, "device": tag}
        write_json(folder / "provenance.json", {**origin, "resumed": [origin]})
        (folder / "figures").mkdir()
        Image.new("RGB", (20, 20)).save(folder / "figures" / f"{tag.replace('/', '')}.png")
        notes = read_json(folder / "job.json")
        write_json(folder / "job.json", {**notes, "choices": {"data": tag, "model": tag}})
    failed = made_job(sweep, "2", "model.a=2", status="failed", reason=tag)
    write_json(failed / "status.json", {"status": "failed", "reason": tag, "message": tag})
    (failed / "train.log").write_text(tag)
    (sweep / "multirun.yaml").write_text(format_yaml({"hydra": {"overrides": {"task": [tag]}}}))
    trials = [{"number": number, "job": number, "state": "complete", "value": 0.5} for number in (0, 1)]
    about = {"sampler": tag, "seed": 0, "at_once": 1, "planned": 2, "metric": f"val/{tag}", "mode": "max"}
    write_json(sweep / "search.json", {**about, "space": {tag: tag}, "trials": trials, "importance": {tag: 1.0}})


def test_report_escapes_html(tmp_path: Path) -> None:
    """Texts with HTML add no element, script or attribute to the report."""
    fill_sweep(tmp_path / TAG.replace("/", ""), TAG)
    fill_sweep(tmp_path / "plain", "plain")
    page, plain = (
        Page(write_report(load_sweeps([folder]))) for folder in (tmp_path / TAG.replace("/", ""), tmp_path / "plain")
    )
    assert page.source.count("alert(1)") > 30
    assert page.scripts == plain.scripts
    assert {each.tag for each in page.elements} == {each.tag for each in plain.elements}
    assert not [name for each in page.elements for name in each.attributes if name.startswith("on")]
    assert not [link for link in page.links if ":" in link.split("/")[0]]
    drawn = json.dumps([each for each in page.data if "layout" in each])  # Plotly takes some HTML
    assert len(drawn) > 1000 and "<img" not in drawn and "<script" not in drawn
    scripts = list((ROOT / "src" / "sweeps" / "report").glob("*.js"))  # all else they set as text
    assert scripts and not [path for path in scripts if "HTML" in path.read_text()]


def test_latex_commands_are_escaped(tmp_path: Path) -> None:
    """Texts with LaTeX commands add no command to the LaTeX table."""
    evil = "\\input{/etc/passwd} \\write18{touch ran} % & $ # _ ^^5c"
    fill_sweep(tmp_path / "sweep", evil)
    write_report(load_sweeps([tmp_path / "sweep"]))
    table = (tmp_path / "sweep" / "leaderboard.tex").read_text()
    body = "\n".join(line for line in table.splitlines() if not line.startswith("%"))
    assert "textbackslash" in body
    ours = {"begin", "end", "toprule", "midrule", "bottomrule", "textbf", "textbackslash", "textasciicircum", "pm"}
    ours |= {"centering", "caption", "label"}
    assert set(re.findall(r"\\([a-z]+)", body)) <= ours
