"""Predict with a finished run: images, rows of numbers, or the samples of the run's data set.

python -m src.predict run=outputs/runs/NAME robin.jpg photos/ out=predictions.csv
python -m src.predict run=outputs/runs/NAME split=test
"""

import os
import sys
from pathlib import Path

if not __package__:  # started as python src/predict.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.arguments import drop_completed_paths, split_paths
from src.cli.evaluation import refuse_training_settings
from src.cli.startup import disable_gc_for_imports
from src.core.places import CONF

PATHS: list[str] = []  # what to predict: the arguments that are no settings


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="predict")
def main(cfg: DictConfig) -> None:
    with cli.report_job_error():
        refuse_training_settings(HydraConfig.get().overrides.task, "predict")
        with disable_gc_for_imports():
            from src.inference.predict import predict

        errors = predict(cfg, PATHS)
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


if __name__ == "__main__":
    PATHS, sys.argv[1:] = split_paths(sys.argv[1:])
    if "COMP_LINE" in os.environ:
        os.environ["COMP_LINE"] = drop_completed_paths(os.environ["COMP_LINE"])
    cli.start(main)
