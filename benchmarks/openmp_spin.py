"""What OpenMP's spinning costs: a small convolutional training, alone and twice at once, for several spin counts.

python benchmarks/openmp_spin.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

SETTINGS = ({}, {"GOMP_SPINCOUNT": "10000"}, {"GOMP_SPINCOUNT": "1000"}, {"OMP_WAIT_POLICY": "passive"})
ITERATIONS = 40


def train() -> None:
    """Prints the milliseconds of an iteration: forward and backward of ten 3×3 convolutions, 8 × 64 × 32 × 32."""
    import torch

    torch.manual_seed(0)
    convolution = [torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(10)]
    model = torch.nn.Sequential(*[m for c in convolution for m in (c, torch.nn.BatchNorm2d(64), torch.nn.ReLU())])
    images = torch.randn(8, 64, 32, 32)
    started = 0.0
    for iteration in range(ITERATIONS + 3):
        if iteration == 3:
            started = time.perf_counter()
        model(images).sum().backward()
    print(f"{(time.perf_counter() - started) / ITERATIONS * 1000:.0f}")


def measure(settings: dict[str, str], at_once: int) -> list[int]:
    """Returns the milliseconds of ``at_once`` trainings that run together."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, __file__, "--train"]
    processes = [
        subprocess.Popen(command, env={**clean, **settings}, stdout=subprocess.PIPE, text=True) for _ in range(at_once)
    ]
    return [int(p.communicate()[0]) for p in processes]


def main() -> None:
    """Prints a line a setting."""
    if "--train" in sys.argv:
        train()
        return
    for settings in SETTINGS:
        name = " ".join(f"{k}={v}" for k, v in settings.items()) or "default"
        print(f"{name:<26} alone {measure(settings, 1)} ms, two at once {measure(settings, 2)} ms", flush=True)


if __name__ == "__main__":
    main()
