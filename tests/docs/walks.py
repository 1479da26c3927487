"""Measures four walks through the code: a prompt's to the model, a weight's to its checkpoint, a
text's to the loss, a flag's to where it is used.

python -m tests.docs.walks            prints them: each file in its order, and its functions

A verb runs small, and every call of a function of ours is looked at. A file is on the walk of the
prompt if one of its functions has the prompt or its tokens among its arguments, variables or
results, or is on the stack when the model is called. A file is on one of the other walks if one of
its functions returns the value, or what holds it, or is on the stack when the walk ends
(`__init__` returns its object). Every file counts, those of configs/ too.

The weight is known by its shape, which its gradient and its update have too: so files that move it
count. It ends when Orbax gets it. The batch begins as a text in a file; then come its tokens, the
records that are written, and the arrays of the batch. The train step is not compiled, so that the
loss gets these arrays, which ends the walk. The flag is `data.sequence_length`: a text, then an
integer, then a field of the configuration, until the codec gets it that cuts windows.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
WORKDIR = ROOT / "tests/golden/workdirs/attention_text"
PROMPT = "17 times 3"
TEXT = ROOT / "tests/golden/text.txt"
SPECIAL_TOKENS, WIDTH = 2, 24
"""Of the model that is trained: no other array has the shape of its table of tokens."""
RARE = "seven 271828 walks"
LENGTH = 211
FLAG = "config.data.sequence_length"
"""The text of a batch, and the value of a flag: nothing else is the same."""

NOT_OURS = ("tests", ".venv", "benchmarks")
DEPTH, ITEMS = 6, 64
"""How deep into an argument the search goes, and into how many items of each container."""

Walk = dict[str, list[str]]
"""The functions of each file, in the order of their first calls."""


def measure(name: str) -> Walk:
    """Return the walk of the `prompt` or of the `weight`, measured in a process of its own."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.walks", name],
        cwd=ROOT,
        env=os.environ | flags,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


class Recorder:
    """Records our functions whose results `carries` recognises, and the stack at the end.

    ends: says of a frame, and its file if it is ours, that it is the end of the walk.
    given: arguments and variables count as results do.
    """

    def __init__(
        self,
        carries: Callable[[Any], bool],
        ends: Callable[[FrameType, str | None], bool],
        *,
        given: bool,
    ):
        self.walk: Walk = {}
        self.ended = False
        self._carries, self._ends, self._given = carries, ends, given
        self._files: dict[CodeType, str | None] = {}

    def __enter__(self):
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, returned: Any) -> None:
        if self.ended or event not in ("call", "return"):
            return
        file = self._file(frame.f_code)
        if event == "call" and self._ends(frame, file):
            self.ended = True
            while (frame := frame.f_back) is not None:
                self._add(frame)
        elif file is not None and self._carries(self._values(frame, event, returned)):
            self._add(frame)

    def _values(self, frame: FrameType, event: str, returned: Any) -> list[Any]:
        """Return the values that count at a call, or at its end."""
        if self._given:
            return [returned, *frame.f_locals.values()]
        if event == "call":
            return []
        made = frame.f_code.co_name == "__init__"
        return [frame.f_locals.get("self") if made else returned]

    def _file(self, code: CodeType) -> str | None:
        """Return the file of ours that has a function; None of other code."""
        if code not in self._files:
            path = Path(code.co_filename)
            inside = path.is_relative_to(ROOT)
            parts = path.relative_to(ROOT).parts if inside else NOT_OURS
            self._files[code] = None if parts[0] in NOT_OURS else "/".join(parts)
        return self._files[code]

    def _add(self, frame: FrameType) -> None:
        file, function = self._file(frame.f_code), frame.f_code.co_qualname
        if file is not None and function not in (functions := self.walk.setdefault(file, [])):
            functions.append(function)


def holds(value: Any, recognise: Callable[[Any], bool], depth: int = DEPTH) -> bool:
    """Say whether `value` is recognised, or holds something that is."""
    value = getattr(value, "raw_value", value)  # of a variable of NNX
    if recognise(value):
        return True
    if depth == 0 or isinstance(value, str | bytes | int | float | type(None) | type):
        return False
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple):
        inner = list(value)
    elif inspect.isfunction(value) or inspect.ismodule(value) or not hasattr(value, "__dict__"):
        return False
    else:
        inner = list(vars(value).values())
    return any(holds(one, recognise, depth - 1) for one in inner[:ITEMS])


