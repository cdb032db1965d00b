"""Registers the executors that come with the core."""

from mdp_core.plugins.hookspecs import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Registers ``executor:serial`` and ``executor:process``."""
    registry.add(
        "executor",
        "serial",
        factory="mdp_core.executors.serial:SerialExecutor",
        config="mdp_core.executors.settings:SerialConfig",
        summary="One worker process a stage, one task after the other.",
    )
    registry.add(
        "executor",
        "process",
        factory="mdp_core.executors.process:ProcessExecutor",
        config="mdp_core.executors.settings:ProcessConfig",
        summary="Several worker processes, one device each; trainings on several devices together.",
    )
