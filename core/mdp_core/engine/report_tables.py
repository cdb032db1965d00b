"""Tables of the page of a run: scores, confusion after matching, and the settings that are not defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from mdp_core.engine.scores import Scores
from mdp_core.engine.showcase import css
from mdp_core.errors import MdpError
from mdp_core.evaluation.components import ComponentRow, ComponentTable
from mdp_core.evaluation.instance_result import NUMBERS, SETTINGS
from mdp_core.evaluation.instance_table import TITLES, InstanceTable
from mdp_core.evaluation.semantic import SemanticResult
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.load import leaves
from mdp_core.report import page as p
from mdp_core.report.overlay import label_colour

CONFUSIONS = 30
"""With more classes than this, the confusion of the last component alone is shown."""


def titles(rows: Sequence[ComponentRow]) -> list[str]:
    """Returns what rows are called: by their protocol too where there are several."""
    several = len({row.protocol_name for row in rows}) > 1
    return [f"{row.title} ({row.name})" if several else row.title for row in rows]


def score_table(rows: Sequence[ComponentRow], stages: Sequence[str]) -> list[p.Score]:
    """Returns the component table; ``stages`` are those of the rows."""
    return [
        p.Score(title, stage, row.result.miou, row.result.pixel_accuracy, row.result.protocol.images)
        for title, stage, row in zip(titles(rows), stages, rows, strict=True)
    ]


def grids(scores: Scores) -> list[p.Grid]:
    """Returns the further tables: clusters against classes, and AP of masks in each setting."""
    found = []
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]
    if scores.clusters:
        header = ("Stage", "ACC, %", "NMI, %", "ARI, %", "Purity, %", "Masks")
        lines = [
            (title, *(p.percent(share) for share in (r.acc, r.nmi, r.ari, r.purity)), f"{r.masks:,}")
            for title, r in scores.clusters.items()
        ]
        notes = [note for result in scores.clusters.values() for note in result.notes()]
        found.append(p.Grid("Clusters and true classes", header, lines, notes))
    if scores.instances:
        table = InstanceTable(tuple(scores.instances))
        for setting in table.settings:
            rows = [(row.title, row.result.settings[setting]) for row in table.rows if setting in row.result.settings]
            lines = [
                (title, *(p.percent(getattr(s, n)) for n in NUMBERS), f"{s.images:,}", f"{s.objects:,}") for title, s in rows
            ]
            header = ("Masks", *(f"{TITLES[n]}, %" for n in NUMBERS), "Images", "Objects")
            found.append(p.Grid(f"Instances: {SETTINGS[setting]}", header, lines, ()))
        found[-1] = replace(found[-1], notes=table.notes())
    return found


def localisation(scores: Scores) -> list[p.Localisation]:
    """Returns how well masks find objects, by stage."""
    names = ("hit", "hit_any", "mean_best_iou", "corloc", "images", "masks")
    return [p.Localisation(stage, **{n: getattr(r, n) for n in names}) for stage, r in scores.localisation.items()]


def protocol(rows: Sequence[ComponentRow]) -> list[str]:
    """Returns what the scores hold for, in sentences."""
    return ComponentTable(tuple(rows)).notes() if rows else []


def classes(scores: Sequence[SemanticResult]) -> list[p.ClassLine]:
    """Returns the IoU of each class by component."""
    if not scores:
        return []
    pixels = scores[-1].class_pixels
    return [
        p.ClassLine(
            name, css(label_colour(i)) if i else "transparent", pixels[i] / (sum(pixels) or 1), tuple(s.iou[i] for s in scores)
        )
        for i, name in enumerate(scores[-1].class_names)
    ]


def confusions(titles: Sequence[str], scores: Sequence[SemanticResult]) -> list[p.Confusion]:
    """Returns the confusion of each component; with many classes, of the last one alone."""
    shown = list(zip(titles, scores, strict=True))
    if shown and len(shown[-1][1].class_names) > CONFUSIONS:
        shown = shown[-1:]
    return [_confusion(title, score) for title, score in shown]


def _confusion(title: str, score: SemanticResult) -> p.Confusion:
    """Sums the counts by matched class: a column a class, then clusters without a class, then pixels without a prediction."""
    labels = [[label for label, c in enumerate(score.class_of_label) if c == true] for true in range(len(score.class_names))]
    others = [label for label, c in enumerate(score.class_of_label) if c is None]
    rows: list[tuple[str, int, tuple[float, ...] | None]] = []
    for true, name in enumerate(score.class_names):
        pixels = score.class_pixels[true]
        counts = [sum(score.counts[label][true] for label in of_class) for of_class in labels]
        counts += [sum(score.counts[c][true] for c in others)]
        counts += [score.unpredicted[true]] if any(score.unpredicted) else []
        rows.append((name, pixels, tuple(n / pixels for n in counts) if pixels else None))
    more = ("clusters without a class", *(("no prediction",) if any(score.unpredicted) else ()))
    return p.Confusion(title, (*score.class_names, *more), tuple(rows))


def section(host: PluginHost, name: str, kind: str, settings: dict[str, Any]) -> p.Section:
    """Returns what a recipe says of one plugin: its settings that are not the defaults."""
    use = str(settings.pop("use", ""))
    for key in ("kind", "input", "support") if kind != "dataset" else ():
        settings.pop(key, None)
    try:
        usual = _flat(_defaults(host.config(kind, use)))
    except MdpError:
        return p.Section(name, use, None)
    here = _flat(settings)
    changes = (
        p.Change(key, _shown(value), _shown(usual[key]) if key in usual else None)
        for key, value in here.items()
        if key not in usual or usual[key] != value
    )
    return p.Section(name, use, tuple(changes))


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the defaults of a settings model, JSON-ready; settings without one are left out."""
    found = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if default is not PydanticUndefined:
            found[name] = to_jsonable_python(default)
    return found


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for path in leaves(tree):
        value: Any = tree
        for key in path:
            value = value[key]
        found[".".join(path)] = value
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
