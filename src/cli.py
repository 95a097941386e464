"""The command line around Hydra's: folders, resuming, and errors told in one line."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from src.configs import CONF
from src.core.files import StorageError
from src.core.strays import refuse_strays
from src.environment import agree, place, place_in
from src.errors import InputError
from src.help import describe_settings
from src.presets import check_choices
from src.records import claim, find_foreign
from src.resumed import in_quotes, resumed_arguments
from src.startup import ending_at_once, hurry_hydra

log = logging.getLogger(__name__)
PLUGINS = Path(__file__).parent / "plugins"
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and "LOCAL_RANK" not in os.environ
PATHS = ("run", "resume", "name", "ckpt_path", "checkpoint", "paths.data", "paths.outputs", "model.weights")
OWN_LAUNCHERS = ("hydra_plugins.thunderhead.",)  # they know a sweep that is there already and go on with it
INTERRUPTED, TERMINATED = 130, 143  # exit statuses of a program that Ctrl-C or SIGTERM ended: 128 + signal

if str(PLUGINS) not in sys.path:
    sys.path.append(str(PLUGINS))  # Hydra looks there for packages of hydra_plugins


def start(main: Callable[[], Any]) -> None:
    """Run a Hydra application; what the user can put right ends in one line and status 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands its errors to us instead of printing them
    register_resolvers()
    hurry_hydra()
    try:
        refuse_pickles(sys.argv[1:])
        sys.argv[1:] = resumed_arguments([quoted(arg) for arg in flags_first(sys.argv[1:])])
        with ending_at_once():
            main()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACKS:
            raise
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Write a job's error to its log: one line if the user can put it right, always with its traceback.

    A single run then ends with status 1; in a sweep the error goes on to the launcher.
    """
    try:
        yield
    except Exception as error:
        log.debug("the traceback of what stopped the run:", exc_info=True)
        told = input_error(error) or isinstance(error, (HydraException, OmegaConfBaseException))
        here = place()
        if told or not here.first:  # of several processes only the first one's traceback would be seen
            log.error("error: %s%s", "" if here.first else f"in {here}: ", one_line(error))
        if told and not in_sweep() and not TRACEBACKS:
            sys.exit(1)
        raise


def input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` among an error and its causes."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def run_folder() -> Path:
    """The folder of the job under way."""
    return Path(HydraConfig.get().runtime.output_dir)


def in_sweep() -> bool:
    """Whether the job under way is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


# Folders


def register_resolvers() -> None:
    """What the configs ask of the code: a run's name, and a job's name in a sweep."""
    OmegaConf.register_new_resolver("name_or", run_name, replace=True)
    OmegaConf.register_new_resolver(
        "swept", lambda overrides, preset=None: swept_name(overrides, swept_keys(preset)), replace=True
    )
    OmegaConf.register_new_resolver("describe_settings", describe_settings, replace=True)


def run_name(name: Any, stamp: str) -> str:
    """A run's name as a folder's; the stamp where none is given."""
    if name is None:
        return stamp
    if not slug(str(name)).strip(".-"):
        raise InputError(f"name={name}: give it letters or digits, it names a folder")
    return slug(str(name))


def slug(text: str) -> str:
    """Text with only letters, digits, dots, underscores and hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip("[]{}() '\""))


def swept_keys(preset: Mapping[str, Any] | None = None) -> set[str]:
    """The settings that the command line sweeps over, and a preset (``hydra.sweeper.params``)."""
    given = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    given += [f"{key}={value}" for key, value in (preset or {}).items()]
    parsed = OverridesParser.create().parse_overrides(given)
    return {override.get_key_element() for override in parsed if override.is_sweep_override()}


def swept_name(overrides: list[str], keys: set[str]) -> str:
    """``_key-value`` for each of a job's overrides whose key is swept over."""
    pairs = [override.split("=", 1) for override in overrides]
    swept = [(key.lstrip("+").split(".")[-1], value) for key, value in pairs if key in keys]
    return "".join(f"_{slug(name)}-{slug(value)}" for name, value in swept)[:150]


