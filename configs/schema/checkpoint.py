"""The configuration section `checkpoint`."""

from configs.schema.settings import Count, FilePath, NonNegativeInteger, Settings, field


class Checkpoint(Settings):
    """When checkpoints are saved, and which are kept."""

    every_steps: Count = field(
        500,
        "Steps between checkpoints. The last step is always saved.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("save_every", "save_interval", "save_steps", "checkpoint_every"),
    )
    keep_last: Count = field(
        2,
        "Number of latest checkpoints to keep.",
        unit="checkpoints",
        mutable_on_resume=True,
        aliases=("max_to_keep", "keep", "save_total_limit"),
    )
    keep_best: NonNegativeInteger = field(
        1,
        "Number of best checkpoints to keep in addition.",
        unit="checkpoints",
        mutable_on_resume=True,
    )
    max_failed_saves: Count = field(
        3,
        "The run ends with an error after this many saves in a row that failed, as of a full disk.",
        unit="saves",
        mutable_on_resume=True,
    )
    mirror: FilePath | None = field(
        None,
        "Where a verified copy of the workdir is kept. A run goes on from it on another machine.",
        mutable_on_resume=True,
        accepts="gs://BUCKET/NAME, s3://BUCKET/NAME or a folder",
        aliases=("remote", "upload_to", "backup", "remote_dir", "save_to_remote"),
    )
    best_metric: str = field(
        "loss",
        "Validation metric that decides which checkpoints are best.",
        mutable_on_resume=True,
        accepts="a metric of the task",
        aliases=("metric", "monitor"),
    )

    def unused_fields(self) -> dict[str, str]:
        return {} if self.keep_best else {"best_metric": "checkpoint.keep_best is 0"}
