"""Names that classes had before they moved: folders and checkpoints written then name them so.

A job's identity is a hash of its settings, names of classes included. It is computed with the oldest names, so that a
class that moves changes no job.
"""

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