class ClaimFolder(Callback):
    """Makes a new run's or sweep's folder; refuses one that is another's."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("rerun") is not None:
            sys.exit(f"error: rerun={config.rerun} is for sweeps (-m, sweep=): a run has a folder of its own")
        if config.get("trust") is not None and config.get("resume") is None:
            sys.exit(f"error: trust={config.trust} is for resume=: classes that are typed are trusted")
        try:
            here = place_in(config.get("trainer") or {})
            agree(config, here)
            refuse_strays(Path(config.hydra.run.dir))  # before anything is written there
        except InputError as error:
            sys.exit(f"error: {error}")
        if not here.first:
            only_listen(config)
        elif config.get("resume") is None:
            self.claim_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if "sweep" in swept_keys():
            sys.exit("error: sweep=… is one preset: give it one value")
        if "name" in swept_keys(config.hydra.sweeper.get("params")):
            sys.exit("error: name=… names the sweep: give it one value")
        folder = Path(config.hydra.sweep.dir)
        try:
            check_choices(config.hydra)
            refuse_strays(folder)  # before Hydra writes its multirun.yaml there
        except InputError as error:
            sys.exit(f"error: {error}")
        known = (folder / "multirun.yaml").is_file() or (folder.is_dir() and not any(folder.iterdir()))
        if not (known and config.hydra.launcher._target_.startswith(OWN_LAUNCHERS)):
            self.claim_sweep(folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            from src.sweeps.jobs import note_running

            note_running(config)

    def claim_run(self, config: DictConfig) -> None:
        """Make a run's folder; one that a start has left that was killed at once is taken over."""
        folder = Path(config.hydra.run.dir)
        settings = folder / ".hydra" / "config.yaml"
        try:
            if not settings.exists() and (foreign := find_foreign(folder)):
                sys.exit(f"error: {folder} is there already, with {foreign.name} in it: choose another name=…")
            claim(folder, config, exclusive=True)
        except (OSError, StorageError) as error:
            if settings.exists():
                sys.exit(f"error: {folder} is there already: choose another name=…, or go on with it: resume={folder}")
            reason = getattr(error.__cause__ or error, "strerror", error)
            sys.exit(f"error: {folder} cannot be made ({reason}): choose another paths.outputs=… or name=…")

    def claim_sweep(self, folder: Path) -> None:
        # Hydra turns exceptions of callbacks into warnings, but lets an exit through.
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            sys.exit(f"error: {folder} is there already: choose another name=…")
        except OSError as error:
            sys.exit(f"error: {folder} cannot be made ({error.strerror}): choose another paths.outputs=…")


def only_listen(config: DictConfig) -> None:
    """Of several processes that train together the first one writes; Hydra and the log leave its folder alone."""
    with read_write(config), open_dict(config):
        config.hydra.output_subdir = None
        config.hydra.job_logging.root.handlers = ["console"]


def refuse_pickles(arguments: list[str]) -> None:
    """Refuse Hydra's flag that reads a config from a pickle, which runs whatever code is in it."""
    if any(argument.startswith("--e") for argument in arguments):  # flags may be shortened
        raise InputError("--experimental-rerun reads a pickle, which runs the code in it: use resume=FOLDER")


def flags_first(arguments: list[str]) -> list[str]:
    """``-m`` before the settings, wherever it was typed: Hydra takes no flag between them."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def quoted(argument: str) -> str:
    """``run=a folder, 1`` as Hydra reads a path with spaces or commas; other arguments as they are."""
    key, _, value = argument.partition("=")
    sweeping = {"-m", "--multirun"} & set(sys.argv)  # there a comma parts two values
    if key not in PATHS or sweeping or re.fullmatch(r"[\w./~-]*", value, re.ASCII) or value[:1] in "'\"":
        return argument
    return f"{key}={in_quotes(value)}"


# Errors


def one_line(error: Exception) -> str:
    """An error as one line; for names that do not exist, with the nearest that does."""
    if found := input_error(error):
        return str(found)
    text = " ".join(str(error).replace("\n", " ").split())
    if match := re.search(r"Could not find '([\w/]+)/([\w.-]+)'", text):
        return unknown_choice(*match.groups())
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_setting(match.group(1))
    if match := re.search(r"Key '([^']+)' is not in struct full_key: (\S+)", text):
        return unknown_setting(match.group(2))
    if re.search("LexerNoViableAlt|no viable alternative|mismatched input|extraneous input", text):
        return (
            f"{text.split(' See https')[0]} (put values with brackets, commas or other signs into quotes: 'key=[1,2]')"
        )
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match.group(1)}=… is missing; --help shows what it is"
    return text.replace(" Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.", "")


def unknown_choice(group: str, choice: str) -> str:
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return (
        f"{group}={choice}: there is no such choice{nearest(choice, choices)}; {group} is one of {', '.join(choices)}"
    )


def unknown_setting(key: str) -> str:
    if any(arg.startswith("resume=") for arg in sys.argv) and (CONF / key).is_dir():
        return f"{key}=…: a resumed run keeps its {key}; to change it start a new run with ckpt_path="
    if f"~{key}" in sys.argv:
        return f"{key} is missing: it was deleted (~{key}), and nothing runs without it"
    if key.startswith("recipe."):
        return f"the presets in use set no {key}: write +{key}=… to add it"
    groups = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
    return f"there is no setting {key}{nearest(key, [*known_settings(), *groups])}; --cfg job shows them all"


def nearest(name: str, names: list[str]) -> str:
    """ ", did you mean …?" if a name is near."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f", did you mean {found[0]}?" if found else ""


def known_settings() -> list[str]:
    """All settings' names under the choices that the command line makes (those that exist)."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    parts = [arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg]
    choices = [f"{group}={value}" for group, value in parts if (CONF / group / f"{value}.yaml").is_file()]
    GlobalHydra.instance().clear()
    program = "eval" if "eval" in Path(sys.argv[0]).stem else "train"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return flat_names(OmegaConf.to_container(compose(program, choices), resolve=False))


def flat_names(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = [f"{prefix}{key}" for key in node]
    return names + [name for key, value in node.items() for name in flat_names(value, f"{prefix}{key}.")]
