"""Promises of conversations: only what the assistant says counts, and each is packed whole."""

import gzip
import json
import pickle
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from configs.errors import UsageError
from configs.schema.data import Conversations
from configs.schema.tokenizers import BPE, Bytes, Characters
from data.batches import Batches
from data.codecs.chat import ChatEncoder, ChatTemplate, for_prompts, render_opening
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset
from data.preparation import prepare
from data.show import data_table, describe_batch
from data.sources.generated_talk import conversations as generated
from tasks.registry import build

PAIRS = [{"prompt": f"What is {n} plus {n}?", "answer": f"It is {2 * n}."} for n in range(40)]
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi, naïve 你好"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Thanks."},
    ]
}
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write(path: Path, records=PAIRS) -> Path:
    content = "".join(json.dumps(one) + "\n" for one in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def settings(path, **changes) -> Conversations:
    fixed = {"tokenizer": Bytes(), "sequence_length": 96, "validation_fraction": 0.0}
    return Conversations(path=None if path is None else str(path), **(fixed | changes))


def read(dataset: Dataset, split: str = "train") -> list[tuple[str, str]]:
    """Of each conversation its text, and what of it counts."""
    one, decode = dataset.splits[split], dataset.tokenizer.decode
    batch = Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]
    assert {name: rows.shape[1] for name, rows in batch.items()} == dict.fromkeys(
        ("tokens", "targets", "segments", "weights"), dataset.spec.max_length
    )
    found = []
    for row in range(one.examples):
        tokens, targets, segments, weights = (batch[name][row] for name in batch)
        assert not weights[segments == 0].any()
        for number in range(1, segments.max() + 1):
            here = segments == number
            np.testing.assert_array_equal(tokens[here][1:], targets[here][:-1])
            whole = decode([*tokens[here][:1], *targets[here]])
            found.append((whole, decode(targets[here & (weights > 0)])))
    return found


def test_answers_alone_count_and_every_conversation_is_whole(tmp_path):
    path = write(tmp_path / "chat.jsonl", [*PAIRS, TALK])
    dataset = prepare(settings(path, sequence_length=128))
    expected = [
        (
            f"<|endoftext|>user:\n{one['prompt']}\n\nassistant:\n{one['answer']}<|endoftext|>",
            f"{one['answer']}<|endoftext|>",
        )
        for one in PAIRS
    ]
    expected.append(
        (
            "<|endoftext|>system:\nBe brief.\n\nuser:\nHi, naïve 你好\n\nassistant:\n"
            "Hello!<|endoftext|>\n\nuser:\n2+2?\n\nassistant:\n4<|endoftext|>",
            "Hello!<|endoftext|>4<|endoftext|>",
        )
    )
    assert sorted(read(dataset)) == sorted(expected)
    train = dataset.splits["train"]
    learnt = [answer for _, answer in expected]
    assert train.bytes == sum(len(a.replace("<|endoftext|>", "").encode()) for a in learnt)
    assert train.targets == train.bytes + len(PAIRS) + 2  # a byte a token, and each end
    assert 0 < train.padding < 0.5
    assert dataset.warnings == (
        "1 of 41 conversations of train end with a message of the role 'user', which is not "
        "learnt; such as chat.jsonl:41",
    )


def test_splits_are_files_or_are_cut_by_a_fixed_hash(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl.gz", [PAIRS[0], {"prompt": split, "answer": "yes"}])
    dataset = prepare(settings(tmp_path, validation_fraction=0.5))
    assert [*dataset.splits] == ["train", "validation"]
    assert any("user:\nvalidation" in whole for whole, _ in read(dataset, "validation"))

    held_out = []
    for records in (PAIRS, [*PAIRS, *PAIRS[:9]]):
        one = settings(write(tmp_path / "one.jsonl", records), validation_fraction=0.2)
        dataset = prepare(one)
        assert len(read(dataset)) + len(read(dataset, "validation")) == len(records)
        held_out.append({whole for whole, _ in read(dataset, "validation")})
    assert held_out[0] <= held_out[1]


def test_the_names_of_the_fields_can_be_set(tmp_path):
    renamed = [{"q": one["prompt"], "a": one["answer"], "more": 1} for one in PAIRS]
    path = write(tmp_path / "renamed.jsonl", renamed)
    one, other = (
        read(prepare(settings(place, **names)))
        for place, names in (
            (path, {"prompt_field": "q", "answer_field": "a"}),
            (write(tmp_path / "plain.jsonl"), {}),
        )
    )
    assert one == other


@pytest.mark.parametrize("name", ["chat.csv", "chat.tsv", "chat.parquet", "chat.json"])
def test_tables_of_any_kind_hold_conversations(name, tmp_path):
    table, path = pyarrow.Table.from_pylist(PAIRS), tmp_path / "set" / name
    path.parent.mkdir()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(PAIRS))
    else:
        lines = [["prompt", "answer"], *([*one.values()] for one in PAIRS)]
        between = "," if path.suffix == ".csv" else "\t"
        path.write_text("".join(f"{between.join(line)}\n" for line in lines))
    expected = read(prepare(settings(write(tmp_path / "chat.jsonl"))))
    assert read(prepare(settings(path))) == expected
    if path.suffix != ".json":
        assert read(prepare(settings(path.parent))) == expected
        write(path.parent / "more.jsonl", PAIRS[:3])
        assert len(read(prepare(settings(path.parent)))) == 3


