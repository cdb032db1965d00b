import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdp_core.recipe import Catalogue, InvalidRecipeError, LoadedRecipe, RecipeText, load_recipe

Load = Callable[..., LoadedRecipe]
Mistakes = Callable[..., list[str]]

BAD = """\
name: pascal
seed: true
data: {use: voc, root: ${VOC_ROOT}, train: trainaug, eval: val}
pipeline:
  prior:
    use: dino-affinity
    topkk: 0.4
    topk: many
    scales: [1, 0, a]
    weights: nothing
  clusterer: {use: kmeans, clusters: 2.5, range: [1], init: none, embed: {view: maskedcrop, size: x, depth: 3}}
  detector: {iters: 3, fit: {amp: maybe, lr: true, mm_overrides: 3}}
  crf: {use: dense-crf, names: {a: [1]}}
  refiner: {use: confidense, input: crff}
  other: {kind: refinr}
  segmenter: {use: deeplabv3, weights: file:gone}
evaluate: [clusterin, clustering]
device: gpu
observers: [mlflow, {use: mlflow, urii: 3}, 3]
foo: 1
"""

GOLDEN = """\
31 mistakes in recipes/pascal.yaml:
  recipes/pascal.yaml:2:7: seed: expected an integer ≥ 0 and ≤ 4294967295, got true
  recipes/pascal.yaml:3:24: data.root: environment variable VOC_ROOT is not set; export VOC_ROOT=… or --set data.root=…
  recipes/pascal.yaml:7:5: pipeline.prior.topkk: unknown setting, did you mean 'topk'?
  recipes/pascal.yaml:8:11: pipeline.prior.topk: expected a number ≤ 1, got 'many'
  recipes/pascal.yaml:9:17: pipeline.prior.scales.1: expected a number > 0, got 0
  recipes/pascal.yaml:9:20: pipeline.prior.scales.2: expected a number > 0, got 'a'
  recipes/pascal.yaml:10:14: pipeline.prior.weights: weights are written timm:NAME, file:PATH or builtin:NAME
  recipes/pascal.yaml:11:38: pipeline.clusterer.clusters: expected an integer ≥ 2, got 2.5
  recipes/pascal.yaml:11:50: pipeline.clusterer.range: expected a list of 2 integers, got [1]
  recipes/pascal.yaml:11:61: pipeline.clusterer.init: expected an integer or one of 'random', 'k-means++', got 'none'
  recipes/pascal.yaml:11:81: pipeline.clusterer.embed.view: expected one of 'masked-crop', 'crop', got 'maskedcrop', did you mean 'masked-crop'?
  recipes/pascal.yaml:11:99: pipeline.clusterer.embed.size: expected an integer ≥ 32 or null, got 'x'
  recipes/pascal.yaml:11:102: pipeline.clusterer.embed.depth: unknown setting (there are: view, size)
  recipes/pascal.yaml:12:3: pipeline.detector.arch: required setting is missing; expected one of 'r50-c4', 'r18-fpn'
  recipes/pascal.yaml:12:14: pipeline.detector.iters: unknown setting, did you mean 'fit.iters'?
  recipes/pascal.yaml:12:35: pipeline.detector.fit.amp: expected true or false, got 'maybe'
  recipes/pascal.yaml:12:46: pipeline.detector.fit.lr: expected a number > 0, got true
  recipes/pascal.yaml:12:66: pipeline.detector.fit.mm_overrides: expected a mapping, got 3
  recipes/pascal.yaml:13:3: pipeline.crf.kind: required setting is missing, as 'crf' is no kind of stage (there are: pretrainer, prior, clusterer, detector, refiner, segmenter, probe)
  recipes/pascal.yaml:14:18: pipeline.refiner.use: no refiner named 'confidense', did you mean 'confidence'? (there are: confidence, dense-crf)
  recipes/pascal.yaml:14:37: pipeline.refiner.input: no stage named 'crff' before this one, did you mean 'crf'? (before it are: prior, clusterer, detector, crf)
  recipes/pascal.yaml:15:17: pipeline.other.kind: no kind of stage named 'refinr', did you mean 'refiner'? (there are: pretrainer, prior, clusterer, detector, refiner, segmenter, probe)
  recipes/pascal.yaml:16:3: pipeline.segmenter: no such weights: gone (download them)
  recipes/pascal.yaml:17:12: evaluate.0: expected one of 'clustering', 'clustering-objects', 'clustering-majority', 'clusters', 'instances', 'instances-objects', 'localisation', got 'clusterin', did you mean 'clustering'?
  recipes/pascal.yaml:18:9: device: expected auto, cpu, cuda or one GPU such as cuda:1, got 'gpu'
  recipes/pascal.yaml:19:35: observers.1.urii: unknown setting, did you mean 'uri'?
  recipes/pascal.yaml:19:45: observers.2.use: expected the name of an observer, got 3 (there are: mlflow)
  recipes/pascal.yaml:20:1: foo: unknown setting (there are: name, description, seed, device, evaluate, data, pipeline, executor, observers, sweep)
  --set nothing: an override is written --set SETTING=VALUE, for example --set seed=3
  --set pipeline.prior.batchh=3: pipeline.prior.batchh: unknown setting, did you mean 'batch'?
  --set prior.short_side=3: pipeline.prior.short_side: expected an integer ≥ 32 and ≤ 4096, got 3"""


