"""The trials of a search, suggested by Optuna and kept in a file that any Optuna program can open.

A suggestion depends only on the trials so far, the seed and the trial's number, so a search that was killed
resumes with the same suggestions.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
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
STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.RUNNING: "running"}
MIN_TRIALS = 10  # complete trials needed to estimate importances
GOOD_FRACTION = 0.5  # fraction of the trials that counts as good; a smaller one makes the estimate less certain

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudyInfo(NamedTuple):
    """The definition of a search: its metric and mode, and the settings that must not change when it is resumed.

    Attributes:
        metric: the monitored metric.
        mode: "min" or "max".
        made_of: by name, the sampler, its seed, the searched settings and the settings common to all jobs.
    """

    metric: str
    mode: str
    made_of: dict[str, Any]


class Study:
    """The trials of a search.

    Args:
        path: the file of their journal.
        space: the settings that are searched.
        sampler: "tpe" or "random".
        seed: the seed of the sampler.
    """

    def __init__(self, path: Path, space: SearchSpace, sampler: str, seed: int) -> None:
        self.path, self.space, self.sampler, self.seed = path, space, sampler, seed
        self.study = _open_study(path)

    @property
    def info(self) -> StudyInfo | None:
        """The definition of the search; ``None`` if it has not started."""
        return StudyInfo(**self.study.user_attrs[INFO_ATTRIBUTE]) if self.study else None

    def start(self, info: StudyInfo) -> None:
        """Start a search that has no trials yet."""
        remove_file(self.path)  # left by a search that was killed before its first trial
        direction = StudyDirection.MAXIMIZE if info.mode == "max" else StudyDirection.MINIMIZE
        self.study = optuna.create_study(
            storage=_open_storage(self.path), study_name=self.path.parent.name, direction=direction
        )
        self.study.set_user_attr(INFO_ATTRIBUTE, info._asdict())

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False) if self.study else []

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

    def suggest_trial(self) -> None:
        """Add a trial that the sampler suggests."""
        assert self.study
        # A study writes a trial that it suggests in several steps. A copy in memory is asked instead, and the
        # complete trial is then added in one step.
        before = self.trials
        copy = optuna.create_study(direction=self.study.direction, sampler=self.make_sampler(len(before)))
        copy.add_trials(before)
        suggested = copy.ask(self.space.distributions).params
        chosen = {setting.name: setting.round_value(suggested[setting.name]) for setting in self.space.dimensions}
        self.study.add_trial(
            create_trial(state=TrialState.RUNNING, params=chosen, distributions=self.space.distributions)
        )

    def make_sampler(self, number: int) -> BaseSampler:
        """Return the sampler that suggests the trial with this number."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # A running trial counts as a poor one, so that trials of the same batch differ from it.
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def record_result(self, number: int, value: float | None) -> None:
        """Add a trial's result to the study; ``None`` if the trial failed."""
        assert self.study
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(number, value, state=state)

    def estimate_importance(self) -> dict[str, float]:
        """Estimate how much each setting matters for a trial to be in the better half, the most important first.

        The fractions add up to 1; empty with fewer than ``MIN_TRIALS`` complete trials. By PED-ANOVA
        (https://arxiv.org/abs/2304.10255).
        """
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if not self.study or len(complete) < MIN_TRIALS:
            return {}
        with warnings.catch_warnings(action="ignore"):
            evaluator = PedAnovaImportanceEvaluator(target_quantile=GOOD_FRACTION)
            return get_param_importances(self.study, evaluator=evaluator)


def _open_storage(path: Path) -> JournalStorage:
    return JournalStorage(Journal(path))


def _open_study(path: Path) -> optuna.Study | None:
    """Load the study in a journal; ``None`` if there is none, or one without trials.

    Raises:
        InputError: if the journal is damaged.
    """
    if not path.exists():
        return None
    try:
        journal = _open_storage(path)
        names = optuna.get_all_study_names(journal)
        study = optuna.load_study(study_name=names[0], storage=journal) if names else None
        return (
            study if study and study.trials and StudyInfo(**study.user_attrs[INFO_ATTRIBUTE]).made_of.keys() else None
        )
    except StorageError:
        raise
    except Exception as error:  # Optuna does not validate what it reads
        cause = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is damaged ({cause}): remove it, and the same command restores its trials from the jobs' folders"
        ) from error
