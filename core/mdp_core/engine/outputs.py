"""What people look at when a run is over: tables, pictures, label maps and masks in the run's folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdp_core.data.images import Images
from mdp_core.data.storage import StoredInstances, StoredLabelMaps, label_map_name, write_json
from mdp_core.engine.evaluate import RESULT
from mdp_core.engine.plan import Role, Step
from mdp_core.engine.scores import read_scores
from mdp_core.engine.select import chosen
from mdp_core.engine.store import Entry
from mdp_core.settings import file_sha256
from mdp_core.stages.pretrainer import BACKBONE

if TYPE_CHECKING:
    from mdp_core.engine.run import Session


@dataclass
class Written:
    """What was written, and the numbers for trackers."""

    metrics: dict[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    model: Path | None = None
    weights: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


class Outputs:
    """Writes the outputs of a finished run.

    Args:
        session: The run's recipe, images, plan and store; every step of the plan is complete.
        folder: The run's folder.
    """

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.plan, self.folder = session, session.plan, folder
        self.role: Role = session.plan.final_role
        records = session.images[self.role].records
        self.images = Images(records, session.dataset.read)
        self.written = Written()

    def write(self) -> Written:
        """Writes everything and returns what there is."""
        files: list[str] = []
        files += self._weights()
        files += self._tables()
        files += self._label_maps()
        files += self._masks()
        files += self._pictures()
        self.written.files = tuple(files)
        self.written.model = self._model()
        return self.written

    def _entry(self, step_id: str) -> Entry:
        return self.session.entry(self.plan.step(step_id))

    def _final(self, *kinds: str) -> list[tuple[str, Step]]:
        """Returns (stage id, step) of the stages of these kinds, in the pipeline's order."""
        steps = [(stage, self.plan.step(step)) for stage, step in self.plan.outputs.items()]
        return [(stage, step) for stage, step in steps if step.kind in kinds]

    def _weights(self) -> list[str]:
        """Notes the weights of each pretrainer, which stay in the store, and copies its curve and its log."""
        files = []
        for stage, step_id in self.plan.weights.items():
            result = self._entry(step_id).result
            weights = result / BACKBONE
            sha256, size = file_sha256(weights), weights.stat().st_size
            self.written.weights[stage] = f"{weights} sha256:{sha256}"
            self.written.results.setdefault("weights", {})[stage] = {
                "file": weights.relative_to(self.session.store.home).as_posix(), "sha256": sha256, "bytes": size,
            }  # fmt: skip
            for name in ("curve.png", "log.jsonl"):
                if (result / name).is_file():
                    files.append(f"{stage}-{name}")
                    shutil.copyfile(result / name, self.folder / files[-1])
        return files

    def _tables(self) -> list[str]:
        scores = read_scores(self.plan.evaluations, lambda row: self._entry(row.step).result / RESULT)
        self.written.metrics |= scores.metrics
        self.written.results |= scores.results
        return scores.write(self.folder)

    def _label_maps(self) -> list[str]:
        """Lays the last stage's label maps into the run's folder (hard links where the disk can)."""
        final = [(stage, step) for stage, step in self._final("refiner", "segmenter") if stage not in self.plan.probes]
        if not final:
            return []
        for record, source in zip(self.images.records, self._label_map_files(final[-1][1]), strict=True):
            target = self.folder / "label_maps" / label_map_name(record.id)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
        return ["label_maps"]

    def _label_map_files(self, step: Step) -> list[Path]:
        return self.session.entry(step).label_maps([record.id for record in self.images.records])

    def _masks(self) -> list[str]:
        """Writes the best instances as COCO JSON: the last detector's, else the clusterer's, else the prior's."""
        final = self._final("prior", "clusterer", "detector")
        if not final:
            return []
        instances = StoredInstances(self.session.entry(final[-1][1]).part_files())
        annotations: list[dict[str, Any]] = []
        for number, found in enumerate(instances, 1):
            annotations += found.to_coco(number, first_id=len(annotations) + 1)
        top = max((int(i.labels.max(initial=-1)) for i in instances), default=-1) + 1
        content = {
            "images": [
                {"id": n, "file_name": r.id, "height": r.height, "width": r.width} for n, r in enumerate(self.images.records, 1)
            ],
            "annotations": annotations,
            "categories": [{"id": c, "name": f"cluster {c}"} for c in range(1, top + 1)]
            if top
            else [{"id": 0, "name": "object"}],
        }
        write_json(self.folder / "masks.json", content)
        return ["masks.json"]

    def _pictures(self) -> list[str]:
        from mdp_core.engine.pictures import write_pictures

        outputs: Mapping[str, Sequence[Any]] = {
            stage: StoredLabelMaps(self._label_map_files(step))
            if step.produces == "label-maps"
            else StoredInstances(self.session.entry(step).part_files())
            for stage, step in self._final("prior", "clusterer", "detector", "refiner", "segmenter", "probe")
        }
        if not outputs:
            return []
        truth = self.session.dataset.label_map if self.plan.rows else None
        return write_pictures(self.folder, self.images, outputs, truth, self.written.results)

    def _model(self) -> Path | None:
        fits = [s for s in self.plan.steps if s.kind == "segmenter" and s.step == "fit"]
        if not fits:
            return None
        folder = self.session.entry(fits[-1]).result
        choices = [s for s in self.plan.steps if s.stage == fits[-1].stage and s.step == "select"]
        return folder / chosen(self.session.entry(choices[-1]).result) if choices else folder
