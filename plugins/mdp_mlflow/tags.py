"""What a run's tags say: where it comes from, what it was made with, and how it ended."""

from __future__ import annotations

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
    git = provenance.get("git") or provenance.get("mdp_git") or {}
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
        **{f"mdp.plugin.{stage}": plugin for stage, plugin in plugins(run).items()},
        "mdp.gpus": ", ".join(str(gpu) for gpu in (provenance.get("device") or {}).get("gpus", ())),
        "mdp.versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: tag_value(value) for name, value in tags.items() if value not in (None, "")}


def final_facts(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that are known when a run is over: devices, steps that were in the store, labels used."""
    devices = sorted({s["notes"]["device"] for s in record.get("steps", ()) if "device" in s.get("notes", {})})
    tags = {"mdp.device": ", ".join(devices)}
    tags["mdp.from_store"] = ", ".join(s["id"] for s in record.get("steps", ()) if s["status"] == "hit")
    tags |= {f"mdp.labels_used.{stage}": what for stage, what in record.get("labels_used", {}).items()}
    return {name: tag_value(value) for name, value in tags.items() if value}


def plugins(run: Mapping[str, Any]) -> dict[str, str]:
    """Returns stage → its plugin: name, package and version (or file and its hash), and the version of its results."""
    rows = {(row["kind"], row["name"]): row for row in run.get("provenance", {}).get("plugins", ())}
    resolved = run["resolved"]
    used = {stage: (section["kind"], section["use"]) for stage, section in resolved.get("pipeline", {}).items()}
    used["data"] = ("dataset", resolved.get("data", {}).get("use", ""))
    found = {}
    for stage, slot in used.items():
        if slot in rows:
            row = rows[slot]
            version = f"sha256:{row['sha256']}" if row["sha256"] else row["version"]
            found[stage] = f"{row['name']} from {row['distribution']} {version}, results version {row['cache_version']}"
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
