"""Writes the pages that are made of code: ``make docs``; tests fail where they are out of date.

``docs/generate.py`` writes all of them, ``docs/generate.py plugins`` or ``docs/generate.py errors`` one. ``errors`` calls mdp about
200 times, which takes a minute or two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from mdp_core.plugins.loader import KINDS, PluginHost
from mdp_core.plugins.registry_file import CHECKOUT, RegistryFile
from mdp_core.plugins.settings_docs import describe

HERE = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py (make docs). Do not edit. -->\n"


def plugins_page() -> str:
    """Returns the page of all shipped plugins with their settings."""
    registry = RegistryFile.model_validate({**yaml.safe_load(CHECKOUT.read_text(encoding="utf-8")), "files": []})
    host = PluginHost(registry)
    parts = [NOTICE, "# Plugins and their settings\n", "The same tables come from `mdp plugins show NAME`.\n"]
    for kind in KINDS:
        shipped = [p for p in host.plugins.values() if p.kind == kind and p.distribution == "mdp-platform"]
        for plugin in sorted(shipped, key=lambda p: p.name):
            default = " (default)" if host.default(kind) == plugin.name else ""
            parts.append(f"## {kind}: {plugin.name}{default}\n\n{plugin.summary}\n")
            config = host.config(kind, plugin.name)
            if config.uses_labels:
                parts.append(f"Uses labels: {config.uses_labels}\n")
            rows = [f"| `{d.name}` | {_cell(d.type)} | `{_cell(d.default)}` | {_cell(d.meaning)} |" for d in describe(config)]
            parts.append("\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def errors_page() -> str:
    """Returns the page of mistakes and their messages, having made every one of them."""
    sys.path.insert(0, str(HERE.parent / "tests" / "malformed"))
    from malformed_cases.page import page  # noqa: PLC0415 - the path is only now known

    return page(NOTICE)


PAGES = {
    "plugins": (HERE / "reference" / "plugins.md", plugins_page),
    "errors": (HERE / "errors.md", errors_page),
}
CHECKED = ("plugins",)
"""Pages that ``--check`` compares; tests/malformed compares the page of errors, mistake by mistake."""


def main() -> None:
    """Writes the pages; with ``--check`` only says whether they are current."""
    wanted = [name for name in sys.argv[1:] if not name.startswith("-")]
    if unknown := set(wanted) - set(PAGES):
        sys.exit(f"no page {', '.join(sorted(unknown))} (there are: {', '.join(PAGES)})")
    check = "--check" in sys.argv
    for name in wanted or (CHECKED if check else PAGES):
        path, page = PAGES[name]
        text = page()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            sys.exit(f"{path} is out of date: make docs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
