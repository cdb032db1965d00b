"""The stable API is what its snapshot says: names, signatures, fields, defaults, hooks.

``python tests/mdp_core/test_api.py --write`` writes the snapshot anew. A change that breaks plugins raises ``API_VERSION`` first.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdp_core import api
from mdp_core.plugins.hookspecs import Hooks
from mdp_core.settings import Settings

SNAPSHOT = Path(__file__).with_name("api_snapshot.txt")
PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "api.md"
REMEDY = (
    "the stable API changed. If plugins written for it break, raise API_VERSION (core/mdp_core/plugins/version.py; "
    "docs/plugins/api.md says how), then: python tests/mdp_core/test_api.py --write"
)


def snapshot() -> str:
    """Returns the whole API as text.

    Annotations and defaults are those of the source, so the text does not depend on how a version of Python prints types.
    """
    lines = [f"API_VERSION = {api.API_VERSION}"]
    for name in sorted(set(api.__all__) - {"API_VERSION"}):
        lines += ["", *described(name, getattr(api, name))]
    lines += ["", "hooks", *(f"    {line}" for line in members(Hooks))]
    return "\n".join(lines) + "\n"


def described(name: str, value: Any) -> Iterator[str]:
    """Yields the lines about one exported name."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
        yield f"{'frozen ' if frozen else ''}class {name}({bases})"
        yield from (f"    {line}" for line in members(value))
    elif inspect.isfunction(value):
        yield signature(value)
    else:
        yield f"{name} = {ast.unparse(assigned(name))}"


def assigned(name: str) -> ast.expr:
    """Returns what an exported constant, type or marker is set to, from the source."""
    (module,) = [
        node.module
        for node in ast.parse(inspect.getsource(api)).body
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names)
    ]
    for node in ast.parse(inspect.getsource(sys.modules[str(module)])).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value
    raise LookupError(name)


def members(cls: type) -> Iterator[str]:
    """Yields what a class defines itself and plugins may use: fields in their order, then methods by name.

    What it inherits stands with the base class, which is exported as well (``test_bases_are_exported``).
    """
    methods: dict[str, str] = {}
    for node in definition(cls).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if not ast.unparse(target).startswith(("_", "model_config")):
                yield ast.unparse(node)
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in ("__init__", "__len__", "__iter__")
        ):
            methods[node.name] = "".join(f"@{ast.unparse(mark)} " for mark in node.decorator_list) + header(node)
    yield from (methods[name] for name in sorted(methods))


def definition(value: Any) -> Any:
    """Returns the syntax of a class or function."""
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def signature(function: Callable[..., Any]) -> str:
    return header(definition(function))


def header(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def test_the_api_is_what_the_snapshot_says() -> None:
    before, now = SNAPSHOT.read_text(encoding="utf-8"), snapshot()
    if before != now:
        diff = difflib.unified_diff(before.splitlines(), now.splitlines(), "api_snapshot.txt", "mdp_core.api", lineterm="", n=2)
        pytest.fail("\n".join([REMEDY, "", *diff]), pytrace=False)


def test_a_change_is_seen() -> None:
    """Every kind of change to what plugins rely on changes the text."""
    text = snapshot()
    for line in (
        "    @abstractmethod def mine(self, images: Images) -> Iterator[Instances]",
        "    seed: int = 0",
        "    cache_version: ClassVar[int] = 1",
        "def read_image(path: Path | str) -> Pixels",
        "    @hookspec def mdp_register(self, registry: Registry) -> None",
    ):
        assert f"{line}\n" in text, line


def test_all_is_sorted_and_complete() -> None:
    exported = {name for name, value in vars(api).items() if not name.startswith("_") and not inspect.ismodule(value)} - {
        "annotations"
    }
    assert exported == set(api.__all__)
    assert len(set(api.__all__)) == len(api.__all__)


def test_bases_are_exported() -> None:
    for name in api.__all__:
        value = getattr(api, name)
        for base in value.__mro__[1:] if inspect.isclass(value) else ():
            ours = base.__module__.startswith("mdp_core") and base is not Settings
            assert not ours or base.__name__ in api.__all__, f"{name} inherits from {base.__name__}, which is private"


def test_the_page_has_a_line_for_every_name() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(api.__all__)


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("python tests/mdp_core/test_api.py --write writes the snapshot")
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
