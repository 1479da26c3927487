"""generate.py as users run it: what is on standard output, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import generate
from configs.errors import UsageError
from inference.predictors.classification import PictureClassification
from tests.end_to_end.verbs import TINY_TEXT, answers_but_one, run, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A language model of characters, trained for a few steps, with an average of its weights."""
    folder = tmp_path_factory.mktemp("text")
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()}
    fields |= {"data__path": str(write_text(folder / "input.txt")), "train__ema_decay": "0.95"}
    fields["optimizer__learning_rate"] = "1e-2"
    recipe = "--config=configs/shakespeare_char.py"
    run("train.py", recipe, f"--workdir={folder / 'run'}", **fields)
    return folder / "run"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A picture classifier that knows its digits."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    run("train.py", "--config=configs/digits_cnn.py", f"--workdir={workdir}", train__steps="120")
    return workdir


@pytest.fixture
def answers(capsys):
    """generate.py in this process: its lines of standard output."""

    def ask(workdir, *flags: str) -> str:
        assert generate.main([f"--workdir={workdir}", *flags]) == 0
        return capsys.readouterr().out

    return ask


def test_standard_output_is_the_completion_alone(text):
    flags = ("--prompt=12 times", "--max_tokens=20", "--seed=3", "--context_shift")
    first = run("generate.py", f"--workdir={text}", *flags)
    again = run("generate.py", f"--workdir={text}", *flags)
    assert first.stdout == again.stdout
    assert len(first.stdout) == 21 and first.stdout.endswith("\n")
    assert not first.stdout.startswith("12 times")


def test_json_is_an_object_a_line_in_the_order_of_the_prompts(text, answers):
    prompts = ["12 times", "", "3 times 4 is "]
    flags = [f"--prompt={prompt}" for prompt in prompts]
    lines = [
        json.loads(line) for line in answers(text, *flags, "--json", "--max_tokens=9").splitlines()
    ]
    fields = ["prompt", "prompt_tokens", "tokens", "text", "finish_reason"]
    assert [list(line) for line in lines] == [fields] * 3
    assert [line["prompt"] for line in lines] == prompts
    assert [line["prompt_tokens"] for line in lines] == [8, 1, 13]
    assert [line["tokens"] for line in lines] == [len(line["text"]) for line in lines] == [9, 9, 4]
    assert {line["finish_reason"] for line in lines} == {"length"}  # of the request, of the context


def test_speculation_and_a_prediction_change_no_text(text, answers, tmp_path):
    flags = ("--prompt=12 times", "--max_tokens=8", "--temperature=0")
    plain = answers(text, *flags)
    assert answers(text, *flags, "--speculation") == plain
    (tmp_path / "expected.txt").write_text(plain.rstrip("\n"))
    answer = answers(text, *flags, f"--prediction={tmp_path}/expected.txt", "--json")
    fields = json.loads(answer)
    assert fields["text"] + "\n" == plain and fields["accepted_tokens"] >= 4


def test_a_stream_and_a_batch_write_what_single_prompts_write(text, answers):
    prompts = [f"--prompt={n} times" for n in (1, 2, 33)]
    flags = ("--max_tokens=30", "--temperature=0.5", "--top_k=5", "--top_p=0.9", "--min_p=0.01")
    alone = [answers(text, prompt, *flags) for prompt in prompts]
    together = "\n".join(
        f'==> "{n} times" <==\n{one}' for n, one in zip((1, 2, 33), alone, strict=True)
    )
    assert answers(text, *prompts, *flags) == together
    assert answers(text, *prompts, *flags, "--stream") == together
    assert answers(text, prompts[0], *flags, "--stream") == alone[0]
    streamed = answers(text, *prompts, *flags, "--stream", "--json")
    assert [json.loads(line)["text"] + "\n" for line in streamed.splitlines()] == alone


def test_a_text_ends_before_its_stop_string(text, answers):
    flags = ("--prompt=12 times", "--max_tokens=60", "--temperature=0", "--context_shift")
    whole = answers(text, *flags)
    assert (
        answers(text, *flags, "--stop=~", f"--stop={whole[5]}") == f"{whole.split(whole[5])[0]}\n"
    )


def test_steps_and_weights_are_chosen(text, answers):
    flags = ("--prompt=12 times", "--max_tokens=40", "--temperature=1.5", "--context_shift")
    found = {
        answers(text, *flags, *chosen)
        for chosen in ([], ["--step=30"], ["--weights=raw"], ["--weights=ema"])
    }
    assert len(found) == 3  # the average is what one gets without asking


