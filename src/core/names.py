"""Suggest the name that a user meant by an unknown one: the same words, a synonym, or the most similar spelling."""

import difflib
import re
from collections.abc import Iterable

FILLER_WORDS = {  # words that hardly change a name's meaning
    *("n", "num", "number", "of", "max", "total", "size", "dim", "count", "value", "type", "name", "fn", "function"),
    *("rate", "p", "prob", "probability", "penalty", "reg"),
}
RARE_PREFIXES = ("recipe.", "paths.", "callbacks.", "hydra.")  # prefixes of settings that users rarely mean
NAME_PATTERN = re.compile(r"[^\W\d_][\w./ -]+")  # text that can be a name: not -1, and not a single letter
MIN_SIMILARITY = 0.65  # minimum similarity of a suggested name: 1 is equal

# Common names of settings, groups and choices elsewhere, without separators and plurals, and their names here.
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
    "arch": ("arch", "model"),
    "architecture": ("arch", "model"),
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
    "statedict": ("safetensors",),
    "pt2": ("torch_export",),
    "pt": ("torchscript",),
}


def suggest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the full name that an unknown one most likely means (``optimizer.lr`` for ``learning_rate``), if any."""
    names = list(dict.fromkeys(names))
    return (
        (suggest_by_words(name, names) or _suggest_by_spelling(name, names)) if NAME_PATTERN.fullmatch(name) else None
    )


def suggest_by_words(name: str, names: Iterable[str]) -> str | None:
    """Return the name whose last part has the same words as the unknown one's, or synonyms of them, if any."""
    group, _, last = name[:100].rpartition(".")
    words, core = _split_words(last), _remove_fillers(_split_words(last))
    ranked = sorted(names, key=lambda each: _rank_suggestion(each, group))
    parts = {each: _split_words(each.rpartition(".")[2]) for each in ranked}
    literal = SYNONYMS.get(_remove_separators(last), ())
    meant = [*literal, *SYNONYMS.get("".join(words), ()), *SYNONYMS.get("".join(core), ())]
    same = [each for each in ranked if _remove_separators(each.rpartition(".")[2]) == _remove_separators(last)]
    usual = [each for each in same if not each.startswith(RARE_PREFIXES)]
    synonyms = [each for other in meant for each in ranked if other in (each, each.rpartition(".")[2])]
    singular = [each for each in ranked if parts[each] == words]
    alike = [each for each in ranked if core and _remove_fillers(parts[each]) == core]
    # A synonym of the exact text as typed comes even before a name that is spelled the same.
    return next(iter([*(synonyms if literal else usual), *usual, *synonyms, *same, *singular, *alike]), None)


def _suggest_by_spelling(name: str, names: Iterable[str]) -> str | None:
    """Return the most similarly spelled name, if any: compare the last parts within the group first, then whole names.

    Names below the similarity `MIN_SIMILARITY` are not returned.
    """
    name = name[:100].lower()
    group, _, last = name.rpartition(".")
    ranked = sorted(names, key=lambda each: _rank_suggestion(each, group))
    siblings = {
        each: _compute_similarity(last, each.rpartition(".")[2]) for each in ranked if each.rpartition(".")[0] == group
    }
    others = {
        each: max(_compute_similarity(name, each), 0.99 * _compute_similarity(last, each.rpartition(".")[2]))
        for each in ranked
    }
    others = {each: score for each, score in others.items() if each not in siblings or not group}
    for scores in [siblings, others] if group else [others]:
        best = max(scores, key=lambda each: scores[each], default="")
        if best and scores[best] >= MIN_SIMILARITY:
            return best
    return None


def _compute_similarity(one: str, other: str) -> float:
    if sorted(one) == sorted(other):  # two letters in the wrong order
        return 0.95
    return difflib.SequenceMatcher(None, one, other).ratio()


def _split_words(text: str) -> list[str]:
    """Return the words of a name such as ``batchSize`` or ``n_epochs``, in lower case and singular."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    words = re.findall(r"[^\W_]+", parts.lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]


def _remove_separators(text: str) -> str:
    """Return a text in lower case, without separators between its words."""
    return re.sub(r"[\W_]+", "", text.lower())


def _remove_fillers(words: list[str]) -> list[str]:
    return [word for word in words if word not in FILLER_WORDS]


def _rank_suggestion(name: str, group: str) -> tuple[bool, bool, int]:
    """Return a sort key for suggestions: names of the typed group first, then the usual ones, then the least nested."""
    return (name.rpartition(".")[0] != group, name.startswith(RARE_PREFIXES), name.count("."))
