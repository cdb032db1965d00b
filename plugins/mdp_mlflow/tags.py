"""What a run's tags say: where it comes from, what it was made with, and how it ended."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdp_mlflow.names import tag_value

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


def run_name(name: str, folder: Path) -> str:
    """Returns the name that MLflow shows: what tells runs apart comes first, as its tables cut names off.

    The end of a run's id is enough for every command of ``mdp``, and its time stands beside it.
    """
    return f"{name}-{folder.name.rpartition('-')[2]}"


def datasets(run: Mapping[str, Any]) -> list[DatasetInput]:
    """Returns the run's images as MLflow's data sets, with their fingerprints."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = dict(run["resolved"].get("data", {}))
    source = tag_value(json.dumps(data))
    return [
        DatasetInput(
            Dataset(f"{data.get('use', 'images')} {data.get(role, role)}", fingerprint[:36], "mdp", source),
            [InputTag("mlflow.data.context", role)],
        )
        for role, fingerprint in run.get("fingerprints", {}).items()
    ]


def facts(run: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Returns the tags that are known when a run starts.

    Args:
        run: The run as its journal has it (a ``RunInfo``).
        record: Its run.json.
        folder: Its folder.
    """
    provenance = run.get("provenance", {})
    git = provenance.get("git") or {}
    versions = {"python": provenance.get("python"), **(provenance.get("libraries") or {})}
    sweep, _, member = str(record.get("sweep") or "").partition("/")
    tags = {
        "mdp.folder": folder,
        "mdp.recipe": record.get("recipe"),
        "mdp.overrides": " ".join(record.get("overrides", ())),
        "mdp.seed": run["seed"],
        "mdp.sweep": sweep,
        "mdp.sweep_member": member,
        "mdp.from_run": record.get("from_run"),
        "mdp.git_commit": git.get("commit"),
        "mdp.git_dirty": git.get("dirty"),
        "mlflow.source.git.commit": git.get("commit"),
        **{f"mdp.images.{role}": value for role, value in run.get("fingerprints", {}).items()},
        "mdp.versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: tag_value(value) for name, value in tags.items() if value not in (None, "")}


def final_facts(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that are known when a run is over: its stages' plugins, devices, steps that were in the store, labels used."""
    tags = {f"mdp.plugin.{stage}": plugin for stage, plugin in plugins(folder, record).items()}
    devices = sorted({s["notes"]["device"] for s in record.get("steps", ()) if "device" in s.get("notes", {})})
    tags["mdp.device"] = ", ".join(devices)
    tags["mdp.from_store"] = ", ".join(s["id"] for s in record.get("steps", ()) if s["status"] == "hit")
    tags |= {f"mdp.labels_used.{stage}": what for stage, what in record.get("labels_used", {}).items()}
    return {name: tag_value(value) for name, value in tags.items() if value}


def plugins(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Returns stage → its plugin: name, package and version (or hash of a one-file plugin), and version of its results."""
    found: dict[str, str] = {}
    for step in record.get("steps", ()):
        if step["kind"] == "evaluate" or step["stage"] in found:
            continue
        plugin = payload(folder, step).get("plugin")
        if plugin is not None:
            known = record.get("environment", {}).get("libraries", {})
            package = f"{plugin['code']} {known.get(plugin['code']) or _version(plugin['code'])}".strip()
            found[step["stage"]] = f"{plugin['name']} from {package}, results version {plugin['version']}"
    return found


def payload(folder: Path, step: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the key of a step's result was made of, as the store has it; empty where the store does not have it."""
    key = folder.parents[1] / "store" / f"{step['kind']}-{step['step']}" / step["key"] / "key.json"
    try:
        content = json.loads(key.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def summary(folder: Path, record: Mapping[str, Any]) -> str:
    """Returns the description that MLflow shows on the run's page, as Markdown."""
    parts = []
    if (folder / "components.md").is_file():
        parts.append((folder / "components.md").read_text(encoding="utf-8").strip())
    if record.get("error"):
        parts.append(f"```\n{record['error']}\n```")
    parts.append(f"`{folder}`")
    return tag_value("\n\n".join(parts))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