def test_all_mistakes_come_together_with_their_places(folder: Path, catalogue: Catalogue) -> None:
    Path("recipes/pascal.yaml").write_text(BAD)
    overrides = ["pipeline.prior.batchh=3", "prior.short_side=3", "nothing"]
    with pytest.raises(InvalidRecipeError) as caught:
        load_recipe("recipes/pascal.yaml", overrides, catalogue, {})
    assert str(caught.value) == GOLDEN
    assert len(caught.value.problems) == 31


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("name: toy\n", "", "1:1: name: required setting is missing; expected a text not empty"),
        ("name: toy", "name: ''", "1:7: name: expected a text not empty, got ''"),
        ("name: toy", "name: 3", "1:7: name: expected a text not empty, got 3"),
        ("name: toy", "nmae: toy", "1:1: nmae: unknown setting, did you mean 'name'?"),
        (
            "data: {use: shapes}\n",
            "",
            "1:1: data: required setting is missing; expected a mapping such as {use: folder, root: photos}",
        ),
        ("{use: shapes}", "shapes", "2:7: data: expected a mapping such as {use: folder, root: photos}"),
        (
            "{use: shapes}",
            "{images: 3}",
            "2:1: data.use: required setting is missing; expected a dataset (there are: shapes, voc)",
        ),
        ("{use: shapes}", "{use: voc}", "2:1: data.root: required setting is missing; expected a path"),
        ("{use: shapes}", "{use: voc, root: x, eval: 3}", "2:33: data.eval: expected a text or null, got 3"),
        (
            "{use: shapes}",
            "{use: voc, root: x, on_bad_image: skipp}",
            "2:41: data.on_bad_image: expected one of 'skip', 'error', got 'skipp', did you mean 'skip'?",
        ),
        (
            "{use: shapes}",
            "{use: shape}",
            "2:13: data.use: no dataset named 'shape', did you mean 'shapes'? (there are: shapes, voc)",
        ),
        ("{use: shapes}", "{use: [x]}", "2:13: data.use: expected the name of a dataset, got ['x'] (there are: shapes, voc)"),
        (
            "  prior: {topk: 0.3}",
            "  prior: {use: broken}",
            "4:16: pipeline.prior.use: prior:broken from mdp-broken 1.0: broken:X cannot be imported (ImportError: no module named nothing)",
        ),
        (
            "  prior: {topk: 0.3}",
            "  prior: lost",
            "4:10: pipeline.prior: expected a mapping such as {use: NAME}",
        ),
        (
            "  prior: {topk: 0.3}",
            "  prior:",
            "4:3: pipeline.prior: no stage to remove; a stage with default settings is written prior: {}",
        ),
        (
            "  prior: {topk: 0.3}",
            "  Prior: {kind: prior}",
            "4:3: pipeline.Prior: a stage's id is lower-case letters, digits and dashes, a letter first",
        ),
        (
            "  prior: {topk: 0.3}",
            "  priors: {topk: 0.3}",
            "4:3: pipeline.priors.kind: required setting is missing, as 'priors' is no kind of stage, did you mean 'prior'? "
            "(there are: pretrainer, prior, clusterer, detector, refiner, segmenter, probe)",
        ),
        (
            "  prior: {topk: 0.3}",
            "  prior: {input: detector}",
            "4:18: pipeline.prior.input: no stage named 'detector' before this one (it is the first)",
        ),
        (
            "  segmenter: {use: deeplabv3}",
            "  segmenter: {}",
            "8:3: pipeline.segmenter.use: required setting is missing; expected a segmenter (there are: deeplabv3)",
        ),
        (
            "{model: {depth: 18}}",
            "{clip: [1, .inf]}",
            "6:71: pipeline.detector.fit.mm_overrides.clip.1: a setting is a finite number; write null where there is to be no limit",
        ),
        ("clusters: 5", "range: [2, 1]", "5:3: pipeline.clusterer: range is written lowest first"),
        ("clusters: 5", "range: 5", "5:22: pipeline.clusterer.range: expected a list of 2 integers, got 5"),
        ("clusters: 5", "range: [1, x]", "5:26: pipeline.clusterer.range.1: expected an integer, got 'x'"),
        (
            "clusters: 5",
            "init: true",
            "5:21: pipeline.clusterer.init: expected an integer or one of 'random', 'k-means++', got true",
        ),
        ("{view: crop}", "crop", "5:35: pipeline.clusterer.embed: expected a mapping, got 'crop'"),
        ("topk: 0.3", "scales: 3", "4:19: pipeline.prior.scales: expected a list of numbers > 0, got 3"),
        (
            "evaluate: [clustering]",
            "evaluate: clustering",
            "9:11: evaluate: expected a list of values, each one of 'clustering', 'clustering-objects', 'clustering-majority', 'clusters', 'instances', 'instances-objects', 'localisation', got 'clustering'; a list is written [clustering]",
        ),
        ("evaluate: [clustering]", "observers: mlflow", "9:12: observers: expected a list of mappings such as {use: mlflow}"),
        (
            "evaluate: [clustering]",
            "observers: [mlfow]",
            "9:13: observers.0.use: no observer named 'mlfow', did you mean 'mlflow'? (there are: mlflow)",
        ),
    ],
)
def test_one_mistake(toy: str, mistakes: Mistakes, old: str, new: str, line: str) -> None:
    assert old in toy
    found = mistakes(toy.replace(old, new))
    assert f"recipes/toy.yaml:{line}" in found
    assert len(found) == (2 if new.startswith("nmae") else 1)


