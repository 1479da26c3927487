"""State, step, optimizers, checkpoints, metrics and the report: the front door.

Imported lazily by name, so that a verb can take the lock of a workdir without starting JAX.
"""

import importlib
from typing import Any

_HOMES = {
    "Checkpoints": "checkpoints",
    "Damaged": "manifest",
    "MetricLog": "metric_log",
    "Program": "program",
    "Progress": "progress",
    "Restored": "restore",
    "StepMeter": "step_meter",
    "StopSignals": "stop_signals",
    "TrainState": "state",
    "WorkdirLock": "workdir",
    "build_program": "program",
    "environment": "report",
    "evaluate": "evaluation",
    "evaluation_batch_size": "evaluation",
    "find_good_step": "checkpoints",
    "peak": "flops",
    "read_metrics": "metric_log",
    "restore_model": "restore",
    "restore_state": "checkpoints",
    "set_aside_unusable": "checkpoints",
    "versions": "report",
    "warmup_steps": "optimizers",
    "working_attention": "attention",
    "write_atomically": "workdir",
    "write_report": "report",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"training.{_HOMES[name]}"), name)
