"""Fill in a checklist for the results in a folder: data, leakage, model, selection, uncertainty, compute, code.

Its items are in short those of the NeurIPS paper checklist and of REFORMS (Kapoor et al., REFORMS: Consensus-based
Recommendations for Machine-learning-based Science, Science Advances 2024). What the folder cannot tell is left open.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from src.core.checks import format_escaped
from src.core.commands import format_command
from src.core.errors import InputError
from src.core.formatting import (
    format_count,
    format_long_duration,
    format_metric,
    format_settings,
    to_relative_path,
)
from src.data.preprocessing import DataDescription, read_description
from src.sweeps.checklist.facts import Facts, join_values, read_facts
from src.sweeps.preview.show import describe_axes
from src.sweeps.search.halving import HALVING_FILE
from src.sweeps.store.aggregate import format_mean_std
from src.sweeps.store.evidence import compute_interval, describe_optimism, describe_tied, format_interval
from src.sweeps.store.leaderboard import STATUSES, Leaderboard
from src.sweeps.store.runs import is_seed
from src.sweeps.store.searches import SEARCH_FILE

PUBLISHED = ("src.data.mnist.", "src.data.fashion_mnist.", "src.data.cifar10.")
OWN_IMAGES, TABLE, TOY, WHEAT = (f"src.data.{name}." for name in ("image_folder", "table", "toy", "wheat"))
SPLIT_SETTINGS = ("val_size", "test_size", "train_size", "test_file", "folds", "fold", "split_seed")
AUGMENTATIONS = ("flip", "crop", "cutout", "mixup", "cutmix")
MAX_NUMBERS = 4  # of a mean or deviation
MAX_COMMANDS = 5


class Item(NamedTuple):
    """An item of the list: a text, and True if the folder shows it, False if the author must."""

    is_known: bool
    text: str


def build_checklist(folder: Path) -> str:
    """Return the checklist of a run's or a sweep's folder as Markdown.

    Raises:
        InputError: if there is neither.
    """
    facts = read_facts(folder)
    sections = {title: list(list_items(facts)) for title, list_items in SECTIONS.items()}
    items = [item for part in sections.values() for item in part]
    known = sum(item.is_known for item in items)
    lines = [
        f"# Reproducibility checklist: {folder.resolve().name}",
        "",
        f"{known} of {len(items)} items are filled in from the folder; it cannot tell the others, `[ ]`. They are",
        "in short those of the NeurIPS paper checklist and of REFORMS (Kapoor et al., 2024).",
    ]
    for title, part in sections.items():
        lines += ["", f"## {title}", ""]
        lines += [f"- [{'x' if item.is_known else ' '}] {format_escaped(item.text)}" for item in part]
    return "\n".join([*lines, ""])


def list_claims(facts: Facts) -> Iterator[Item]:
    yield Item(False, "What is claimed, and of which population or kind of data; which numbers below support it.")
    yield Item(False, "What would limit the claim: assumptions, other data, other sizes.")


def list_data(facts: Facts) -> Iterator[Item]:
    names = facts.list_values("data._target_")
    files = facts.describe(("file", "test_file", "root", "labels", "target"), "data.") if _is_own(facts) else ""
    yield Item(True, f"Source: {join_values(names)}{f' ({files})' if files else ''}.")
    counts = facts.list_recorded(_read_samples)
    yield Item(bool(counts), f"Samples: {join_values(counts) or 'how many of train, val and test'}.")
    yield from _describe_split(facts)
    state = facts.checkpoint.get(str(facts.shown_settings.get("data._target_")).rpartition(".")[2])
    is_verified = facts.list_values("data.verify") == ["true"] or all(name.startswith(WHEAT) for name in names)
    if isinstance(state, dict) and (found := state.get("digests") or state.get("digest")):
        yield Item(True, f"Fingerprint: {', '.join(map(str, found)) if isinstance(found, list) else found}.")
    elif is_verified and all(name.startswith((*PUBLISHED, WHEAT)) for name in names):
        yield Item(True, "Fingerprint: the data were those published, by their SHA-256.")
    elif not all(name.startswith(TOY) for name in names):
        yield Item(False, "Which version of the data: no fingerprint was kept.")
    yield Item(False, "How often the target has each class, or which values, in each part.")
    yield Item(False, "Who collected the data, how and when; licence; consent; what is missing or not representative.")


def _is_own(facts: Facts) -> bool:
    return str(facts.shown_settings.get("data._target_")).startswith((OWN_IMAGES, TABLE))


def _read_samples(start: dict[str, object]) -> str | None:
    samples = start.get("samples")
    return ", ".join(f"{size:,} {name}" for name, size in samples.items()) if isinstance(samples, dict) else None


def _describe_split(facts: Facts) -> Iterator[Item]:
    """Yield how the samples were divided, as far as this project's data sets do it in a known way."""
    name, drawn = str(facts.shown_settings.get("data._target_")), facts.describe(SPLIT_SETTINGS, "data.")
    if name.startswith(PUBLISHED):
        yield Item(True, f"Split: the published test set; the validation samples are drawn from the rest ({drawn}).")
    elif name.startswith(TOY):
        yield Item(True, f"Split: each part is computed again ({drawn}).")
    elif name.startswith("src.data."):
        yield Item(True, f"Split: {drawn}; parts that have no file or folder of their own are drawn at random.")
    else:
        yield Item(False, f"How the data were divided into training, validation and test ({drawn or 'no settings'}).")
    if name.startswith("src.data.") and "data.split_seed" in facts.shown_settings:
        yield Item(True, "The split does not depend on the seed of the runs.")


