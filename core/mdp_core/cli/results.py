"""What a person reads when a run is over: the component table, how it was measured, and where everything lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mdp_core.engine.record import RunRecord
from mdp_core.engine.scores import recorded
from mdp_core.evaluation.components import ComponentTable
from mdp_core.evaluation.grid import percent
from mdp_core.evaluation.instance_result import NUMBERS, SETTINGS
from mdp_core.evaluation.instance_table import TITLES, InstanceTable

_MEANINGS = {
    "components.md": "the table, with IoU per class",
    "instances.md": "AP of the masks, with notes",
    "clusters.md": "how clusters agree with classes",
    "stages.png": "what each stage made of some images",
    "clusters.png": "what lies in each cluster",
    "label_maps": "one palette PNG an image",
    "masks.json": "object masks as COCO JSON",
    "run.json": "the record of the run",
}

_SHORT = {
    "clustering": "by pixels",
    "clustering-objects": "by objects",
    "clustering-majority": "by majority",
    "probe": "of a probe",
}
"""How the columns of the component table are called where a terminal's width is all there is."""


def show_results(record: RunRecord, console: Console) -> None:
    """Prints the results of a finished run."""
    console.print()
    scores = recorded(record.results)
    if scores.components:
        _show_components(ComponentTable(tuple(scores.components)), console)
    for title, clusters in scores.clusters.items():
        shares = (
            f"{name} {share * 100:.1f}" for name, share in (("ACC", clusters.acc), ("NMI", clusters.nmi), ("ARI", clusters.ari))
        )
        _quiet(console, f"{title}: {', '.join(shares)} % (clusters against true classes, split {clusters.split})")
    if scores.instances:
        _show_instances(InstanceTable(tuple(scores.instances)), console)
    for stage, found in scores.localisation.items():
        hit, corloc = found.hit * 100, found.corloc * 100
        _quiet(console, f"{stage}: {hit:.1f} % of the masks have IoU > 0.5 with an object, CorLoc {corloc:.1f} %")
    for stage, made in record.results.get("weights", {}).items():
        _show_weights(stage, made, record, console)
    for weights in sorted({s.notes["weights"] for s in record.steps if "weights" in s.notes}):
        _quiet(console, f"weights: {weights}")
    hits = sum(1 for s in record.steps if s.status == "hit")
    _plain(console, f"finished in {record.seconds:.1f} s ({hits} of {len(record.steps)} steps were in the store)")
    _plain(console, f"results: {_shown(record.folder)}")
    for name, meaning in _MEANINGS.items():
        if (record.folder / name).exists():
            _plain(console, f"  {name:<14} {meaning}")


def _show_weights(stage: str, made: dict[str, Any], record: RunRecord, console: Console) -> None:
    _plain(console, f"{stage}: {_shown(record.home / made['file'])}")
    _plain(console, f"  {_size(made['bytes'])}, sha256 {made['sha256']}")
    for name, meaning in (("curve.png", "the training as a picture"), ("log.jsonl", "the training in numbers")):
        if (record.folder / f"{stage}-{name}").exists():
            _plain(console, f"  {_shown(record.folder / f'{stage}-{name}')}: {meaning}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _show_components(components: ComponentTable, console: Console) -> None:
    several = len(components.protocols) > 1
    names = [f"mIoU {_SHORT.get(name, name)}" for name in components.protocols] if several else ["mIoU"]
    crf = any(row.result.protocol.dense_crf for row in components.rows)
    more = ["dense CRF"] if crf else []
    table = Table("component", *names, "pixel accuracy", *more, "images", title="Component table", title_justify="left")
    for line in components.lines():
        first = next(line[name] for name in components.protocols if name in line)
        mious = (f"{line[name].result.miou * 100:.1f} %" if name in line else "" for name in components.protocols)
        marks = ["yes" if first.result.protocol.dense_crf else "no"] if crf else []
        accuracy = f"{first.result.pixel_accuracy * 100:.1f} %"
        table.add_row(first.title, *mious, accuracy, *marks, str(first.result.protocol.images))
    console.print(table)
    _protocols(components, console)


def _protocols(components: ComponentTable, console: Console) -> None:
    """Prints how the rows were measured: what they share once, where ground truth was used once a row that differs."""
    protocols = [row.result.protocol for row in components.rows]
    matchings = "; ".join(dict.fromkeys(p.matching for p in protocols))
    checkpoints = "; ".join(dict.fromkeys(p.checkpoint for p in protocols))
    first = protocols[0]
    _quiet(console, f"split {first.split} · matching: {matchings} · checkpoint: {checkpoints} · seed {first.seed}")
    uses: dict[str, list[str]] = {}
    for row in components.rows:
        uses.setdefault("; ".join(row.result.protocol.ground_truth), []).append(row.title)
    for use, titles in uses.items():
        who = f" ({', '.join(dict.fromkeys(titles))})" if len(uses) > 1 else ""
        _quiet(console, f"ground truth was used for: {use}{who}")


def _show_instances(instances: InstanceTable, console: Console) -> None:
    table = Table("masks", *(TITLES[n] for n in NUMBERS), "images", title="Instance table (%)", title_justify="left")
    for setting in instances.settings:
        table.add_section()
        table.add_row(f"[bold]{SETTINGS[setting]}")
        for row in instances.rows:
            scores = row.result.settings.get(setting)
            if scores is not None:
                numbers = (percent(getattr(scores, number)) for number in NUMBERS)
                table.add_row(row.title, *numbers, str(scores.images))
    console.print(table)
    for use in dict.fromkeys("; ".join(row.result.protocol.ground_truth) for row in instances.rows):
        _quiet(console, f"ground truth was used for: {use}")


def _quiet(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False)


def _plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