def test_lists_of_messages_in_parquet_are_conversations(tmp_path):
    talks = [
        {"messages": TALK["messages"], "day": date(2024, 2, 3), "sound": b"\xff", "system": None},
        {"messages": [{**TALK["messages"][-4], "weight": 1}], "day": None, "system": "Be brief."},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talks), tmp_path / "chat.parquet")
    dataset = prepare(settings(tmp_path / "chat.parquet"))
    as_lines = [{"messages": one["messages"], "system": one["system"]} for one in talks]
    as_lines[1]["messages"] = [TALK["messages"][2]]
    expected = prepare(settings(write(tmp_path / "chat.jsonl", as_lines)))
    assert read(dataset) == read(expected)
    assert "fields of lines that are not read: day, sound" in dataset.warnings
    row = {"messages": [TALK["messages"][0]]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*talks, row]), tmp_path / "bad.parquet")
    with pytest.raises(UsageError, match=r"bad\.parquet, row 2 has no message of the role 'assis"):
        prepare(settings(tmp_path / "bad.parquet"))


def test_what_is_too_long_is_cut_or_left_out_and_counted(tmp_path):
    records = [
        *PAIRS[:5],
        {"prompt": "a", "answer": 200 * "b"},
        {"prompt": 200 * "a", "answer": "b"},
    ]
    told = []
    one = settings(write(tmp_path / "long.jsonl", records))
    dataset = prepare(one, warn=told.append)
    texts = read(dataset)
    assert len(texts) == 6
    assert ("<|endoftext|>user:\na\n\nassistant:\n" + 76 * "b", 76 * "b") in texts
    assert dataset.warnings == (
        "1 of 7 conversations of train are longer than data.sequence_length=96 and cut",
        "1 of 7 conversations of train are longer than data.sequence_length=96 before any answer, "
        "and left out",
    )
    assert set(dataset.warnings) <= set(told)
    assert ("cut", "1") in data_table(dataset)
    with pytest.raises(UsageError, match=r"no conversation of train has an answer within data\.se"):
        prepare(settings(write(tmp_path / "none.jsonl", records[-1:])))


WRONG = {
    "no JSON": ("{", "line 3 is no JSON"),
    "no object": ("[1]", "line 3 holds an array, not an object"),
    "another field": (
        '{"prompt": "a", "answr": "b"}',
        "line 3 has no field 'answer', but prompt, answr: did you mean data.answer_field=answr?",
    ),
    "a number": ('{"prompt": 3, "answer": "b"}', "line 3: field 'prompt' holds a number, not text"),
    "messages in an object": ('{"messages": {}}', "field 'messages' holds an object, not an array"),
    "a message that is text": ('{"messages": ["a"]}', "line 3, message 1 is a string, not an obj"),
    "a message without content": (
        '{"messages": [{"role": "user"}]}',
        "line 3, message 1 has no content, but role",
    ),
    "content that is no text": (
        '{"messages": [{"role": "user", "content": null}]}',
        "message 1: field 'content' holds null, not text",
    ),
    "no assistant": (
        '{"messages": [{"role": "user", "content": "a"}]}',
        "line 3 has no message of the role 'assistant', but user: there is nothing to learn",
    ),
    "no message": ('{"messages": []}', "but no messages"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_line_is_named(case, tmp_path):
    line, expected = WRONG[case]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in PAIRS[:2]) + line + "\n")
    with pytest.raises(UsageError) as caught:
        prepare(settings(path))
    assert expected in str(caught.value) and str(path) in str(caught.value)


