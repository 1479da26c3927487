"""A model that a script loads answers as generate.py does, and loads nothing that trains."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

import generate
from inference.loading import load_model
from tests.golden.workdirs import ROOT, WORKDIRS

REQUESTS = {
    "text": ("attention_text", {"prompt": ["To be", "a"], "max_tokens": 12, "seed": 3}),
    "greedy text": ("hybrid_text", {"prompt": ["To be"], "max_tokens": 8, "temperature": 0.0}),
    "pairs": ("attention_pairs", {"prompt": ["3 March 2004", "1 May 1999"]}),
    "pairs, two beams": ("attention_pairs", {"prompt": ["3 March 2004"], "beam_size": 2}),
    "pictures": ("convolution_pictures", {"input": ["0.png", "1.png"]}),
    "sound": ("recurrence_sound", {"input": ["tone.wav"]}),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Pictures and a recording in the working directory."""
    random = np.random.default_rng(0)
    for number in range(2):
        picture = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    tone = np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    soundfile.write(tmp_path / "tone.wav", tone, 8000)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", REQUESTS)
def test_a_loaded_model_answers_as_generate_prints(name, capsys):
    workdir, request = REQUESTS[name]
    flags = [
        f"--{field}={value}"
        for field, values in request.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    assert generate.main([f"--workdir={WORKDIRS / workdir}", *flags, "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    model = load_model(WORKDIRS / workdir)
    answers = [
        model.default_predictor.render(one, as_json=True) for one in model.predict(**request)
    ]
    assert answers == printed and len(answers) == len(request.get("prompt", request.get("input")))


def test_restoring_a_model_builds_no_optimizer_and_no_train_step():
    code = (
        "import sys\n"
        "from inference.loading import load_model\n"
        f"model = load_model({str(WORKDIRS / 'attention_text_averaged')!r})\n"
        "print(*model.predict(prompt=['To be'], max_tokens=1))\n"
        "loaded = {'training.optimizers', 'training.program', 'training.step'} & {*sys.modules}\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Completion(" in done.stdout
