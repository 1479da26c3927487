"""Exports a trained model: to a folder of Hugging Face, to safetensors, to StableHLO or to GGUF.

python export.py --workdir=DIR --format=FORMAT --out=PATH [--step=N|best] [--weights=raw]
                 [--dtype=float32|bfloat16|float16] [--lora=merged|adapter]
                 [--platforms=cpu,cuda,tpu]
python export.py --from=PATH --format=FORMAT --out=PATH      from one format to another

Nothing may be at the path of --out; it appears only when it is complete. Standard output has one
line: the path. Every command takes what was exported with --from=PATH in place of --workdir=DIR.
"""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UsageError
from configs.files import new_path
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.inputs import TOKENIZER, tokenizer_file
from configs.remote import NONE, check_place
from inference.sources import MODEL_FLAGS, model_source
from interop.formats.registry import FORMATS
from parallel.environment import set_environment

if TYPE_CHECKING:
    from inference.sources import ModelSource
    from interop.formats.registry import Format
    from interop.formats.source import Source

OF_OTHERS = ("huggingface", "gguf")
"""Formats of other projects, which say what the tokenizer's tokens are for."""

DTYPES = ("float32", "bfloat16", "float16")

FLAGS = (
    *MODEL_FLAGS,
    Flag("format", meaning="what is written", choices=tuple(FORMATS), required=True),
    Flag("out", meaning="the folder or file to write", required=True, placeholder="PATH"),
    Flag("dtype", meaning="the dtype of the written weights (as trained)", choices=DTYPES),
    Flag(
        "lora",
        meaning="LoRA pairs: merged, or alone for PEFT (huggingface)",
        choices=("merged", "adapter"),
        default="merged",
    ),
    Flag("platforms", meaning="where programs of stablehlo run", placeholder="cpu,cuda,tpu"),
)


def main(argv: Sequence[str]) -> int:
    """Restore the model, write it. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    model = model_source(*(getattr(arguments, flag.name) for flag in MODEL_FLAGS))
    out = Path(arguments.out)
    if arguments.lora == "adapter" and arguments.format != "huggingface":
        raise UsageError(f"--lora=adapter is for --format=huggingface, not {arguments.format}")
    check_out(out, arguments.format)
    if arguments.platforms is not None and arguments.format != "stablehlo":
        raise UsageError(f"--platforms is for --format=stablehlo, not {arguments.format}")
    set_environment(model.config)

    import jax

    from interop.formats.registry import format_module
    from interop.formats.source import Source
    from parallel.mesh import flat_mesh

    chosen = format_module(arguments.format)
    restored = model.restore(flat_mesh(jax.devices()[:1]), warn=say)
    command = shlex.join(["python", "export.py", *argv])
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(model, Path(scratch))
        source = Source(
            restored,
            tokenizer,
            arguments.dtype,
            command,
            arguments.lora,
            has_metrics=arguments.weights != "raw" or model.config.train.ema_decay is None,
            platforms=arguments.platforms,
        )
        check_format(chosen, arguments.format, source)
        try:
            with new_path(out) as temporary:
                notes = chosen.write(source, temporary)
        except FileExistsError:
            check_out(out, arguments.format)
            raise
    for note in notes:
        say(note)
    print(out)
    return 0


def check_out(out: Path, format_name: str) -> None:
    """Raise `UsageError` if nothing can be written to `out`, or something is there."""
    check_place("--out=", out, NONE, "export to a folder, and copy it")
    if format_name == "gguf" and out.suffix != ".gguf":
        raise UsageError(f"--out={out}: the name of a GGUF file ends with .gguf: give {out}.gguf")
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out={out} is there already: give a new path")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no folder {out.absolute().parent}")


def tokenizer_of(model: "ModelSource", scratch: Path) -> Path | None:
    """Return the file of a model's tokenizer; None without one. If the model is a single file, its
    tokenizer is written into the folder `scratch`."""
    if not model.path.is_file():
        return tokenizer_file(model.path)
    if model.tokenizer is None:
        return None
    model.tokenizer.save(scratch / TOKENIZER)
    return scratch / TOKENIZER


def check_format(chosen: "Format", name: str, source: "Source") -> None:
    """Raise `UsageError` if the format can't hold the model; the message names those that can."""
    from interop.formats.registry import possible_formats

    if name in OF_OTHERS and source.restored.manifest.get("special_tokens") is not None:
        raise UsageError(
            f"--format={name} is for models that were trained here, and this one came from a "
            "folder of transformers: give that folder to other programs"
        )
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
