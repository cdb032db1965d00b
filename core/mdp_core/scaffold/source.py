"""Copies a plugin's source: of a module, what one class needs, with imports that work from outside.

A copy rather than a subclass: research changes the middle of a method, and a subclass can change only what its author foresaw.
What the class takes from other modules stays imported, so the copy is one method and its settings, not half the platform.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mdp_core.errors import PluginError

_Import = ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class Copied:
    """The two modules of a new package.

    Attributes:
        method: Source of the method's module.
        settings: Source of the settings' module.
        imports: Names of the modules that either imports.
    """

    method: str
    settings: str
    imports: frozenset[str]


@dataclass(frozen=True)
class _Statement:
    """A statement of a module: the names it binds, the names it uses, and its text with the comments before it."""

    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]
    text: str


class Source:
    """The source of a module, by its statements.

    Raises:
        PluginError: The module has no source that can be read.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise PluginError(f"{module} has no Python source to copy", hint="leave --from out to start from a template")
        text = Path(spec.origin).read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        self.docstring = ast.get_docstring(tree, clean=False)
        self.statements = tuple(_statements(tree, text.splitlines(keepends=True), skip=self.docstring is not None))

    def needs(self, wanted: str) -> frozenset[str]:
        """Returns the names that a top-level name needs, itself included, imports left out.

        Raises:
            PluginError: The module does not define it.
        """
        own = [s for s in self.statements if not isinstance(s.node, _Import)]
        if not any(wanted in s.binds for s in own):
            raise PluginError(f"{self.module} does not define {wanted}, it only imports it", hint="leave --from out")
        found: set[str] = set()
        pending = {wanted}
        while pending:
            name = pending.pop()
            found.add(name)
            pending |= {used for s in own if name in s.binds for used in s.uses | s.binds} - found
        defined = {name for s in own for name in s.binds}
        return frozenset(found & defined)

    def text(
        self, names: Set[str], *, elsewhere: Mapping[tuple[str, str], str], docstring: str, header: str
    ) -> tuple[str, set[str]]:
        """Returns the source of a new module that defines ``names``, and the modules that it imports.

        Args:
            names: What it defines.
            elsewhere: (module, name) → the module that this name now comes from.
            docstring: Of the new module.
            header: Comment lines above it.
        """
        kept = [s for s in self.statements if not isinstance(s.node, _Import) and (s.binds & names or not s.binds)]
        used = {name for s in kept for name in s.uses}
        imports, modules = self._imports(used - names, elsewhere)
        here = {name: new for (module, name), new in elsewhere.items() if module == self.module and name in used - names}
        imports += [f"from {new} import {name}\n" for name, new in sorted(here.items())]
        body = "".join(s.text for s in kept)
        head = header + (f'"""{docstring}"""\n\n' if docstring else "")
        return head + _sorted(
            imports, {new.partition(".")[0] for new in elsewhere.values()}
        ) + "\n\n" + body.strip() + "\n", modules

    def _imports(self, used: Set[str], elsewhere: Mapping[tuple[str, str], str]) -> tuple[list[str], set[str]]:
        lines: list[str] = []
        modules: set[str] = set()
        for statement in self.statements:
            node = statement.node
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if (alias.asname or alias.name.partition(".")[0]) in used:
                        lines.append(f"import {_alias(alias)}\n")
                        modules.add(alias.name)
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                taken: dict[str, list[str]] = {}
                for alias in node.names:
                    if (alias.asname or alias.name) in used or origin == "__future__":
                        taken.setdefault(elsewhere.get((origin, alias.name), origin), []).append(_alias(alias))
                lines += [f"from {module} import {', '.join(names)}\n" for module, names in taken.items()]
                modules |= set(taken)
        return lines, modules

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parent = ".".join(self.package.split(".")[: len(self.package.split(".")) - node.level + 1])
        return f"{parent}.{node.module}" if node.module else parent


def copied(
    factory: str, config: str, names: Mapping[str, str], package: str, header: str, plugins: Mapping[str, str]
) -> Copied:
    """Copies a method and its settings.

    Args:
        factory: ``module:Class`` of the method.
        config: ``module:Class`` of its settings.
        names: Class name → its new name.
        package: The new package.
        header: Comment lines for the top of both modules.
        plugins: Plugin name → its new name, in docstrings.

    Raises:
        PluginError: There is no source.
    """
    method_module, _, method = factory.partition(":")
    config_module, _, settings = config.partition(":")
    source, settings_source = Source(method_module), Source(config_module)
    shared = settings_source.needs(settings)
    new = f"{package}.settings"
    elsewhere = {(config_module, name): new for name in shared}
    needed = source.needs(method) - (shared if method_module == config_module else frozenset())
    doc = settings_source.docstring if method_module != config_module else None
    settings_text, first = settings_source.text(
        shared, elsewhere={}, docstring=doc or f"Settings of {next(iter(plugins.values()))}.", header=header
    )
    method_text, second = source.text(needed, elsewhere=elsewhere, docstring=source.docstring or "", header=header)
    return Copied(_renamed(method_text, names, plugins), _renamed(settings_text, names, plugins), frozenset(first | second))


def _sorted(imports: Iterable[str], own: Set[str]) -> str:
    """Returns import lines in the usual order: the future, Python's own, others, one's own; in each, ``import`` before ``from``."""

    def group(line: str) -> int:
        top = line.split()[1].partition(".")[0]
        return 0 if top == "__future__" else 1 if top in sys.stdlib_module_names else 3 if top in own else 2

    def place(line: str) -> tuple[int, bool, str]:
        return group(line), line.startswith("from"), line.split()[1]

    return "\n".join("".join(lines) for _, lines in groupby(sorted(set(imports), key=place), group))


def _renamed(text: str, classes: Mapping[str, str], plugins: Mapping[str, str]) -> str:
    """Renames classes where they are names of the program, and plugins where a text has them in double backquotes."""
    lines = text.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        (row, start), (_, end) = token.start, token.end
        if token.type == tokenize.NAME and token.string in classes:
            line = lines[row - 1]
            lines[row - 1] = line[:start] + classes[token.string] + line[end:]
    text = "".join(lines)
    for old, new in plugins.items():
        text = text.replace(f"``{old}``", f"``{new}``")
    return text


def _statements(tree: ast.Module, lines: list[str], *, skip: bool) -> Iterator[_Statement]:
    """Yields the statements of a module; the comments and blank lines before one belong to it, a string after a value as well."""
    nodes = tree.body[skip:]
    end = tree.body[0].end_lineno or 0 if skip else 0
    for index, node in enumerate(nodes):
        if _is_text(node) and index:
            continue
        last = nodes[index + 1] if index + 1 < len(nodes) and _is_text(nodes[index + 1]) else node
        text = "".join(lines[end : last.end_lineno])
        end = last.end_lineno or 0
        yield _Statement(node, frozenset(_bound(node)), frozenset(_used(node)), text)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, ast.alias):
            yield inner.asname or inner.name.partition(".")[0]


def _used(node: ast.stmt) -> Iterator[str]:
    """Yields the names that a statement reads, those in annotations that are strings too."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier():
            yield inner.value


def _alias(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name
