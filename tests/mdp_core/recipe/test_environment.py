import hypothesis.strategies as st
import pytest
from hypothesis import given

from mdp_core.recipe.environment import escape, substitute
from mdp_core.recipe.problems import Mark, Problem
from mdp_core.recipe.source import Node, parse

MARK = Mark("r.yaml", 3, 7)


def replaced(text: str, **environ: str) -> object:
    problems: list[Problem] = []
    tree, failed = substitute(Node({"x": Node(text, MARK)}, MARK), environ, problems)
    assert not problems
    assert not failed
    return tree.plain()["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "5"),
        ("${A}/${B}", "5/b"),
        ("a${A}b", "a5b"),
        ("${NONE:-d}", "d"),
        ("${NONE:-}", ""),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${A:-d}", "5"),
        ("${NONE:-/a b:c}", "/a b:c"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$A", "$$A"),
        ("$A costs $5", "$A costs $5"),
        ("${B}$${B}", "b${B}"),
    ],
)
def test_references(text: str, value: str) -> None:
    assert replaced(text, A="5", B="b", EMPTY="") == value


def test_values_are_not_read_again() -> None:
    assert replaced("${A}", A="${B}$$") == "${B}$$"


def test_everything_but_texts_stays() -> None:
    tree = parse("{a: 1, b: [true, '${X}'], ${X}: null}", "r.yaml", [])
    assert tree is not None
    found, _ = substitute(tree, {"X": "1"}, [])
    assert found.plain() == {"a": 1, "b": [True, "1"], "${X}": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${ROOT}/x", "environment variable ROOT is not set; export ROOT=… or --set data.roots=…"),
        ("${my root}", "'${my root}' is no reference to an environment variable; write ${NAME}, or $${ for the text itself"),
        ("a ${", "'${' is no reference to an environment variable; write ${NAME}, or $${ for the text itself"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    problems: list[Problem] = []
    tree = Node({"data": Node({"roots": Node([Node(text, MARK)], MARK)}, MARK)}, MARK)
    found, failed = substitute(tree, {}, problems)
    assert problems == [Problem(MARK, "data.roots.0", message)]
    assert failed == {("data", "roots", 0)}
    assert found.plain() == tree.plain()


@given(st.text(st.sampled_from("${}aA:-")))
def test_escaped_text_comes_back(text: str) -> None:
    assert replaced(escape(text)) == text
