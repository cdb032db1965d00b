"""Which setting belongs to which step, and plugins that import nothing heavy."""

import subprocess
import sys

from mdp_core.settings import step_settings
from mdp_kmeans.settings import EmbedConfig, KmeansConfig

STEPS = ("embed", "fit", "assign")


def test_steps_depend_on_their_own_settings_only():
    base = KmeansConfig()
    more = KmeansConfig(clusters=21, restarts=3, iterations=9, normalise="l2", backend="sklearn-minibatch")
    assert step_settings(base, "embed", STEPS) == step_settings(more, "embed", STEPS)
    assert step_settings(base, "fit", STEPS) != step_settings(more, "fit", STEPS)
    other = KmeansConfig(embed=EmbedConfig(view="crop"))
    assert step_settings(base, "embed", STEPS) != step_settings(other, "embed", STEPS)
    assert step_settings(base, "fit", STEPS) == step_settings(other, "fit", STEPS)
    assert step_settings(base, "embed", STEPS) == step_settings(KmeansConfig(embed=EmbedConfig(batch=1)), "embed", STEPS)
    for settings in (
        {"size": "native"},
        {"largest": 99},
        {"padding": "zeros"},
        {"positions": "scale-factor"},
        {"box": "stored"},
    ):
        changed = KmeansConfig(embed=EmbedConfig(**settings))
        assert step_settings(base, "embed", STEPS) != step_settings(changed, "embed", STEPS)
        assert step_settings(base, "fit", STEPS) == step_settings(changed, "fit", STEPS)
    half = KmeansConfig(embed=EmbedConfig(precision="bf16"))
    assert step_settings(base, "embed", STEPS) != step_settings(half, "embed", STEPS)


def test_registering_and_settings_import_nothing_heavy():
    code = (
        "import sys, mdp_dino.plugin, mdp_kmeans.plugin, mdp_refine.plugin, mdp_dino.settings, mdp_kmeans.settings, "
        "mdp_refine.settings; print(sorted({'torch', 'timm', 'faiss', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
