import pickle

from mdp_core.errors import RecipeError
from mdp_core.recipe import InvalidRecipeError, Mark, Problem


def test_sorted_by_place_each_once_and_the_command_line_last() -> None:
    def problem(source: str, line: int = 0, column: int = 0) -> Problem:
        return Problem(Mark(source, line, column), "a.b", "wrong")

    order = [
        problem("a.yaml", 2, 9),
        problem("a.yaml", 10, 1),
        problem("a.yaml", 10, 3),
        problem("b.yaml", 1, 1),
        problem("--set x=1"),
    ]
    error = InvalidRecipeError("a.yaml", [order[i] for i in (4, 2, 0, 3, 1, 2)])
    assert list(error.problems) == order
    assert error.message.startswith("5 mistakes in a.yaml:\n  a.yaml:2:9: a.b: wrong\n")


def test_one_mistake_and_no_path() -> None:
    error = InvalidRecipeError("a.yaml", [Problem(Mark("a.yaml", 1, 2), "", "not YAML")])
    assert str(error) == "1 mistake in a.yaml:\n  a.yaml:1:2: not YAML"
    assert isinstance(error, RecipeError)


def test_travels_between_processes() -> None:
    error = InvalidRecipeError("a.yaml", [Problem(Mark("a.yaml", 1, 2), "x", "wrong")])
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error)
