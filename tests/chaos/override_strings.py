"""A generator of command lines: real settings with values of a wrong type, at the edges, malformed, and right ones."""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.override_values import ADDED, EDGES, MALFORMED, OF_HYDRA, OF_TYPES, PATHS, TARGETS, TEXTS
from tests.chaos.settings import GROUPS, OF_PATHS, Setting, choices, known
from tests.command_line import BARE

REFUSE, ACCEPT, EITHER = "refuse", "accept", "either"
QUICK = (*BARE, "trainer.max_epochs=1", "trainer.max_steps=3")


# Not tried: processes beside this one, which a process of tests cannot start.
SEVERAL = re.compile(r"[\s+]*trainer\.(devices|num_nodes)['\"\s]*=[\s'\"]*\+?0*[2-9]")


class Trial(NamedTuple):
    """A command to try.

    Attributes:
        kind: of fault.
        arguments: all of them.
        override: the one that it is about.
        must: "refuse", "accept" or "either": refused for a reason, or honoured.
        names: what a refusal has to name, one of them; none: anything.
        module: the command.
    """

    kind: str
    arguments: tuple[str, ...]
    override: str
    must: str
    names: tuple[str, ...] = ()
    module: str = "src.train"

    def __str__(self) -> str:
        return f"{self.override!r} of python -m {self.module} {' '.join(self.arguments)!r}"


def trials(seed: int, count: int) -> Iterator[Trial]:
    """Yield as many trials; the same seed yields the same."""
    draw = random.Random(seed)
    turns = [((turn + 0.5) / weight, kind) for kind, weight in WEIGHTS.items() for turn in range(weight)]
    kinds = [kind for _, kind in sorted(turns)]  # spread evenly: a few trials already have all
    for number in range(count):
        maker = MAKERS[kinds[number % len(kinds)]]
        trial = maker(draw)
        while SEVERAL.match(trial.override):
            trial = maker(draw)
        yield trial


def setting_trial(kind: str, setting: Setting, text: str, must: str, prefix: str = "") -> Trial:
    """Return the trial of a setting with a value as it is typed."""
    override = f"{prefix}{setting.name}={text}"
    group, _, last = setting.name.rpartition(".")
    names = (setting.name, last, *[group] * (last == "_target_"))
    names = () if "data=wheat" in setting.choices or setting.name in OF_PATHS else names  # no such data, a path's name
    if setting.name.startswith("hydra."):
        return Trial(kind, ("-m", "seed=0,1", *QUICK, *setting.choices, override), override, must, names)
    return Trial(kind, (*quick_but(setting), *setting.choices, override), override, must, names)


def quick_but(setting: Setting) -> tuple[str, ...]:
    """Return the settings that make a run quick, but for those that would take the setting away."""
    group = setting.name.partition(".")[0]
    return tuple(each for each in QUICK if not each.startswith(f"{group}="))


def of_a_run() -> list[Setting]:
    """Return the settings of a run; those of sweeps would start one where they are right."""
    return [each for each in known() if not each.name.startswith("hydra.") and each.default != {}]


def a_setting(draw: random.Random) -> Setting:
    return draw.choice([each for each in of_a_run() if not each.name.endswith("_target_")])


def of_wrong_type(draw: random.Random) -> Trial:
    convert = ("hydra.sweeper.max_batch_size", "hydra.sweeper.params")  # Hydra's own, which take '5' for 5
    setting = draw.choice([each for each in known() if each.default != {} and each.name not in convert])
    wrong = [kind for kind in OF_TYPES if kind not in setting.types and not (kind is int and float in setting.types)]
    wrong = [kind for kind in wrong if kind is not type(None) or not setting.suits(None)]
    if setting.name in OF_PATHS or setting.name.startswith("paths."):  # a path's text may look like a number
        wrong = [list, dict]
    text = draw.choice(OF_TYPES[draw.choice(wrong)])
    must = EITHER if setting.name in OF_PATHS or text == "{}" else REFUSE  # an empty dictionary adds nothing
    return setting_trial("wrong type", setting, text, must)


def at_an_edge(draw: random.Random) -> Trial:
    numbers = [each for each in of_a_run() if {int, float} & set(each.types) and each.name != "name"]
    return setting_trial("edge of a range", draw.choice(numbers), draw.choice(EDGES), EITHER)


def malformed(draw: random.Random) -> Trial:
    setting = a_setting(draw)
    override = draw.choice(MALFORMED).format(key=setting.name, value=draw.choice(OF_TYPES[int]))
    trial = setting_trial("malformed", setting, "", EITHER)
    return trial._replace(arguments=(*trial.arguments[:-1], override), override=override, names=())


def mistyped(draw: random.Random, text: str) -> str:
    """Return a text with one slip of the fingers."""
    at = draw.randrange(len(text))
    return draw.choice(
        [
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + draw.choice("abcdefgxyz_0") + text[at + 1 :],
            text[:at].upper() + text[at:],
            text + draw.choice("sx_"),
        ]
    )


def unknown_name(draw: random.Random) -> Trial:
    setting = a_setting(draw)
    names = {each.name for each in known()}
    name = mistyped(draw, setting.name)
    override = f"{name}={draw.choice(OF_TYPES[int])}"
    must = EITHER if name in names or name == setting.name else REFUSE
    trial = setting_trial("unknown name", setting, "", must)
    return trial._replace(arguments=(*trial.arguments[:-1], override), override=override, names=())


