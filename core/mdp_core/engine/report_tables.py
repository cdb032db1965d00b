"""Tables of the page of a run: scores, confusion after matching, and the settings that are not defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from mdp_core.engine.showcase import css
from mdp_core.errors import MdpError
from mdp_core.evaluation.semantic import SemanticResult
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.load import leaves
from mdp_core.report import page as p
from mdp_core.report.overlay import label_colour

CONFUSIONS = 30
"""With more classes than this, the confusion of the last component alone is shown."""


def content(component: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a component of the record as ``SemanticResult`` reads it."""
    return {name: value for name, value in component.items() if name not in ("title", "stage")}


def score_table(results: Mapping[str, Any]) -> list[p.Score]:
    """Returns the component table."""
    return [
        p.Score(c["title"], c["stage"], c["miou"], c["pixel_accuracy"], c["protocol"]["images"])
        for c in results.get("components", ())
    ]


def localisation(results: Mapping[str, Any]) -> list[p.Localisation]:
    """Returns how well masks find objects, by stage."""
    names = ("hit", "hit_any", "mean_best_iou", "corloc", "images", "masks")
    return [p.Localisation(stage, **{n: found[n] for n in names}) for stage, found in results.get("localisation", {}).items()]


def protocol(scores: Sequence[SemanticResult]) -> list[str]:
    """Returns what the scores hold for, in sentences."""
    if not scores:
        return []
    protocol = scores[-1].protocol
    return [
        f"{protocol.images:,} images of split {protocol.split}, pixels pooled over the split.",
        f"Clusters were matched with classes one to one, for each row by itself ({protocol.matching}); a class without a cluster counts as 0.",
        "Background is a class like any other." if protocol.background_included else "Background is left out of the mean.",
        f"{'A' if protocol.dense_crf else 'No'} dense CRF. Checkpoint: {protocol.checkpoint}. Seed: {protocol.seed}.",
    ]


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
    matched = set(score.cluster_of_class)
    others = [c for c in range(len(score.counts)) if c not in matched]
    rows: list[tuple[str, int, tuple[float, ...] | None]] = []
    for true, name in enumerate(score.class_names):
        pixels = score.class_pixels[true]
        counts = [0 if c is None else score.counts[c][true] for c in score.cluster_of_class]
        counts += [sum(score.counts[c][true] for c in others)]
        counts += [score.unpredicted[true]] if any(score.unpredicted) else []
        rows.append((name, pixels, tuple(n / pixels for n in counts) if pixels else None))
    more = ("clusters without a class", *(("no prediction",) if any(score.unpredicted) else ()))
    return p.Confusion(title, (*score.class_names, *more), tuple(rows))


def section(host: PluginHost, name: str, kind: str, settings: dict[str, Any]) -> p.Section:
    """Returns what a recipe says of one plugin: its settings that are not the defaults."""
    use = str(settings.pop("use", ""))
    for key in ("kind", "input") if kind != "dataset" else ():
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
