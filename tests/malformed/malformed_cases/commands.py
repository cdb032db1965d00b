"""Command lines with mistakes in them."""

from __future__ import annotations

from malformed_cases.case import TOY, Case
from malformed_cases.texts import DATA, GOOD, toy

_PRETRAIN = f"name: mine\n{DATA}pipeline:\n  pretrainer: {{use: mean}}\n  prior: {{use: bright, weights: 'stage:pretrainer'}}\n"

PLAIN: list[Case] = [
    Case("a command that is mistyped", "mdp rnu quickstart"),
    Case("an option that is mistyped", "mdp run quickstart --overide seed=3"),
    Case("an option without its value", "mdp run quickstart --until"),
    Case("no recipe", "mdp run"),
    Case("two recipes", "mdp run quickstart folder"),
    Case("a recipe that is mistyped", "mdp run quikstart"),
    Case("a recipe's file that is not there", "mdp run recipes/mine.yaml", {"recipes/mime.yaml": GOOD}),
    Case("a folder in place of a recipe", "mdp run recipes", {"recipes/mine.yaml": GOOD}),
    Case("`--set` without `=`", "mdp run quickstart --set seed"),
    Case("`--set` with a space before the value", "mdp run quickstart --set seed= 3"),
    Case("`--set` of a setting that there is not", "mdp run quickstart --set sed=3"),
    Case("`--set` of a stage that there is not", "mdp run quickstart --set priorr.topk=0.2"),
    Case("`--set` of a stage's setting that there is not", "mdp run quickstart --set prior.top=0.2"),
    Case("`--set` with a value out of its range", "mdp run quickstart --set refiner.threshold=9"),
    Case("`--set` with a list that is not closed", "mdp run quickstart --set 'data.objects=[1, 2'"),
    Case("`--set extends`", "mdp run quickstart --set extends=folder"),
    Case("`--set` that removes a stage others need", "mdp run quickstart --set clusterer=null"),
    Case("`--until` a stage that there is not", "mdp run quickstart --until detecter"),
    Case("`--plugin` with no such file", "mdp run quickstart --plugin my_prior.py", code=1),
    Case("`--plugin` with a folder", "mdp run quickstart --plugin .", code=1),
    Case(
        "a recipe validated that is wrong", "mdp recipe validate mine.yaml quickstart", {"mine.yaml": GOOD.replace("48", "8")}
    ),
    Case("a plugin shown that there is not", "mdp plugins show dino-afinity", code=1),
    Case("plugins listed of a kind that there is not", "mdp plugins list --kind priors", code=1),
    toy("a step planned of a recipe with an unknown stage", GOOD, "--until prio"),
    Case("pretraining without a pretrainer", "mdp pretrain quickstart"),
    Case(
        "pretraining of a stage that is no pretrainer",
        "mdp pretrain mine.yaml --plugin toy.py --stage prior",
        {"mine.yaml": _PRETRAIN, "toy.py": TOY},
    ),
    Case(
        "pretrained weights into a file of another type",
        "mdp pretrain mine.yaml --plugin toy.py --out weights.pth",
        {"mine.yaml": _PRETRAIN, "toy.py": TOY},
    ),
    Case(
        "pretrained weights over an existing file",
        "mdp pretrain mine.yaml --plugin toy.py --out weights.safetensors --no-track",
        {"mine.yaml": _PRETRAIN, "toy.py": TOY, "weights.safetensors": "mine"},
    ),
]
