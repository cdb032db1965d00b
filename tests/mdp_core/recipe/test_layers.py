from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mdp_core.errors import RecipeError
from mdp_core.recipe import Catalogue, InvalidRecipeError, LoadedRecipe, find_recipe, load_recipe
from mdp_core.recipe.layers import merge
from mdp_core.recipe.problems import Mark
from mdp_core.recipe.source import Node, parse
from mdp_core.settings import StageConfig

MARK = Mark("r.yaml", 1, 1)


class Shared(StageConfig):
    x: int = 1


class First(Shared):
    own: int = 1


class Second(Shared):
    x: int = 2
    own: int = 2


CONFIGS: dict[str, type[StageConfig]] = {
    "p": StageConfig,
    "q": StageConfig,
    "usual": StageConfig,
    "first": First,
    "second": Second,
}


class NoPlugins:
    def names(self, kind: str) -> list[str]:
        return []

    def config(self, kind: str, name: str) -> type:
        return CONFIGS[name]

    def default(self, kind: str) -> str | None:
        return "usual"

    def resolve_alias(self, kind: str, name: str) -> str:
        return "usual" if name == "alias" else name


def laid(base: str, over: str) -> dict[str, object]:
    trees = [parse(text, "r.yaml", []) for text in (base, over)]
    assert trees[0] is not None
    assert trees[1] is not None
    return merge(trees[0], trees[1], NoPlugins()).plain()


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ("{a: 1, b: {c: 2}}", "{b: {d: 3}, e: [1]}", {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": [3]}),
        ("{a: {b: 1}}", "{a: null}", {"a": None}),
        ("{data: {eval: val}}", "{data: {eval: null}}", {"data": {"eval": None}}),
        ("{pipeline: {a: {x: 1}, b: {}}}", "{pipeline: {a: null}}", {"pipeline": {"b": {}}}),
        ("{pipeline: {a: {x: 1}}}", "{pipeline: {a: {x: null}}}", {"pipeline": {"a": {"x": None}}}),
        # another plugin: the settings of the former one go, those given with it stay
        ("{pipeline: {a: {use: p, x: 1}}}", "{pipeline: {a: {use: q, y: 2}}}", {"pipeline": {"a": {"use": "q", "y": 2}}}),
        (
            "{pipeline: {a: {use: p, x: 1}}}",
            "{pipeline: {a: {use: p, y: 2}}}",
            {"pipeline": {"a": {"use": "p", "x": 1, "y": 2}}},
        ),
        (
            "{pipeline: {a: {use: first, x: 3, own: 4}}}",
            "{pipeline: {a: {use: second}}}",
            {"pipeline": {"a": {"use": "second", "x": 3}}},
        ),
        ("{pipeline: {a: {use: first, x: 3}}}", "{pipeline: {a: {use: q}}}", {"pipeline": {"a": {"use": "q"}}}),
        (
            "{pipeline: {a: {use: p, time_limit: 3}}}",
            "{pipeline: {a: {use: q}}}",
            {"pipeline": {"a": {"use": "q", "time_limit": 3}}},
        ),
        ("{data: {use: p, root: r}}", "{data: {use: q}}", {"data": {"use": "q"}}),
        # the same plugin under another name, or named where it was the default
        ("{pipeline: {a: {x: 1}}}", "{pipeline: {a: {use: usual}}}", {"pipeline": {"a": {"x": 1, "use": "usual"}}}),
        ("{pipeline: {a: {use: usual, x: 1}}}", "{pipeline: {a: {use: alias}}}", {"pipeline": {"a": {"x": 1, "use": "alias"}}}),
        ("{pipeline: {a: {x: 1}}}", "{pipeline: {a: {use: q}}}", {"pipeline": {"a": {"use": "q"}}}),
        # what belongs to the stage and not to the plugin stays
        (
            "{pipeline: {a: {kind: k, input: i, use: p, x: 1}}}",
            "{pipeline: {a: {use: q}}}",
            {"pipeline": {"a": {"kind": "k", "input": "i", "use": "q"}}},
        ),
        (
            "{pipeline: {a: {kind: k, input: i, use: p, x: 1}}}",
            "{pipeline: {a: {kind: l, use: p}}}",
            {"pipeline": {"a": {"input": "i", "kind": "l", "use": "p"}}},
        ),
        # a `use` below a section is a setting like any other
        (
            "{pipeline: {a: {m: {use: p, x: 1}}}}",
            "{pipeline: {a: {m: {use: q}}}}",
            {"pipeline": {"a": {"m": {"use": "q", "x": 1}}}},
        ),
    ],
)
def test_merge(base: str, over: str, merged: object) -> None:
    assert laid(base, over) == merged


