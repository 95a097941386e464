"""Train a model: compose a run on the command line.

    python -m src.train                                        # an MLP on XOR, in seconds
    python -m src.train model=cnn data=cifar10
    python -m src.train -m model=mlp,cnn data=mnist optimizer.lr=1e-3,1e-2
    python -m src.train resume=outputs/runs/NAME               # resume where it stopped
    python -m src.train --help

Heavy libraries are imported only when a run starts: help, completion and ``--cfg`` answer immediately.
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/train.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

import hydra
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.startup import disable_gc_for_imports
from src.core.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job and return its best validation score so far, for sweepers."""
    with cli.report_job_error():
        with disable_gc_for_imports():
            from src.training.run import train

        return train(cfg, cli.get_run_folder(), cli.is_in_sweep())


if __name__ == "__main__":
    cli.start(main)
