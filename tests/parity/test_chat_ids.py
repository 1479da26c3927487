"""A conversation has the ids of `apply_chat_template` of transformers, whatever its tokenizer."""

import pytest
import transformers

from data.codecs.chat import ChatEncoder
from tests.data.test_chat_tokens import END, KINDS, START, TEMPLATES, conversations, load


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_conversations_and_prompts_have_their_ids(kind, template, tmp_path):
    ours, _ = load(kind, tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token=START, eos_token=END
    )
    source = TEMPLATES[template]
    encoder = ChatEncoder(ours, source)
    for messages in conversations(20):
        (one,) = encoder.encode_many([messages])
        ids = theirs.apply_chat_template(messages, chat_template=source)["input_ids"]
        count = len(one.ids) - (template == "plain")  # we end it with a separator
        assert one.ids[:count].tolist() == ids[:count]
        text = theirs.decode(ids[count:])
        assert not text.strip()  # the end of the last message, which is not learnt
        prompt = theirs.apply_chat_template(
            messages[:1], chat_template=source, add_generation_prompt=True
        )["input_ids"]
        assert encoder.encode_opening(messages[:1]).tolist() == prompt


def test_calls_tools_and_reasoning_are_written_as_they_write_them(tmp_path):
    ours, _ = load("gpt2", tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token=START, eos_token=END
    )
    source = (
        "{{ tools | tojson }}{% for m in messages %}{{ bos_token }}{{ m.role }}\n"
        "{{ m.thinking }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{{ eos_token }}"
        "{% endfor %}{{ bos_token + 'assistant\n' if add_generation_prompt }}"
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}
    messages = [
        {"role": "user", "content": "3?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning": "So."},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "15."},
    ]
    encoder = ChatEncoder(ours, source)
    (one,) = encoder.encode_rendered([encoder.template.conversation(messages, {"tools": tools})])
    ids = theirs.apply_chat_template(messages, tools=tools, chat_template=source)["input_ids"]
    assert one.ids.tolist() == ids