def unknown_choice(draw: random.Random) -> Trial:
    group = draw.choice([*GROUPS, "experiment", "sweep"])
    names = choices()[group]
    wrong = [mistyped(draw, draw.choice(names)), "5", "-1", "[mlp]", "[]", "true", "''", "../model/mlp", "no", "{a:1}"]
    name = draw.choice([*wrong, "null", "a/b", "${name}", ".", "/", "mlp.yaml", "'a b'", "ü", "a" * 300, "default@x"])
    override = f"{draw.choice(['', '', '', '+', '++', '~'])}{group}={name}"
    right = [*names, "null", "[]", *(["[mlp]"] if group == "model" else [])]  # a list of one is that one
    must = REFUSE if override == f"{group}={name}" and name not in right else EITHER
    quick = tuple(each for each in QUICK if not each.startswith(f"{group}="))
    return Trial("unknown choice", (*quick, override), override, must, (group, name))


def odd_text(draw: random.Random) -> Trial:
    setting = a_setting(draw)
    text = draw.choice(TEXTS)
    quoted = draw.choice([text, "'" + text.replace("'", "\\'") + "'"])
    return setting_trial("odd text", setting, quoted, EITHER)._replace(names=())


def odd_target(draw: random.Random) -> Trial:
    setting = draw.choice([each for each in of_a_run() if each.name.endswith("_target_")])
    text = draw.choice(TARGETS)
    must = EITHER if text.startswith(("src.", "lightning.", "torch.")) else REFUSE
    return setting_trial("target", setting, text, must)


def deletion(draw: random.Random) -> Trial:
    setting = draw.choice(of_a_run())
    parts = setting.name.split(".")
    name = ".".join(parts[: draw.randint(1, len(parts))])
    value = draw.choice(["", "", "=5", "=null", "=abc"])
    trial = setting_trial("deletion", setting, "", EITHER)
    override = f"~{name}{value}"
    return trial._replace(arguments=(*trial.arguments[:-1], override), override=override, names=())


def addition(draw: random.Random) -> Trial:
    name = draw.choice(ADDED)
    text = draw.choice([draw.choice(values) for values in [*OF_TYPES.values(), EDGES, TEXTS]])
    override = f"{draw.choice(['+', '++'])}{name}={text}"
    quick = tuple(each for each in QUICK if not each.startswith(f"{name.partition('.')[0]}=none"))
    return Trial("addition", (*quick, override), override, EITHER)


def odd_path(draw: random.Random) -> Trial:
    places = [each for each in of_a_run() if each.name in OF_PATHS]
    setting = draw.choice([*places, *[each for each in places if each.name in ("name", "paths.outputs")]])
    return setting_trial("path or name", setting, draw.choice(PATHS), EITHER)._replace(names=())


def of_hydra(draw: random.Random) -> Trial:
    override = f"{draw.choice(['', '', '+', '~'])}{draw.choice(OF_HYDRA)}"
    text = draw.choice(
        [
            draw.choice(values)
            for values in [*OF_TYPES.values(), TEXTS, PATHS, ("src.sweeps.store.folders.ReserveFolder",)]
        ]
    )
    override = override if override.startswith("~") else f"{override}={text}"
    return Trial("Hydra's own", (*QUICK, override), override, EITHER)


def of_a_sweep(draw: random.Random) -> Trial:
    setting = draw.choice([each for each in known() if each.name.startswith("hydra.") and each.default != {}])
    texts = ["[1]", "nan", "inf", "-1", "1" + 21 * "0", "''", "{a: [}", "true", "1e400", "'a\nb'", "-0.5"]
    text = draw.choice([each for each in texts if each != "true" or setting.types != (bool,)])
    return setting_trial("launcher or sweeper", setting, text, REFUSE)


def of_an_evaluation(draw: random.Random) -> Trial:
    setting = draw.choice([each for each in known("eval") if each.name != "hydra"])
    pools = [PATHS, PATHS] if setting.name in OF_PATHS else [*OF_TYPES.values(), EDGES, TEXTS]
    override = f"{setting.name}={draw.choice(draw.choice(pools))}"
    return Trial("evaluation", (f"run={TRAINED}", override), override, EITHER, module="src.eval")


TRAINED = "trained"  # stands for the folder of a run


NEEDING_FILES = {"data=table", "data=image_folder"}  # whose other settings matter only once the file is given
NEEDING_MORE = {"data=wheat", "hydra/sweeper=halving"}  # a file, or more than one epoch


def right_value(draw: random.Random) -> Trial:
    setting = a_setting(draw)
    while setting.name in ("resume", "compile", "paths.data") or NEEDING_FILES & set(setting.choices):
        setting = a_setting(draw)
    value = (
        "null" if setting.default is None else str(setting.default).replace("True", "true").replace("False", "false")
    )
    value = {"": "''"}.get(value, value)
    must = EITHER if NEEDING_MORE & set(setting.choices) else ACCEPT
    return setting_trial("right value", setting, value.replace(" ", ""), must)


MAKERS = {
    "wrong type": of_wrong_type,
    "edge of a range": at_an_edge,
    "malformed": malformed,
    "unknown name": unknown_name,
    "unknown choice": unknown_choice,
    "odd text": odd_text,
    "target": odd_target,
    "deletion": deletion,
    "addition": addition,
    "path or name": odd_path,
    "Hydra's own": of_hydra,
    "launcher or sweeper": of_a_sweep,
    "evaluation": of_an_evaluation,
    "right value": right_value,
}
WEIGHTS = {
    "wrong type": 12,
    "edge of a range": 14,
    "malformed": 8,
    "unknown name": 5,
    "unknown choice": 5,
    "odd text": 8,
    "target": 8,
    "deletion": 5,
    "addition": 9,
    "path or name": 8,
    "Hydra's own": 5,
    "launcher or sweeper": 5,
    "evaluation": 5,
    "right value": 3,
}