def list_preprocessing(facts: Facts) -> Iterator[Item]:
    is_ours = str(facts.shown_settings.get("data._target_")).startswith("src.data.")
    found: DataDescription | None = None
    try:
        found = read_description(facts.checkpoint, facts.shown.folder)
    except InputError:
        yield Item(False, "The steps from a raw input to the network's: the checkpoint's record is damaged.")
    if found and (steps := found.preprocessing):
        numbers = [", ".join(f"{number:.4g}" for number in part[:MAX_NUMBERS]) for part in (steps.mean, steps.std)]
        more = " …" if len(steps.mean) > MAX_NUMBERS else ""
        what = f"(input − mean) / deviation with {numbers[0]}{more} and {numbers[1]}{more}" if steps.mean else "none"
        what = "columns encoded as the checkpoint says" if steps.kind == "row" else what
        is_given = facts.list_values("data.mean") or facts.list_values("data.standardize") == ["false"]
        own = ", by the training samples alone" if is_ours and what != "none" and not is_given else ""
        yield Item(True, f"From a raw input ({steps.kind}) to the network's: {what}{own}.")
    elif not str(facts.shown_settings.get("data._target_")).startswith(TOY):
        yield Item(False, "The steps from a raw input to the network's.")
    if is_ours:
        names = [name for name in AUGMENTATIONS if set(facts.list_values(f"data.{name}")) - {"false", "0"}]
        yield Item(True, f"Augmentation, in training only: {facts.describe(names, 'data.') or 'none'}.")
    yield Item(False, "What was done to the data before: cleaning, exclusions, filling in.")


def list_leakage(facts: Facts) -> Iterator[Item]:
    name = str(facts.shown_settings.get("data._target_"))
    if name.startswith("src.data."):
        yield Item(True, "The parts are disjoint: each sample is trained, validated or tested on.")
    if name.startswith(OWN_IMAGES):
        yield Item(True, "Identical pictures were kept once, so that none is trained and tested on.")
    if name.startswith(TABLE):
        yield Item(True, "Columns that give the target away or count the rows were looked for; see the notes.")
    for note in facts.notes:
        yield Item(True, f"Noted by the run: {note}")
    yield Item(False, "Samples that belong together (a person, a place, a moment; near copies) are in one part only.")
    yield Item(False, "Each input would be known at the time of the prediction, and none stands for the target.")


