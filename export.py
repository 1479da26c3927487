"""Exports a trained model: to a folder of Hugging Face, to safetensors, to StableHLO or to GGUF.

python export.py --workdir=DIR --format=FORMAT --out=PATH [--step=N|best] [--weights=raw]
                 [--dtype=float32|bfloat16|float16] [--lora=merged|adapter]

PATH must not exist; it appears only when it is complete. Standard output has one line: the path.
Every command takes what was exported with --from=PATH in place of --workdir=DIR.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UsageError
from configs.files import new_path
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.saved import read_config
from parallel.environment import set_environment

if TYPE_CHECKING:
    from interop.formats.registry import Format
    from interop.formats.source import Source

FORMAT_NAMES = ("huggingface", "safetensors", "gguf")
DTYPES = ("float32", "bfloat16", "float16")

FLAGS = (
    Flag("workdir", meaning="the folder that train.py wrote", required=True),
    Flag("format", meaning="what is written", choices=FORMAT_NAMES, required=True),
    Flag("out", meaning="the folder or file to write", required=True, placeholder="PATH"),
    Flag("step", meaning="a checkpoint's number, `best` or `latest`", default="latest"),
    Flag("weights", meaning="the averaged or the raw weights", choices=("ema", "raw")),
    Flag("dtype", meaning="the dtype of the written weights (as trained)", choices=DTYPES),
    Flag(
        "lora",
        meaning="LoRA pairs: merged, or alone for PEFT (huggingface)",
        choices=("merged", "adapter"),
        default="merged",
    ),
)


def main(argv: Sequence[str]) -> int:
    """Restore the model, write it. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    workdir, out = Path(arguments.workdir), Path(arguments.out)
    if arguments.lora == "adapter" and arguments.format != "huggingface":
        raise UsageError(f"--lora=adapter is for --format=huggingface, not {arguments.format}")
    config = read_config(workdir)
    check_out(out)
    set_environment(config)

    import jax

    from interop.formats.registry import format_module
    from interop.formats.source import Source
    from parallel.mesh import flat_mesh
    from training.restore import restore_model

    chosen = format_module(arguments.format)
    restored = restore_model(
        workdir,
        config,
        step=arguments.step,
        weights=arguments.weights,
        mesh=flat_mesh(jax.devices()[:1]),
        warn=say,
    )
    tokenizer = workdir / "tokenizer.json"
    command = shlex.join(["python", "export.py", *argv])
    source = Source(
        restored,
        tokenizer if tokenizer.is_file() else None,
        arguments.dtype,
        command,
        arguments.lora,
    )
    check_format(chosen, arguments.format, source)
    with new_path(out) as temporary:
        notes = chosen.write(source, temporary)
    for note in notes:
        say(note)
    print(out)
    return 0


def check_out(out: Path) -> None:
    """Raise `UsageError` if nothing can be written to `out`, or something is there."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out={out} is there already: give a new path")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no folder {out.absolute().parent}")


def check_format(chosen: "Format", name: str, source: "Source") -> None:
    """Raise `UsageError` if the format can't hold the model; the message names those that can."""
    from interop.formats.registry import possible_formats

    reason = chosen.obstacle(source.config, source.data_spec)
    if reason is not None:
        others = possible_formats(source.config, source.data_spec)
        raise UsageError(
            f"--format={name} can't hold this model: {reason}; these can: {', '.join(others)}"
        )


def say(text: str) -> None:
    """Write a message to standard error."""
    print(f"export.py: {text}", file=sys.stderr)


if __name__ == "__main__":
    run_verb(main)
