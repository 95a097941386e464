"""How an exported file is used: the code that reads it, and its input and output in words."""

from pathlib import Path

from src.data.preprocessing import IMAGE, ROW
from src.data.tasks import TASKS
from src.inference.exporting.network import INPUT, PROBABILITIES, ExportedNetwork
from src.inference.load import LoadedRun

CODE = {
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
inputs = np.zeros({shape}, np.{type})  # a batch of any size
outputs = session.run(None, {{"inputs": inputs}})[0]
""",
    "torch_export": """import torch

network = torch.export.load("{file}").module()
inputs = torch.zeros({shape}, dtype=torch.{type})  # a batch of any size
outputs = network(inputs)
""",
    "torchscript": """import torch

network = torch.jit.load("{file}")
inputs = torch.zeros({shape}, dtype=torch.{type})  # a batch of any size
outputs = network(inputs)
""",
    "safetensors": """import torch
from safetensors.torch import load_file
from {module} import {name}
from src.data.preprocessing import Preprocessing

model = {name}({settings}).eval()
model.load_state_dict(load_file("{file}"))
prepare = Preprocessing({steps})
inputs = torch.zeros({shape}, dtype=torch.{type})  # a batch of any size
outputs = model(prepare(inputs))
""",
}


def describe_use(file: Path, format_name: str, network: ExportedNetwork, run: LoadedRun) -> str:
    """Return the code that reads a file, and what goes in and out, as Markdown."""
    about = run.description
    size = TASKS[about.task].count_outputs(about.num_classes, about.num_values)
    if network.output_name == PROBABILITIES:
        size = about.num_classes
    pixels = ", H, W" if about.task == "dense" else ""
    output = f"`{network.output_name}`: float32 (B, {size}{pixels}), {_describe_output(network, run)}"
    kept = format_name != "safetensors"
    parts = [
        f"```python\n{_format_code(file, format_name, network, run)}```",
        f"- Input{f' `{INPUT}`' if kept else ''}: {_name_type(network)} (B, {', '.join(map(str, network.in_shape))}), "
        f"{_describe_input(network, run)}\n- Output {output}\n- {_describe_steps(network, kept)}",
    ]
    return "\n\n".join(parts)


def _format_code(file: Path, format_name: str, network: ExportedNetwork, run: LoadedRun) -> str:
    settings = run.collect_model_settings()
    module, _, name = settings.pop("_target_").rpartition(".")
    steps = network.prepare
    scale = f", mean={steps.mean}, std={steps.std}" if steps.mean else ""
    return CODE[format_name].format(
        file=file.name,
        shape=(1, *network.in_shape),
        type=_name_type(network),
        module=module,
        name=name,
        settings=", ".join(f"{key}={value!r}" for key, value in settings.items()),
        steps=f"{steps.kind!r}{scale}",
    )


def _name_type(network: ExportedNetwork) -> str:
    return str(network.input_type).removeprefix("torch.")


def _describe_input(network: ExportedNetwork, run: LoadedRun) -> str:
    steps = run.description.preprocessing
    if steps is None:
        return "as the run's data set prepares them; it does not say how (`describe_preprocessing`)"
    if steps.kind == IMAGE:
        return "pixels from 0 to 255; `src.predict` scales pictures of another size and crops them to the centre"
    if network.num_tokens:
        words = ", 0 behind the end of a text, 1 for an unknown word, the others as listed below"
        return f"tokens from 0 to {network.num_tokens - 1}{words if 'text' in steps.options else ''}"
    if steps.kind == ROW:
        return f"a row of the table as it is encoded for training: {', '.join(_list_columns(steps.options))}"
    return "numbers in the unit of the data"


def _list_columns(options: object) -> list[str]:
    """Return the names of a table's inputs, in their order."""
    from src.data.tables.encoding import ColumnEncoder

    return ColumnEncoder.from_plain(options["columns"]).feature_names  # type: ignore[index]


def _describe_output(network: ExportedNetwork, run: LoadedRun) -> str:
    about = run.description
    if network.output_name == "values":
        names = f": {', '.join(about.value_names)}" if about.value_names else ""
        return f"in the unit of the run's targets{names}"
    if network.output_name != PROBABILITIES:
        return "before softmax or sigmoid" if about.task != "binary" else "the logit of the second class"
    each = "one for each class" + (" of each pixel" if about.task == "dense" else "")
    return "one for each label, between 0 and 1" if about.task == "multilabel" else f"{each}, which sum to 1"


def _describe_steps(network: ExportedNetwork, kept: bool) -> str:
    steps, where = network.prepare, "inside the file" if kept else "by the code above"
    if not steps.mean:
        return f"Preprocessing, {where}: the input as float32"
    mean, std = (", ".join(f"{number:.6g}" for number in numbers) for numbers in (steps.mean, steps.std))
    return f"Preprocessing, {where}: (input − mean) / std, with mean {mean} and std {std}"
