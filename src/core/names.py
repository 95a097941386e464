"""The name that was meant by a wrong one: the same words written otherwise, the field's other words, the nearest."""

import difflib
import re
from collections.abc import Iterable

FILLERS = {  # words that change little
    *("n", "num", "number", "of", "max", "total", "size", "dim", "count", "value", "type", "name", "fn", "function"),
    *("rate", "p", "prob", "probability", "penalty", "reg"),
}
OFF_THE_WAY = ("recipe.", "paths.", "callbacks.", "hydra.")  # settings that are meant less often than others
NAME = re.compile(r"[^\W\d_][\w./ -]+")  # what may be meant as one: not -1, nor a single letter
CLOSE = 0.65  # how like a name must be to be offered: 1 is the same

# What people call settings, groups and choices elsewhere, without signs and plurals: what it may be here.
SYNONYMS = {
    "learningrate": ("lr",),
    "stepsize": ("lr",),
    "eta": ("lr",),
    "lrate": ("lr",),
    "unit": ("hidden_size",),
    "neuron": ("hidden_size",),
    "width": ("hidden_size",),
    "layer": ("hidden_size",),
    "bs": ("batch_size",),
    "wd": ("weight_decay",),
    "regularization": ("weight_decay", "l2"),
    "beta1": ("betas",),
    "beta2": ("betas",),
    "drop": ("dropout",),
    "act": ("activation",),
    "nonlinearity": ("activation",),
    "bn": ("batch_norm",),
    "initializer": ("init",),
    "criterion": ("loss",),
    "lossfunction": ("loss",),
    "lossfn": ("loss",),
    "smoothing": ("label_smoothing",),
    "iteration": ("max_steps",),
    "iter": ("max_steps",),
    "device": ("accelerator",),
    "gpu": ("devices",),
    "nproc": ("devices",),
    "node": ("num_nodes",),
    "amp": ("precision",),
    "fp16": ("precision",),
    "dtype": ("precision",),
    "gradclip": ("gradient_clip_val",),
    "clip": ("gradient_clip_val",),
    "clipnorm": ("gradient_clip_val",),
    "accumulate": ("accumulate_grad_batches",),
    "gradientaccumulationstep": ("accumulate_grad_batches",),
    "validation": ("val_size",),
    "validationsplit": ("val_size",),
    "patience": ("callbacks.early_stopping.patience",),
    "earlystopping": ("callbacks.early_stopping.patience",),
    "randomseed": ("seed",),
    "randomstate": ("seed",),
    "datadir": ("paths.data",),
    "dataset": ("data",),
    "task": ("data",),
    "net": ("model",),
    "network": ("model",),
    "arch": ("model",),
    "architecture": ("model",),
    "opt": ("optimizer",),
    "optim": ("optimizer",),
    "optimiser": ("optimizer",),
    "solver": ("optimizer",),
    "sched": ("scheduler",),
    "schedule": ("scheduler",),
    "lrscheduler": ("scheduler",),
    "preset": ("experiment",),
    "exp": ("experiment",),
    "checkpoint": ("ckpt_path",),
    "ckpt": ("ckpt_path", "checkpoint"),
    "output": ("paths.outputs",),
    "outputdir": ("paths.outputs",),
    "outdir": ("paths.outputs",),
    "runname": ("name",),
    "run": ("resume",),
    "resume": ("run",),
    "folder": ("run", "resume"),
    "cuda": ("gpu",),
    "metal": ("mps",),
    "knn": ("nearest_neighbor",),
    "convnet": ("cnn",),
    "dense": ("mlp",),
}


def guess(name: str, names: Iterable[str]) -> str | None:
    """Return which of the full names a wrong one means, if that can be told: ``optimizer.lr`` for ``learning_rate``."""
    names = list(dict.fromkeys(names))
    return (guess_words(name, names) or guess_letters(name, names)) if NAME.fullmatch(name) else None


def guess_words(name: str, names: Iterable[str]) -> str | None:
    """Return the name whose last part has the words of the wrong one's, or others that mean the same."""
    group, _, last = name[:100].rpartition(".")
    words, core = _split(last), _without_fillers(_split(last))
    ranked = sorted(names, key=lambda each: _rank(each, group))
    parts = {each: _split(each.rpartition(".")[2]) for each in ranked}
    literal = SYNONYMS.get(_join(last), ())
    meant = [*literal, *SYNONYMS.get("".join(words), ()), *SYNONYMS.get("".join(core), ())]
    same = [each for each in ranked if _join(each.rpartition(".")[2]) == _join(last)]
    usual = [each for each in same if not each.startswith(OFF_THE_WAY)]
    synonyms = [each for other in meant for each in ranked if other in (each, each.rpartition(".")[2])]
    singular = [each for each in ranked if parts[each] == words]
    alike = [each for each in ranked if core and _without_fillers(parts[each]) == core]
    return next(iter([*(synonyms if literal else usual), *usual, *synonyms, *same, *singular, *alike]), None)


def guess_letters(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is written most like the wrong one: by its last part in the same group, else the whole."""
    name = name[:100].lower()
    group, _, last = name.rpartition(".")
    ranked = sorted(names, key=lambda each: _rank(each, group))
    siblings = {each: _likeness(last, each.rpartition(".")[2]) for each in ranked if each.rpartition(".")[0] == group}
    others = {each: max(_likeness(name, each), 0.99 * _likeness(last, each.rpartition(".")[2])) for each in ranked}
    others = {each: score for each, score in others.items() if each not in siblings or not group}
    for scores in [siblings, others] if group else [others]:
        best = max(scores, key=lambda each: scores[each], default="")
        if best and scores[best] >= CLOSE:
            return best
    return None


def _likeness(one: str, other: str) -> float:
    if sorted(one) == sorted(other):  # two letters in the wrong order
        return 0.95
    return difflib.SequenceMatcher(None, one, other).ratio()


def _split(text: str) -> list[str]:
    """Return the words of ``batchSize`` or ``n_epochs``, in small letters and the singular."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    words = re.findall(r"[^\W_]+", parts.lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]


def _join(text: str) -> str:
    """Return a text in small letters, without the signs between its words."""
    return re.sub(r"[\W_]+", "", text.lower())


def _without_fillers(words: list[str]) -> list[str]:
    return [word for word in words if word not in FILLERS]


def _rank(name: str, group: str) -> tuple[bool, bool, int]:
    """Return the order in which names are offered: of the group that was typed, of the usual ones, the shortest."""
    return (name.rpartition(".")[0] != group, name.startswith(OFF_THE_WAY), name.count("."))
