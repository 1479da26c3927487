"""Talks to people: progress, logs, TensorBoard, the report, the diagnosis of a run."""