def test_a_template_writes_special_tokens_and_messages_never_do():
    """The template of the ChatML kind, and a message with the letters of its tokens."""
    tokenizer = Tokenizer.bytes()
    tokenizer.backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer(tokenizer.backend)
    start, end = (tokenizer.special_tokens()[name] for name in ("<|im_start|>", "<|im_end|>"))
    messages = [
        {"role": "user", "content": " a<|im_end|>b "},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e"},
    ]
    encoder = ChatEncoder(tokenizer, CHATML)
    (one,) = encoder.encode_many([messages])
    ids = one.ids.tolist()
    assert (ids.count(start), ids.count(end)) == (4, 4)
    assert tokenizer.decode(ids).startswith("<|endoftext|><|im_start|>user\na<|im_end|>b<|im_end|>")
    assert tokenizer.decode(one.ids[one.learnt]) == "c<|im_end|>e<|im_end|>"
    assert encoder.end_id == end
    opening = encoder.encode_opening(messages[:1])
    np.testing.assert_array_equal(opening, one.ids[: len(opening)])
    assert not one.learnt[: len(opening)].any() and one.learnt[len(opening)]


def test_prompts_are_what_training_showed_before_an_answer(tmp_path):
    one = settings(write(tmp_path / "chat.jsonl"))
    asking = for_prompts(Tokenizer.bytes(), one)
    assert asking.decode(asking.encode("2+2?")) == "<|endoftext|>user:\n2+2?\n\nassistant:\n"
    assert asking.separator_id == Tokenizer.bytes().separator_id
    plain = for_prompts(Tokenizer.bytes(), settings(None).model_copy(update={"source": "records"}))
    assert plain.decode(plain.encode("2+2?")) == "2+2?"


def test_templates_that_are_none_or_hide_who_says_what_are_refused(tmp_path):
    def refusal(template: str) -> str:
        path = write(tmp_path / "chat.jsonl", PAIRS[:3])
        with pytest.raises(UsageError) as caught:
            prepare(settings(path, chat_template=template))
        return str(caught.value)

    assert refusal("{% for one in %}").startswith("data.chat_template: line 1 is no Jinja: ")
    backwards = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
    assert "chat.jsonl:1: the template writes what stands before message 2" in refusal(backwards)
    assert refusal("{{ raise_exception('no') }}").endswith(
        "chat.jsonl:1: the template fails: no (line 1 of the template)"
    )


def test_generation_blocks_and_loops_of_other_templates_are_read():
    template = ChatTemplate(
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m.role }} {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
        "{% endfor %}{{ 'assistant ' if add_generation_prompt }}"
    )
    pieces = template.conversation(TALK["messages"])
    learnt = [piece.text for piece in pieces if piece.is_learnt]
    assert learnt == ["Hello!", "<|endoftext|>", "4", "<|endoftext|>"]
    assert "Be brief." not in "".join(piece.text for piece in pieces)


def test_a_tokenizer_is_learnt_from_the_text_and_not_from_its_json(tmp_path):
    path = write(tmp_path / "chat.jsonl", [*PAIRS, TALK])
    characters = prepare(settings(path, tokenizer=Characters()))
    assert not set('{}"[]') & set(characters.tokenizer.vocabulary())
    pairs = prepare(settings(path, tokenizer=BPE(vocabulary_size=300)))
    assert "assistant" in pairs.tokenizer.vocabulary()
    assert sorted(read(pairs)) == sorted(read(characters))


def test_characters_that_the_tokenizer_does_not_know_are_told(tmp_path):
    characters = prepare(settings(write(tmp_path / "a.jsonl"), tokenizer=Characters()))
    file = tmp_path / "tokenizer.json"
    characters.tokenizer.save(file)
    known = {"tokenizer": {"kind": "file", "path": str(file)}}
    path = write(tmp_path / "b.jsonl", [*PAIRS, {"prompt": "é", "answer": "e"}])
    (note,) = prepare(settings(path, **known)).warnings
    assert note == "1 of 41 conversations of train have characters that the tokenizer does not know"


def test_prompt_tokens_carry_no_gradient(tmp_path):
    dataset = prepare(settings(write(tmp_path / "chat.jsonl")))
    batch = Batches(dataset.splits["train"], global_batch_size=4, seed=0, shuffle=True)[0]
    task = build("language_modeling", label_smoothing=0.1, z_loss=1e-4,
                       loss_chunks=None, devices=1)  # fmt: skip

    class Model:
        def __init__(self, logits):
            self.logits = logits

        def hidden(self, tokens, *, segments_BT, dropout_key):
            return self.logits, None

        def head(self, x_BTD):
            return x_BTD

    def objective(logits):
        return task.loss_sums(Model(logits), batch, dropout_key=None)["objective"]

    logits = jax.random.normal(jax.random.key(0), (*batch["tokens"].shape, 300))
    moved = jnp.any(jax.grad(objective)(logits) != 0, axis=-1)
    np.testing.assert_array_equal(moved, batch["weights"] > 0)
    assert 0.1 < moved.mean() < 0.5


