"""Folders of transformers as models of our own: their task, their data, their tokens."""

import json
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs.errors import UsageError
from data.codecs.chat import for_prompts
from data.codecs.pictures import encode_picture
from inference.loading import load_model
from interop.opening import open_model
from parallel.mesh import flat_mesh
from tests.interop import folders
from tests.interop.foreign import write_tokenizer
from training.trees import flat

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make(path, family, tokenizer=None, **changes):
    """A folder of a family; tokenizer: the name of one in `foreign`."""
    if tokenizer is not None:
        changes["vocab_size"] = write_tokenizer(path, tokenizer)
    folders.make_folder(path, family, **changes)
    return path


def write_json(path, **fields):
    path.write_text(json.dumps(fields))


def restore(path):
    return open_model(path).restore(flat_mesh(jax.devices()[:1]), print)


@pytest.mark.parametrize(
    ("family", "tokenizer", "task", "source"),
    [
        ("llama", "llama3", "language_modeling", "text_files"),
        ("gpt2", "gpt2", "language_modeling", "text_files"),
        ("bert", "bert", "masked_language_modeling", "text_files"),
        ("vit", None, "classification", "image_folder"),
        ("resnet", None, "classification", "image_folder"),
        ("convnextv2", None, "classification", "image_folder"),
    ],
)
def test_a_folder_has_a_whole_configuration(family, tokenizer, task, source, tmp_path):
    opened = open_model(make(tmp_path / "model", family, tokenizer))
    assert opened.is_foreign and opened.name == "model"
    assert opened.config.task.name == task and opened.config.data.source == source
    model = restore(opened.path)
    shapes = flat(model.model_def.abstract_params)
    assert flat(model.params).keys() == shapes.keys()
    if family in folders.PICTURES:
        template = folders.template(opened.config.model.model_dump(), model.model_def.data_spec)
        folders.assert_same(jax.device_get(model.statistics), folders.draw_statistics(template))
        assert model.model_def.data_spec.classes == tuple(f"LABEL_{n}" for n in range(5))
        return
    count = open_model(opened.path).tokenizer.vocabulary_size
    assert model.model_def.data_spec.vocabulary_size == count


def test_the_mask_of_a_masked_model_is_that_of_the_folder(tmp_path):
    path = make(tmp_path / "model", "bert", "bert")
    table = flat(restore(path).params)["embedding.tokens.embedding"]
    tokenizer = open_model(path).tokenizer
    assert len(table) == tokenizer.vocabulary_size + 1
    mask = tokenizer.vocabulary()["[MASK]"]
    np.testing.assert_array_equal(table[-1], table[mask])


def test_tokens_around_texts_and_at_their_ends_are_the_folders(tmp_path):
    path = make(tmp_path / "model", "llama", "llama3")
    tokenizer = open_model(path).tokenizer
    ids = tokenizer.vocabulary()
    begin, end = ids["<|begin_of_text|>"], ids["<|end_of_text|>"]
    assert "<|endoftext|>" not in ids
    assert tokenizer.opening.tolist() == tokenizer.document_opening.tolist() == [begin]
    assert (tokenizer.end_id, tokenizer.other_end_ids) == (end, ())
    write_json(path / "generation_config.json", eos_token_id=[begin, end])
    tokenizer = open_model(path).tokenizer
    assert (tokenizer.end_id, tokenizer.other_end_ids) == (end, (begin,))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.end_id, copy.other_end_ids) == (end, (begin,))

    plain = open_model(make(tmp_path / "gpt2", "gpt2", "gpt2")).tokenizer
    assert plain.opening.tolist() == []
    assert plain.document_opening.tolist() == [plain.vocabulary()["<|endoftext|>"]]

    (path / "generation_config.json").unlink()
    write_json(path / "tokenizer_config.json")
    with pytest.raises(UsageError, match="does not say which token ends a text"):
        open_model(path)


def test_any_of_the_ends_ends_a_text(tmp_path):
    path = make(tmp_path / "model", "llama", "llama3")
    model = load_model(path)
    (free,) = model.predict(prompt=["3"], max_tokens=8, temperature=0)
    request = {"prompt": ["3"], "max_tokens": 8, "temperature": 0, "logprobs": True}
    (scored,) = model.predict(**request)
    third = scored.logprobs[2].token
    assert third not in [one.token for one in scored.logprobs[:2]] and len(free.text)
    content = json.loads((path / "tokenizer.json").read_text())
    token = model.tokenizer.backend.id_to_token(third)
    content["added_tokens"].append(
        content["added_tokens"][0] | {"id": third, "content": token, "special": False}
    )
    (path / "tokenizer.json").write_text(json.dumps(content))
    end = model.tokenizer.end_id
    write_json(path / "generation_config.json", eos_token_id=[end, third])
    (ended,) = load_model(path).predict(prompt=["3"], max_tokens=8, temperature=0)
    assert ended.finish_reason == "stop" and ended.tokens < 8 and free.text.startswith(ended.text)


