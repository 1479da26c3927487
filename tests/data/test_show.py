"""Promises of describe_batch: what the model gets, for a person to read."""

from configs.schema.data import Conversations, TextFiles
from configs.schema.pictures import Digits
from configs.schema.tokenizers import Bytes
from data.batches import Batches
from data.dataset import Dataset
from data.preparation import prepare
from data.show import data_table, describe_batch, line_beginnings, split_rows


def describe(dataset: Dataset, batch_size: int, number: int = 0) -> str:
    batches = Batches(
        dataset.splits["validation"], global_batch_size=batch_size, seed=0, shuffle=False
    )
    return describe_batch(batches[number], dataset)


def test_text_is_shown_with_targets_weights_and_segments(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / "a.txt").write_text("ab")
        (tmp_path / split / "b.txt").write_text("cd")
    settings = TextFiles(path=str(tmp_path), sequence_length=8, tokenizer=Bytes(),
                         cross_document_attention=False)  # fmt: skip
    shown = describe(prepare(settings), 2)
    assert "tokens   int32 [2, 8]" in shown
    assert "5 targets; '<|endoftext|>ab<|endoftext|>c'" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("  ")]
    assert rows[2:8] == [
        ["0", "256", "'<|endoftext|>'", "97", "'a'", "1", "1"],
        ["1", "97", "'a'", "98", "'b'", "1", "1"],
        ["2", "98", "'b'", "256", "'<|endoftext|>'", "1", "1"],
        ["3", "256", "'<|endoftext|>'", "99", "'c'", "1", "2"],
        ["4", "99", "'c'", "100", "'d'", "1", "2"],
        ["5", "100", "'d'", "0", "'\\x00'", "0", "0"],
    ]


def test_tokens_to_predict_are_told_where_they_are_not_all_tokens(tmp_path):
    """Of plain text the task says which it predicts: a masked model 15 % of them."""
    (tmp_path / "a.txt").write_text("abcdefgh" * 10)
    text = TextFiles(path=str(tmp_path / "a.txt"), sequence_length=8, tokenizer=Bytes(),
                     validation_fraction=0.0)  # fmt: skip
    dataset = prepare(text)
    (row,) = split_rows(dataset, text)
    assert row == ("train", f"10 windows, 80 tokens: {tmp_path / 'a.txt'}")
    names = [name for name, *_ in data_table(dataset)]
    assert "tokens" in names and "targets" not in names

    (tmp_path / "chat.jsonl").write_text('{"prompt": "What?", "answer": "yes"}\n')
    chat = Conversations(path=str(tmp_path / "chat.jsonl"), sequence_length=64, tokenizer=Bytes(),
                         validation_fraction=0.0)  # fmt: skip
    dataset = prepare(chat)
    (row,) = split_rows(dataset, chat)
    assert row[1].startswith("1 windows, 4 tokens to predict: ")  # y, e, s, and its end
    assert ("targets", "4") in data_table(dataset)


def test_prompts_are_whole_words_at_the_beginnings_of_held_out_lines(tmp_path):
    lines = [f"line {n} has {n * n} in it, and more words than a prompt takes" for n in range(300)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    text = TextFiles(path=str(tmp_path / "a.txt"), sequence_length=128, tokenizer=Bytes(),
                     validation_fraction=0.1)  # fmt: skip
    dataset = prepare(text)
    prompts = line_beginnings(dataset)
    assert len(prompts) == 3
    for prompt in prompts:
        (line,) = [line for line in lines if line.startswith(f"{prompt} ")]
        assert len(prompt) <= 24 and lines.index(line) >= 260


def test_prompts_of_a_text_without_lines_begin_anywhere(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 400)
    text = TextFiles(path=str(tmp_path / "a.txt"), sequence_length=16, tokenizer=Bytes(),
                     validation_fraction=0.0)  # fmt: skip
    assert line_beginnings(prepare(text)) == ("x" * 15, "x" * 16)


def test_pictures_are_shown_as_blocks_with_their_class():
    dataset = prepare(Digits(image_size=64))
    shown = describe(dataset, 3)
    assert "image    uint8 [3, 64, 64, 1], 0 to 255" in shown
    batch = Batches(dataset.splits["validation"], global_batch_size=3, seed=0, shuffle=False)[0]
    for label in batch["label"]:
        assert f"label {label} ({dataset.spec.classes[label]}), weight 1" in shown
    blocks = [line for line in shown.splitlines() if "█" in line]
    assert blocks
    assert max(map(len, shown.splitlines())) <= 2 + 2 * 32
