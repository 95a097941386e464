"""Optional packages: check those that settings need before a run starts, and skip what nobody needs."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.core.commands import format_command
from src.core.errors import InputError

LOGGER_PACKAGES = {
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
}  # Lightning's loggers and the packages that they need
SECRET_NAME = re.compile(r"(.*_)?(key|token|password|secret)", re.IGNORECASE)
LOGIN_URL = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@.*", re.IGNORECASE)  # an address with a password in it
SIGNAL = "scipy.signal"


@contextmanager
def skip_signal_processing() -> Iterator[None]:
    """Spare the imports SciPy's signal processing, which takes longer than Lightning itself.

    torchmetrics, which Lightning imports, only wants to give one of its functions an old name back. Afterwards
    `scipy.signal` can be imported as usual.
    """
    if SIGNAL in sys.modules:
        yield
        return
    placeholder = ModuleType(SIGNAL)
    placeholder.hamming = None  # type: ignore[attr-defined]  # so that torchmetrics looks no further
    sys.modules[SIGNAL] = placeholder
    try:
        yield
    finally:
        if sys.modules.get(SIGNAL) is placeholder:
            del sys.modules[SIGNAL]


def require_package(package: str, extra: str, setting: str) -> None:
    """Check that an optional package is installed.

    Args:
        package: the package's name in imports.
        extra: this project's extra that installs it.
        setting: the setting that needs it.

    Raises:
        InputError: if it is missing, with the command that installs it.
    """
    if find_spec(package) is None:
        how = format_command("pip", ["install", "-c", "constraints.txt", "-e", f".[{extra}]"])
        raise InputError(f"{setting} needs the package {package}, which is not installed: {how}")


def check_loggers(config: DictConfig) -> None:
    """Refuse loggers whose packages are not installed, and secrets in their settings, which are saved with the run.

    Raises:
        InputError: naming the setting, and what to do.
    """
    loggers: Any = OmegaConf.to_container(config.logger) if OmegaConf.is_config(config.get("logger")) else {}
    for key, settings in loggers.items() if isinstance(loggers, dict) else ():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            package = LOGGER_PACKAGES.get(str(value).rpartition(".")[2]) if name == "_target_" else None
            if package:
                require_package(package, package, f"logger.{key}")
            if (value is not None and SECRET_NAME.fullmatch(name)) or LOGIN_URL.fullmatch(str(value)):
                how = "leave it out, and set the logger's environment variable"
                raise InputError(f"logger.{key}.{name}: a secret would be kept in the run's folder; {how}")
