"""What varies: values of the command line as YAML, seeds, zip, and the section of a recipe below the command line."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.recipe import Catalogue, InvalidRecipeError, LoadedRecipe, RecipeText, load_recipe
from mdp_core.recipe.load import SweptRecipe, read_sweep
from mdp_core.recipe.schema import SweepSection
from mdp_core.recipe.source import parse
from mdp_core.recipe.variations import read_axes, text_of

BASE = SweptRecipe("toy.yaml", SweepSection(), ("prior", "refiner"), 7)


def swept(text: str, catalogue: Catalogue, *overrides: str) -> SweptRecipe:
    return read_sweep(RecipeText(text, "toy.yaml"), overrides, catalogue)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5,0.7", ["0.5", "0.7"]),
        ("[1,2],[3,4]", ["[1, 2]", "[3, 4]"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("{use: lost, seeds: 3},{use: dino-affinity}", ["{use: lost, seeds: 3}", "{use: dino-affinity}"]),
        ("null,true,'007',1e-3", ["null", "true", "'007'", "0.001"]),
        ("${A},b", ["${A}", "b"]),
        ("timm:vit_s.dino", ["timm:vit_s.dino"]),
    ],
)
def test_values_are_yaml(text: str, values: list[str]) -> None:
    found = read_axes(BASE, [f"prior.x={text}"]).vary["pipeline.prior.x"]
    plain = [node.plain() for value in values for node in [parse(value, "", [])] if node is not None]
    assert [node.plain() for value in found for node in [parse(value, "", [])] if node is not None] == plain


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="$\ufeff\ufffe\uffff\u2028\u2029\x85")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(json_values)
def test_a_value_and_its_text_are_the_same(value: object) -> None:
    problems: list[object] = []
    node = parse(text_of(value), "", problems)  # type: ignore[arg-type]
    assert not problems
    assert node is not None and node.plain() == value


def test_all_combinations_seeds_fastest() -> None:
    axes = read_axes(BASE, ["prior.a=1,2", "refiner.b=x,y,z"], "2")
    assert [v.overrides for v in axes.variations()] == [
        (f"pipeline.prior.a={a}", f"pipeline.refiner.b={b}", f"seed={seed}")
        for a, b, seed in itertools.product("12", "xyz", (7, 8))
    ]


def test_zip_takes_values_in_step_and_still_all_seeds() -> None:
    axes = read_axes(BASE, ["prior.a=1,2", "refiner.b=x,y"], "1,5", zip_=True)
    assert [v.overrides for v in axes.variations()] == [
        (f"pipeline.prior.a={a}", f"pipeline.refiner.b={b}", f"seed={seed}") for a, b in ("1x", "2y") for seed in (1, 5)
    ]


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (7,)), ("3", (7, 8, 9)), ("1,5,9", (1, 5, 9)), ("[5]", (5,)), ("[0, 2]", (0, 2))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert read_axes(BASE, [], text).seeds == seeds


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "true", "", "[", "[]", "1,x", "{a: 1}"])
def test_what_is_no_number_of_seeds(text: str) -> None:
    with pytest.raises(InvalidRecipeError, match="expected how many seeds, such as 5, or a list of seeds"):
        read_axes(BASE, ["prior.a=1,2"], text)


@pytest.mark.parametrize(
    ("vary", "seeds", "zip_", "message"),
    [
        ([], None, False, "nothing varies"),
        (["prior.a"], None, False, "--vary prior.a: a variation is written --vary SETTING=VALUE,VALUE"),
        (["prior.a="], None, False, "--vary prior.a=: prior.a: no values; write them after '='"),
        (["prior.a=[1"], None, False, "not YAML"),
        (
            ["prior.a=1", "pipeline.prior.a=2"],
            None,
            False,
            "pipeline.prior.a: given twice; write all its values into one --vary",
        ),
        (["prior.a=1,2", "prior.b=1,2,3"], None, True, "pipeline.prior.a has 2, pipeline.prior.b has 3"),
        (["prior.a=1,1"], None, False, "pipeline.prior.a: a value is there twice: 1, 1"),
        (["seed=1,2"], "2", False, "the seed is varied twice"),
        (["sweep.zip=true,false"], None, False, "a sweep cannot vary its own section"),
        (["prior.a=1"], "3,3", False, "a seed is there twice: 3, 3"),
        (["prior.a=1"], "10001", False, "more than 10000 runs"),
    ],
)
def test_mistakes(vary: list[str], seeds: str | None, zip_: bool, message: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        read_axes(BASE, vary, seeds, zip_=zip_)
    assert message in caught.value.message
    assert len(caught.value.problems) == 1


def test_a_section_and_what_the_command_line_changes(toy: str, catalogue: Catalogue) -> None:
    text = toy + "seed: 3\nsweep: {vary: {prior.topk: [0.2, '${K}'], refiner.threshold: [0.5, 0.9]}, seeds: 2, zip: true}\n"
    base = swept(text, catalogue)
    own = read_axes(base)
    assert own.vary == {"pipeline.prior.topk": ("0.2", "'${K}'"), "pipeline.refiner.threshold": ("0.5", "0.9")}
    assert (own.seeds, own.zip) == ((3, 4), True)
    over = read_axes(base, ["pipeline.prior.topk=0.3", "seed=1,2"][:1], "5,6", zip_=False)
    assert over.vary == {"pipeline.prior.topk": ("0.3",), "pipeline.refiner.threshold": ("0.5", "0.9")}
    assert (over.seeds, over.zip) == ((5, 6), False)


def test_a_sweep_needs_no_complete_recipe(catalogue: Catalogue) -> None:
    """A variation may give what the recipe leaves open."""
    base = swept("sweep: {vary: {data.root: [a, b]}}\ndata: {use: voc, root: '${NOWHERE}'}\n", catalogue)
    assert read_axes(base).vary == {"data.root": ("a", "b")}


def test_a_run_takes_no_notice_of_the_section(toy: str, load: Callable[..., LoadedRecipe]) -> None:
    with_section = load(toy + "sweep: {seeds: 3}\n")
    assert with_section.resolved == load(toy).resolved
    assert with_section.recipe.sweep == SweepSection(seeds=3)


def test_mistakes_in_the_section(toy: str, mistakes: Callable[..., list[str]], catalogue: Catalogue) -> None:
    text = toy + "sweep: {vary: {prior.topk: 3, refiner.threshold: []}, seeds: 0, zipp: true}\n"
    found = mistakes(text)
    assert [line.split(": ", 2)[1] for line in found] == [
        "sweep.vary.prior.topk",
        "sweep.vary.refiner.threshold",
        "sweep.seeds",
        "sweep.zipp",
    ]
    assert "did you mean 'zip'?" in found[-1]
    with pytest.raises(InvalidRecipeError) as caught:
        swept(text, catalogue)
    assert [str(p).replace("toy.yaml", "recipes/toy.yaml") for p in caught.value.problems] == found


def test_a_seed_that_is_none_cannot_be_counted_from(toy: str, catalogue: Catalogue) -> None:
    with pytest.raises(InvalidRecipeError, match="seed: expected an integer ≥ 0, to count the sweep's seeds from"):
        read_axes(swept(toy + "seed: x\n", catalogue), ["prior.topk=0.1"], "2")


def test_variations_load(toy: str, catalogue: Catalogue) -> None:
    """The whole way: overrides of each variation, laid over the recipe, give the values that were asked for."""
    axes = read_axes(
        swept(toy, catalogue), ["prior={use: lost, seeds: 3},{use: dino, topk: 0.1}", "clusterer.range=[1,2],[3,4]"], "2"
    )
    loaded = [load_recipe(RecipeText(toy, "toy.yaml"), v.overrides, catalogue, {}).resolved for v in axes.variations()]
    assert len(loaded) == 8
    assert [(r["pipeline"]["prior"]["use"], r["pipeline"]["clusterer"]["range"], r["seed"]) for r in loaded] == list(
        itertools.product(("lost", "dino-affinity"), ([1, 2], [3, 4]), (0, 1))
    )
