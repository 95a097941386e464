"""A search's trials in Optuna's hands, kept in a file that any Optuna program can open.

What is suggested depends on the trials so far, the seed and the trial's number alone: a search that was
killed goes on as if nothing had happened.
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
from src.storage.files import remove
from src.sweeps.search.journal import Journal
from src.sweeps.search.space import Space

ABOUT = "search"  # the study's attribute that tells what the search is
STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.RUNNING: "running"}
ENOUGH = 10  # trials from which importances are told
TOP = 0.5  # share of the trials that is the better part: fewer tell less surely what matters

optuna.logging.set_verbosity(optuna.logging.WARNING)


class About(NamedTuple):
    """What a search is: its metric with its mode, and all that must stay as it is when it goes on.

    Attributes:
        metric: the monitored metric.
        mode: "min" or "max".
        made_of: by name the sampler, its seed, what is searched and the settings of all jobs.
    """

    metric: str
    mode: str
    made_of: dict[str, Any]


class Study:
    """The trials of a search.

    Args:
        path: the journal that they are kept in.
        space: what is searched.
        sampler: "tpe" or "random".
        seed: of the sampler.
    """

    def __init__(self, path: Path, space: Space, sampler: str, seed: int) -> None:
        self.path, self.space, self.sampler, self.seed = path, space, sampler, seed
        self.study = opened(path)

    @property
    def about(self) -> About | None:
        """What the search is; ``None`` of one that has not begun."""
        return About(**self.study.user_attrs[ABOUT]) if self.study else None

    def begin(self, about: About) -> None:
        """Begin a search that has no trials yet."""
        remove(self.path)  # left by one that was killed before its first
        direction = StudyDirection.MAXIMIZE if about.mode == "max" else StudyDirection.MINIMIZE
        self.study = optuna.create_study(
            storage=storage(self.path), study_name=self.path.parent.name, direction=direction
        )
        self.study.set_user_attr(ABOUT, about._asdict())

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False) if self.study else []

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials whose results are not known yet."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def check(self) -> None:
        """Raise an error if there are trials that are not this search's own.

        Raises:
            InputError: naming the first.
        """
        for trial in self.trials:
            if trial.state not in STATES or trial.params.keys() != self.space.distributions.keys():
                how = "another program has added it; choose another name="
                raise InputError(f"{self.path}: trial {trial.number} is not of this search: {how}")

    def ask(self) -> None:
        """Let the sampler suggest one more trial.

        It is asked in a copy of the study, so that the trial is written at once and whole.
        """
        assert self.study
        before = self.trials
        copy = optuna.create_study(direction=self.study.direction, sampler=self.sampler_of(len(before)))
        copy.add_trials(before)
        suggested = copy.ask(self.space.distributions).params
        chosen = {setting.name: setting.rounded(suggested[setting.name]) for setting in self.space.settings}
        self.study.add_trial(
            create_trial(state=TrialState.RUNNING, params=chosen, distributions=self.space.distributions)
        )

    def sampler_of(self, number: int) -> BaseSampler:
        """What suggests the trial of a number."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # A trial under way counts as a poor one, so that those beside it are not like it.
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def tell(self, number: int, value: float | None) -> None:
        """Tell a trial's result; ``None``: it failed."""
        assert self.study
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(number, value, state=state)

    def importance(self) -> dict[str, float]:
        """The share of each setting in what sets the better half of the trials apart, the largest first.

        By PED-ANOVA (https://arxiv.org/abs/2304.10255); nothing of fewer trials than can tell.
        """
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if not self.study or len(complete) < ENOUGH:
            return {}
        with warnings.catch_warnings(action="ignore"):
            evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP)
            return get_param_importances(self.study, evaluator=evaluator)


def storage(path: Path) -> JournalStorage:
    return JournalStorage(Journal(path))


def opened(path: Path) -> optuna.Study | None:
    """The study in a journal; ``None`` if there is none, or one without trials.

    Raises:
        InputError: if it is damaged.
    """
    if not path.exists():
        return None
    try:
        kept = storage(path)
        names = optuna.get_all_study_names(kept)
        study = optuna.load_study(study_name=names[0], storage=kept) if names else None
        return study if study and study.trials and About(**study.user_attrs[ABOUT]).made_of.keys() else None
    except StorageError:
        raise
    except Exception as error:  # Optuna looks at nothing that it reads
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} is damaged ({why}): remove it, and the same command finds its trials anew from the jobs' folders"
        ) from error
