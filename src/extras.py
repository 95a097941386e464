"""What only some need, and install for themselves."""

from importlib.util import find_spec

from src.core.commands import spell_command
from src.errors import InputError


def need(package: str, extra: str, asked: str) -> None:
    """Make sure that an optional package is there.

    Args:
        package: as it is imported.
        extra: the extra of this project that installs it.
        asked: the setting that needs it.

    Raises:
        InputError: if it is not, with the command that installs it.
    """
    if find_spec(package) is None:
        how = spell_command("pip", ["install", "-c", "constraints.txt", "-e", f".[{extra}]"])
        raise InputError(f"{asked} needs the package {package}, which is not installed: {how}")
