"""Recipes with mistakes in them."""

from __future__ import annotations

import codecs

from malformed_cases.case import Case
from malformed_cases.texts import DATA, GOOD, recipe, toy

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
_PRIOR = f"name: mine\n{DATA}pipeline: {{prior: {{use: dino-affinity, weights: 'builtin:tiny'}}}}\n"


def _pipeline(stages: str) -> str:
    return f"name: mine\n{DATA}pipeline: {stages}\n"


YAML: list[Case] = [
    recipe("a tab in place of spaces", "name: mine\ndata:\n\tuse: shapes\n"),
    recipe("a line that is indented too far", "name: mine\ndata:\n  use: shapes\n    size: 48\n"),
    recipe("a line that is indented too little", "name: mine\ndata:\n    use: shapes\n  size: 48\n"),
    toy("a key that stands twice", GOOD + "name: again\n"),
    recipe("a quote that is not closed", "name: 'mine\n" + DATA),
    recipe("a brace that is not closed", "name: mine\ndata: {use: shapes, size: 48\npipeline:\n  prior: {use: bright}\n"),
    recipe("no space after a colon: `name:mine`", "name:mine\n" + DATA),
    recipe("a text with `: ` in it and no quotes", "name: mine\ndescription: my runs: the first\n" + DATA),
    recipe("a photograph in place of a recipe", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01" * 20),
    recipe("a recipe in UTF-16", codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le")),
    recipe("a control character", "name: mine\x07\n" + DATA),
    recipe("an empty file", ""),
    recipe("comments only", "# to do\n"),
    recipe("a list at the top", "- name: mine\n- data: {use: shapes}\n"),
    recipe("two documents in one file", GOOD + "---\n" + GOOD),
    recipe("aliases of aliases of aliases …", _BOMB),
    toy("an alias that contains itself", "name: mine\ndata: &d {use: shapes, more: *d}\n" + GOOD.partition(DATA)[2]),
    recipe("an alias without its anchor", "name: mine\ndata: *photos\n"),
    toy("a tag that would run code", GOOD.replace("mine", "!!python/object/apply:os.system [date]", 1)),
    toy("a key that is no text: `1:`", GOOD + "1: one\n"),
]

SETTINGS: list[Case] = [
    toy("a section that is mistyped: `pipelines:`", GOOD.replace("pipeline:", "pipelines:")),
    toy("no name", GOOD.replace("name: mine\n", "")),
    recipe("no data", _PRIOR.replace(DATA, "")),
    recipe("no pipeline", "name: mine\n" + DATA),
    recipe("a pipeline without stages", _pipeline("{}")),
    recipe("data as a text: `data: photos`", _PRIOR.replace(DATA, "data: photos\n")),
    recipe("a pipeline that is a list", f"name: mine\n{DATA}pipeline:\n  - prior: {{use: dino-affinity}}\n"),
    recipe("a stage as a text: `prior: dino-affinity`", _pipeline("{prior: dino-affinity}")),
    recipe("a setting of the data that is mistyped", _PRIOR.replace("size: 48", "sise: 48")),
    recipe("a setting of a stage that is mistyped", _PRIOR.replace("weights:", "weigths:")),
    recipe("a setting of a step that is mistyped", _pipeline("{segmenter: {use: deeplabv3, fit: {iter: 9}}}")),
    recipe("a setting one level too high", _pipeline("{segmenter: {use: deeplabv3, hard_pixels: 0.2}}")),
    recipe("a setting of another plugin", _pipeline("{prior: {use: dino-affinity, clusters: 5}}")),
    recipe("a required setting left out", "name: mine\ndata: {use: folder}\n" + _PRIOR.partition(DATA)[2]),
    recipe("a text where a number belongs", _PRIOR.replace("size: 48", "size: big")),
    recipe("a decimal where an integer belongs", _PRIOR.replace("size: 48", "size: 48.5")),
    recipe("`yes` where a number belongs", _PRIOR.replace("size: 48", "size: true")),
    recipe("a number out of its range", _PRIOR.replace("size: 48", "size: 4")),
    recipe("a share above 1", _PRIOR.replace("builtin:tiny'", "builtin:tiny', topk: 40")),
    recipe("`.inf` and `.nan`", _PRIOR.replace("builtin:tiny'", "builtin:tiny', topk: .nan")),
    recipe("a choice that there is not", _PRIOR.replace("size: 48", "level: medium")),
    recipe("a list that is too short", _PRIOR.replace("size: 48", "objects: [1]")),
    recipe("a range the wrong way round", _PRIOR.replace("size: 48", "objects: [3, 1]")),
    recipe("a negative seed", _PRIOR + "seed: -1\n"),
    recipe("a device that there is not: `gpu`", _PRIOR + "device: gpu\n"),
    recipe("an unknown evaluation", _PRIOR + "evaluate: [clusterings]\n"),
    recipe("an evaluation that is no list", _PRIOR + "evaluate: clustering\n"),
    recipe("an unknown observer", _PRIOR + "observers: [mlfow]\n"),
    recipe("an observer with an unknown setting", _PRIOR + "observers: [{use: mlflow, experimnt: a}]\n"),
    recipe(
        "several mistakes at once",
        "name: mine\nsede: 3\ndata: {use: shapes, size: 4}\npipeline: {prior: {use: dino-afinity}, clusterer: {clusters: many}}\n",
    ),
]

STAGES: list[Case] = [
    recipe("a plugin that is mistyped", _pipeline("{prior: {use: dino-afinity}}")),
    recipe("a plugin of another kind", _pipeline("{prior: {use: kmeans}}")),
    recipe("a plugin's name that is a number", _pipeline("{prior: {use: 3}}")),
    recipe("a stage of one's own without `kind`", _pipeline("{crf: {use: confidence}}")),
    recipe("a stage that is mistyped: `clusterrer`", _pipeline("{clusterrer: {use: kmeans}}")),
    recipe("a kind that there is not", _pipeline("{crf: {kind: refine, use: confidence}}")),
    recipe(
        "a stage's id with a capital letter", _pipeline("{Second: {kind: prior, use: dino-affinity, weights: 'builtin:tiny'}}")
    ),
    toy("a detector without a clusterer", _pipeline("{prior: {use: bright}, detector: {use: memory}}")),
    toy(
        "stages in the wrong order",
        _pipeline("{clusterer: {use: colour}, prior: {use: bright}, refiner: {use: keep}}"),
    ),
    toy("a refiner that has nothing to refine", _pipeline("{prior: {use: bright}, refiner: {use: keep}}")),
    toy("`input` names a later stage", GOOD.replace("{use: bright}", "{use: bright, input: clusterer}")),
    toy("`input` is mistyped", GOOD.replace("{use: keep}", "{use: keep, input: clustrer}")),
    toy("`input` makes something else", GOOD.replace("{use: keep}", "{use: keep, input: prior}")),
    toy("a stage removed that is not there", GOOD + "  segmenter: null\n"),
    toy("weights of a stage that there is not", GOOD.replace("{use: bright}", "{use: bright, weights: 'stage:pretrainer'}")),
    toy("weights of a stage that makes none", GOOD.replace("{use: bright}", "{use: bright, weights: 'stage:refiner'}")),
    toy(
        "weights of a pretrainer that comes later",
        GOOD.replace("{use: bright}", "{use: bright, weights: 'stage:pretrainer'}") + "  pretrainer: {use: mean}\n",
    ),
    toy(
        "a pretrainer that starts from itself",
        GOOD.replace("  prior:", "  pretrainer: {use: mean, init: 'stage:pretrainer'}\n  prior:"),
    ),
]

LAYERS: list[Case] = [
    recipe("`extends` names no recipe", "extends: quickstrat\nname: mine\n"),
    Case(
        "recipes that extend each other",
        "mdp run a.yaml",
        {"a.yaml": "extends: b.yaml\nname: a\n", "b.yaml": "extends: a.yaml\nname: b\n"},
    ),
    recipe("`extends` with a mapping", "extends: {file: quickstart}\nname: mine\n"),
    Case(
        "a mistake in the recipe that is extended",
        "mdp run mine.yaml",
        {"base.yaml": _PRIOR.replace("size: 48", "size: 4"), "mine.yaml": "extends: base.yaml\nseed: 1\n"},
    ),
    recipe("settings of a plugin that was replaced", "extends: quickstart\ndata: {use: folder, size: 64}\n"),
    recipe("an environment variable that is not set", _PRIOR.replace(DATA, "data: {use: folder, root: '${MY_PHOTOS}'}\n")),
    recipe(
        "a reference that is not closed: `${MY_PHOTOS/sea`",
        _PRIOR.replace(DATA, "data: {use: folder, root: '${MY_PHOTOS/sea'}\n"),
    ),
    recipe("a text from the environment for a number", _PRIOR.replace("size: 48", "size: '${SIDE}'"), env={"SIDE": "big"}),
]
