"""Writes the reference pages from the code: ``make docs``; a test fails where they are out of date."""

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


PAGES = {HERE / "reference" / "plugins.md": plugins_page}


def main() -> None:
    """Writes the pages; with ``--check`` only says whether they are current."""
    stale = [path for path, page in PAGES.items() if not path.is_file() or path.read_text(encoding="utf-8") != page()]
    if "--check" in sys.argv:
        sys.exit("\n".join(f"{path} is out of date: make docs" for path in stale) or 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[path](), encoding="utf-8")


if __name__ == "__main__":
    main()
