"""The trials of a search, suggested by Optuna and kept in a file that any Optuna program can open.

A suggestion depends only on the trials so far, the seed and the trial's number, so a search that was killed
resumes with the same suggestions.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.core.disk import StorageError
from src.core.errors import InputError
from src.storage.files import remove_file
from src.sweeps.search.journal import Journal
from src.sweeps.search.space import SearchSpace

INFO_ATTRIBUTE = "search"  # the study's attribute that holds `StudyInfo`
GROUP_ATTRIBUTE = "group"  # a trial's attribute: the number of the first trial of its group
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}

optuna.logging.set_verbosity(optuna.logging.ERROR)


class StudyInfo(NamedTuple):
    """The definition of a search: its metric and mode, and the settings that must not change when it is resumed.

    Attributes:
        metric: the monitored metric.
        mode: "min" or "max".
        made_of: by name, the settings of the search itself, the searched ones and those common to all jobs.
        objectives: the mode of each metric that the trials are judged by; ``None``: the monitored metric alone.
    """

    metric: str
    mode: str
    made_of: dict[str, Any]
    objectives: dict[str, str] | None = None

    @property
    def judged_by(self) -> dict[str, str]:
        """The mode of each metric that the trials are judged by."""
        return self.objectives or {self.metric: self.mode}


class Study:
    """The trials of a search.

    Args:
        path: the file of their journal.
        space: the settings that are searched.
        sampler: "tpe", "gp" or "random".
        seed: the seed of the sampler.
    """

    def __init__(self, path: Path, space: SearchSpace, sampler: str, seed: int) -> None:
        self.path, self.space, self.sampler, self.seed = path, space, sampler, seed
        self.storage, self.study = _open_study(path)

    @property
    def info(self) -> StudyInfo | None:
        """The definition of the search; ``None`` if it has not started."""
        return StudyInfo(**self.study.user_attrs[INFO_ATTRIBUTE]) if self.study else None

    def start(self, info: StudyInfo) -> None:
        """Start a search that has no trials yet."""
        remove_file(self.path)  # left by a search that was killed before its first trial
        directions = [
            StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in info.judged_by.values()
        ]
        self.storage = _open_storage(self.path)
        self.study = optuna.create_study(storage=self.storage, study_name=self.path.parent.name, directions=directions)
        self.study.set_user_attr(INFO_ATTRIBUTE, info._asdict())

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False) if self.study else []

    @property
    def directions(self) -> list[StudyDirection]:
        return self.study.directions if self.study else []

    @property
    def running_trials(self) -> list[FrozenTrial]:
        """The trials whose results are not known yet."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def check_trials(self) -> None:
        """Raise an error if the journal has trials that another program has added.

        Raises:
            InputError: naming the first of them.
        """
        for trial in self.trials:
            if trial.state not in STATES or trial.params.keys() != self.space.distributions.keys():
                hint = "another program has added it; choose another name="
                raise InputError(f"{self.path}: trial {trial.number} does not belong to this search: {hint}")

    def get_group(self, trial: FrozenTrial) -> list[FrozenTrial]:
        """Return the trials that were suggested together with one of them, with and without results."""
        first = trial.user_attrs.get(GROUP_ATTRIBUTE, trial.number)
        return [each for each in self.trials[first:] if each.user_attrs.get(GROUP_ATTRIBUTE, each.number) == first]

    def suggest_trial(self, group: int | None = None) -> None:
        """Add a trial that the sampler suggests, to the group that begins with a number; ``None``: with its own."""
        assert self.study
        # A study writes a trial that it suggests in several steps. A copy in memory is asked instead, and the
        # complete trial is then added in one step.
        before = self.trials
        copy = optuna.create_study(directions=self.study.directions, sampler=self.make_sampler(len(before)))
        copy.add_trials(before)
        suggested = copy.ask(self.space.distributions).params
        chosen = {setting.name: setting.round_value(suggested[setting.name]) for setting in self.space.dimensions}
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=chosen,
                distributions=self.space.distributions,
                user_attrs={GROUP_ATTRIBUTE: len(before) if group is None else group},
            )
        )

    def make_sampler(self, number: int) -> BaseSampler:
        """Return the sampler that suggests the trial with this number."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            if self.sampler == "gp":
                return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
            # A running trial counts as a poor one, so that trials of the same group differ from it.
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def record_result(self, number: int, value: float | list[float] | None) -> None:
        """Add a trial's result to the study: a value, or one for each objective; ``None`` if the trial failed."""
        assert self.study
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(number, value, state=state)

    def record_pruned(self, number: int, rungs: Mapping[int, float]) -> None:
        """Add to the study that a trial was pruned; its value is the one at its last rung.

        Args:
            number: the trial's number.
            rungs: by the epochs of each rung, what the trial was compared by.
        """
        assert self.study
        assert self.storage
        study = self.storage.get_study_id_from_name(self.study.study_name)
        trial = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        for epochs, value in rungs.items():
            self.storage.set_trial_intermediate_value(trial, epochs, value)
        self.study.tell(number, state=TrialState.PRUNED)


def _open_storage(path: Path) -> JournalStorage:
    return JournalStorage(Journal(path))


def _open_study(path: Path) -> tuple[JournalStorage | None, optuna.Study | None]:
    """Load a journal and the study in it; ``None`` if there is none, or one without trials.

    Raises:
        InputError: if the journal is damaged.
    """
    if not path.exists():
        return None, None
    try:
        journal = _open_storage(path)
        names = optuna.get_all_study_names(journal)
        study = optuna.load_study(study_name=names[0], storage=journal) if names else None
        started = study and study.trials and StudyInfo(**study.user_attrs[INFO_ATTRIBUTE]).made_of.keys()
        return (journal, study) if started else (None, None)
    except StorageError:
        raise
    except Exception as error:  # Optuna does not validate what it reads
        cause = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is damaged ({cause}): remove it, and the same command restores its trials from the jobs' folders"
        ) from error
