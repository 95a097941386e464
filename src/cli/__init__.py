"""The command line around Hydra's; nothing here imports PyTorch."""

import sys
from pathlib import Path

PLUGINS = Path(__file__).parent.parent / "plugins"

if str(PLUGINS) not in sys.path:
    sys.path.append(str(PLUGINS))  # Hydra searches sys.path for hydra_plugins packages
