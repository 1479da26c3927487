"""Reports to the user: progress, logs, TensorBoard, the report page, the diagnosis of a run."""