@pytest.mark.parametrize("where", ["file", "configuration", "list"])
def test_a_chat_template_makes_prompts_messages(where, tmp_path):
    path = make(tmp_path / "model", "llama", "llama3")
    if where == "file":
        (path / "chat_template.jinja").write_text(TEMPLATE)
    else:
        named = [{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATE}]
        config = json.loads((path / "tokenizer_config.json").read_text())
        template = TEMPLATE if where == "configuration" else named
        write_json(path / "tokenizer_config.json", **config, chat_template=template)
    opened = open_model(path)
    assert opened.config.data.source == "conversations"
    tokenizer = for_prompts(opened.tokenizer, opened.config.data)
    assert tokenizer.decode(tokenizer.encode("Hi")) == (
        "<|begin_of_text|><user>Hi<|end_of_text|><assistant>"
    )
    assert tokenizer.end_id == tokenizer.vocabulary()["<|end_of_text|>"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_weights_are_read_as_float32_on_a_cpu(dtype, tmp_path):
    path = make(tmp_path / "model", "llama", "llama3")
    file = path / "model.safetensors"
    tensors = {name: tensor.astype(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    params = flat(restore(path).params)
    assert {str(array.dtype) for array in params.values()} == {"float32"}
    norm = tensors["model.norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["backbone.norm.scale"], norm)


def test_a_table_with_more_rows_than_tokens_is_cut(tmp_path):
    count = write_tokenizer(tmp_path / "model", "llama3")
    path = make(tmp_path / "model", "llama", vocab_size=count + 5)
    params = flat(restore(path).params)
    assert len(params["embedding.tokens.embedding"]) == count


def test_a_long_context_is_not_served_as_a_whole(tmp_path):
    path = make(tmp_path / "model", "llama", "llama3", max_position_embeddings=131072)
    opened = open_model(path)
    assert opened.config.data.sequence_length == 131072
    assert opened.config.serve.max_context == 4096
    model = load_model(path)
    assert model.default_predictor.context == 131072
    assert model.with_context(64).default_predictor.context == 64
    assert open_model(path, {"serve.max_context": "9"}).config.serve.max_context == 9


def test_classes_have_the_folders_names(tmp_path):
    labels = {"0": "bad", "1": "good", "2": "neither"}
    path = make(tmp_path / "model", "bert", "bert", num_classes=3, id2label=labels)
    opened = open_model(path)
    assert (opened.config.task.name, opened.config.data.source) == ("classification", "table")
    (answer,) = load_model(path).predict(prompt=["3 times"])
    assert answer.label in labels.values() and set(answer.scores) == set(labels.values())


def test_the_part_of_a_picture_that_is_seen_is_the_folders(tmp_path):
    path = make(tmp_path / "model", "vit")
    data = open_model(path).config.data
    assert (data.crop_ratio, data.resize, data.interpolation) == (1.0, "crop", "bicubic")
    write_json(path / "preprocessor_config.json", size=8)
    data = open_model(path).config.data
    assert (data.crop_ratio, data.resize, data.interpolation) == (1.0, "squeeze", "bilinear")
    crop = {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8}}
    write_json(path / "preprocessor_config.json", do_center_crop=True, resample=3, **crop)
    data = open_model(path).config.data
    assert (data.crop_ratio, data.resize, data.interpolation) == (0.8, "crop", "bicubic")


def test_a_picture_is_squeezed_if_the_folder_says_so(tmp_path):
    path = make(tmp_path / "model", "vit")
    write_json(path / "preprocessor_config.json", size=8)
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8] = 255  # Only the left third is white: the middle has nothing of it.
    seen = load_model(path).default_predictor.read(encode_picture(wide))
    assert seen[:, 0].min() > 200 and seen[:, -1].max() == 0
    write_json(path / "preprocessor_config.json", size={"shortest_edge": 8})
    assert not load_model(path).default_predictor.read(encode_picture(wide)).any()


def test_folders_that_can_not_be_used_are_refused(tmp_path):
    path = make(tmp_path / "model", "llama", vocab_size=300)
    with pytest.raises(UsageError, match=r"tokenizer\.json is missing, and the model reads no"):
        open_model(path)
    write_tokenizer(path, "llama3")
    folders.rewrite(path, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(UsageError, match=r"does not fit: the folder lacks model\.norm\.weight"):
        restore(path)
    (path / "chat_template.jinja").write_text("{% if")
    with pytest.raises(UsageError, match=r"the chat template of .*: line 1 is no Jinja"):
        open_model(path)
    (path / "chat_template.jinja").write_text("{{ raise_exception('not now') }}")
    opened = open_model(path)
    tokenizer = for_prompts(opened.tokenizer, opened.config.data)
    with pytest.raises(UsageError, match="is no message of this model: the template fails: not"):
        tokenizer.encode("Hi")
    plain = make(tmp_path / "vit", "vit")
    folders.rewrite(plain, lambda tensors: [tensors.pop(n) for n in list(tensors) if "class" in n])
    with pytest.raises(UsageError, match="holds a vit without a classifier"):
        open_model(plain)