def list_model(facts: Facts) -> Iterator[Item]:
    sizes = dict.fromkeys(f"{run.metrics['parameters']:,}" for run in facts.runs if "parameters" in run.metrics)
    models = join_values(facts.list_values("model._target_"))
    yield Item(True, f"Model: {models}{f', {join_values(list(sizes))} parameters' if sizes else ''}.")
    weights = facts.describe(("ckpt_path", "model.weights"))
    yield Item(True, f"Weights at the start: {weights or 'drawn at random, by the seed'}.")
    chosen = facts.describe(("optimizer._target_", "optimizer.lr", "scheduler._target_", "data.batch_size"))
    rest = facts.describe(("trainer.max_epochs", "trainer.precision"))
    yield Item(True, f"Training: {chosen}, {rest}; all settings: .hydra/config.yaml of each run.")
    yield Item(False, "Why this model; which simpler ones it was compared with, tuned with equal care.")


def list_selection(facts: Facts) -> Iterator[Item]:
    monitors = {(run.metrics["monitor"], run.metrics.get("mode")) for run in facts.runs if "monitor" in run.metrics}
    for monitor, mode in sorted(monitors, key=str):
        how = f"the best by {monitor} ({mode})" if monitor else "the last, since there is no validation set"
        yield Item(True, f"Epoch whose weights were kept: {how}.")
    tested = sum(any(name.startswith("test/") for name in run.metrics) for run in facts.runs)
    how = f"{tested} of {format_count(len(facts.runs), 'run')} tested, each at its end with the weights that were kept"
    ranked = "; jobs are ranked by validation alone" if facts.is_sweep and any(each for each, _ in monitors) else ""
    yield Item(True, f"Test set: {how}{ranked}.")
    if again := sum((run.folder / "eval_test.json").is_file() for run in facts.runs):
        yield Item(True, f"Test set: evaluated again later for {format_count(again, 'run')} (src.eval split=test).")
    yield Item(False, "No decision was made after seeing a test result, here or in earlier work on these data.")


def list_search(facts: Facts) -> Iterator[Item]:
    if not facts.is_sweep:
        yield Item(False, "How the settings were found, and how many were tried: a single run does not tell.")
        return
    swept = [{key: value for key, value in run.swept.items() if not is_seed(key)} for run in facts.runs]
    yield Item(True, f"Searched: {'; '.join(describe_axes(swept)) or 'nothing but seeds'}.")
    kinds = {SEARCH_FILE: "Optuna", HALVING_FILE: "successive halving"}
    how = [f"{kind} ({name})" for name, kind in kinds.items() if (facts.folder / name).is_file()]
    yield Item(True, f"Method: {' and '.join(how) or 'all combinations of the values given, and values added later'}.")
    counts = Counter(run.status for run in facts.runs)
    states = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    yield Item(True, f"Jobs: {len(facts.runs)}, of which {states}; none is left out (results.csv).")
    reasons = Counter(str(run.reason) for run in facts.runs if run.status == "failed")
    if reasons:
        yield Item(True, f"Failed because of: {', '.join(f'{reason} ({count})' for reason, count in reasons.items())}.")
    yield Item(False, "What was tried elsewhere: other sweeps, by hand, by others whose settings were taken over.")


def list_uncertainty(facts: Facts) -> Iterator[Item]:
    for board in facts.boards:
        yield from _describe_board(board, len(facts.boards) > 1)
    if len(facts.finished) == 1 or all(len(entry.finished) < 2 for board in facts.boards for entry in board.entries):
        yield Item(False, "Spread: each setting was run once; seeds as an axis, 'seed=range(5)', would show it.")
    else:
        yield Item(True, f"What varies between runs of a setting: {_list_repeated(facts)}; ±: standard deviation.")
    yield Item(False, "Why these metrics measure what is claimed.")
    yield Item(False, "What else varies and was not repeated: the split, the data, the machine.")


