"""The card of an exported file: what it is, how it is used, and what is known about it."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from torch.nn.parameter import is_lazy

from src.core.formatting import format_metric, format_metrics
from src.core.places import PATH_SETTINGS
from src.inference.exporting.formats import FORMATS, OPSET
from src.inference.exporting.network import ExportedNetwork
from src.inference.exporting.parity import Parity, RawSamples
from src.inference.exporting.usage import describe_use
from src.inference.load import LoadedRun
from src.storage.files import format_yaml
from src.storage.status import read_results

SECTIONS = ("seed", "model", "data", "optimizer", "scheduler")  # the settings that it shows
METRIC = re.compile(r"(val|test)/[\w.@-]+")
SPLITS = {"val": "validation", "test": "test"}


class Reduction(NamedTuple):
    """What 8-bit weights save and cost.

    Attributes:
        sizes: of the file with float32 weights and of that with 8-bit weights, in bytes.
        parity: of the smaller file.
        scores: of both files on all validation samples; empty if there are none.
        tested: the number of these samples.
    """

    sizes: tuple[int, int]
    parity: Parity
    scores: tuple[dict[str, float], ...]
    tested: int

    def __str__(self) -> str:
        large, small = (f"{size / 1e6:.3g} MB" for size in self.sizes)
        cost = "what that costs in accuracy is unknown, since there are no validation samples here"
        if self.scores:
            before, after = map(format_metrics, self.scores)
            cost = f"{after} instead of {before.split()[-1]} on {self.tested:,} validation samples"
        return f"8-bit weights: {small} instead of {large}, {cost}; largest difference {self.parity}"


class Export(NamedTuple):
    """An exported file and what was measured on it.

    Attributes:
        file: its path.
        format_name: its format.
        network: what it holds.
        run: where that comes from.
        samples: what it was compared on.
        parity: how far its outputs are from the run's, with float32 weights.
        reduction: what its 8-bit weights cost, if it has any.
    """

    file: Path
    format_name: str
    network: ExportedNetwork
    run: LoadedRun
    samples: RawSamples
    parity: Parity
    reduction: Reduction | None


def format_card(export: Export) -> str:
    """Return the card of an exported file as Markdown."""
    run, (status, metrics) = export.run, read_results(export.run.folder)
    parts = [
        f"# {run.folder.resolve().name}",
        _introduce(export),
        "## Use",
        describe_use(export.file, export.format_name, export.network, run),
        "## Data",
        _describe_data(export),
        "## Results",
        "\n".join(_list_results(export, metrics)),
        "## Export",
        "\n".join(_list_facts(export, status)),
        "## Limits",
        "\n".join(_list_limits(export)),
        "## Settings",
        f"```yaml\n{format_yaml(_collect_settings(run))}```",
    ]
    return "\n\n".join(parts) + "\n"


def _introduce(export: Export) -> str:
    run = export.run
    what = "the weights of" if export.format_name == "safetensors" else "the whole way from an input to a prediction by"
    weights = sum(weight.numel() for weight in run.model.parameters() if not is_lazy(weight))
    return (
        f"`{export.file.name}` holds {what} a `{run.config.model._target_}` of {weights:,} parameters, from "
        f"`{run.path.name}` of the run. Task: {run.description.task}."
    )


def _describe_data(export: Export) -> str:
    description, sizes = export.run.description, export.samples.sizes
    known = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    text = f"`{export.run.config.data._target_}`: "
    text += f"{known} samples." if known else "the numbers of samples are unknown, since the data were not there."
    listed = {f"The {description.num_classes} classes, in their order": description.class_names}
    if description.preprocessing and (about := description.preprocessing.options.get("text")):
        splitting = "in lower case, each run of letters and digits or other sign is one"
        listed[f"The words of the column {about['name']} from token 2 on ({splitting})"] = about["words"]
    found = {title: json.dumps(names, ensure_ascii=False) for title, names in listed.items() if names}
    return "\n\n".join([text, *(f"{title}:\n\n```json\n{names}\n```" for title, names in found.items())])


def _list_results(export: Export, metrics: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of metrics, each with the number of samples if that is known."""
    found = {name: value for name, value in metrics.items() if METRIC.fullmatch(name) and isinstance(value, float)}
    if not found:
        yield "The run has measured nothing on validation or test samples."
        return
    yield from ("| metric | value | n |", "|---|---|---|")
    for name, value in found.items():
        yield f"| {name} | {format_metric(name, value)} | {_count_samples(export, name.partition('/')[0])} |"


def _count_samples(export: Export, stage: str) -> str:
    """Return the number of samples behind a stage's metrics."""
    trainer = export.run.config.trainer
    limited = trainer.get(f"limit_{stage}_batches", 1.0) != 1.0 or trainer.get("overfit_batches")
    size = export.samples.sizes.get(SPLITS[stage])
    return "unknown" if size is None else f"part of {size:,}" if limited else f"{size:,}"


def _list_facts(export: Export, status: dict[str, Any]) -> Iterator[str]:
    """Yield how the file was made and checked."""
    form, precision = FORMATS[export.format_name], export.run.config.trainer.get("precision", "32-true")
    versions = ", ".join(f"{each} {version(each)}" for each in ("torch", "lightning", *form.packages))
    opset = f", opset {OPSET}" if export.format_name == "onnx" else ""
    yield f"- Format: {export.format_name}{opset}; written with {versions}"
    before = " before its weights were rounded" if export.reduction else ""
    yield f"- Largest difference from the run{before}: {export.parity}"
    if export.reduction:
        yield f"- {export.reduction}"
    yield f"- It computes in float32; the run was trained in {precision}"
    if status["status"] != "finished":
        yield f"- The run has not finished: {status['status']}"


def _list_limits(export: Export) -> Iterator[str]:
    """Yield what the file cannot do, as far as it is known."""
    if export.run.description.task in ("multiclass", "binary"):
        yield "- It always answers with one of its classes, also for an input that is none of them."
    yield "- Its results were measured on samples of the data set above; for others they are unknown."
    per_class = read_results(export.run.folder)[1].get("test/acc_per_class")
    if isinstance(per_class, dict) and per_class:
        worst = min(per_class, key=lambda name: per_class[name])
        name = json.dumps(worst, ensure_ascii=False)
        yield f"- In the test its accuracy was lowest for the class {name}: {per_class[worst]:.2%}."


def _collect_settings(run: LoadedRun) -> dict[str, Any]:
    """Return the run's settings, with the names of files in place of their paths."""
    settings: Any = OmegaConf.to_container(run.config, resolve=True)
    for name in PATH_SETTINGS:
        section, _, key = name.rpartition(".")
        holder = settings.get(section) if section else settings
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = Path(holder[key]).name
    return {name: settings[name] for name in SECTIONS if settings.get(name) not in (None, {})}
