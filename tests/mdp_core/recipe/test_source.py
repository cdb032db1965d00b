import math

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from mdp_core.recipe.problems import Mark, Problem
from mdp_core.recipe.show import to_yaml
from mdp_core.recipe.source import Node, marks, parse


def read(text: str) -> object:
    problems: list[Problem] = []
    tree = parse(text, "r.yaml", problems)
    assert problems == []
    assert tree is not None
    return tree.plain()


def mistakes(text: str) -> list[str]:
    problems: list[Problem] = []
    parse(text, "r.yaml", problems)
    return [str(p) for p in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("+12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = read(f"x: {text}")
    assert found == {"x": value}
    assert type(found["x"]) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(read("x: .nan")["x"])


def test_keys_are_texts_where_yaml_1_1_saw_booleans() -> None:
    assert read("{on: 1, yes: 2, n: 3}") == {"on": 1, "yes": 2, "n": 3}


def test_marks_of_keys_and_values() -> None:
    tree = parse("a:\n  b: [1, two]\nc: 3\n", "r.yaml", [])
    assert tree is not None
    at = lambda line, column: Mark("r.yaml", line, column)  # noqa: E731
    assert marks(tree) == {
        (): (None, at(1, 1)),
        ("a",): (at(1, 1), at(2, 3)),
        ("a", "b"): (at(2, 3), at(2, 6)),
        ("a", "b", 0): (None, at(2, 7)),
        ("a", "b", 1): (None, at(2, 10)),
        ("c",): (at(3, 1), at(3, 4)),
    }


def test_references_to_the_environment_may_stand_bare_in_braces_and_columns_stay_true() -> None:
    text = "data: {root: ${ROOT:-/a,b}, train: x, all: [${A}, ${B}]}"
    assert read(text) == {"data": {"root": "${ROOT:-/a,b}", "train": "x", "all": ["${A}", "${B}"]}}
    tree = parse(text, "r.yaml", [])
    assert tree is not None
    train = tree.get(("data", "train"))
    assert train is not None
    assert text[train.mark.column - 1] == "x"


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nuse: *b\nmerged: {<<: [*b, *o], x: 5}\n"
    assert read(text) == {
        "base": {"x": 1, "y": 2},
        "other": {"y": 3, "z": 4},
        "use": {"x": 1, "y": 2},
        "merged": {"x": 5, "y": 2, "z": 4},
    }


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3", ["r.yaml:3:1: a: given twice, first at r.yaml:1:1"]),
        ("p:\n  q: {x: 1, x: 2}", ["r.yaml:2:13: p.q.x: given twice, first at r.yaml:2:7"]),
        ("a: {20: x}", ["r.yaml:1:5: a: a key that is no text; write '20' in quotes"]),
        ("? [1]\n: x", ["r.yaml:1:3: a key that is no text"]),
        ("a: &a [1, *a]", ["r.yaml:1:4: a.1: an alias of a value that contains the alias itself"]),
        ("a: !!binary aGk=", ["r.yaml:1:4: a: the tag !!binary has no meaning in a recipe"]),
        ("a: !!python/object:os.system {}", ["r.yaml:1:4: a: the tag !!python/object:os.system has no meaning in a recipe"]),
        ("a: !!int x", ["r.yaml:1:4: a: 'x' is no int"]),
        ("a: {<<: 3}", ["r.yaml:1:9: a: '<<' takes a mapping or a list of mappings"]),
        ("a:\n\tb: 1", ["r.yaml:2:1: not YAML: a tab; YAML is indented with spaces"]),
        ("a: [1, 2", ["r.yaml:1:9: not YAML: a ',' or the closing ']' is missing in the list that begins at r.yaml:1:4"]),
        (
            "a: b: c",
            [
                "r.yaml:1:5: not YAML: a ':' that is not expected here; put texts that contain ': ' in quotes, "
                "or check the indentation of this line and the one before"
            ],
        ),
        ("a: *b", ["r.yaml:1:4: not YAML: found undefined alias 'b'"]),
        (
            "a: 1\n--- \nb: 2",
            ["r.yaml:2:1: not YAML: a second document begins here; a recipe is one document, without '---' in it"],
        ),
        ("a: 1\nb: \x07", ["r.yaml:2:4: not YAML: a character that may not occur in it (code 7)"]),
        ("[" * 5000, ["r.yaml:1:1: not a recipe: it is nested too deeply"]),
    ],
)
def test_mistakes(text: str, lines: list[str]) -> None:
    assert mistakes(text) == lines


def test_aliases_that_multiply_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert mistakes("\n".join(levels)) == ["r.yaml:1:1: not a recipe: with its aliases expanded it has more than 100000 values"]


def test_an_override_has_one_place() -> None:
    mark = Mark("--set a=[1, 2]")
    tree = parse("[1, 2]", "", [], one_place=mark)
    assert tree == Node([Node(1, mark), Node(2, mark)], mark)


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    [
        "yes",
        "1e-3",
        "0o17",
        "",
        "~",
        "null",
        "# x",
        "a: b",
        "- a",
        "[a",
        "<<",
        "...",
        "---",
        "a\nb",
        " a ",
        "'",
        '"',
        "\\",
        "1:30",
        "é",
        "\x85",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@given(st.dictionaries(texts, trees, max_size=4))
def test_what_is_written_is_read_again(tree: dict[str, object]) -> None:
    text = to_yaml(tree)
    assert same(read(text) or {}, tree)
    if tree:
        assert same(read(to_yaml(tree, dict.fromkeys(tree, "a comment"))), tree)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers() | st.booleans() | st.text("abc yn", max_size=5), min_size=1))
def test_what_is_written_means_the_same_to_other_readers(tree: dict[str, object]) -> None:
    assert yaml.safe_load(to_yaml(tree)) == tree
