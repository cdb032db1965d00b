from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mdp_core.recipe import LoadedRecipe
from mdp_core.recipe.overrides import parse_overrides
from mdp_core.recipe.problems import Problem
from mdp_core.recipe.show import to_yaml

STAGES = ("prior", "crf")


def plain(*overrides: str) -> object:
    problems: list[Problem] = []
    tree = parse_overrides(overrides, STAGES, problems)
    assert not problems
    return tree.plain()


@pytest.mark.parametrize(
    ("override", "tree"),
    [
        ("seed=3", {"seed": 3}),
        ("pipeline.prior.topk=1e-1", {"pipeline": {"prior": {"topk": 0.1}}}),
        ("prior.topk=0.2", {"pipeline": {"prior": {"topk": 0.2}}}),
        ("crf=null", {"pipeline": {"crf": None}}),
        ("crf=", {"pipeline": {"crf": None}}),
        ("prior.weights='007'", {"pipeline": {"prior": {"weights": "007"}}}),
        ('name="a = b"', {"name": "a = b"}),
        ("name=a=b", {"name": "a=b"}),
        ("evaluate=[clustering, x]", {"evaluate": ["clustering", "x"]}),
        ("pipeline.extra={kind: refiner, use: dense-crf}", {"pipeline": {"extra": {"kind": "refiner", "use": "dense-crf"}}}),
        ("data.root=${ROOT}", {"data": {"root": "${ROOT}"}}),
        ("data.root={a: ${ROOT:-/x}}", {"data": {"root": {"a": "${ROOT:-/x}"}}}),
        ("name=yes", {"name": "yes"}),
    ],
)
def test_one_override(override: str, tree: object) -> None:
    assert plain(override) == tree


def test_a_later_override_counts_and_mappings_are_merged() -> None:
    assert plain("prior.topk=1", "prior={use: lost, topk: 2}", "prior.topk=3", "seed=1", "seed=2") == {
        "pipeline": {"prior": {"topk": 3, "use": "lost"}},
        "seed": 2,
    }


def test_a_stage_that_an_override_adds_has_the_short_form_too() -> None:
    assert plain("pipeline.second={kind: refiner}", "second.use=dense-crf") == {
        "pipeline": {"second": {"kind": "refiner", "use": "dense-crf"}}
    }


def test_places() -> None:
    tree = parse_overrides(["crf.rounds=3"], STAGES, [])
    node = tree.get(("pipeline", "crf", "rounds"))
    assert node is not None
    assert str(node.mark) == str(node.place) == "--set crf.rounds=3"
    assert node.mark.origin == "--set"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "--set seed: an override is written --set SETTING=VALUE, for example --set seed=3"),
        ("=3", "--set =3: an override is written --set SETTING=VALUE, for example --set seed=3"),
        ("data..root=3", "--set data..root=3: an override is written --set SETTING=VALUE, for example --set seed=3"),
        (
            "pipelin.prior.topk=3",
            "--set pipelin.prior.topk=3: pipelin.prior.topk: neither a setting of the recipe nor one of its stages, did you mean 'pipeline'?",
        ),
        (
            "pror.topk=3",
            "--set pror.topk=3: pror.topk: neither a setting of the recipe nor one of its stages, did you mean 'prior'?",
        ),
        ("extends=a.yaml", "--set extends=a.yaml: extends: extends can stand in a file only"),
        ("seed=[1", "--set seed=[1: not YAML: a ',' or the closing ']' is missing in the list that begins here"),
        ("data={a: 1, a: 2}", "--set data={a: 1, a: 2}: a: given twice, first at --set data={a: 1, a: 2}"),
    ],
)
def test_mistakes(override: str, line: str) -> None:
    problems: list[Problem] = []
    parse_overrides([override], STAGES, problems)
    assert [str(p) for p in problems] == [line]


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=("C",)))
)


@given(st.lists(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), max_size=3), values | st.lists(values, max_size=3))
def test_any_value_arrives(path: list[str], value: object) -> None:
    text = to_yaml({"x": value}).removeprefix("x: ").removesuffix("\n")
    tree = parse_overrides([f"{'.'.join(['data', *path])}={text}"], (), [])
    node = tree.get(("data", *path))
    assert node is not None
    assert node.plain() == value
    assert type(node.plain()) is type(value)


def test_order_of_stages_that_overrides_add(toy: str, load: Callable[..., LoadedRecipe]) -> None:
    crf = "{kind: refiner, use: dense-crf}"
    order = ["prior", "clusterer", "detector", "refiner", "segmenter"]
    assert list(load(toy, f"pipeline.crf={crf}", "prior.topk=1").recipe.pipeline) == [*order, "crf"]
    assert list(load(toy, f"pipeline={{crf: {crf}, segmenter: {{}}}}").recipe.pipeline) == [*order[:4], "crf", "segmenter"]