def _describe_board(board: Leaderboard, several: bool) -> Iterator[Item]:
    """Yield the results of the chosen entry of a leaderboard with n and interval, and what can be told apart."""
    chosen = board.chosen
    if chosen is None:
        yield Item(False, f"The result{f' on {board.data}' if several else ''}: no finished run has one.")
        return
    names = [board.monitor] if board.monitor else []
    names += dict.fromkeys(name for run in chosen.finished for name in run.metrics if name in ("test/acc", "test/loss"))
    parts = []
    for name in names:
        values = chosen.collect_values(name)
        interval = compute_interval(name, values)
        shown = format_mean_std(name, values) if len(values) != 1 else format_metric(name, values[0])
        sure = f" (95% interval: {format_interval(name, interval)}, {interval.kind})" if interval else ""
        parts.append(f"{name} {shown}{sure}")
    title = format_settings(chosen.settings) or ("all runs" if len(chosen.runs) > 1 else "the run")
    where = f"on {board.data}, " if several else ""
    yield Item(True, f"Result: {where}{title}, n = {len(chosen.finished)}: {', '.join(parts)}.")
    optimism = describe_optimism(board.evidence, board.ranking_metric, len(board.entries))
    yield from (Item(True, line) for line in (*describe_tied(board.evidence), *optimism))


def _list_repeated(facts: Facts) -> str:
    keys = dict.fromkeys(key for run in facts.runs for key in run.swept if is_seed(key) or key == "data.fold")
    return facts.describe(keys) or "nothing that is recorded"


def list_compute(facts: Facts) -> Iterator[Item]:
    devices = facts.list_recorded(lambda start: start.get("device"))
    machines = facts.list_recorded(_read_machine)
    yield Item(bool(devices), f"Device: {'; '.join([*devices, *machines]) or 'not recorded'}.")
    seconds = [run.metrics["seconds"] for run in facts.runs if "seconds" in run.metrics]
    epochs = sum(run.metrics.get("epochs", 0) for run in facts.runs)
    each = f", {format_long_duration(sum(seconds) / len(seconds))} on average" if len(seconds) > 1 else ""
    what = f"{format_count(len(seconds), 'run')} that ended an epoch, {epochs:,} epochs"
    yield Item(bool(seconds), f"Training: {format_long_duration(sum(seconds))} in all{each}, {what}.")
    yield Item(False, "Compute of the whole work, with everything that is not in this folder; memory; energy.")


def _read_machine(start: dict[str, object]) -> str | None:
    machine = start.get("machine")
    return f"{machine.get('system')}, {machine.get('cores')} cores" if isinstance(machine, dict) else None


def list_code(facts: Facts) -> Iterator[Item]:
    gits = [git for start in facts.starts if isinstance(git := start.get("git"), dict)]
    commits = list(dict.fromkeys(str(git["commit"]) for git in gits if git.get("commit")))
    yield Item(bool(commits), f"Code: {f'commit {join_values(commits)}' if commits else 'its commit is not recorded'}.")
    if any(git.get("dirty") for git in gits):
        yield Item(False, "Code: it had changes that were not committed; publish them.")
    versions = facts.list_recorded(_read_versions)
    yield Item(bool(versions), f"Versions: {'; or '.join(versions) or 'not recorded'}.")
    for command in facts.list_recorded(lambda start: start.get("command"))[:MAX_COMMANDS]:
        yield Item(True, f"Command: `{command}`")
    if facts.shown.status == "finished":
        again = format_command("src.repeat", [f"run={to_relative_path(facts.shown.folder)}"])
        yield Item(True, f"Repeat {'the best' if facts.is_sweep else 'it'} and compare to the last digit: `{again}`")
    exact = facts.describe(("deterministic", "seed"))
    yield Item(True, f"Randomness: {exact}; the same seed gives the same result on the same machine and versions.")
    yield Item(False, "Where code, data and weights can be had; their licences, and those of what they build on.")


def _read_versions(start: dict[str, object]) -> str | None:
    packages = start.get("packages")
    if not isinstance(packages, dict):
        return None
    return ", ".join([f"Python {start.get('python')}", *(f"{name} {number}" for name, number in packages.items())])


def list_effects(facts: Facts) -> Iterator[Item]:
    yield Item(False, "Whom the result may help or harm; what could go wrong when it is used; safeguards.")
    yield Item(False, "People who took part: instructions, pay, risks, approval; or none did.")


SECTIONS = {
    "Claims": list_claims,
    "Data": list_data,
    "Preprocessing": list_preprocessing,
    "Leakage": list_leakage,
    "Model and training": list_model,
    "Selection": list_selection,
    "Search": list_search,
    "Results and their uncertainty": list_uncertainty,
    "Compute": list_compute,
    "Code": list_code,
    "Effects": list_effects,
}
