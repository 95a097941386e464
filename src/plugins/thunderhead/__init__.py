"""The package ``src`` under its project's name: ``from thunderhead.api import train``.

Each module is there once, whichever name it is imported by: ``thunderhead.api`` is ``src.api``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

import src

__path__ = []  # the finder below finds this package's modules
_OWN = (Path(__file__).parents[1] / "src", Path(__file__).parents[2])  # where it is installed, and in a checkout

if not {*_OWN} & {*map(Path, src.__path__)}:
    raise ImportError(f"another package src, {[*src.__path__]}, hides this project's: it must come later in sys.path")


class _AliasFinder(MetaPathFinder, Loader):
    """Finds ``thunderhead.NAME`` as the module ``src.NAME``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}.") or (own := find_spec(_get_own_name(fullname))) is None:
            return None
        return ModuleSpec(fullname, self, origin=own.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_get_own_name(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore what Python has changed; the module has been executed under its own name."""
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]

    def get_code(self, fullname: str) -> CodeType:
        """Return what ``python -m thunderhead.train`` runs."""
        code: CodeType = find_spec(_get_own_name(fullname)).loader.get_code(_get_own_name(fullname))  # type: ignore[union-attr]
        return code


def _get_own_name(fullname: str) -> str:
    return f"src{fullname.removeprefix(__name__)}"


sys.meta_path.insert(0, _AliasFinder())
