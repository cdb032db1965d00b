"""Plugins, the registry and folders of results with mistakes in them."""

from __future__ import annotations

from pathlib import Path

from malformed_cases.case import TOY, Case
from malformed_cases.texts import DATA, GOOD, toy

_HEAD = "from mdp_core.api import *\n"
_REGISTER = "\n@hookimpl\ndef mdp_register(registry):\n    registry.add({})\n"
_CRASH = f"name: mine\n{DATA}pipeline: {{prior: {{use: crash, how: HOW}}}}\n"


def _plugin(mistake: str, text: str, *, code: int = 1, use: str = "mine") -> Case:
    recipe = f"name: mine\n{DATA}pipeline: {{prior: {{use: {use}}}}}\n"
    return Case(mistake, "mdp run mine.yaml --plugin mine.py --no-track", {"mine.yaml": recipe, "mine.py": text}, code=code)


def _class(body: str) -> str:
    return (
        f"{_HEAD}\nclass Settings(StageConfig):\n    pass\n\nclass Mine(GroupingPrior[Settings]):\n    Config = Settings\n"
        f"    def mine(self, images):\n        {body}\n" + _REGISTER.format('"prior", "mine", factory=":Mine"')
    )


def _registry(mistake: str, text: str, code: int = 1, recipe: str = GOOD) -> Case:
    files: dict[str, str | bytes | Path] = {"mine.yaml": recipe, "toy.py": TOY, "registry.yaml": text}
    return Case(mistake, "mdp run mine.yaml --plugin toy.py --no-track", files, code=code)


PLUGINS: list[Case] = [
    _plugin("a syntax error", "def mdp_register(registry)\n    pass\n"),
    _plugin("a library that is not installed", "import torhc\n"),
    _plugin("a module that crashes when it is imported", "raise RuntimeError('no licence')\n"),
    _plugin("nothing is registered", "x = 1\n"),
    _plugin("a hook that is mistyped", _HEAD + "\n@hookimpl\ndef mdp_registr(registry):\n    pass\n"),
    _plugin("a hook with a wrong argument", _HEAD + "\n@hookimpl\ndef mdp_register(registri):\n    pass\n"),
    _plugin("a plugin of a kind that there is not", _HEAD + _REGISTER.format('"priors", "mine", factory=":Mine"')),
    _plugin("a plugin for another API", _HEAD + _REGISTER.format('"prior", "mine", factory=":Mine", api=99')),
    _plugin("a class that is not in the module", _HEAD + _REGISTER.format('"prior", "mine", factory=":Mime"'), code=2),
    _plugin(
        "a class without settings",
        _HEAD + "\nclass Mine:\n    pass\n" + _REGISTER.format('"prior", "mine", factory=":Mine"'),
        code=2,
    ),
    _plugin(
        "two plugins of one name",
        _HEAD + "\nclass Mine:\n    pass\n" + _REGISTER.format('"prior", "dino-affinity", factory=":Mine"'),
        use="dino-affinity",
    ),
    _plugin("a method that is not implemented", _class("pass").replace("def mine(", "def mining(")),
    _plugin("a method that returns nothing", _class("pass")),
    _plugin("a method that yields something else", _class("yield from images")),
    _plugin("an instance with masks of another type", _class("yield Instances.from_masks([1, 2, 3])")),
    toy("a plugin that raises", _CRASH.replace("HOW", "raise"), code=1),
    toy("a plugin whose process dies", _CRASH.replace("HOW", "exit"), code=1),
    toy("a plugin that yields too few results", _CRASH.replace("HOW", "few"), code=1),
    toy("a plugin that yields results of another size", _CRASH.replace("HOW", "size"), code=1),
    toy("a prior that gives a score that is no number", _CRASH.replace("HOW", "nan"), code=1),
    toy("a prior that gives an empty mask", _CRASH.replace("HOW", "empty"), code=1),
    toy("a plugin that raises at its third image", _CRASH.replace("HOW", "late-raise"), code=1),
    toy("a plugin that takes for ever on one image", _CRASH.replace("HOW", "sleep, time_limit: 0.5"), code=1),
    toy("a time limit that is no time", _CRASH.replace("HOW", "sleep, time_limit: -1")),
]

REGISTRY: list[Case] = [
    _registry("registry.yaml is not YAML", "defaults: {prior: bright\n"),
    _registry("registry.yaml is a list", "- prior\n"),
    _registry("a key that is mistyped", "default: {prior: bright}\n"),
    _registry("a value of the wrong type", "observers: mlflow\n"),
    _registry("a format of a later version", "version: 2\n"),
    _registry("a default that there is not", "defaults: {prior: brigth}\n", 2, GOOD.replace("{use: bright}", "{}")),
    _registry("an alias of a plugin that there is not", "aliases: {prior: {bright: brigth}}\n", 2),
    _registry("a file that is not there", "files: [my_prior.py]\n"),
    Case("`MDP_REGISTRY` names no file", "mdp run quickstart", env={"MDP_REGISTRY": "my.yaml"}, code=1),
]


_DOUBLE = (
    f"{_HEAD}\nclass Settings(DatasetConfig):\n    train: str = 'all'\n    eval: str | None = None\n\n"
    "class Double(Dataset[Settings]):\n    Config = Settings\n    def sources(self, split):\n"
    "        for name in NAMES:\n            yield Source(name, size=(32, 32), content='x')\n"
    + _REGISTER.format('"dataset", "double", factory=":Double"')
)


def _dataset(mistake: str, names: str) -> Case:
    recipe = "name: mine\ndata: {use: double}\npipeline: {prior: {use: dino-affinity, weights: 'builtin:tiny'}}\n"
    files = {"mine.yaml": recipe, "mine.py": _DOUBLE.replace("NAMES", names)}
    return Case(mistake, "mdp run mine.yaml --plugin mine.py --no-track", files, code=1)


DATASETS: list[Case] = [
    _dataset("two images of one id", "['a', 'b', 'a']"),
    _dataset("an id that leads out of the folder", "['../a']"),
    _dataset("an id that is empty", "['']"),
    _dataset("a dataset without images", "[]"),
    _dataset("an id that is no text", "[3]"),
    _dataset("a dataset that crashes", "1 / 0"),
]


RESULTS: list[Case] = [
    toy("`MDP_SHARD_SIZE` that is no number", GOOD, env={"MDP_SHARD_SIZE": "many"}, code=1),
    toy("`MDP_SHARD_SIZE` of nought", GOOD, env={"MDP_SHARD_SIZE": "0"}, code=1),
    toy("`--home` below a file", GOOD, "--home notes/home", code=1, prepare=lambda folder: (folder / "notes").write_text("x")),
    toy(
        "`MDP_HOME` is a file",
        GOOD,
        env={"MDP_HOME": "notes"},
        code=1,
        prepare=lambda folder: (folder / "notes").write_text("x"),
    ),
]