@pytest.mark.parametrize(
    ("over", "order"),
    [
        ("{n: {}}", "abcn"),
        ("{a: {}, n: {}}", "abcn"),
        ("{n: {}, c: {}}", "abnc"),
        ("{n: {}, m: {}, b: {}}", "anmbc"),
        ("{b: {}, a: {}}", "abc"),
        ("{b: null, n: {}, c: {}}", "anc"),
    ],
)
def test_order_of_stages(over: str, order: str) -> None:
    merged = laid("{pipeline: {a: {}, b: {}, c: {}}}", f"{{pipeline: {over}}}")
    assert "".join(merged["pipeline"]) == order  # type: ignore[arg-type]


keys = st.sampled_from(["use", "kind", "data", "pipeline", "a", "b"])
plain_trees = st.dictionaries(
    keys, st.recursive(st.integers() | st.text("ab", max_size=2), lambda t: st.dictionaries(keys, t, max_size=3)), max_size=4
)


def node(value: object) -> Node:
    if isinstance(value, dict):
        return Node({name: node(child) for name, child in value.items()}, MARK)
    return Node(value, MARK)  # type: ignore[arg-type]


@given(plain_trees)
def test_merging_with_nothing_or_with_itself_changes_nothing(tree: dict[str, object]) -> None:
    for base, over in ((tree, {}), ({}, tree), (tree, tree)):
        assert merge(node(base), node(over), NoPlugins()).plain() == tree


@given(plain_trees, plain_trees)
def test_what_the_upper_layer_says_holds(base: dict[str, object], over: dict[str, object]) -> None:
    def holds(found: object, wanted: object) -> bool:
        if isinstance(wanted, dict):
            return isinstance(found, dict) and all(name in found and holds(found[name], wanted[name]) for name in wanted)
        return found == wanted

    assert holds(merge(node(base), node(over), NoPlugins()).plain(), over)


def test_extends(folder: Path, toy: str, catalogue: Catalogue) -> None:
    (folder / "recipes/base.yaml").write_text(toy)
    (folder / "recipes/short.yaml").write_text("pipeline: {detector: {fit: {iters: 1}}, refiner: null}")
    (folder / "recipes/sub").mkdir()
    (folder / "recipes/sub/mine.yaml").write_text(
        "extends: [../base.yaml, ../short]\nname: mine\npipeline:\n  prior: {use: lost}\n"
    )
    loaded = load_recipe("recipes/sub/mine.yaml", ["prior.seeds=7"], catalogue, {})
    assert loaded.recipe.name == "mine"
    assert list(loaded.recipe.pipeline) == ["prior", "clusterer", "detector", "segmenter"]
    assert loaded.resolved["pipeline"]["prior"] == {
        "kind": "prior",
        "use": "lost",
        "input": None,
        "weights": "builtin:random",
        "more": [],
        "seeds": 7,
    }
    assert [path.name for path in loaded.files] == ["mine.yaml", "base.yaml", "short.yaml"]
    origins = loaded.origins
    assert origins["name"] == "recipes/sub/mine.yaml:2"
    assert origins["pipeline.prior.use"] == "recipes/sub/mine.yaml:4"
    assert origins["pipeline.prior.seeds"] == "--set"
    assert origins["pipeline.detector.arch"] == "recipes/base.yaml:6"
    assert origins["pipeline.detector.fit.iters"] == "recipes/short.yaml:1"
    assert origins["pipeline.detector.fit.mm_overrides.model.depth"] == "recipes/base.yaml:6"
    assert origins["pipeline.detector.fit.lr"] == origins["pipeline.prior.weights"] == "default"


def failed(path: str, catalogue: Catalogue) -> list[str]:
    with pytest.raises(InvalidRecipeError) as caught:
        load_recipe(path, [], catalogue, {})
    return [str(p) for p in caught.value.problems]


def test_circle(folder: Path, catalogue: Catalogue) -> None:
    Path("recipes/a.yaml").write_text("extends: b.yaml")
    Path("recipes/b.yaml").write_text("name: b\nextends: [a.yaml]")
    assert failed("recipes/a.yaml", catalogue) == [
        "recipes/b.yaml:2:11: extends: a circle: recipes/a.yaml → recipes/b.yaml → recipes/a.yaml"
    ]


