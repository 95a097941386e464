"""Names that classes had before they moved: folders and checkpoints written then name them so.

A job's identity is a hash of its settings, names of classes included. It is computed with the oldest names, so that a
class that moves changes no job.
"""

from typing import Any

FIGURES = (
    *("augmented_batch", "class_accuracy", "class_probabilities", "confusion_matrix", "cost_and_accuracy", "curves"),
    *("decision_regions", "feature_maps", "first_layer", "gradient_norms", "hidden_space", "misclassified", "samples"),
)
MODULES = {  # before → now
    **{f"src.callbacks.{name}": f"src.callbacks.figures.{name}" for name in FIGURES},
    "src.callbacks.descent": "src.callbacks.figures.loss_surface",
    "src.callbacks.fit": "src.callbacks.figures.fitted_function",
    "src.models.muon": "src.optimizers.muon",
    "src.models.warmup_cosine": "src.optimizers.warmup_cosine",
}
OLDEST = {now: before for before, now in MODULES.items()}


def update_names(value: Any) -> Any:
    """Return a config's value, or all in it, with the names that classes have now."""
    return _rename(value, MODULES)


def restore_names(value: Any) -> Any:
    """Return a config's value, or all in it, with the names that classes had first."""
    return _rename(value, OLDEST)


def _rename(value: Any, modules: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _rename(each, modules) for key, each in value.items()}
    if isinstance(value, list):
        return [_rename(each, modules) for each in value]
    module, dot, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    return f"{modules[module]}{dot}{name}" if module in modules else value
