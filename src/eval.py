"""Evaluate a run from its own folder.

python -m src.eval run=outputs/runs/NAME                   # on the validation set
python -m src.eval run=outputs/runs/NAME split=test
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/eval.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.evaluation import refuse_training_settings
from src.cli.startup import disable_gc_for_imports
from src.core.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="eval")
def main(cfg: DictConfig) -> None:
    with cli.report_job_error():
        refuse_training_settings(HydraConfig.get().overrides.task)
        with disable_gc_for_imports():
            from src.training.evaluate import evaluate

        evaluate(cfg)


if __name__ == "__main__":
    cli.start(main)
