"""State, step, optimizers, checkpoints, metrics and the report: the front door.

Imported lazily by name, so that a verb can take the lock of a workdir without starting JAX.
"""

import importlib
from typing import Any

_HOMES = {
    "METRICS": "metric_log",
    "Beginning": "initialize",
    "BestMetric": "best_metric",
    "Checkpoints": "checkpoints",
    "Diverged": "divergence",
    "Origin": "initialize",
    "Predictions": "report.predictions",
    "Profiler": "profiler",
    "Program": "program",
    "Progress": "progress",
    "Record": "record",
    "Restored": "restore",
    "StepMeter": "step_meter",
    "StopSignals": "stop_signals",
    "TrainState": "state",
    "WorkdirLock": "workdir",
    "begin_with": "initialize",
    "build_program": "program",
    "check_best_metric": "data_diagnosis",
    "check_data": "data_diagnosis",
    "check_skipped": "divergence",
    "count_tokens": "step_meter",
    "diagnose_run": "activity",
    "evaluate": "evaluation",
    "evaluation_batch_size": "evaluation",
    "evaluation_record": "best_metric",
    "evaluations_in": "best_metric",
    "explain_not_finite": "nan_hunt",
    "explain_parameters": "explanation",
    "find_checkpoint": "restore",
    "finished_steps": "checkpoints",
    "look_inside": "report.inside",
    "measure_ema": "ema_statistics",
    "metrics_line": "wording",
    "not_finite": "divergence",
    "open_origin": "initialize",
    "origin_of_arrays": "initialize",
    "past_of": "restore",
    "peak": "flops",
    "read_metrics": "metric_log",
    "require_wandb": "wandb_log",
    "restore_model": "restore",
    "restore_state": "checkpoints",
    "schedule_change": "schedules",
    "summarize_start": "start_summary",
    "versions": "report.machine",
    "warmup_steps": "schedules",
    "warnings_of": "explanation",
    "working_attention": "attention",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"training.{_HOMES[name]}"), name)
    return found
