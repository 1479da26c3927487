"""Writes the card of an exported model: README.md with the fields that a hub of models reads."""

import json
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from interop.formats.source import Source
from model.architectures import parameter_count

PIPELINES = {
    "next_tokens": "text-generation",
    "missing_tokens": "fill-mask",
    "target_tokens": "translation",
    "pictures": "image-classification",
    "labelled_text": "text-classification",
}
"""The task of transformers for each output of ours; for classes, by the modality of the data."""

AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "translation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
}


def pipeline_of(source: Source) -> str:
    """Return the task of transformers, the argument of `pipeline`."""
    output = source.config.task.model_output
    return PIPELINES[source.config.data.modality if output == "classes" else output]


def model_card(source: Source, class_name: str) -> str:
    """Return the text of README.md. class_name: the class of transformers."""
    restored, config = source.restored, source.config
    task, manifest = pipeline_of(source), restored.manifest
    data: Any = config.data.model_dump(mode="json")
    trained_on = {
        name: value
        for name, value in flatten_dict(data, sep=".").items()
        if value not in (None, (), []) and name not in _NOT_SHOWN
    }
    figures = {name: value for name, value in source.metrics.items() if name != "step"}
    versions = {"jax": jax.__version__, **manifest.get("versions", {})}
    is_adapter = source.lora == "adapter"
    use = _USE_ADAPTER if is_adapter else _USE_TRANSLATION if task == "translation" else _USE
    use = use.format(task=json.dumps(task), auto_class=AUTO_CLASSES[task])
    what = "An adapter for a" if is_adapter else "A"
    return f"""---
library_name: {"peft" if is_adapter else "transformers"}
pipeline_tag: {task}
tags: [triform, {config.model.architecture}]
---

# {what} {class_name} of {parameter_count(source.merged.params):,} parameters

Trained with Triform for {restored.step:,} steps, for the task `{config.task.name}`.

{use}

## Figures

Of the validation data, after step {restored.step:,}:

| | |
|---|---|
{_rows(figures)}

## Data

| | |
|---|---|
{_rows(trained_on)}

## How it was made

```
{source.command}
```

| | |
|---|---|
{_rows(versions)}
"""


_USE = """```python
from transformers import pipeline

model = pipeline({task}, "path/of/this/folder")
```

`{auto_class}.from_pretrained` loads the model alone. Triform's own commands take the folder with
`--from`; `triform.json` has the whole configuration of the run."""

_USE_ADAPTER = """```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained("path/of/the/base")
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```"""

_USE_TRANSLATION = """```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/of/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = tokenizer(["A text."], padding=True, truncation=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```

Triform's own commands take the folder with `--from`; `triform.json` has the whole configuration of
the run."""
"""Version 5 of transformers has no pipeline that translates."""

_NOT_SHOWN = {"workers", "cache_dir", "chat_template"}


def _rows(values: dict[str, Any]) -> str:
    return (
        "\n".join(f"| {name} | {_text(value)} |" for name, value in values.items()) or "| - | - |"
    )


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