def test_a_pipeline_needs_a_stage(mistakes: Mistakes) -> None:
    assert mistakes("name: x\ndata: {use: shapes}\npipeline: {}") == [
        "recipes/toy.yaml:3:11: pipeline: a pipeline needs at least one stage"
    ]


def test_removing_a_stage_that_is_not_there(toy: str, mistakes: Mistakes) -> None:
    assert mistakes(toy, "pipeline.refinr=null") == [
        "--set pipeline.refinr=null: pipeline.refinr: no stage to remove, did you mean 'refiner'?; "
        "a stage with default settings is written refinr: {}"
    ]


PRETRAINED = """\
name: toy
data: {use: shapes}
pipeline:
  pretrainer: {use: dino}
  second: {kind: pretrainer, use: dino, init: stage:pretrainer}
  prior:
    use: lost
    weights: stage:second
    more: [stage:pretrainer]
  last: {kind: pretrainer, use: dino}
"""


def test_weights_of_earlier_pretrainers(load: Load) -> None:
    loaded = load(PRETRAINED)
    assert [(s.kind, s.use) for s in loaded.recipe.pipeline.values()][:2] == [("pretrainer", "dino")] * 2
    assert loaded.resolved["pipeline"]["prior"]["weights"] == "stage:second"
    assert loaded.resolved["pipeline"]["prior"]["more"] == ["stage:pretrainer"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "stage:second",
            "stage:secnd",
            "8:14: pipeline.prior.weights: no pretrainer named 'secnd' before this stage, did you mean 'second'? "
            "(before it are: pretrainer, second)",
        ),
        (
            "stage:second",
            "stage:last",
            "8:14: pipeline.prior.weights: the pretrainer 'last' comes after this stage; put it before "
            "(before it are: pretrainer, second)",
        ),
        (
            "[stage:pretrainer]",
            "[stage:pretrainer, stage:prior]",
            "9:30: pipeline.prior.more.1: a stage cannot take its own weights; name a pretrainer before it "
            "(before it are: pretrainer, second)",
        ),
        (
            "last: {kind: pretrainer, use: dino}",
            "last: {kind: pretrainer, use: dino, init: stage:prior}",
            "10:45: pipeline.last.init: stage 'prior' is a prior, and only a pretrainer makes weights "
            "(before it are: pretrainer, second)",
        ),
        (
            "pretrainer: {use: dino}",
            "pretrainer: {use: dino, init: stage:base}",
            "4:33: pipeline.pretrainer.init: no pretrainer named 'base' before this stage (there is none before it)",
        ),
        (
            "stage:second",
            "'stage:'",
            "8:14: pipeline.prior.weights: weights are written timm:NAME, file:PATH, builtin:NAME or stage:NAME, got 'stage:'",
        ),
    ],
)
def test_weights_of_no_earlier_pretrainer(mistakes: Mistakes, old: str, new: str, line: str) -> None:
    assert mistakes(PRETRAINED.replace(old, new)) == [f"recipes/toy.yaml:{line}"]


