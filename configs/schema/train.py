"""The configuration section `train`."""

import math
from fractions import Fraction
from typing import Annotated, Literal, Self

import pydantic
from annotated_types import Interval

from configs.schema.settings import (
    FLOAT_LARGEST,
    INTEGER_LIMIT,
    Count,
    FilePath,
    NamePattern,
    PositiveNumber,
    Settings,
    field,
)

Step = Annotated[str, pydantic.StringConstraints(pattern=r"^(\d+|latest|best)$")]
_PRETRAINED = (
    "init_from", "pretrained", "finetune_from", "load_from", "from_pretrained",
    "model_name_or_path", "pretrained_model", "weights",
)  # fmt: skip
_PATTERNS = "patterns separated by commas, * for anything, or ()"


class LoRA(Settings):
    """Low-rank adaptation: trains only low-rank updates of some matrices (Hu et al. 2021,
    arXiv:2106.09685)."""

    rank: Count | None = field(
        None,
        "Rank of the update of each matrix; none: no LoRA, the parameters themselves are trained.",
        aliases=("r", "lora_rank", "lora_r", "lora_dim"),
    )
    alpha: PositiveNumber = field(
        16.0, "The low-rank update is multiplied by alpha / rank.", aliases=("lora_alpha",)
    )
    on: tuple[NamePattern, ...] = field(
        ("backbone.*",),
        "Matrices that get a low-rank update. Matching parameters that are not matrices are "
        "ignored.",
        accepts=_PATTERNS,
        aliases=("target_modules", "lora_on", "lora_target_modules"),
    )
    train_also: tuple[NamePattern, ...] = field(
        (),
        "Additional parameters that are trained in full, such as classes.*.",
        accepts=_PATTERNS,
        aliases=("modules_to_save", "lora_train_also"),
    )

    def unused_fields(self) -> dict[str, str]:
        if self.rank is not None:
            return {}
        return dict.fromkeys(("alpha", "on", "train_also"), "train.lora.rank is none")


class LossSpikes(Settings):
    """What a run does about spikes of its loss: it goes back, and skips the batches that led to
    them."""

    skip_batches: Count | None = field(
        None,
        "Number of batches to skip after a spike: the last ones up to its end. The run first goes "
        "back to a checkpoint from before the spike. none: spikes are ignored.",
        unit="batches",
        mutable_on_resume=True,
        aliases=("loss_spike_skip", "skip_data_batches", "spike_skip_batches"),
    )
    threshold: PositiveNumber = field(
        8.0,
        "A loss is high if it is above the median of the last 100 losses by more than this many "
        "times their spread (1.48 median deviations, at least 1 % of the median).",
        mutable_on_resume=True,
        aliases=("loss_spike_threshold", "spike_threshold"),
    )
    steps: Count = field(
        3,
        "Number of high losses in a row that are a spike.",
        unit="steps",
        mutable_on_resume=True,
    )
    max_rollbacks: Count = field(
        3,
        "The run ends as diverged at the next spike after it went back this many times.",
        mutable_on_resume=True,
    )

    def check(self) -> None:
        if self.skip_batches is not None and self.skip_batches < self.steps:
            raise ValueError(
                f"train.loss_spikes.skip_batches={self.skip_batches} is less than the "
                f"train.loss_spikes.steps={self.steps} steps of a spike: skip at least these"
            )

    def unused_fields(self) -> dict[str, str]:
        if self.skip_batches is not None:
            return {}
        why = "train.loss_spikes.skip_batches is none"
        return dict.fromkeys(("threshold", "steps", "max_rollbacks"), why)


