from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from mdp_core.recipe import LoadedRecipe, show
from mdp_core.recipe.show import to_yaml

Load = Callable[..., LoadedRecipe]

MERGED = """\
name: toy
data:
  use: shapes
  train: ${SPLIT}
pipeline:
  prior:
    topk: 0.3
  clusterer:
    clusters: 5
    embed:
      view: crop
observers: [{use: mlflow, uri: '$${x}'}]
"""

RESOLVED = """\
name: toy                                         # recipes/toy.yaml:1
description: ''                                   # default
seed: 0                                           # default
device: auto                                      # default
data:
  use: shapes                                     # recipes/toy.yaml:2
  train: a$$b                                     # recipes/toy.yaml:2
  images: 100                                     # default
pipeline:
  prior:
    kind: prior                                   # default
    use: dino-affinity                            # default
    input: null                                   # default
    weights: builtin:random                       # default
    topk: 0.3                                     # recipes/toy.yaml:4
    short_side: 640                               # default
    scales: [1.0]                                 # default
    batch: 8                                      # default
  clusterer:
    kind: clusterer                               # default
    use: kmeans                                   # default
    input: null                                   # default
    support: true                                 # default
    clusters: 5                                   # recipes/toy.yaml:5
    embed:
      view: crop                                  # --set
      size: null                                  # default
    range: [0, 1]                                 # default
    init: k-means++                               # default
evaluate: []                                      # default
observers: [{use: mlflow, uri: '$${x}'}]          # recipes/toy.yaml:6
"""

TEXT = """\
name: toy
data: {use: shapes, train: "${SPLIT}"}
pipeline:
  prior: {topk: 0.3}
  clusterer: {clusters: 5, embed: {view: masked-crop}}
observers: [{use: mlflow, uri: "$${x}"}]
"""


def test_shown(load: Load) -> None:
    loaded = load(TEXT, "clusterer.embed.view=crop", SPLIT="a$b")
    assert show(loaded) == MERGED
    assert show(loaded, resolved=True) == RESOLVED


@pytest.mark.parametrize("resolved", [False, True])
def test_what_is_shown_loads_to_the_same_recipe(toy: str, load: Load, resolved: bool) -> None:
    overrides = [
        "pipeline.crf={kind: refiner, use: dense-crf, input: detector, names: {'a.b: c': '${X}', 'yes': 'null', '1': ''}}",
        "observers=[mlflow]",
        "data.train=$${X}",
        'description="two\\nlines # no comment"',
        "detector.fit.lr=1e-7",
    ]
    loaded = load(toy, *overrides, X="$${A} $$")
    again = load(show(loaded, resolved=resolved), X="$${A} $$")
    assert again.recipe == loaded.recipe
    assert list(again.recipe.pipeline) == list(loaded.recipe.pipeline)
    assert again.resolved == loaded.resolved
    assert again.recipe.data.config.model_dump()["train"] == "${X}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    names=st.dictionaries(st.text(max_size=6), st.text(max_size=8), max_size=3),
    lr=st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
    overrides=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
        lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3),
        max_leaves=6,
    ),
)
def test_any_values_survive(toy: str, load: Load, names: dict[str, str], lr: float, overrides: object) -> None:
    """Written by ``to_yaml`` with dollars doubled, loaded, shown with every setting, loaded."""

    def doubled(value: object) -> object:
        if isinstance(value, dict):
            return {key: doubled(child) for key, child in value.items()}
        if isinstance(value, list):
            return [doubled(child) for child in value]
        return value.replace("$", "$$") if isinstance(value, str) else value

    def inline(value: object) -> str:
        return to_yaml({"v": [doubled(value)]}).removeprefix("v: [").removesuffix("]\n")

    tree = {"crf": {"kind": "refiner", "use": "dense-crf", "names": names}, "d": {"lr": lr, "mm_overrides": {"x": overrides}}}
    text = toy.replace("  segmenter", "  crf: CRF\n  segmenter")
    loaded = load(
        text.replace("CRF", inline(tree["crf"])).replace("{iters: 10, mm_overrides: {model: {depth: 18}}}", inline(tree["d"]))
    )
    found = loaded.resolved["pipeline"]
    assert found["crf"]["names"] == names
    assert found["detector"]["fit"]["mm_overrides"] == {"x": overrides}
    again = load(show(loaded, resolved=True))
    assert again.recipe == loaded.recipe
    assert again.resolved == loaded.resolved


def test_a_shown_recipe_is_a_file_like_any_other(toy: str, load: Load, folder: Path) -> None:
    (folder / "recipes/resolved.yaml").write_text(show(load(toy), resolved=True))
    loaded = load("extends: resolved.yaml", "seed=3")
    assert loaded.recipe == load(toy, "seed=3").recipe
    assert loaded.origins["pipeline.prior.short_side"] == "recipes/resolved.yaml:16"