def test_a_reference_to_a_removed_pretrainer_is_an_error_of_the_recipe(mistakes: Mistakes) -> None:
    assert mistakes(PRETRAINED, "second=null") == [
        "recipes/toy.yaml:8:14: pipeline.prior.weights: no pretrainer named 'second' before this stage (before it are: pretrainer)"
    ]


def test_syntax_and_overrides_come_together(mistakes: Mistakes) -> None:
    assert mistakes("name: [", "oops") == [
        "recipes/toy.yaml:1:8: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
        "--set oops: an override is written --set SETTING=VALUE, for example --set seed=3",
    ]


def test_one_mistake_is_told_once(mistakes: Mistakes, toy: str) -> None:
    assert mistakes(toy.replace("{topk: 0.3}", "{short_side: '${SIDE}'}")) == [
        "recipes/toy.yaml:4:23: pipeline.prior.short_side: environment variable SIDE is not set; "
        "export SIDE=… or --set pipeline.prior.short_side=…"
    ]
    assert mistakes(toy, "prior.short_side=${SIDE}") == [
        "--set prior.short_side=${SIDE}: pipeline.prior.short_side: environment variable SIDE is not set; export SIDE=…"
    ]


def test_loaded(toy: str, load: Load) -> None:
    loaded = load(
        toy,
        "pipeline.crf={kind: refiner, use: dense-crf, input: detector}",
        "crf.rounds=3",
        "prior.use=dino",
        "name=${N}",
        N="007",
    )
    recipe = loaded.recipe
    assert (recipe.name, recipe.seed, recipe.device, recipe.evaluate, recipe.observers) == (
        "007",
        0,
        "auto",
        ("clustering",),
        (),
    )
    assert [(name, s.kind, s.use, s.input) for name, s in recipe.pipeline.items()] == [
        ("prior", "prior", "dino-affinity", None),
        ("clusterer", "clusterer", "kmeans", None),
        ("detector", "detector", "mask-rcnn", None),
        ("refiner", "refiner", "confidence", None),
        ("segmenter", "segmenter", "deeplabv3", None),
        ("crf", "refiner", "dense-crf", "detector"),
    ]
    assert recipe.data.config.model_dump() == {"train": "train", "images": 100}
    assert type(recipe.pipeline["prior"].config).__name__ == "AffinityConfig"
    assert loaded.source == "recipes/toy.yaml"
    assert loaded.files == ()


def test_resolved_and_origins(toy: str, load: Load) -> None:
    text = "name: x\ndata: {use: shapes}\npipeline:\n  prior:\n    topk: 0.3\nobservers: [mlflow]\n"
    loaded = load(text, "prior.batch=2")
    assert loaded.resolved == {
        "name": "x",
        "description": "",
        "seed": 0,
        "device": "auto",
        "data": {"use": "shapes", "train": "train", "images": 100},
        "pipeline": {
            "prior": {
                "kind": "prior",
                "use": "dino-affinity",
                "input": None,
                "weights": "builtin:random",
                "topk": 0.3,
                "short_side": 640,
                "scales": [1.0],
                "batch": 2,
            }
        },
        "evaluate": [],
        "observers": [{"use": "mlflow", "uri": None}],
    }
    assert {path: origin for path, origin in loaded.origins.items() if origin != "default"} == {
        "name": "recipes/toy.yaml:1",
        "data.use": "recipes/toy.yaml:2",
        "pipeline.prior.topk": "recipes/toy.yaml:5",
        "pipeline.prior.batch": "--set",
        "observers": "recipes/toy.yaml:6",
    }
    assert len(loaded.origins) == 17


def test_numbers_come_from_the_environment_too(toy: str, load: Load) -> None:
    loaded = load(toy, "prior.short_side=${SIDE:-64}", "seed=${SEED}", SEED="5")
    assert loaded.recipe.seed == 5
    assert loaded.resolved["pipeline"]["prior"]["short_side"] == 64


def test_another_plugin_from_the_command_line_leaves_the_former_ones_settings_behind(toy: str, load: Load) -> None:
    loaded = load(toy, "prior.seeds=3", "prior.use=lost")
    assert loaded.resolved["pipeline"]["prior"]["seeds"] == 3
    assert "topk" not in loaded.resolved["pipeline"]["prior"]


def test_a_text_extends_files_of_its_folder(folder: Path, toy: str, catalogue: Catalogue) -> None:
    Path("recipes/base.yaml").write_text(toy)
    text = RecipeText("extends: base.yaml\nname: mine", "<text>", Path("recipes"))
    assert load_recipe(text, [], catalogue, {}).recipe.name == "mine"


def test_loading_a_recipe_imports_nothing_heavy() -> None:
    code = "import sys, mdp_core.recipe; print([m for m in ('numpy', 'torch', 'rich', 'mdp_core.data') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
