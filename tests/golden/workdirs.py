"""Small workdirs of every family and modality, kept in the repository: what made them, and how.

python -m tests.golden.workdirs [NAME ...]

trains those that are missing, and writes what `evaluate.py` says of them into figures.json.
A workdir that was made once stays as it is: it stands for those that users have.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = Path(__file__).parent
FIGURES = HOME / "figures.json"
WORKDIRS = HOME / "workdirs"
KEPT = ("config.json", "tokenizer.json", "metrics.jsonl", "checkpoints")
"""What of a workdir is needed to evaluate it and to go on."""

COMMON = {
    "train.steps": "12",
    "train.log_every_steps": "1",
    "train.evaluate_every_steps": "6",
    "checkpoint.every_steps": "6",
    "checkpoint.keep_last": "1",
    "checkpoint.keep_best": "0",
    "data.global_batch_size": "8",
    "precision.compute_dtype": "float32",
}
TEXT = COMMON | {
    "data.path": "tests/golden/text.txt",
    "data.sequence_length": "16",
    "model.width": "16",
    "model.depth": "2",
    "task.sample_prompts": "()",
}
DECODER = TEXT | {"model.num_heads": "2"}
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "attention_text": ("shakespeare_char", DECODER),
    "attention_text_averaged": ("shakespeare_char", DECODER | {"train.ema_decay": "0.9"}),
    "attention_text_lora": (
        "shakespeare_char",
        DECODER
        | {
            "train.initialize_from": "tests/golden/workdirs/attention_text",
            "train.lora.rank": "2",
            "precision.parameter_dtype": "bfloat16",
        },
    ),
    "recurrence_text": ("shakespeare_char_lstm", TEXT),
    "hybrid_text": ("text_hybrid", TEXT | {"model.depth": "3", "model.num_heads": "2"}),
    "convolution_text": ("shakespeare_char", TEXT | {"model.pattern": "C"}),
    "rnn_text": ("text_lstm", TEXT | {"data.tokenizer.vocabulary_size": "100"}),
    "convolution_pictures": (
        "digits_cnn",
        COMMON | {"model.channels": "4,8", "model.width": "16", "train.ema_decay": "0.9"},
    ),
    "attention_pictures": (
        "digits_vit",
        COMMON | {"model.width": "16", "model.depth": "1", "model.num_heads": "2"},
    ),
    "attention_pairs": ("dates_seq2seq", COMMON | {"model.width": "16", "model.depth": "1"}),
    "recurrence_sound": ("tones_ctc", COMMON | {"model.width": "16", "model.depth": "1"}),
}


def make(name: str) -> None:
    """Train the workdir `name`, keep of it what is needed, and write its figures."""
    recipe, fields = RUNS[name]
    workdir = WORKDIRS / name
    overrides = [f"--config.{field}={value}" for field, value in fields.items()]
    run("train.py", f"--config=configs/{recipe}.py", f"--workdir={workdir}", *overrides)
    for path in workdir.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    line = run("evaluate.py", f"--workdir={workdir}").splitlines()[-1]
    figures[name] = json.loads(line)
    FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    (workdir / "lock").unlink(missing_ok=True)


def run(verb: str, *arguments: str) -> str:
    """Run a verb from the root of the repository; return its standard output."""
    done = subprocess.run(
        [sys.executable, verb, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{verb} {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def main(names: list[str]) -> None:
    """Make the workdirs `names`, or all, that are not there."""
    for name in names or RUNS:
        if not (WORKDIRS / name).exists():
            make(name)
            size = sum(path.stat().st_size for path in (WORKDIRS / name).rglob("*"))
            print(f"{name}: {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