def test_extends_what_is_not_there(folder: Path, catalogue: Catalogue) -> None:
    Path("recipes/a.yaml").write_text("name: a\nextends: besa.yaml")
    Path("recipes/base.yaml").write_text("name: base")
    assert failed("recipes/a.yaml", catalogue) == [
        "recipes/a.yaml:2:10: extends: no such recipe: recipes/besa.yaml (did you mean recipes/base.yaml?)"
    ]


def test_mistakes_of_several_files_come_together(folder: Path, toy: str, catalogue: Catalogue) -> None:
    Path("recipes/base.yaml").write_text(toy.replace("topk", "topkk"))
    Path("recipes/a.yaml").write_text("extends: base.yaml\nseed: -1\n")
    assert failed("recipes/a.yaml", catalogue) == [
        "recipes/a.yaml:2:7: seed: expected an integer ≥ 0 and ≤ 4294967295, got -1",
        "recipes/base.yaml:4:11: pipeline.prior.topkk: unknown setting, did you mean 'topk'?",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "recipes/a.yaml:1:1: not a recipe: it is empty; a recipe has at least name, data and pipeline"),
        (
            b"- x",
            "recipes/a.yaml:1:1: not a recipe: its top level is no mapping; a recipe has at least name, data and pipeline",
        ),
        (b"name: \xff", "recipes/a.yaml: cannot be read: it is not UTF-8 text; a recipe is a YAML file in UTF-8"),
        (b"extends: {a: b}", "recipes/a.yaml:1:10: extends: expected a recipe file or a list of them"),
    ],
)
def test_files_that_are_no_recipes(folder: Path, catalogue: Catalogue, content: bytes, line: str) -> None:
    Path("recipes/a.yaml").write_bytes(content)
    assert line in failed("recipes/a.yaml", catalogue)


def test_byte_order_mark(folder: Path, toy: str, catalogue: Catalogue) -> None:
    Path("recipes/a.yaml").write_text("\ufeff" + toy)
    assert load_recipe("recipes/a.yaml", [], catalogue, {}).recipe.name == "toy"


def test_messages_name_files_outside_the_current_directory_in_full(
    folder: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.yaml").write_text("")
    monkeypatch.chdir(folder / "recipes")
    assert failed("../a.yaml", catalogue)[0].startswith(f"{folder}/a.yaml:1:1: ")


def test_finding_recipes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = folder / "shipped"
    (shipped / "ablations").mkdir(parents=True)
    for name in ("quickstart", "pascal", "ablations/no-refiner"):
        (shipped / f"{name}.yaml").write_text("name: x")
    monkeypatch.setattr("mdp_core.recipe.layers.shipped_folder", lambda: shipped)
    Path("recipes/mine.yaml").write_text("name: mine")
    assert find_recipe("recipes/mine.yaml") == Path("recipes/mine.yaml")
    assert find_recipe("recipes/mine") == Path("recipes/mine.yaml")
    assert find_recipe("pascal") == shipped / "pascal.yaml"
    assert find_recipe("ablations/no-refiner") == shipped / "ablations/no-refiner.yaml"
    Path("pascal.yaml").write_text("name: my own")
    assert find_recipe("pascal") == Path("pascal.yaml")
    for name, message in {
        "recipes/mien.yaml": "no such recipe: recipes/mien.yaml\n  did you mean recipes/mine.yaml?",
        "mine.yml": "no such recipe: mine.yml\n  did you mean recipes/mine.yaml?",
        "quickstrat": "no such recipe: quickstrat\n  did you mean quickstart?",
        "xyz": "no such recipe: xyz\n  there are: ablations/no-refiner, pascal.yaml, quickstart, recipes/mine.yaml",
        "recipes": "recipes is a folder, not a recipe\n  there are: recipes/mine.yaml",
    }.items():
        with pytest.raises(RecipeError) as caught:
            find_recipe(name)
        assert str(caught.value) == message


def test_extends_a_recipe_that_comes_with_mdp(
    folder: Path, toy: str, load: Callable[..., LoadedRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shipped").mkdir()
    (folder / "shipped/quickstart.yaml").write_text(toy)
    monkeypatch.setattr("mdp_core.recipe.layers.shipped_folder", lambda: folder / "shipped")
    assert load("extends: quickstart\nname: mine").origins["data.use"] == "shipped/quickstart.yaml:2"
