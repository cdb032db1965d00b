"""Pictures of a run: what each stage made of some images, and what lies in each cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.data.images import ImageRecord, Images, Pixels
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import replacing
from mdp_core.report.contact_sheet import ClusterGroup, cluster_sheet, contact_sheet, mask_crop
from mdp_core.report.layout import to_png
from mdp_core.report.overlay import overlay

ROWS = 8
CROPS = 10
CELL = 260
SHOWN_SCORE = 0.5

Truth = Callable[[ImageRecord], LabelMap | None]
Outputs = Mapping[str, Sequence[Instances] | Sequence[LabelMap]]


def write_pictures(
    folder: Path, images: Images, outputs: Outputs, truth: Truth | None, results: Mapping[str, Any]
) -> list[str]:
    """Writes ``stages.png`` and, where there are clusters, ``clusters.png``.

    Args:
        folder: Where to.
        images: The images that the outputs are of.
        outputs: Stage id → one result an image, in the pipeline's order.
        truth: Ground truth for the last column; None where the run is not evaluated.
        results: Component results; where there are some, clusters take the colours of their classes.

    Returns:
        The names of the files.
    """
    _write(folder / "stages.png", _stages(images, outputs, truth, results))
    clustered = [o for o in outputs.values() if is_clustered(o)]
    if not clustered:
        return ["stages.png"]
    groups = _groups(images, [i for i in clustered[0] if isinstance(i, Instances)], cluster_look(results))
    if not groups:
        return ["stages.png"]
    _write(folder / "clusters.png", cluster_sheet(groups, crops=CROPS, title="What lies in each cluster"))
    return ["stages.png", "clusters.png"]


def _write(path: Path, picture: Pixels) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(to_png(picture))


def is_clustered(output: Sequence[Any]) -> bool:
    """Tells whether an output is of masks with clusters, by its first images."""
    return any(isinstance(i, Instances) and len(i) and int(i.labels.min()) >= 0 for i in output[:50])


def spread(total: int, wanted: int) -> list[int]:
    """Returns up to ``wanted`` indices spread evenly over 0..total-1."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(wanted, total)).round()}) if total else []


def _stages(images: Images, outputs: Outputs, truth: Truth | None, results: Mapping[str, Any]) -> Pixels:
    components = scores_by_stage(results, outputs)
    classes: tuple[str, ...] = tuple(next(iter(components.values()))["class_names"]) if components else ()
    rows = []
    for index in spread(len(images), ROWS):
        pixels = images.read(index)
        cells: list[Pixels | None] = [pixels]
        cells += [drawn(pixels, output[index], components.get(stage)) for stage, output in outputs.items()]
        if truth is not None:
            true = truth(images.records[index])
            cells.append(None if true is None else overlay(pixels, true, width=CELL, enlarge=True))
        rows.append((images.records[index].id, cells))
    columns = ["image", *outputs, *(["ground truth"] if truth is not None else [])]
    present = [(c, name) for c, name in enumerate(classes) if c and any(r["iou"][c] is not None for r in components.values())]
    return contact_sheet(columns, rows, cell_width=CELL, title="What each stage made of the images", legend=present)


def scores_by_stage(results: Mapping[str, Any], stages: Iterable[str]) -> dict[str, Any]:
    """Returns the scores by stage, of the first protocol that it has been scored with.

    A stage without scores of its own (a detector) takes those of the stage after it, but for a probe's, whose labels are no clusters.
    """
    own: dict[str, Any] = {}
    for component in results.get("components", []):
        own.setdefault(component["stage"], component)
    found: dict[str, Any] = {}
    after = None
    for stage in reversed(list(stages)):
        scored = own.get(stage)
        if scored is not None and scored.get("protocol_name") == "probe":
            found[stage] = scored
            continue
        after = scored or after
        if after is not None:
            found[stage] = after
    return found


def drawn(pixels: Pixels, result: Instances | LabelMap, component: Mapping[str, Any] | None) -> Pixels:
    """Returns an image with what a stage made of it laid over it, ``CELL`` pixels wide."""
    return overlay(pixels, in_colours(believed(result), component), width=CELL, enlarge=True)


def believed(result: Instances | LabelMap) -> Instances | LabelMap:
    """Returns what pictures show of a result: of a detector's masks those with a score of ``SHOWN_SCORE`` or more, or else the best.

    Masks without clusters are a prior's, which proposes no more than it means, and whose scores have a scale of their own.
    """
    if isinstance(result, Instances) and len(result) > 1 and int(result.labels.min()) >= 0:
        return result.select(result.scores >= min(SHOWN_SCORE, float(result.scores.max())))
    return result


def in_colours(result: Instances | LabelMap, component: Mapping[str, Any] | None) -> Instances | LabelMap:
    """Returns a result in the colours of the classes that its clusters were matched with; as it is where nothing was matched."""
    if component is None:
        return result
    if isinstance(result, Instances):
        if not len(result) or int(result.labels.min()) < 0:
            return result
        result = LabelMap.paint(result)
    return in_class_colours(result, component["cluster_of_class"])


def in_class_colours(prediction: LabelMap, cluster_of_class: Sequence[int | None]) -> LabelMap:
    """Returns the prediction with the number of the matched class on each pixel; clusters without a class come after them."""
    top = int(prediction.values.max(initial=0))
    mapped = np.array([0, *(_unmatched(v, len(cluster_of_class)) for v in range(1, top + 1))], dtype=np.uint16)
    for number, cluster in enumerate(cluster_of_class):
        if cluster is not None and cluster <= top:
            mapped[cluster] = number
    if prediction.ignore <= top:
        mapped[prediction.ignore] = prediction.ignore
    return LabelMap.from_array(mapped[prediction.values].astype(prediction.values.dtype))


def _unmatched(cluster: int, classes: int) -> int:
    """Returns the label whose colour a cluster without a class has: after those of the classes."""
    return (classes + cluster - 1) % 254 + 1


Look = Callable[[int], tuple[int, str]]
"""Cluster → the label whose colour it has, and the name of the class that it was matched with."""


def cluster_look(results: Mapping[str, Any]) -> Look:
    """Returns how clusters look, by the first component; by their own numbers where nothing was evaluated."""
    for component in [c for c in results.get("components", []) if c.get("protocol_name") != "probe"][:1]:
        names = component["class_names"]
        classes = enumerate(zip(names, component["cluster_of_class"], strict=True))
        matched = {cluster: (number, name) for number, (name, cluster) in classes if cluster}
        return lambda cluster: matched.get(cluster, (_unmatched(cluster, len(names)), ""))
    return lambda cluster: (cluster, "")


def _groups(images: Images, instances: Sequence[Instances], look: Look) -> list[ClusterGroup]:
    members: dict[int, list[tuple[int, int]]] = {}
    for image, found in enumerate(instances):
        for index, label in enumerate(found.labels):
            members.setdefault(int(label) + 1, []).append((image, index))
    groups = []
    for cluster, where in sorted(members.items()):
        number, name = look(cluster)
        chosen = [where[i] for i in spread(len(where), CROPS)]
        crops = [mask_crop(images.read(image), instances[image], index, cluster=number or cluster) for image, index in chosen]
        groups.append(ClusterGroup(cluster, len(where), crops, name, number))
    return groups
