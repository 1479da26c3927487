"""Promises of messages: all that they hold is learnt, follows, or is told."""

import json

import pytest

from configs.errors import UsageError
from data.codecs.chat import ChatTemplate
from data.preparation import prepare
from tests.data.test_conversations import PAIRS, read, settings, write

USER = {"role": "user", "content": "Weather?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "4 C"}
ANSWER = {"role": "assistant", "content": "Four."}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLS = (
    "{{ 'T' if tools }}{% for m in messages %}<{{ m.role }} {{ m.name }}>"
    "{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.a }}){% endfor %}"
    "{{ m.content }}{{ eos_token }}{% endfor %}{{ '<assistant >' if add_generation_prompt }}"
)
END = "<|endoftext|>"


def talk(*messages, **fields):
    return {"messages": [*messages], **fields}


def learnt(tmp_path, *records, **changes) -> tuple[list[str], tuple[str, ...]]:
    """What counts of each record, and the warnings, without the number of conversations."""
    dataset = prepare(settings(write(tmp_path / "chat.jsonl", records), **changes))
    return [counts for _, counts in read(dataset)], dataset.warnings


def refusal(tmp_path, *records, **changes) -> str:
    path = write(tmp_path / "chat.jsonl", records)
    with pytest.raises(UsageError) as caught:
        prepare(settings(path, **changes))
    return str(caught.value)


def test_calls_and_tools_reach_a_template_that_reads_them(tmp_path):
    record = talk(USER, CALLED, RESULT, ANSWER, tools=[TOOL])
    path = write(tmp_path / "chat.jsonl", [record])
    dataset = prepare(settings(path, chat_template=CALLS, sequence_length=200))
    ((whole, counts),) = read(dataset)
    assert whole == (
        f"{END}T<user >Weather?{END}<assistant >f(1){END}<tool f>4 C{END}<assistant >Four.{END}"
    )
    assert counts == f"f(1){END}Four.{END}"
    assert dataset.warnings == ()
    as_text = talk(USER, CALLED, RESULT, ANSWER, tools=json.dumps([TOOL]))
    path = write(tmp_path / "text.jsonl", [as_text])
    assert read(prepare(settings(path, chat_template=CALLS, sequence_length=200)))[0][0] == whole


FIELDS = {
    "calls": talk(USER, CALLED, RESULT, ANSWER),
    "a call of the older kind": talk(USER, {**ANSWER, "function_call": {"name": "f"}}),
    "reasoning": talk(USER, {**ANSWER, "reasoning_content": "Cold."}),
    "a name": talk({**USER, "name": "Ann"}, ANSWER),
    "any other": talk(USER, {**ANSWER, "mood": "glad"}),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_the_template_does_not_read_is_refused_by_name(case, tmp_path):
    record = FIELDS[case]
    ((number, name),) = (
        (number, name)
        for number, message in enumerate(record["messages"], 1)
        for name in message.keys() - {"role", "content", "tool_call_id"}
    )
    asked = refusal(tmp_path, PAIRS[0], record)
    assert asked.startswith(f"chat.jsonl:2: message {number}: the default template does not read")
    assert repr(name) in asked and asked.endswith("such as the model's own")
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    given = refusal(tmp_path, PAIRS[0], record, chat_template=template)
    assert given.startswith(f"data.chat_template: chat.jsonl:2: message {number}: the template do")
    reads = template.replace("{{ m.content", "{% if m." + name + " %}!{% endif %}{{ m.content")
    assert "!" in "".join(learnt(tmp_path, record, chat_template=reads)[0]) or number == 1


def test_tools_that_no_template_reads_are_refused(tmp_path):
    asked = refusal(tmp_path, talk(USER, ANSWER, tools=[TOOL]))
    assert asked.startswith("chat.jsonl:1: the default template does not read the field 'tools'")
    assert "field 'tools' is a text, but no JSON" in refusal(tmp_path, talk(ANSWER, tools="f"))


def test_fields_that_say_nothing_are_as_if_absent(tmp_path):
    empty = {"tool_calls": [], "function_call": None, "name": "", "weight": None}
    found, warnings = learnt(tmp_path, talk(USER, ANSWER | empty, tools=[], system=None))
    assert found == [f"Four.{END}"] and warnings == ()


@pytest.mark.parametrize("no", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_weight_and_train_decide_which_answers_are_learnt(no, tmp_path):
    first = {"role": "assistant", "content": "Wrong", **no}
    found, warnings = learnt(tmp_path, talk(USER, first, USER, {**ANSWER, "weight": 1}))
    assert found == [f"Four.{END}"] and warnings == ()
    found, warnings = learnt(tmp_path, PAIRS[0], talk(USER, first))
    assert found == [f"It is 0.{END}"]
    assert warnings == ("1 of 2 conversations of train have no answer to learn, and are left out",)
    assert "no conversation of train has an answer to learn" in refusal(tmp_path, talk(first))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({**ANSWER, "weight": 0.5}, "field 'weight' is 0.5, not 0 or 1"),
        ({**ANSWER, "train": "no"}, "field 'train' is \"no\", not true or false"),
        ({**USER, "weight": 1}, "only the assistant's messages are learnt, not those of the role"),
        ({**ANSWER, "tool_calls": 3}, "field 'tool_calls' holds no array of objects"),
        ({**ANSWER, "tool_calls": [{"function": 3}]}, "'function' in the field 'tool_calls' is no"),
        (
            {**ANSWER, "content": [{"type": "image_url", "image_url": {}}]},
            "part 1 of the content is 'image_url', not a text",
        ),
        ({**ANSWER, "content": ["a"]}, "part 1 of the content is a string, not a text"),
        ({**ANSWER, "name": "\ud800"}, "field 'name' spells half a character"),
    ],
)
def test_what_can_not_be_followed_is_named(message, said, tmp_path):
    told = refusal(tmp_path, talk(message, ANSWER))
    assert told.startswith(str(tmp_path)) and "line 1, message 1: " in told and said in told


def test_content_in_parts_is_their_text(tmp_path):
    parts = [{"type": "text", "text": "Fo"}, {"type": "text", "text": "ur."}]
    found, warnings = learnt(tmp_path, talk(USER, {"role": "assistant", "content": parts}))
    assert found == [f"Four.{END}"] and warnings == ()


def test_conversations_of_sharegpt_are_read(tmp_path):
    turns = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Yes.")]
    record = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    path = write(tmp_path / "chat.jsonl", [record])
    dataset = prepare(settings(path))
    assert read(dataset) == [
        (f"{END}system:\nBe brief.\n\nuser:\nHi\n\nassistant:\nYes.{END}", f"Yes.{END}")
    ]
    assert dataset.warnings == (
        "1 of 1 conversations of train have messages of the role 'human', which is read as "
        "'user'; such as chat.jsonl:1",
        "1 of 1 conversations of train have messages of the role 'gpt', which is read as "
        "'assistant'; such as chat.jsonl:1",
    )


@pytest.mark.parametrize("role", ["Assistant", "gpt", "bot", "model"])
def test_answers_of_a_role_with_another_name_are_learnt_and_told(role, tmp_path):
    last = {"role": role, "content": "Very."}
    found, (warning,) = learnt(tmp_path, talk(USER, ANSWER, USER, last))
    assert found == [f"Four.{END}Very.{END}"]
    assert f"the role {role!r}, which is read as 'assistant'" in warning


def test_messages_of_an_unknown_role_are_told(tmp_path):
    bard = {"role": "bard", "content": "Rainy."}
    record = talk(USER, bard, USER, ANSWER)
    found, warnings = learnt(tmp_path, PAIRS[0], record, record)
    assert sorted(found) == [*2 * [f"Four.{END}"], f"It is 0.{END}"]
    assert warnings == (
        "2 of 3 conversations of train have messages of the role 'bard', which are read as they "
        "are, and not learnt; such as chat.jsonl:2",
    )
    named = "{% for m in messages %}{{ 'B' if m.role == 'bard' }}{{ m.content }}{{ eos_token }}"
    assert learnt(tmp_path, record, chat_template=f"{named}{{% endfor %}}")[1] == ()


def test_a_role_that_the_template_names_stays_as_it_is():
    template = ChatTemplate(
        "{% for m in messages %}{{ 'A ' if m.role == 'bot' else m.role }}{{ m.content }}"
        "{{ eos_token }}{% endfor %}{{ 'A ' if add_generation_prompt }}"
    )
    pieces = template.conversation([USER, {"role": "bot", "content": "Yes"}])
    assert [piece.text for piece in pieces] == ["userWeather?", END, "A ", "Yes", END]
    assert [piece.is_learnt for piece in pieces] == [False, False, False, True, True]


def test_an_empty_answer_is_not_learnt_and_told(tmp_path):
    empty = [{"prompt": "a", "answer": ""}, talk(USER, {"role": "assistant", "content": "  "})]
    found, warnings = learnt(tmp_path, *PAIRS[:2], *empty)
    assert len(found) == 2
    assert warnings == (
        "2 of 4 conversations of train have no answer to learn, and are left out",
        "2 of 4 conversations of train have an empty answer, which is not learnt; such as "
        "chat.jsonl:3",
    )
    assert "all are empty" in refusal(tmp_path, *empty)
    meant = {"role": "assistant", "content": "", "weight": 1}
    assert learnt(tmp_path, talk(USER, meant)) == ([END], ())


def test_fields_of_a_line_are_read_by_the_template_or_told(tmp_path):
    record = {**PAIRS[0], "mood": "glad", "id": 3, "empty": ""}
    found, (warning,) = learnt(tmp_path, record)
    assert found == [f"It is 0.{END}"]
    assert warning == "fields of lines that are not read: mood, id"
    template = "{% for m in messages %}{{ mood }} {{ m.content }}{{ eos_token }}{% endfor %}"
    found, (warning,) = learnt(tmp_path, record, chat_template=template)
    assert found == [f"glad It is 0.{END}"] and warning.endswith("read: id")


@pytest.mark.parametrize("lost", [{"input": "cat"}, {"context": "A."}, {"history": [["a", "b"]]}])
def test_a_part_of_the_prompt_in_another_field_is_refused_if_it_would_be_lost(lost, tmp_path):
    (name,) = lost
    told = refusal(tmp_path, {**PAIRS[0], name: " "}, {**PAIRS[1], **lost})
    assert told == (
        f"chat.jsonl:2: the field {name!r} is in no message, and would be lost: make it a part of "
        "the prompt, which is data.prompt_field=prompt, or of a message, or remove it"
    )
    there = {**PAIRS[1], "prompt": "A. a b cat?", **lost}
    assert learnt(tmp_path, there)[1] == (f"fields of lines that are not read: {name}",)
    template = "{% for m in messages %}" + f"{{{{ {name} }}}}" + "{{ m.content }}{{ eos_token }}"
    assert (
        learnt(tmp_path, {**PAIRS[1], **lost}, chat_template=f"{template}{{% endfor %}}")[1] == ()
    )


def test_names_of_fields_in_known_data_sets_are_proposed(tmp_path):
    alpaca = {"instruction": "Name a pet", "input": "", "output": "cat"}
    assert refusal(tmp_path, alpaca).endswith(
        "line 1 has no field 'prompt' and no field 'answer', but instruction, input, output: did "
        "you mean data.prompt_field=instruction and data.answer_field=output?"
    )
    assert learnt(tmp_path, alpaca, prompt_field="instruction", answer_field="output") == (
        [f"cat{END}"],
        (),
    )
    said = refusal(tmp_path, {"prompt": "Name a pet", "completion": "cat"})
    assert said.endswith("but prompt, completion: did you mean data.answer_field=completion?")


def test_a_system_field_is_the_first_message(tmp_path):
    path = write(tmp_path / "chat.jsonl", [talk(USER, ANSWER, system="Be brief.")])
    dataset = prepare(settings(path))
    assert read(dataset)[0][0].startswith(f"{END}system:\nBe brief.\n\nuser:\n")
    assert "have a field 'system', which is read as the first message" in dataset.warnings[0]
    told = refusal(tmp_path, talk(USER, {**ANSWER, "mood": "glad"}, system="Be brief."))
    assert told.startswith("chat.jsonl:1: message 2: ")


def test_a_conversation_that_the_assistant_opens_is_learnt(tmp_path):
    path = write(tmp_path / "chat.jsonl", [talk(ANSWER, USER, ANSWER)])
    assert read(prepare(settings(path))) == [
        (
            f"{END}assistant:\nFour.{END}\n\nuser:\nWeather?\n\nassistant:\nFour.{END}",
            f"Four.{END}Four.{END}",
        )
    ]


def test_a_path_in_place_of_a_template_is_told(tmp_path):
    file = tmp_path / "my template.txt"
    file.write_text(CALLS)
    told = refusal(tmp_path, *PAIRS, chat_template=str(file))
    assert told == (
        f"data.chat_template={str(file)[:60]}{'...' if len(str(file)) > 60 else ''} is a path; a "
        f"template is given as text: --config.data.chat_template=\"$(cat '{file}')\""
    )
    told = refusal(tmp_path, *PAIRS, chat_template="chatml")
    assert told.startswith("data.chat_template=chatml writes nothing of the messages: ")


ERRORS = {
    "{% for m in messages %}\n{{ '%(x)s' % {} }}{% endfor %}": ("KeyError: 'x'", 2),
    "\n\n{{ messages[0].content.x.y }}": ("has no attribute 'x'", 3),
    "{{ 1 // 0 }}": ("ZeroDivisionError: integer division or modulo by zero", 1),
    "{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}": ("RecursionError", 1),
    "{{ 'a'.encode('x') }}": ("LookupError: unknown encoding: x", 1),
    r"{% for m in messages %}{{ '\ud800' + m.content + eos_token }}{% endfor %}": ("", None),
}


@pytest.mark.parametrize("source", ERRORS)
def test_any_error_in_a_template_is_a_line_that_names_it(source, tmp_path):
    said, line = ERRORS[source]
    told = refusal(tmp_path, *PAIRS[:2], chat_template=source)
    assert told.startswith("data.chat_template: ") and said in told and "\n" not in told
    if line is not None:
        assert told.startswith("data.chat_template: chat.jsonl:1: the template fails: ")
        assert told.endswith(f" (line {line} of the template)")


@pytest.mark.parametrize("source", ["{{ a | nothing }}", "{{ " + "(" * 9000 + " }}", "{% if %}"])
def test_any_error_of_reading_a_template_is_a_line(source, tmp_path):
    told = refusal(tmp_path, *PAIRS[:2], chat_template=source)
    assert told.startswith("data.chat_template: ") and "is no Jinja: " in told


def test_a_date_that_a_template_writes_is_told(tmp_path):
    template = "{{ strftime_now('%Y') }}" + CALLS
    found, (warning,) = learnt(tmp_path, PAIRS[0], chat_template=template)
    assert found == [f"It is 0.{END}"]
    assert warning.startswith("data.chat_template writes the date, here 2")
