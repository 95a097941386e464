"""Export a finished run: write a file, compare it with the run, and keep it, with a card, if it computes the same."""

import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import DictConfig, OmegaConf

from src.core.errors import InputError
from src.core.formatting import to_relative_path
from src.core.places import expand_home, resolve_data_dir
from src.inference.exporting.card import Export, Reduction, format_card
from src.inference.exporting.formats import Format, find_format, open_file, write_file, write_reduced
from src.inference.exporting.network import LOGITS, ExportedNetwork
from src.inference.exporting.parity import Parity, RawSamples, compare_outputs, find_samples, measure_score
from src.inference.load import LoadedRun
from src.storage.files import open_atomic, sync_together, write_text
from src.storage.status import read_status
from src.training.recorder import explain_memory_errors
from src.training.validation.config import check_config

log = logging.getLogger(__name__)
CARD_SUFFIX = ".md"  # added to the file's name


@explain_memory_errors()
def export(cfg: DictConfig) -> Path:
    """Export a run as the config says; return the file's path.

    Raises:
        InputError: if the run cannot be exported, or the file computes something else than the run.
    """
    resolve_data_dir()
    expand_home(cfg)
    if OmegaConf.is_missing(cfg, "run"):
        raise InputError("run=… is missing: the folder of a run")
    check_config(cfg)
    chosen = find_format(cfg.format)
    path = _choose_path(cfg, chosen)
    _check_request(cfg, path)
    run = LoadedRun(cfg, can_download=False)
    logits = cfg.format == "safetensors" and run.description.class_names  # nothing is computed after the network
    network = ExportedNetwork(run.model, run.description, LOGITS if logits else cfg.output)
    samples = find_samples(run, network)
    log.info("exporting %s of %s", run.path.name, run.folder)
    with TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        write_file(cfg.format, network, run, file)
        parity = compare_outputs(open_file(cfg.format, run, file), samples, network, run)
        _check_parity(parity, cfg.tolerance)
        reduction = _reduce(file, samples, network, run) if cfg.int8 else None
        _keep(file, path, format_card(Export(path, cfg.format, network, run, samples, parity, reduction)))
    log.info("written: %s (%.3g MB) and %s", to_relative_path(path), path.stat().st_size / 1e6, _name_card(path).name)
    log.info("largest difference from the run: %s", parity)
    if reduction:
        log.info("%s", reduction)
    return path


def _choose_path(cfg: DictConfig, chosen: Format) -> Path:
    """Return the path of the file.

    Raises:
        InputError: if it has another ending than the format's.
    """
    if cfg.out is None:
        folder = Path(cfg.run)
        return folder / "export" / f"{folder.resolve().name}{'.int8' if cfg.int8 else ''}{chosen.suffix}"
    if not cfg.out.endswith(chosen.suffix):
        raise InputError(f"out={cfg.out} must end in {chosen.suffix}, as format={cfg.format} does")
    return Path(cfg.out)


def _name_card(path: Path) -> Path:
    return path.with_name(path.name + CARD_SUFFIX)


def _check_request(cfg: DictConfig, path: Path) -> None:
    """Refuse settings that do not suit the format, a file that exists, and a run that failed."""
    if cfg.int8 and cfg.format != "onnx":
        raise InputError(f"int8=true is for format=onnx, not for format={cfg.format}")
    if cfg.output and cfg.format == "safetensors":
        raise InputError(f"output={cfg.output} has no effect with format=safetensors, which holds the weights only")
    if cfg.out and not path.parent.is_dir():
        raise InputError(f"out={cfg.out}: there is no folder {path.parent}")
    for each in (path, _name_card(path)):
        if each.is_dir() or (each.exists() and not cfg.overwrite):
            how = "choose another" if each.is_dir() else "overwrite=true replaces it, out=… chooses another"
            raise InputError(f"{to_relative_path(each)} exists: {how}")
    status = read_status(Path(cfg.run))
    if status["status"] == "failed" and cfg.checkpoint is None:
        how = "checkpoint=best or checkpoint=last exports what it has all the same"
        raise InputError(f"run={cfg.run} failed ({status['reason']}): {how}")


def _check_parity(parity: Parity, tolerance: float) -> None:
    """Refuse a file that computes something else than its run.

    Raises:
        InputError: with the largest difference.
    """
    if not parity.relative <= tolerance:
        raise InputError(
            f"the exported file is not kept, since it differs from the run by {parity}; tolerance={tolerance:g}"
        )


def _reduce(file: Path, samples: RawSamples, network: ExportedNetwork, run: LoadedRun) -> Reduction:
    """Replace the weights in an ONNX file by 8-bit ones, and return what that costs."""
    large = file.with_suffix(".large")
    file.rename(large)
    write_reduced(large, file)
    before, after = (open_file("onnx", run, path) for path in (large, file))
    scores: tuple[dict[str, float], ...] = ()
    if samples.targets is not None:
        scores = tuple(measure_score(each, samples, network, run.description.task) for each in (before, after))
    sizes = large.stat().st_size, file.stat().st_size
    return Reduction(sizes, compare_outputs(after, samples, network, run), scores, len(samples.inputs))


def _keep(file: Path, path: Path, card: str) -> None:
    """Move a file to its path, and write its card next to it."""
    with sync_together():
        with file.open("rb") as source, open_atomic(path) as target:
            shutil.copyfileobj(source, target)
        write_text(_name_card(path), card)
