"""Whether a run's number may stand beside the paper's, and on what protocol it was measured, in sentences."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence

from mdp_core.engine.paper_scores import ScoredRun, StageScores
from mdp_core.engine.published import EvaluatedOn, PaperWeights


def reasons(run: ScoredRun, scores: StageScores, truth: EvaluatedOn, weights: Mapping[str, PaperWeights]) -> Iterator[str]:
    """Yields why a number cannot be compared with the paper's; nothing where it can."""
    if _other_classes(scores, truth):
        yield f"evaluated on {_images(scores.images)} of another set; the paper's is {truth.words} ({truth.images:,} images)"
    elif scores.images != truth.images:
        yield f"evaluated on {_images(scores.images)} (split {scores.split}); the paper's {truth.words} has {truth.images:,}"
    if scores.clusters is not None and truth.clusters not in (None, scores.clusters):
        yield f"{scores.clusters} clusters, the paper has {truth.clusters}"
    if scores.protocol == "clustering-majority":
        yield "in the column “many to one” several clusters may stand for one class, in the paper one"
    noted = run.weights(scores.stage)
    for stage in run.lineage.chain(scores.stage):
        paper = weights.get(run.lineage.kind(stage))
        if paper is not None and not _alike(noted.get(stage, ""), paper):
            yield f"{stage} started from {_reference(noted.get(stage))}, {_which(noted.get(stage))} {paper.words}"


def sentence(scores: Sequence[StageScores], metric: str) -> str:
    """Returns how the numbers of a metric were measured, over their seeds."""
    first = scores[0]
    seeds = sorted({s.run.seed for s in scores})
    matching = {"none": "nothing was matched"}.get(first.matching, f"labels became classes by: {first.matching}")
    return (
        f"{_images(first.images)} of split {first.split}; {matching}; {'with' if first.dense_crf else 'no'} dense CRF; "
        f"checkpoint: {first.checkpoint}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; "
        f"ground truth was used for: {'; '.join(first.ground_truth) or 'nothing'}"
        f"{f'; single object: {first.single}' if metric.startswith('single') else ''}"
    )


def weights_sentence(runs: Sequence[tuple[ScoredRun, str]]) -> str | None:
    """Returns the weights behind stages of runs; None where none are noted."""
    found: dict[str, dict[str, None]] = {}
    for run, stage in runs:
        for name, noted in run.weights(stage).items():
            found.setdefault(name, {})[re.sub(r"(sha256:\w{12})\w+", r"\1", noted)] = None
    return "weights: " + "; ".join(f"{stage} {' or '.join(refs)}" for stage, refs in found.items()) if found else None


def _other_classes(scores: StageScores, truth: EvaluatedOn) -> bool:
    if not scores.classes:
        return False
    if truth.class_names:
        return [_plain(c) for c in scores.classes] != [_plain(c) for c in truth.class_names[1:]]
    return truth.classes is not None and len(scores.classes) != truth.classes


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _alike(noted: str, paper: PaperWeights) -> bool:
    return any(fnmatch.fnmatchcase(noted.lower(), pattern) for pattern in paper.like)


def _reference(noted: str | None) -> str:
    return re.sub(r"\s*sha256:\w+", "", noted) if noted else "no pretrained weights"


def _which(noted: str | None) -> str:
    return "which may or may not be the paper's" if noted and noted.startswith("file:") else "the paper's from"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
