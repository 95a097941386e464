"""A search's journal: whole, or its damage is noticed."""

import json
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from src.core.errors import InputError
from src.sweeps.search.space import SearchSpace, read_space
from src.sweeps.search.study import Study, StudyInfo

INFO = StudyInfo("val/acc", "max", {"hydra.sweeper.seed": 0})
TRIALS = 5


@pytest.fixture
def space() -> SearchSpace:
    return read_space(["lr=tag(log,interval(1e-4,1e-1))", "norm=true,false"], None)


@pytest.fixture
def journal(space: SearchSpace, tmp_path: Path) -> Path:
    """The journal of a search whose trials have all been told."""
    study = Study(tmp_path / "study.journal", space, "tpe", 0)
    study.start(INFO)
    for number in range(TRIALS):
        study.suggest_trial()
        study.record_result(number, number / 8)
    return study.path


def read_study(path: Path, space: SearchSpace) -> tuple[Any, list[Any]]:
    """What a search is, and its trials."""
    study = Study(path, space, "tpe", 0)
    return study.info, [(trial.number, trial.state.name, trial.params, trial.value) for trial in study.trials]


def test_flipped_bit_is_detected_or_harmless(journal: Path, space: SearchSpace) -> None:
    chance, whole, content, refused = random.Random(0), read_study(journal, space), journal.read_bytes(), list[str]()
    last = content.rfind(b"\n", 0, -1)  # the end of the last line but one
    for place in {*range(0, len(content), 7), last}:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        journal.write_bytes(damaged)
        try:
            found = read_study(journal, space)
        except InputError as error:
            refused.append(str(error))
        else:
            again = found[1][:-1] == whole[1][:-1] and found[1][-1][1] == "RUNNING"  # its last line is told again
            both = place == last and found[1] == whole[1][:-1]  # the last two lines have become one
            assert found == whole or (again and place >= last) or both
    assert len(refused) > len(content) / 7 * 0.9
    assert all(line.startswith(f"{journal} is damaged (line ") and "\n" not in line for line in refused)


def test_torn_last_line_is_cut_off(journal: Path, space: SearchSpace) -> None:
    """A torn last line is cut off, and the next entry is written in its place."""
    content, (about, trials) = journal.read_bytes(), read_study(journal, space)
    lines = content.splitlines(keepends=True)
    for torn in (content[:-1], content[:-40], b"".join(lines[:-1]), content[:-40] + 39 * b"\0" + b"\n"):
        journal.write_bytes(torn)
        found = read_study(journal, space)
        assert found[0] == about and found[1] == [*trials[:-1], (4, "RUNNING", trials[4][2], None)]
        Study(journal, space, "tpe", 0).record_result(4, 0.5)
        assert read_study(journal, space) == (about, trials)


def test_other_programs_can_use_journal(journal: Path, space: SearchSpace) -> None:
    """Other programs read the journal and may add attributes; a trial that they add is refused."""
    whole = read_study(journal, space)
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(journal))))
    assert [trial.value for trial in study.trials] == [trial[3] for trial in whole[1]]
    study.set_user_attr("note", "mine")
    assert read_study(journal, space) == whole
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(InputError, match="trial 5 does not belong to this search: another program has added it"):
        Study(journal, space, "tpe", 0).check_trials()


def test_journal_without_checksums_is_read(journal: Path, space: SearchSpace) -> None:
    """A journal of an earlier version, without checksums, is read."""
    whole = read_study(journal, space)
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert all(isinstance(entry.pop("crc32"), int) for entry in entries)
    journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert read_study(journal, space) == whole
