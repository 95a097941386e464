"""Names and settings of earlier folders and checkpoints, and what they are called now.

A job's identity is a hash of its settings, names of classes included. It is computed with the oldest names and with the
settings that are gone, so that a class that moves or loses a setting changes no job.
"""

from collections.abc import Callable
from typing import Any

CLASSES = {  # name before: name now
    "src.callbacks.curves.Curves": "src.callbacks.figures.learning_curves.Curves",
    "src.callbacks.cost_and_accuracy.CostAndAccuracy": "src.callbacks.figures.learning_curves.CostAndAccuracy",
    "src.callbacks.confusion_matrix.ConfusionMatrix": "src.callbacks.figures.per_class.ConfusionMatrix",
    "src.callbacks.class_accuracy.ClassAccuracy": "src.callbacks.figures.per_class.ClassAccuracy",
    "src.callbacks.augmented_batch.AugmentedBatch": "src.callbacks.figures.training_images.AugmentedBatch",
    "src.callbacks.misclassified.Misclassified": "src.callbacks.figures.predictions.Misclassified",
    "src.callbacks.class_probabilities.ClassProbabilities": "src.callbacks.figures.predictions.ClassProbabilities",
    "src.callbacks.decision_regions.DecisionRegions": "src.callbacks.figures.decision_regions.DecisionRegions",
    "src.callbacks.descent.Descent": "src.callbacks.figures.loss_surface.Descent",
    "src.callbacks.feature_maps.FeatureMaps": "src.callbacks.figures.feature_maps.FeatureMaps",
    "src.callbacks.first_layer.FirstLayer": "src.callbacks.figures.first_layer.FirstLayer",
    "src.callbacks.fit.Fit": "src.callbacks.figures.fitted_function.Fit",
    "src.callbacks.gradient_norms.GradientNorms": "src.callbacks.figures.gradient_norms.GradientNorms",
    "src.callbacks.hidden_space.HiddenSpace": "src.callbacks.figures.hidden_space.HiddenSpace",
    "src.callbacks.samples.Samples": "src.callbacks.figures.training_images.ImageSamples",
    "src.models.muon.Muon": "src.optimizers.muon.Muon",
    "src.models.warmup_cosine.WarmupCosine": "src.optimizers.warmup_cosine.WarmupCosine",
    "src.sweeps.heat_map.HeatMap": "src.sweeps.figures.heat_map.HeatMap",
    "src.sweeps.panels.Panels": "src.sweeps.figures.model_grid.ModelGrid",
    "src.sweeps.pictures.Scores": "src.sweeps.figures.base.Scores",
    "src.sweeps.pictures.Share": "src.sweeps.figures.base.SuccessRate",
    "src.sweeps.pictures.Curves": "src.sweeps.figures.base.Curves",
    "src.sweeps.pictures.Gallery": "src.sweeps.figures.base.ImageGrid",
    "src.sweeps.share_lines.ShareLines": "src.sweeps.figures.success_rate.SuccessRateLines",
}
OLDEST = {now: before for before, now in CLASSES.items()}
CNN, AIRBENCH = "src.models.cnn.CNN", "src.models.airbench.Airbench"
# Settings that a model's class no longer has, with the values that make no difference.
REMOVED: dict[str, dict[str, Any]] = {
    CNN: {
        "convolutions": 1,
        "pool": "last",
        "whiten": 0,
        "global_pool": False,
        "output_bias": True,
        "output_scale": 1.0,
        "norm_scale": True,
        "norm_momentum": 0.1,
        "norm_bias_lr": 1.0,
    },
    "src.models.nearest_neighbor.NearestNeighbor": {"block": 1000},
}
# The airbench network was a CNN with these settings, and these of its settings had other names.
AIRBENCH_CNN: dict[str, Any] = {
    "activation": "gelu",
    "batch_norm": True,
    "convolutions": 2,
    "dropout": 0.0,
    "global_pool": True,
    "hidden_size": [],
    "init": "dirac",
    "init_std": 0.1,
    "norm_scale": False,
    "output_bias": False,
    "pool": "first",
    "whiten": 2,
}
AIRBENCH_NAMES = {
    "widths": "channels",
    "scaling_factor": "output_scale",
    "batch_norm_momentum": "norm_momentum",
    "bias_lr_factor": "norm_bias_lr",
}


def update_names(value: Any) -> Any:
    """Return a config's value, or all in it, with the names that classes have now."""
    return _rename(value, CLASSES)


def restore_names(value: Any) -> Any:
    """Return a config's value, or all in it, with the names that classes had first."""
    return _rename(value, OLDEST)


def _rename(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _rename(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_rename(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def update_config(content: Any) -> Any:
    """Return a run's config with the names and the settings that classes have now."""
    content = update_names(content)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content["model"] = _update_model(content["model"])
    return content


def update_hyperparameters(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters in a checkpoint of the model class with that name, with the settings it has now."""
    before = CNN if name == AIRBENCH and "whiten" in values else name
    updated = _update_model({**update_names(values), "_target_": before})
    return {key: value for key, value in updated.items() if key != "_target_"}


def update_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings, given by their full names, with the names and the settings that classes have now."""
    return _replace_model(update_names(settings), _update_model)


def restore_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings, given by their full names, with the names and the settings that classes had first."""
    return _replace_model(settings, _restore_model)


def _replace_model(settings: dict[str, Any], replace: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    model = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    replaced = {f"model.{key}": value for key, value in replace(model).items()}
    return {key: value for key, value in settings.items() if not key.startswith("model.")} | replaced


def _update_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's settings as they are now; one with a removed setting at another value keeps it."""
    name = model.get("_target_")
    if name == CNN and all(key in model and model[key] == value for key, value in AIRBENCH_CNN.items()):
        names = {before: now for now, before in AIRBENCH_NAMES.items()}
        own = {names.get(key, key): value for key, value in model.items() if key not in AIRBENCH_CNN}
        return {**own, "_target_": AIRBENCH}
    removed = REMOVED.get(str(name), {})
    return {key: value for key, value in model.items() if key not in removed or value != removed[key]}


def _restore_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's settings as they were first."""
    if model.get("_target_") == AIRBENCH:
        return {
            **{AIRBENCH_NAMES.get(key, key): value for key, value in model.items()},
            **AIRBENCH_CNN,
            "_target_": CNN,
        }
    return {**REMOVED.get(str(model.get("_target_")), {}), **model}
