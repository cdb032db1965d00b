"""A picture of several runs: what one stage of each made of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdp_core.data.images import Images, Pixels
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import StoredInstances, StoredLabelMaps, replacing
from mdp_core.engine.compare import Comparison, Group
from mdp_core.engine.jobs import PART_SUFFIX, read_records
from mdp_core.engine.pictures import CELL, ROWS, drawn, scores_by_stage, spread
from mdp_core.engine.record import RunRecord
from mdp_core.engine.store import Entry
from mdp_core.errors import RunError
from mdp_core.plugins.loader import load_plugins
from mdp_core.recipe.problems import did_you_mean
from mdp_core.report.contact_sheet import contact_sheet
from mdp_core.report.layout import to_png
from mdp_core.report.overlay import overlay
from mdp_core.stages.base import Context
from mdp_core.stages.dataset import Dataset, DatasetConfig


def draw_side_by_side(comparison: Comparison, stage: str, path: Path) -> None:
    """Draws a few images, a column for each row of a comparison: what a stage made of them in its run with the lowest seed.

    Args:
        comparison: The runs; they have the same images.
        stage: Id of the stage.
        path: A PNG file.

    Raises:
        RunError: A run has no result of the stage, or it is no longer in the store; or the images differ.
    """
    runs = [group.runs[min(group.runs)] for group in comparison.groups]
    dataset = _dataset(runs[0])
    images = _images(runs, dataset)
    results = [_results(run, stage, images) for run in runs]
    with_truth = runs[0].final_role == "eval" and bool(runs[0].resolved.get("evaluate"))
    rows = []
    for index in spread(len(images), ROWS):
        pixels, record = images.read(index), images.records[index]
        cells: list[Pixels | None] = [pixels]
        for run, found in zip(runs, results, strict=True):
            cells.append(drawn(pixels, found[index], scores_by_stage(run.results, run.outputs).get(stage)))
        if with_truth:
            true = dataset.label_map(record)
            cells.append(None if true is None else overlay(pixels, true, width=CELL, enlarge=True))
        rows.append((record.id, cells))
    columns = ["image", *(_name(comparison, group) for group in comparison.groups)]
    columns += ["ground truth"] if with_truth else []
    sheet = contact_sheet(columns, rows, cell_width=CELL, title=f"What {stage} made of the images")
    with replacing(path) as temporary:
        temporary.write_bytes(to_png(sheet))


def _name(comparison: Comparison, group: Group) -> str:
    values = [group.shown(column) for column in comparison.columns if column in group.settings]
    return ", ".join(values) or group.runs[min(group.runs)].name


def _images(runs: Sequence[RunRecord], dataset: Dataset[DatasetConfig]) -> Images:
    first = runs[0]
    for run in runs:
        if run.final_role != first.final_role or _fingerprint(run) != _fingerprint(first):
            raise RunError(
                f"{run.id} and {first.id} are of different images",
                hint="compare runs on the same images to see them side by side",
            )
    records = read_records(first.folder / f"images-{first.final_role}.json")
    return Images(records, dataset.read)


def _fingerprint(run: RunRecord) -> str:
    return str(run.images.get(run.final_role, {}).get("fingerprint"))


def _dataset(run: RunRecord) -> Dataset[DatasetConfig]:
    data = dict(run.resolved["data"])
    made: Dataset[DatasetConfig] = load_plugins([Path(file) for file in run.plugin_files]).create(
        "dataset", str(data.pop("use")), data, Context()
    )
    return made


def _results(run: RunRecord, stage: str, images: Images) -> Sequence[Instances] | Sequence[LabelMap]:
    step = run.step(run.outputs[stage]) if stage in run.outputs else None
    if step is None or (step.kind, step.step) not in PART_SUFFIX:
        guess = did_you_mean(stage, run.outputs)
        raise RunError(
            f"{run.id} has no masks or label maps of a stage {stage!r}{guess}", hint=f"it has: {', '.join(run.outputs)}"
        )
    entry = Entry(run.home / "store" / f"{step.kind}-{step.step}" / step.key, {})
    if entry.manifest() is None:
        raise RunError(f"{run.id}: the result of {stage!r} is no longer in the store", hint="run its recipe again")
    if PART_SUFFIX[step.kind, step.step] == "":
        return StoredLabelMaps(entry.label_maps([record.id for record in images.records]))
    return StoredInstances(entry.part_files())
