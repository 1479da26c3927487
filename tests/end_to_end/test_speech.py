"""Speech: trained on generated tones, evaluated, and asked; labels of sound alike."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

import evaluate
import generate
from tests.end_to_end.verbs import answers_but_one, metrics, run

TINY = {
    "data__recordings": "80",
    "data__num_mels": "24",
    "data__length_buckets": "1",
    "data__global_batch_size": "8",
    "model__width": "16",
    "model__depth": "1",
    "model__pattern": "C",
    "model__subsampling_channels": "4",
    "train__steps": "3",
    "train__log_every_steps": "1",
    # Little more than initial values: what they write is nonsense, and not nothing.
    "optimizer__learning_rate": "1e-4",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A recogniser's workdir."""
    workdir = tmp_path_factory.mktemp("tones") / "run"
    run("train.py", "--config=configs/tones_ctc.py", f"--workdir={workdir}", **TINY)
    return workdir


@pytest.fixture
def told(capsys):
    """A verb in this process: its lines of standard output."""

    def ask(verb, workdir, *flags: str) -> list[str]:
        assert verb.main([f"--workdir={workdir}", *flags]) == 0
        return capsys.readouterr().out.splitlines()

    return ask


@pytest.fixture
def recordings(tmp_path):
    """Two tones of different rates and lengths, in files."""
    paths = []
    for name, rate, seconds in (("a.wav", 8000, 0.5), ("b.flac", 22_050, 1.3)):
        wave = np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * 770 / rate)
        soundfile.write(tmp_path / name, 0.3 * wave, rate)
        paths.append(str(tmp_path / name))
    return paths


def test_metrics_are_jiwers_of_the_written_predictions(tones, told, tmp_path):
    path = tmp_path / "predictions.jsonl"
    *_, last = told(evaluate, tones, f"--predictions={path}", "--split=test")
    measured = json.loads(last)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [[row[name] for row in rows] for name in ("reference", "hypothesis")]
    assert len(rows) == measured["examples"] == 8 and all(texts[0]) and any(texts[1])
    assert measured["wer"] == jiwer.wer(*texts) > 0
    assert measured["cer"] == jiwer.cer(*texts) > 0
    assert measured["exact_match"] == 0
    labels = sum(row["labels"] for row in rows)
    assert measured["loss"] == pytest.approx(sum(row["loss"] for row in rows) / labels, rel=1e-5)
    lines = [json.loads(line) for line in (tones / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/wer", "validation/cer", "validation/exact_match"} <= lines[-1].keys()
    assert set(metrics(tones)) == {1, 2, 3}
    for section in ("Samples", "Word error rate"):
        assert section in (tones / "report.html").read_text(encoding="utf-8")


def test_a_recording_is_written_down_as_it_is_alone_by_both_decoders(tones, told, recordings):
    inputs = [f"--input={path}" for path in recordings]
    for flags, alone in (([], 0), (["--beam_size=4"], 1)):
        together = [json.loads(line) for line in told(generate, tones, *inputs, "--json", *flags)]
        assert [answer["input"] for answer in together] == recordings
        assert all(answer["score"] < 0 for answer in together)
        assert told(generate, tones, inputs[alone], *flags) == [together[alone]["text"]]
        several = f"--input={Path(recordings[0]).parent}/[ab].*"
        assert told(generate, tones, several, *flags) == [answer["text"] for answer in together]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--input is missing: --input=VALUE (a recording file)"),
        (["--input=gone.wav"], "--input=gone.wav: no such file"),
        (["--input=Train.pi"], "--input=Train.pi: no such file, did you mean train.py?"),
        (["--input=gone/*.wav"], "--input=gone/*.wav: no file matches"),
        (["--input=-"], "--input=-: no such file"),
        (["--input=."], "--input=. is a folder: give a recording in it, or a glob in quotes for"),
        (["--prompt=a"], "--prompt is for texts, and this model reads recordings"),
        (["--length_penalty=1"], "--length_penalty is for models that translate"),
    ],
)
def test_what_can_not_be_asked_is_refused(tones, flags, expected):
    with pytest.raises(generate.UsageError) as refused:
        generate.main([f"--workdir={tones}", *flags])
    assert expected in str(refused.value)


def test_what_is_no_recording_is_refused_by_name(tones, tmp_path):
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(9), 8000)
    for path, expected in ((__file__, "no recording"), (short, "shorter than a frame of 25 mill")):
        with pytest.raises(generate.UsageError) as refused:
            generate.main([f"--workdir={tones}", f"--input={path}"])
        assert f"{path}: " in str(refused.value) and expected in str(refused.value)


def test_what_is_no_recording_takes_no_other_answer_away(tones, recordings, capsys):
    inputs = [recordings[0], __file__, recordings[1]]
    flags = [f"--workdir={tones}", *(f"--input={path}" for path in inputs)]
    plain, objects = answers_but_one(capsys, f"{__file__}: no recording", 3, *flags)
    assert [one["input"] for one in objects] == inputs
    assert objects[1].keys() == {"input", "error"} and plain[1] == ""
    assert [plain[0], plain[2]] == [objects[0]["text"], objects[2]["text"]]


@pytest.mark.full
def test_labels_of_sound_are_learnt_told_and_asked(tmp_path, told, capsys):
    rows = []
    for number in range(24):
        label, path = ("low", "high")[number % 2], tmp_path / f"{number}.wav"
        hertz = (300 + 10 * number, 1500 + 10 * number)[number % 2]
        wave = np.sin(np.arange(2400 + 80 * number) * 2 * np.pi * hertz / 8000)
        soundfile.write(path, 0.3 * wave, 8000)
        rows.append({"path": path.name, "label": label})
    (tmp_path / "no_sound.wav").write_bytes(b"RIFF and no more")
    rows.append({"path": "no_sound.wav", "label": "low"})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {name: TINY[name] for name in TINY.keys() - {"data__recordings", "model__pattern"}}
    fields |= {"optimizer__learning_rate": "1e-2", "optimizer__warmup_steps": "0"}
    fields |= {"train__steps": "40", "data__path": str(manifest)}
    recipe = "--config=configs/speech_classification.py"
    run("train.py", recipe, f"--workdir={tmp_path / 'run'}", **fields)
    predictions = tmp_path / "predictions.jsonl"
    flags = [f"--workdir={tmp_path / 'run'}", "--split=train", f"--predictions={predictions}"]
    assert evaluate.main(flags) == 0
    printed = capsys.readouterr()
    measured, written = json.loads(printed.out.splitlines()[-1]), predictions.read_text()
    assert measured["accuracy"] == 1
    assert measured["examples"] == written.count("\n") and "no_sound.wav" not in written
    many = measured["examples"] + 1
    assert f"1 of {many} examples are broken: no line for them" in printed.err
    inputs = [f"--input={tmp_path / name}" for name in ("0.wav", "1.wav")]
    answers = [json.loads(line) for line in told(generate, tmp_path / "run", *inputs, "--json")]
    assert [answer["label"] for answer in answers] == ["low", "high"]
    assert set(answers[0]["scores"]) == {"low", "high"}
