"""Small models of conversations for tests, trained for a step."""

import contextlib
import io
import json
from pathlib import Path

import train

TEMPLATE = r"""
{%- if tools -%}
system:{{ '\n' }}
{%- for tool in tools %}{{ tool.function.name }}: {{ tool.function.parameters | tojson }}
{%- endfor %}{{ '\n\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in ('system', 'user', 'assistant', 'tool') -%}
{{ raise_exception('there is no role ' ~ message.role) }}
{%- endif -%}
{{ '' if loop.first else '\n\n' }}{{ message.role }}:{{ '\n' }}{{ message.content }}
{%- for call in message.tool_calls or () -%}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor -%}
{{- eos_token if message.role == 'assistant' }}
{%- endfor -%}
{{ '\n\nassistant:\n' if add_generation_prompt }}"""
"""A template that reads tools and calls."""

FIELDS = {
    "model.width": "16",
    "model.depth": "1",
    "data.sequence_length": "255",
    "data.global_batch_size": "8",
    "data.tokenizer.kind": "characters",
    "mesh.data": "1",
    "train.steps": "1",
    "train.lora.rank": "none",
    "task.sample_prompts": "()",
}


def train_chat(workdir: Path, path: Path, template: str | None) -> Path:
    """Train a model of characters on a conversation with all printable ones; return `workdir`.

    path: where the conversation is written.
    """
    printable = "".join(map(chr, range(0x20, 0x7F)))
    answers = [f"{n} is {'even' if n % 2 == 0 else 'odd'}.\n" for n in range(8)]
    records = [{"prompt": printable, "answer": one} for one in answers]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    fields = FIELDS | {"data.path": str(path)}
    if template is not None:
        fields["data.chat_template"] = template
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = train.main(["--config=configs/finetune_chat.py", f"--workdir={workdir}", *flags])
    assert status == 0
    return workdir
