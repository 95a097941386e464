"""The formats of an exported file: how each is written, read back and used."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.core.errors import InputError
from src.core.extras import require_package
from src.core.names import suggest_name
from src.inference.exporting.network import INPUT, ExportedNetwork
from src.inference.load import LoadedRun
from src.storage.weights import check_fit
from src.training.recorder import is_out_of_memory

OPSET = 20  # of ONNX; the first one with GELU
METADATA = "thunderhead"  # a safetensors file's key for what is known about the network
MAX_REASON = 300  # characters of an exporter's message
Compute = Callable[[Tensor], Tensor]  # raw inputs → outputs


class Format(NamedTuple):
    """A format of an exported file.

    Attributes:
        suffix: the file's ending.
        packages: what it needs in addition to PyTorch, of the extra "export".
        write: writes a run's network to a path.
        open: returns the function that the file at a path holds.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedNetwork, LoadedRun, Path], None]
    open: Callable[[Path, LoadedRun], Compute]


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        InputError: if there is none of this name, or a package is missing.
    """
    if name not in FORMATS:
        near = suggest_name(name, FORMATS)
        hint = f"did you mean {near}? " if near else ""
        raise InputError(f"format={name}: there is no such format, {hint}There are {', '.join(FORMATS)}")
    for package in FORMATS[name].packages:
        require_package(package, "export", f"format={name}")
    return FORMATS[name]


def open_file(name: str, run: LoadedRun, path: Path) -> Compute:
    """Return the function that a file in a format holds: raw inputs → outputs."""
    with silence_exporters():
        return FORMATS[name].open(path, run)


def write_file(name: str, network: ExportedNetwork, run: LoadedRun, path: Path) -> None:
    """Write a network in a format.

    Raises:
        InputError: if the format cannot hold it, with the exporter's reason.
    """
    try:
        with torch.no_grad(), silence_exporters():
            FORMATS[name].write(network, run, path)
    except (InputError, OSError):
        raise
    except Exception as error:  # an exporter raises errors of many kinds
        if is_out_of_memory(error):
            raise
        raise InputError(f"format={name} cannot hold {type(run.model).__name__}: {_find_reason(error)}") from error


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Keep warnings and notes of PyTorch's and ONNX's exporters about their own code from the user."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _find_reason(error: BaseException) -> str:
    """Return the first cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]


# torch.export, and ONNX from it


def _trace_program(network: ExportedNetwork) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(network, (network.make_example(),), dynamic_shapes=(batch,))
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def _write_program(network: ExportedNetwork, run: LoadedRun, path: Path) -> None:
    torch.export.save(_trace_program(network), path)


def _open_program(path: Path, run: LoadedRun) -> Compute:
    return torch.export.load(path).module()


def _write_onnx(network: ExportedNetwork, run: LoadedRun, path: Path) -> None:
    program = torch.onnx.export(
        _trace_program(network),
        input_names=[INPUT],
        output_names=[network.output_name],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)  # one file


def _open_onnx(path: Path, run: LoadedRun) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {INPUT: inputs.numpy()})[0])


def write_reduced(source: Path, target: Path) -> None:
    """Write an ONNX file with the weights of its matrix products and convolutions as 8-bit integers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared")
    with silence_exporters():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, target, weight_type=QuantType.QUInt8)


# TorchScript


def _write_script(network: ExportedNetwork, run: LoadedRun, path: Path) -> None:
    run.model.trainer = run.trainer  # the tracer reads this property, which raises an error as long as there is none
    torch.jit.save(torch.jit.trace(network, network.make_example(), check_trace=False), path)


def _open_script(path: Path, run: LoadedRun) -> Compute:
    script: nn.Module = torch.jit.load(path)
    return script


# Weights only


def _write_weights(network: ExportedNetwork, run: LoadedRun, path: Path) -> None:
    from safetensors.torch import save_file

    state = run.model.state_dict()
    if other := next((name for name, value in state.items() if not isinstance(value, Tensor)), None):
        raise InputError(f"format=safetensors holds tensors, and {other} of {type(run.model).__name__} is none")
    about = {**asdict(run.description), "model": run.collect_model_settings()}
    weights = {name: value.contiguous().clone() for name, value in state.items()}  # no two may share memory
    save_file(weights, path, {"format": "pt", METADATA: json.dumps(about)})


def _open_weights(path: Path, run: LoadedRun) -> Compute:
    from safetensors.torch import load_file

    state, model, steps = load_file(path), run.build_model(), run.description.preprocessing
    check_fit(model, state, path)
    model.load_state_dict(state)
    model.eval()
    return lambda inputs: model(inputs if steps is None else steps(inputs))


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch_export": Format(".pt2", (), _write_program, _open_program),
    "torchscript": Format(".pt", (), _write_script, _open_script),
    "safetensors": Format(".safetensors", ("safetensors",), _write_weights, _open_weights),
}