def prompt_walk() -> Walk:
    """Run generate.py; return the walk of its prompt."""
    import numpy as np
    from tokenizers import Tokenizer

    import generate

    ids = Tokenizer.from_file(str(WORKDIR / "tokenizer.json")).encode(PROMPT).ids
    wanted = np.array(ids, np.int64).tobytes()

    def recognise(value: Any) -> bool:
        if isinstance(value, str):
            return PROMPT in value
        if isinstance(value, list) and value and all(type(one) is int for one in value):
            value = np.array(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size >= len(ids):
            return wanted in value.astype(np.int64).tobytes()
        return False

    def ends(frame: FrameType, file: str | None) -> bool:
        called = frame.f_code.co_name in ("__call__", "hidden")
        return called and file is not None and file.startswith("model/")

    command = [f"--workdir={WORKDIR}", f"--prompt={PROMPT}", "--max_tokens=2", "--temperature=0"]
    with Recorder(lambda v: holds(v, recognise), ends, given=True) as recorder:
        generate.main(command)
    assert recorder.ended, "the model was never called"
    return recorder.walk


def weight_walk() -> Walk:
    """Train, and save the first step; return the walk of the table of tokens."""
    shape = (len(set(TEXT.read_text())) + SPECIAL_TOKENS, WIDTH)

    def recognise(value: Any) -> bool:
        array = getattr(sys.modules.get("jax"), "Array", None)
        return array is not None and isinstance(value, array) and value.shape == shape

    def ends(frame: FrameType, file: str | None) -> bool:
        return frame.f_code.co_name == "save" and "/orbax/" in frame.f_code.co_filename

    with Recorder(lambda v: holds(v, recognise), ends, given=False) as recorder:
        small_run(TEXT)
    assert recorder.ended, "nothing was saved"
    return recorder.walk


def batch_walk() -> Walk:
    """Prepare a file and train on it; return the walk of its text."""
    import numpy as np

    import train

    ids = np.array(list(RARE.encode()))
    forms = [RARE.encode(), *(ids.astype(dtype).tobytes() for dtype in ("<u2", "<i4", "<i8"))]

    def recognise(value: Any) -> bool:
        if isinstance(value, str):
            return RARE in value
        if isinstance(value, np.ndarray):
            value = value.tobytes()
        return isinstance(value, bytes) and any(form in value for form in forms)

    def ends(frame: FrameType, file: str | None) -> bool:
        called = frame.f_code.co_name == "loss_sums" and file is not None
        return called and recognise(frame.f_locals["batch"]["tokens"])

    # Of a compiled step, only shapes reach the functions of ours.
    train.Run.compile = lambda run, rows: run.program.train_step.__wrapped__  # type: ignore
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{RARE}\n" * 300)
        file.flush()
        with Recorder(lambda v: holds(v, recognise), ends, given=False) as recorder:
            small_run(file.name, {"data.tokenizer.kind": "bytes"})
    assert recorder.ended, "no loss was computed"
    return recorder.walk


def flag_walk() -> Walk:
    """Train; return the walk of a flag that says how long a window is."""

    def recognise(value: Any) -> bool:
        if isinstance(value, str):
            return value in (f"--{FLAG}={LENGTH}", str(LENGTH))
        return type(value) is int and value == LENGTH

    def ends(frame: FrameType, file: str | None) -> bool:
        made = frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None
        return type(made).__name__ == "WindowCodec"

    with Recorder(lambda v: holds(v, recognise), ends, given=False) as recorder:
        small_run(TEXT)
    assert recorder.ended, "no codec was made"
    return recorder.walk | {"data/packing.py": ["WindowCodec"]}


def small_run(text: str | Path, more: Mapping[str, str] = {}) -> None:
    """Train a small model on a file for two steps. more: further fields."""
    import train

    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "data.path": text,
            "data.cache_dir": f"{folder}/cache",
            "data.sequence_length": LENGTH,
            "data.global_batch_size": 2,
            "model.width": WIDTH,
            "model.depth": 1,
            "model.num_heads": 2,
            "train.steps": 2,
            "train.evaluate_every_steps": 2,
            "checkpoint.every_steps": 1,
            "task.sample_prompts": "()",
            **more,
        }
        command = [f"--config={ROOT}/configs/shakespeare_char.py", f"--workdir={folder}/run"]
        train.main(command + [f"--config.{name}={value}" for name, value in fields.items()])


WALKS = {"prompt": prompt_walk, "weight": weight_walk, "batch": batch_walk, "flag": flag_walk}


def main(argv: list[str]) -> None:
    """Print the walks; of one that is named, as JSON."""
    if argv:
        with contextlib.redirect_stdout(sys.stderr):
            walk = WALKS[argv[0]]()
        print(json.dumps(walk))
        return
    for name in WALKS:
        walk = measure(name)
        print(f"{name}: {len(walk)} files")
        for file, functions in walk.items():
            print(f"    {file}: {', '.join(functions)}")


if __name__ == "__main__":
    main(sys.argv[1:])
