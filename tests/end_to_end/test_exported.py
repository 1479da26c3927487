"""What export.py wrote, and folders of transformers, in place of a workdir: in every command."""

import json
import re

import pytest

import evaluate
import export
import generate
import serve
import train
from configs.errors import UsageError
from inference.loading import load_model
from tests.end_to_end.verbs import write_text
from tests.golden.workdirs import FIGURES, ROOT, WORKDIRS
from tests.interop.exports import changed, exported
from tests.interop.folders import make_folder
from tests.interop.foreign import write_tokenizer
from tests.interop.test_loading import Folder
from tests.selection import few_of


def figures(capsys, *flags):
    """The metrics that evaluate.py prints."""
    capsys.readouterr()
    assert evaluate.main([*flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refusal(main, *flags):
    with pytest.raises(UsageError) as caught:
        main([*map(str, flags)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    few_of(
        ["attention_text_averaged", "convolution_pictures", "recurrence_sound"],
        "attention_text_averaged",
        "convolution_pictures",
    ),
)
def test_an_exported_model_has_the_metrics_of_its_workdir(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of data are relative
    folder = exported(name, tmp_path / "exported")
    known = json.loads(FIGURES.read_text())[name]
    found = figures(capsys, f"--from={folder}")
    assert found.pop("split") == known.pop("split")
    assert found == pytest.approx(known, rel=1e-4)


def test_an_export_for_transformers_has_the_metrics_of_its_workdir(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    workdir = WORKDIRS / "attention_text"
    folder = exported("attention_text", tmp_path / "exported", format="huggingface")
    assert figures(capsys, f"--from={folder}") == figures(capsys, f"--workdir={workdir}")


def test_another_model_on_the_data_of_a_workdir(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    workdir = WORKDIRS / "recurrence_text"
    folder = exported("attention_text", tmp_path / "exported")
    found = figures(capsys, f"--workdir={workdir}", f"--from={folder}")
    assert found == figures(capsys, f"--workdir={WORKDIRS / 'attention_text'}")
    told = refusal(evaluate.main, f"--workdir={WORKDIRS / 'rnn_text'}", f"--from={folder}")
    assert told == f"--from={folder} reads other tokens than the data of --workdir have"


def test_changed_data_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = exported("attention_text", tmp_path / "exported")
    text = write_text(tmp_path / "text.txt")
    told = refusal(evaluate.main, f"--from={folder}", f"--config.data.path={text}")
    assert told.startswith("the data changed (its files, or files and folders named dev")
    assert told.endswith(f") since {folder} was trained: its metrics would not hold")


def test_an_exported_model_answers_as_its_workdir(tmp_path, capsys):
    folder = exported("attention_text_lora", tmp_path / "exported")
    again = tmp_path / "again"
    assert export.main([f"--from={folder}", "--format=safetensors", f"--out={again}"]) == 0
    flags = ["--prompt=To be", "--max_tokens=8", "--seed=3", "--json"]
    capsys.readouterr()
    for source in (f"--workdir={WORKDIRS / 'attention_text_lora'}", f"--from={again}"):
        assert generate.main([source, *flags]) == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one == other
    model = load_model(folder)
    (answer,) = model.predict(prompt=["To be"], max_tokens=8, seed=3)
    assert model.default_predictor.render(answer, as_json=True) == one


def test_a_run_begins_with_an_exported_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = exported("convolution_pictures", tmp_path / "exported")
    flags = ["--config=configs/digits_cnn.py", f"--config.train.initialize_from={folder}"]
    flags += ["--config.train.steps=1", "--config.data.global_batch_size=8"]
    told = refusal(
        train.main, *flags, f"--workdir={tmp_path / 'a'}", "--config.train.initialize_step=12"
    )
    assert "train.initialize_step is for workdirs" in told
    assert train.main([*flags, f"--workdir={tmp_path / 'run'}"]) == 0
    told = capsys.readouterr().err
    assert f"the model is that of {folder}: model.channels=(4, 8) instead of" in told
    assert f"begins with the weights of {folder}, step 12" in told
    assert "fresh" not in told
    changed(folder, folder.with_name("damaged"), lambda tensors: tensors.popitem())
    flags[1] += "/../damaged"
    assert "it lacks " in refusal(train.main, *flags, f"--workdir={tmp_path / 'b'}")


def test_a_folder_of_transformers_answers(tmp_path, capsys):
    folder = tmp_path / "model"
    make_folder(folder, "gpt2", vocab_size=write_tokenizer(folder, "gpt2"))
    flags = [f"--from={folder}", "--prompt=3 times", "--max_tokens=3", "--temperature=0", "--json"]
    assert generate.main(flags) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["tokens"], answer["finish_reason"]) == (3, "length")
    own = tmp_path / "own"
    assert export.main([f"--from={folder}", "--format=safetensors", f"--out={own}"]) == 0
    capsys.readouterr()
    assert generate.main([f"--from={own}", *flags[1:]]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    told = refusal(evaluate.main, f"--from={folder}")
    assert told.startswith(f"--from={folder} says nothing of data: give --workdir=DIR too")


@pytest.mark.parametrize("family", few_of(["llama", "bert"], "llama"))
def test_a_fine_tuned_model_is_compared_with_what_it_began_with(family, tmp_path, capsys):
    run = Folder(tmp_path, family)
    if family == "llama":
        run.fields |= {"task.sample_prompts": "()", "data.sequence_length": "64"}
    run.fields["optimizer.learning_rate"] = "1e-12"
    run.fit()
    assert run.run(train__steps="1") == 0
    before = figures(capsys, f"--workdir={run.workdir}", f"--from={run.path}")
    after = figures(capsys, f"--workdir={run.workdir}")
    assert (before.pop("step"), after.pop("step")) == (0, 1)
    assert before.pop("split") == after.pop("split")
    assert before == pytest.approx(after, rel=1e-5)


COMMANDS = {
    "generate": (generate.main, ["--prompt=a"]),
    "serve": (serve.main, ["--port=0"]),
    "evaluate": (evaluate.main, []),
    "export": (export.main, ["--format=safetensors", "--out=nowhere"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_flags_are_one_line(name, tmp_path):
    main, flags = COMMANDS[name]
    assert refusal(main, *flags).startswith("--workdir is missing: --workdir=DIR")
    gone = tmp_path / "gone"
    assert refusal(main, f"--from={gone}", *flags) == f"--from={gone} is not there"
    workdir = WORKDIRS / "attention_text"
    for flag in ("--step=3", "--weights=raw"):
        told = refusal(main, f"--from={gone}", flag, *flags)
        assert told.startswith(f"{flag} chooses among the checkpoints of a workdir")
    told = refusal(main, f"--from={workdir}", *flags)
    assert told.endswith(f"is the workdir of a run: give --workdir={workdir}")
    if name != "evaluate":
        told = refusal(main, f"--workdir={workdir}", f"--from={gone}", *flags)
        assert told == f"--workdir={workdir} and --from={gone} each name a model: give one"
    (tmp_path / "triform.json").write_text("{}")
    told = refusal(main, f"--workdir={tmp_path}", *flags)
    assert re.search(rf"holds a model's weights, and no run: give --from={tmp_path}$", told)
