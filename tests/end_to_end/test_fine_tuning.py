"""From a language model to one that answers: begun with another run's weights, and on its own."""

import json
import shutil

import numpy as np
import pytest

import evaluate
import generate
import train
from configs.errors import UsageError
from tests.end_to_end.verbs import metrics, write_text
from training.manifest import read_manifest

TINY = {"data.sequence_length": "64", "mesh.data": "1", "data.global_batch_size": "8",
        "task.sample_prompts": "()"}  # fmt: skip


def start(recipe: str, workdir, **fields: str) -> int:
    fields = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *flags])


def test_a_model_learns_to_answer_and_needs_the_one_it_began_with_no_more(tmp_path, capsys):
    base, chat = tmp_path / "base", tmp_path / "chat"
    text = {"data__source": "text_files", "data__path": str(write_text(tmp_path / "input.txt"))}
    pairs = {"data__tokenizer__kind": "bpe", "data__tokenizer__vocabulary_size": "300"}
    small = {"model__width": "32", "model__depth": "1"}
    start("python_stdlib", base, train__steps="4", **text, **pairs, **small)

    path = tmp_path / "chat.jsonl"
    path.write_text("".join(
        json.dumps({"prompt": f"{n} times 2?", "answer": "Even."}) + "\n" for n in range(60)
    ))  # fmt: skip
    fields = {
        "train__initialize_from": str(base),
        "data__path": str(path),
        "optimizer__learning_rate": "3e-2",
        "train__log_every_steps": "1",
        "checkpoint__best_metric": "bits_per_byte",
    }
    with pytest.raises(UsageError, match=r"reads other tokens .*kind=file .*/base/tokenizer\.json"):
        start("finetune_chat", chat, data__tokenizer__kind="bytes", **fields)
    assert not chat.exists()
    start("finetune_chat", chat, train__steps="60", **fields)
    told = capsys.readouterr().err
    assert f"the model is that of {base}: model.width=32 instead of 192, model.depth=1" in told
    assert f"the tokenizer is that of {base}: data.tokenizer.kind=file, data.tokeniz" in told
    assert f"begins with the weights of {base}, step 4" in told
    assert "trains " in told

    shutil.rmtree(base)
    start("finetune_chat", chat, train__steps="62", **fields)
    told = capsys.readouterr().err
    assert "going on from checkpoint 60" in told and "train.steps was 60, is 62 (since" in told
    assert "model.width was" not in told and "data.tokenizer" not in told
    losses = [line["loss"] for line in metrics(chat).values()]
    assert len(losses) == 62
    assert np.mean(losses[-4:]) < 0.5 * losses[0]
    history = read_manifest(chat / "checkpoints" / "62")["history"]
    assert history["initialized_from"]["workdir"] == str(base)
    assert history["initialized_from"]["step"] == 4
    assert "begins with the weights of" in (chat / "report.html").read_text()

    assert evaluate.main([f"--workdir={chat}"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["loss"] < 0.5 * losses[0] and measured["bits_per_byte"] > 0
    asked = ["--prompt=7 times 2?", "--max_tokens=20", "--temperature=0", "--json"]
    assert generate.main([f"--workdir={chat}", *asked]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prompt"] == "7 times 2?"
    assert answer["text"] == "Even."
