"""The scores of a run: read from its evaluations, for its record, for trackers, and as tables in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdp_core.data.storage import write_json, write_text
from mdp_core.engine.plan import COMPONENTS, Row
from mdp_core.evaluation.clusters import ClustersResult
from mdp_core.evaluation.components import ComponentRow, ComponentTable
from mdp_core.evaluation.instance_result import InstanceResult
from mdp_core.evaluation.instance_table import InstanceRow, InstanceTable
from mdp_core.evaluation.localisation import LocalisationResult
from mdp_core.evaluation.semantic import SemanticResult

_PREFIX: Mapping[str, str] = {
    "clustering-objects": "objects.",
    "clustering-majority": "majority.",
    "instances-objects": "objects.",
}
"""What stands between a stage's id and the name of a metric; nothing for the other protocols."""


@dataclass
class Scores:
    """All that the evaluations of a run say.

    Attributes:
        results: JSON for ``results.json`` and the record: ``components`` (a list), and by stage ``clusters``, ``instances``, ``localisation``.
        metrics: Flat numbers, such as ``segmenter.miou``.
    """

    results: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    components: list[ComponentRow] = field(default_factory=list)
    instances: list[InstanceRow] = field(default_factory=list)
    clusters: dict[str, ClustersResult] = field(default_factory=dict)
    localisation: dict[str, LocalisationResult] = field(default_factory=dict)

    def add(self, row: Row, content: Mapping[str, Any] | None) -> None:
        """Adds what one evaluation wrote; None where there was nothing to compare with."""
        if content is None:
            return
        if row.protocol in COMPONENTS:
            semantic = SemanticResult.from_json(content)
            self.components.append(ComponentRow(row.title, semantic, row.protocol))
            own = {"title": row.title, "stage": row.stage, "protocol_name": row.protocol}
            self.results.setdefault("components", []).append({**own, **content})
            metrics = semantic.metrics()
        else:
            self.results.setdefault(row.protocol, {})[row.stage] = {"title": row.title, **content}
            metrics = self._others[row.protocol](row, content)
        prefix = f"{row.stage}.{_PREFIX.get(row.protocol, '')}"
        self.metrics |= {prefix + name: value for name, value in metrics.items()}

    @property
    def _others(self) -> Mapping[str, Callable[[Row, Mapping[str, Any]], dict[str, float]]]:
        return {
            "clusters": self._clusters,
            "instances": self._instances,
            "instances-objects": self._instances,
            "localisation": self._localisation,
        }

    def _localisation(self, row: Row, content: Mapping[str, Any]) -> dict[str, float]:
        self.localisation[row.stage] = LocalisationResult.from_json(content)
        return self.localisation[row.stage].metrics()

    def _clusters(self, row: Row, content: Mapping[str, Any]) -> dict[str, float]:
        self.clusters[row.title] = ClustersResult.from_json(content)
        return self.clusters[row.title].metrics()

    def _instances(self, row: Row, content: Mapping[str, Any]) -> dict[str, float]:
        result = InstanceResult.from_json(content)
        where = ", matched on objects" if row.protocol == "instances-objects" else ""
        self.instances.append(InstanceRow(row.title + where, result))
        return result.metrics()

    def write(self, folder: Path) -> list[str]:
        """Writes the tables, and ``results.json`` with all of it; returns the names of the files."""
        files: dict[str, str] = {}
        if self.components:
            table = ComponentTable(tuple(self.components))
            files |= {
                "components.md": table.to_markdown(),
                "components.csv": table.to_csv(),
                "classes.csv": table.per_class_to_csv(),
            }
        if self.instances:
            instances = InstanceTable(tuple(self.instances))
            files |= {"instances.md": instances.to_markdown(), "instances.csv": instances.to_csv()}
        if self.clusters:
            files["clusters.md"] = clusters_table(self.clusters)
        if not self.results:
            return []
        write_json(folder / "results.json", self.results)
        for name, text in files.items():
            write_text(folder / name, text)
        return ["results.json", *files]


def recorded(results: Mapping[str, Any]) -> Scores:
    """Returns the scores that a run's record holds, as ``Scores.results`` was written into it.

    Raises:
        DataError: They were written by a version that this one cannot read.
    """
    scores = Scores()
    for content in results.get("components", ()):
        scores.add(Row(content["title"], content["stage"], "", content.get("protocol_name", "clustering")), _own(content))
    for protocol in ("clusters", "instances", "instances-objects", "localisation"):
        for stage, content in results.get(protocol, {}).items():
            scores.add(Row(content.get("title", stage), stage, "", protocol), _own(content))
    return scores


def _own(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a protocol wrote, without what the record adds."""
    return {name: value for name, value in content.items() if name not in ("title", "stage", "protocol_name")}


def read_scores(evaluations: Sequence[Row], file_of: Callable[[Row], Path]) -> Scores:
    """Reads the scores of finished evaluations, in their order.

    Args:
        evaluations: The evaluations of a plan.
        file_of: Where an evaluation's scores lie.
    """
    scores = Scores()
    for row in evaluations:
        scores.add(row, json.loads(file_of(row).read_text(encoding="utf-8")))
    return scores


def clusters_table(results: Mapping[str, ClustersResult]) -> str:
    """Returns how well clusters agree with classes as Markdown, in percent, with notes on how it was measured."""
    lines = ["| Stage | ACC (%) | NMI (%) | ARI (%) | Purity (%) | Masks |", "|---|---:|---:|---:|---:|---:|"]
    notes: list[str] = []
    for title, result in results.items():
        shares = " | ".join(f"{share * 100:.1f}" for share in (result.acc, result.nmi, result.ari, result.purity))
        lines.append(f"| {title} | {shares} | {result.masks} |")
        notes += result.notes()
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"