def test_pictures_are_classified(digits, tmp_path, answers):
    pictures = load_digits()
    paths, flags = [], []
    for index in range(10):
        picture = (pictures.images[index] / 16 * 255).astype(np.uint8)
        # Another size, another mode, another format: converted as the prepared ones were.
        image = Image.fromarray(picture)
        if index % 2:
            image = image.resize((64, 64), Image.Resampling.BICUBIC).convert("RGBA")
        paths.append(tmp_path / f"{index}.png")
        image.save(paths[-1])
        flags.append(f"--input={paths[-1]}")
    lines = [json.loads(line) for line in answers(digits, *flags, "--json").splitlines()]
    assert [line["input"] for line in lines] == [str(path) for path in paths]
    right = [line["label"] == str(pictures.target[n]) for n, line in enumerate(lines)]
    assert sum(right) >= 9
    for line in lines:
        assert list(line["scores"]) == [str(n) for n in range(10)]
        assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert max(line["scores"], key=line["scores"].get) == line["label"]
    label, scores = answers(digits, flags[0]).strip().split("\t")
    assert label == lines[0]["label"] and scores.startswith(f"{label}=0.")
    assert len(scores.split()) == 5


def test_what_is_no_picture_takes_no_other_answer_away(digits, tmp_path, capsys, monkeypatch):
    # The last two at another time.
    monkeypatch.setattr(PictureClassification, "batch_size", 2)
    pictures = load_digits().images[:4].astype(np.uint8) * 16
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for path, picture in zip([paths[0], *paths[2:]], pictures, strict=True):
        Image.fromarray(picture).save(path)
    (tmp_path / "1.png").write_bytes(b"none")
    flags = (f"--workdir={digits}", f"--input={tmp_path}/*.png")
    plain, objects = answers_but_one(capsys, f"{paths[1]}: no picture", 5, *flags)
    assert [one["input"] for one in objects] == paths
    assert objects[1].keys() == {"input", "error"} and plain[1] == ""
    labels = [one.get("label", "") for one in objects]
    assert labels == [line.partition("\t")[0] for line in plain]


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("text", [], "--prompt is missing"),
        ("text", ["--input=a.png"], "--input is for models that read pictures"),
        ("text", ["--prompt=a", "--temperature=-1"], "--temperature must be >= 0, not -1.0"),
        ("text", ["--prompt=a", "--top_p=0"], "--top_p must be above 0"),
        ("text", ["--prompt=a", "--max_tokens=0"], "--max_tokens must be >= 1"),
        ("text", ["--prompt=a", "--max_tokens=2.5"], "--max_tokens must be an integer"),
        ("text", ["--prompt=a", "--prediction=none.txt"], "--prediction=none.txt: no such file"),
        ("text", ["--prompt=a", "--stop="], "--stop needs a value"),
        ("text", ["--prompt=a", "--seed=1", "--seed=2"], "--seed is given twice"),
        ("text", ["--prompt=a", "--temprature=1"], "did you mean --temperature"),
        ("text", ["--prompt=a", "--config.seed=1"], "the configuration"),
        ("text", ["--prompt=a", "--step=7"], "no such checkpoint"),
        ("text", ["--prompt=a", "--regex=("], "--regex can't be enforced: unclosed group"),
        ("text", ["--prompt=a", "--regex=a", "--choices=b"], "--choices is given beside regex"),
        ("text", ["--prompt=a", "--json_schema=LICENCE"], "did you mean LICENSE?"),
        ("text", ["--prompt=a", "--json_schema=LICENSE"], "--json_schema is not a JSON schema"),
        ("text", ["--prompt=a", "--grammar=pictures"], "--grammar=pictures can't be read: Is a"),
        ("text", [f"--prompt={'a' * 17}"], "has 17 tokens, and the context of this model only 16"),
        ("digits", [], "--input is missing"),
        ("digits", ["--prompt=a"], "--prompt is for texts"),
        ("digits", ["--input=a.png", "--top_k=3"], "--top_k is for texts"),
        ("digits", ["--input=a.png", "--choices=a"], "--choices is for texts"),
        ("digits", ["--input=a.png", "--stream"], "--stream is for texts"),
        ("digits", ["--input=missing.png"], "--input=missing.png: no such file"),
        ("digits", ["--input=LICENSE"], "LICENSE: no picture"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(request, kind, flags, message):
    workdir = request.getfixturevalue(kind)
    with pytest.raises(UsageError) as error:
        generate.main([f"--workdir={workdir}", *flags])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_workdir_that_is_none_is_an_error(tmp_path):
    done = run("generate.py", f"--workdir={tmp_path}", "--prompt=a", expect=2)
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
