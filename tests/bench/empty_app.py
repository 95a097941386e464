"""A Hydra application that does nothing: what `commands` compares this project's command line to."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=None)
def main(cfg: DictConfig) -> None:
    """Do nothing."""


if __name__ == "__main__":
    main()