class Train(Settings):
    """How long training lasts, and what happens during it."""

    steps: Count = field(
        1000,
        "Number of updates in the whole run.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("max_steps", "num_steps", "iterations", "max_iters"),
    )
    epochs: Annotated[float, Interval(gt=0.0, le=FLOAT_LARGEST)] | None = field(
        None,
        "Passes over the training examples, which determine the number of steps. Fractions are "
        "allowed. none: train.steps is used.",
        unit="epochs",
        mutable_on_resume=True,
        aliases=("num_epochs", "max_epochs", "num_train_epochs", "n_epochs", "epoch"),
    )
    log_every_steps: Count = field(
        10,
        "Steps between lines in metrics.jsonl.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("log_interval", "log_every", "logging_steps", "log_steps"),
    )
    evaluate_every_steps: Count = field(
        250,
        "Steps between evaluations on the validation split. The last step is always evaluated.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("eval_interval", "eval_every", "eval_steps", "val_check_interval"),
    )
    gradient_accumulation: Count = field(
        1,
        "Number of parts of a global batch that are processed one after the other, to save memory.",
        aliases=("gradient_accumulation_steps", "accumulation_steps"),
    )
    initialize_from: FilePath | None = field(
        None,
        "Workdir of a run, or Hugging Face folder, from which parameters that fit are loaded. A "
        "workdir also sets model and tokenizer, unless the command line does.",
        accepts="a folder",
        aliases=_PRETRAINED,
    )
    initialize_step: Step = field(
        "latest",
        "Checkpoint to load from the workdir train.initialize_from.",
        accepts="a step's number, latest or best",
        aliases=("pretrained_step",),
    )
    ignore_fields: tuple[str, ...] = field(
        (),
        "Fields that count as missing in the configuration of the Hugging Face folder in "
        "train.initialize_from, such as logit_scale; other unknown fields are errors.",
        accepts="names separated by commas, or ()",
        aliases=("ignore_keys", "ignore_config_fields"),
    )
    freeze: tuple[NamePattern, ...] = field(
        (),
        "Parameters that are not trained, such as embedding.*,backbone.layers.0.*.",
        accepts=_PATTERNS,
        aliases=("frozen", "freeze_layers", "frozen_parameters", "requires_grad"),
    )
    lora: LoRA = field(
        LoRA(), "LoRA: training of low-rank updates instead of the parameters themselves."
    )
    ema_decay: Annotated[float, Interval(gt=0.0, lt=1.0)] | None = field(
        None,
        "Decay rate of the exponential moving average of the weights; none: no average.",
        aliases=("ema",),
    )
    stop_after_evaluations: Count | None = field(
        None,
        "Early stopping: the run ends after this many evaluations in a row without a better "
        "checkpoint.best_metric; none: no early stopping.",
        unit="evaluations",
        mutable_on_resume=True,
        aliases=("early_stopping", "patience", "early_stopping_patience", "early_stop"),
    )
    max_skipped_steps: Count = field(
        20,
        "The run ends with an error after this many non-finite steps in a row.",
        unit="steps",
        mutable_on_resume=True,
    )
    loss_spikes: LossSpikes = field(
        LossSpikes(), "Roll-back to a checkpoint after a spike of the loss."
    )
    recompute_every_steps: Count | None = field(
        None,
        "Steps between those that are computed twice: the run ends with an error if the results "
        "differ in one bit. Needs a copy of the state on the host. none: no step is.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("sdc_check_every", "recompute_interval"),
    )
    compare_replicas_every_steps: Count | None = field(
        None,
        "Steps between comparisons of all copies of each array on different devices, which are "
        "also compared before each save; the run ends with an error if they differ. none: never.",
        unit="steps",
        mutable_on_resume=True,
        aliases=("replica_check_every", "check_replicas_every_steps"),
    )
    hang_seconds: Count | None = field(
        1800,
        "The run ends with an error if nothing moves for this long: no step, batch, save or other "
        "process. The longest compilation must be shorter. none: no limit.",
        unit="seconds",
        mutable_on_resume=True,
        aliases=("ddp_timeout", "hang_timeout", "watchdog_timeout", "watchdog_seconds"),
    )
    log_batch_crc32: bool = field(
        False,
        "Whether metrics.jsonl contains the CRC-32 of each logged batch, to check which data was "
        "read.",
        mutable_on_resume=True,
    )
    tune_environment: bool = field(
        True,
        "Whether the program sets environment variables that make the platform faster.",
        mutable_on_resume=True,
    )
    matrix_products: Literal["auto", "xla", "onednn"] = field(
        "auto",
        "Library for products and convolutions; onednn works on a single CPU device, and compiles "
        "at each start. auto takes it where it is much faster.",
        mutable_on_resume=True,
    )
    deterministic: bool = field(
        False,
        "Whether two runs on the same devices, with the same versions, are equal bit by bit. On "
        "GPUs this costs speed; on CPUs and TPUs it changes only what is chosen by timing.",
        mutable_on_resume=True,
        aliases=("determinism", "full_determinism"),
    )
    profile_from_step: Count | None = field(
        None,
        "First step that JAX's profiler traces; the trace is written into the workdir. none: no "
        "profiling.",
        mutable_on_resume=True,
        aliases=("profile", "profiler", "profile_start", "profiling"),
    )
    profile_steps: Count = field(
        5, "Number of steps that the profiler traces.", unit="steps", mutable_on_resume=True
    )
    debug_nans: bool = field(
        False,
        "Whether to run a non-finite step again to find the first non-finite operation; slower.",
        mutable_on_resume=True,
        aliases=("jax_debug_nans", "detect_anomaly", "nan_check"),
    )
    wandb_project: str | None = field(
        None,
        "Weights & Biases project that metrics are also sent to; none: nothing is sent.",
        mutable_on_resume=True,
        aliases=("wandb", "use_wandb", "wandb_log", "report_to"),
    )

    def check(self) -> None:
        first = self.profile_from_step
        if first is not None and first > self.steps and self.epochs is None:
            raise ValueError(
                f"train.profile_from_step={first} is behind the last step, "
                f"train.steps={self.steps}: take an earlier one"
            )

    @property
    def repeatable_field(self) -> str | None:
        """Name of the field for which a step has to have the same result, bit by bit, whenever and
        wherever it is computed from the same inputs; None if there is none."""
        fields = "deterministic", "recompute_every_steps", "compare_replicas_every_steps"
        return next((f"train.{name}" for name in fields if getattr(self, name)), None)

    @property
    def length_field(self) -> str:
        """Name of the field that determines the length of the run: "steps" or "epochs"."""
        return "steps" if self.epochs is None else "epochs"

    def with_steps(self, examples: int, batch_size: int) -> Self:
        """Return the section with `steps` computed from `epochs`, if `epochs` is given.

        examples: number of training examples (N).
        batch_size: examples per update (B). Epoch e ends in step ceil(e * N / B).

        Raises ValueError if there are more than `INTEGER_LIMIT` steps, or if `profile_from_step` is
        after the last step.
        """
        if self.epochs is None:
            return self
        steps = math.ceil(Fraction(str(self.epochs)) * examples / batch_size)
        if steps > INTEGER_LIMIT:
            raise ValueError(
                f"train.epochs={self.epochs:g} of {examples:,} examples are {steps:,} steps: at "
                f"most {INTEGER_LIMIT:,} can be counted"
            )
        if (first := self.profile_from_step) is not None and first > steps:
            raise ValueError(
                f"train.profile_from_step={first} is behind the last step: train.epochs="
                f"{self.epochs:g} are {steps:,} steps"
            )
        return self.model_copy(update={"steps": steps})

    def unused_fields(self) -> dict[str, str]:
        reasons = {}
        if self.epochs is not None:
            reasons["steps"] = f"train.epochs={self.epochs:g} says how long the run is"
        if self.profile_from_step is None:
            reasons["profile_steps"] = "train.profile_from_step is none"
        if self.initialize_from is None:
            reasons["initialize_step"] = "train.initialize_from is none"
        if self.lora.rank is not None:
            reasons["freeze"] = "train.lora.rank freezes all but train.lora.train_also"
        return reasons