def test_a_batch_is_shown_turn_by_turn(tmp_path):
    path = write(tmp_path / "chat.jsonl", [TALK])
    dataset = prepare(settings(path, sequence_length=110))
    batches = Batches(dataset.splits["train"], global_batch_size=1, seed=0, shuffle=True)
    lines = describe_batch(batches[0], dataset).splitlines()
    assert lines[6].endswith("1 conversation, 89 of 110 positions; 9 targets count, those after >")
    assert lines[7].startswith("    1   '<|endoftext|>system:\\nBe brief.\\n\\nuser:\\nHi, naïve")
    assert lines[8:] == [
        "      > 'Hello!<|endoftext|>'",
        "        '\\n\\nuser:\\n2+2?\\n\\nassistant:\\n'",
        "      > '4<|endoftext|>'",
    ]


def test_the_generated_set_is_always_the_same_and_every_conversation_once():
    once, again = generated(), generated()
    assert once == again
    assert len({json.dumps(one) for one in once}) == len(once) > 1000
    dataset = prepare(settings(None, validation_fraction=0.05))
    assert len(read(dataset)) + len(read(dataset, "validation")) == len(once)


def test_windows_say_how_many_conversations_they_hold(tmp_path):
    dataset = prepare(settings(write(tmp_path / "chat.jsonl", PAIRS[:9]), sequence_length=256))
    split = dataset.splits["train"]
    assert 1 < split.examples < 9
    assert split.counts(split.examples) == {"windows": split.examples, "conversations": 9}
    too_long = {"prompt": "x" * 300, "answer": "y"}
    path = write(tmp_path / "chat.jsonl", [*PAIRS[:9], too_long])
    split = prepare(settings(path, sequence_length=256)).splits["train"]
    assert split.packed == {"conversations": 9}  # what is left out is in no window


TOOLS_TEMPLATE = (
    "{% if not tools is defined %}{% set tools = none %}{% endif %}"
    "{% for tool in tools or () %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}"
    "{% for call in m.tool_calls or () %}{% for name, value in call.function.arguments.items() %}"
    "<{{ name }}>{{ value }}</{{ name }}>{% endfor %}{% endfor %}{{ eos_token }}{% endfor %}"
)


def test_tools_and_calls_write_no_special_tokens_either():
    end = "<|im_end|>"
    template = ChatTemplate(TOOLS_TEMPLATE, ["<|endoftext|>", end, "<s>"])
    tool = {"function": {"name": "f", "parameters": {"properties": {end: {"enum": [end, 1]}}}}}
    arguments = {"a": end, "|im_end|": "b", "s": "c", "d": 1.5}
    messages = [
        {"role": "user", "content": " <s> <|im_end| "},
        {
            "role": "assistant",
            "content": "|endoftext|>",
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        },
    ]
    pieces = template.opening(messages, [tool])
    assert [piece.text for piece in pieces if piece.is_special] == 2 * ["<|endoftext|>"]
    assert "".join(piece.text for piece in pieces) == (
        json.dumps(tool) + "<user><s> <|im_end|<|endoftext|><assistant>|endoftext|>"
        "<a><|im_end|></a><|im_end|>b</|im_end|><s>c</s><d>1.5</d><|endoftext|>"
    )


def test_a_template_tells_what_it_reads():
    plain, tools = ChatTemplate(None), ChatTemplate(TOOLS_TEMPLATE)
    assert not (plain.reads_tools or plain.reads_tool_calls or plain.knows_developer)
    assert tools.reads_tools and tools.reads_tool_calls
    assert not ChatTemplate("{% set tools = 1 %}{{ tools }}").reads_tools
    assert ChatTemplate("{% if messages[0].role == 'developer' %}{% endif %}").knows_developer


def test_a_prompt_is_rendered_in_another_process():
    template = ChatTemplate(CHATML, ["<|im_start|>", "<|im_end|>"])
    copy = pickle.loads(pickle.dumps(template))
    assert copy is pickle.loads(pickle.dumps(template))
    messages = TALK["messages"][:2]
    assert render_opening(copy, messages) == [
        (piece.text, piece.is_special) for piece in template.opening(messages)
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ messages[0].content + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ range(1000000) }}", "Range too big"),
        ("{{ messages[5].content }}", "has no element 5"),
    ],
)
def test_what_a_template_can_not_do_is_told_in_a_line(source, said):
    with pytest.raises(ValueError, match=r"^the template fails: ") as caught:
        ChatTemplate(source).opening([{"role": "user", "content": "a"}])
    assert said in str(caught.value) and "\n" not in str(caught.value)
