"""Kills a run with SIGKILL at random moments, again and again, and continues it: is the end the same as undisturbed?

    python benchmarks/kills.py                       fifty kills over the stages of a reduced quickstart (real networks)
    python benchmarks/kills.py --recipe tests/toy.yaml --plugin tests/toy_method.py --kills 5 --longest 3

First the recipe runs undisturbed in a home of its own. Then it runs in another home and is killed after a time drawn between
0 and ``--longest`` seconds; the same command continues it, and so on until it is finished. A finished run is compared, and
a new one begins in an empty home until all kills are spent. Compared are: every file of the run's results (label maps, masks,
tables, pictures), the metrics, and the sha256 of every file of every stored result, trained weights included.
The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REDUCED = (
    "data.train_images=32", "data.val_images=12", "data.size=96", "prior.short_side=96", "clusterer.embed.size=48",
    "detector.fit={iters: 16, batch: 4, warmup: 4, train_sides: [96], max_side: 96, checkpoint_every: 4}",
    "detector.predict={side: 96, max_side: 96}", "refiner.threshold=0.05",
    "segmenter.fit={iters: 16, batch: 4, size: 96, checkpoint_every: 4}",
)  # fmt: skip
IGNORED = ("run.json", "events.jsonl", "logs", "images-train.json", "images-eval.json", "mlflow.json")
"""What tells of the run itself: times, paths, process ids."""


def command(options: argparse.Namespace, home: Path) -> list[str]:
    settings = [*(REDUCED if options.recipe == "quickstart" else ()), *options.set]
    extra = [part for name in settings for part in ("--set", name)] + [
        p for f in options.plugin for p in ("--plugin", str(f.resolve()))
    ]
    recipe = str(Path(options.recipe).resolve()) if Path(options.recipe).is_file() else options.recipe
    return [
        sys.executable,
        "-m",
        "mdp_core.cli.main",
        "run",
        recipe,
        "--home",
        str(home),
        *(() if options.track else ("--no-track",)),
        *extra,
    ]


def artifacts(home: Path) -> dict[str, str]:
    """Returns what the newest run of a home and its store consist of: name → sha256, or value."""
    run = max((home / "runs").glob("*/run.json")).parent
    found = {}
    for file in sorted(p for p in run.rglob("*") if p.is_file()):
        name = file.relative_to(run).as_posix()
        if name.split("/")[0] not in IGNORED and not name.endswith((".diff", ".py", ".yaml")):
            found[f"run/{name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    record = json.loads((run / "run.json").read_text())
    found |= {f"metric/{name}": repr(value) for name, value in record["metrics"].items()}
    for manifest in sorted((home / "store").glob("*/*/manifest.json")):
        for name, sha256 in json.loads(manifest.read_text())["files"].items():
            found[f"store/{manifest.parent.relative_to(home / 'store')}/{name}"] = sha256
    return found


def unfinished_step(home: Path) -> str:
    """Returns where the killed run was."""
    runs = sorted((home / "runs").glob("*/run.json"))
    record = json.loads(runs[-1].read_text()) if runs else {"planned": [], "steps": []}
    left = [s for s in record["planned"] if s not in {done["id"] for done in record["steps"]}]
    return left[0] if left else "before the first step" if not record["planned"] else "after the last step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--plugin", action="append", default=[], type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=12.0, help="longest time until a kill, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--track", action="store_true", help="with MLflow")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    started = time.monotonic()
    env = {**os.environ, "MDP_SHARD_SIZE": os.environ.get("MDP_SHARD_SIZE", "4")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            command(options, folder / "undisturbed"), cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        expected = artifacts(folder / "undisturbed")
        print(f"undisturbed: {time.monotonic() - started:.0f} s, {len(expected)} artifacts", flush=True)
        kills, finished, wrong, where = 0, 0, 0, Counter()
        under_way = False
        while kills < options.kills or under_way:
            home, under_way = folder / f"trial-{finished}", True
            with (folder / "output.txt").open("w") as output:
                process = subprocess.Popen(command(options, home), cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
                try:
                    code = process.wait(rng.uniform(0, options.longest) if kills < options.kills else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    code = process.wait()
            if code == -signal.SIGKILL:
                kills += 1
                where[unfinished_step(home)] += 1
                continue
            if code:
                raise SystemExit(f"the run failed after {kills} kills:\n{(folder / 'output.txt').read_text()}")
            finished, under_way = finished + 1, False
            found = artifacts(home)
            different = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
            wrong += bool(different)
            print(f"run {finished} finished after {kills} kills in all: {different or 'identical'}", flush=True)
    print(
        f"{kills} kills, {finished} finished runs, {wrong} of them different; {time.monotonic() - started:.0f} s; seed {options.seed}"
    )
    for step, count in where.most_common():
        print(f"  {count:3d}  killed in {step}")
    sys.exit(1 if wrong or not finished else 0)


if __name__ == "__main__":
    main()
