"""Export a finished run as one file, with its preprocessing inside and a model card next to it.

python -m src.export run=outputs/runs/NAME                       # ONNX
python -m src.export run=outputs/runs/NAME format=torch_export   # or torchscript, safetensors
"""

import sys
from pathlib import Path

if not __package__:  # started as python src/export.py: put the project folder on sys.path
    sys.path[0] = str(Path(__file__).parent.parent)

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.cli import main as cli
from src.cli.evaluation import refuse_training_settings
from src.cli.startup import disable_gc_for_imports
from src.core.places import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="export")
def main(cfg: DictConfig) -> None:
    with cli.report_job_error():
        refuse_training_settings(HydraConfig.get().overrides.task, "export")
        with disable_gc_for_imports():
            from src.inference.exporting.export import export

        export(cfg)


if __name__ == "__main__":
    cli.start(main)
