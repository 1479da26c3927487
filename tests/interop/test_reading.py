"""Parameters from a folder and back: nothing lost, nothing left over in silence."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.data_spec import DataSpec
from configs.errors import UsageError
from interop import converting
from interop.converting import to_tensors
from interop.families import describe
from tests.interop import folders


def read(folder, **how):
    """Parameters of the model that the folder describes, or of one that differs in something."""
    return weights(folder, **how).params


def weights(folder, *, scanned=False, sizes=None, settings=None, **how):
    found = describe(folder)
    of_model = folders.template(
        found.settings | (settings or {}),
        replace(found.data_spec, **(sizes or {})),
        **({"scan_layers": True} if scanned else {}),
    )
    shapes = (folders.shapes(of_model), folders.statistics(of_model))
    return converting.read_weights(folder, *shapes, scanned=scanned, **how)


@pytest.mark.parametrize("family", folders.FAMILIES)
def test_what_was_written_is_read(tmp_path, family):
    folder, params = folders.make_folder(tmp_path, family)
    folders.assert_same(read(folder), params)


VARIANTS = {
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "bert of classes": ("bert", {"num_classes": 3}),
    "bert untied": ("bert", {"tie_word_embeddings": False}),
    "vit of one colour, wide": ("vit", {"num_channels": 1, "image_size": [8, 16]}),
    "resnet with bottlenecks": (
        "resnet",
        {"layer_type": "bottleneck", "hidden_sizes": [16, 32, 64, 128]},
    ),
    "resnet of one colour, deeper": ("resnet", {"num_channels": 1, "depths": [3, 4, 6, 3]}),
    "convnext of three stages": (
        "convnext",
        {"num_stages": 3, "depths": [2, 1, 3], "hidden_sizes": [4, 4, 8]},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_read(tmp_path, name):
    family, changes = VARIANTS[name]
    folder, params = folders.make_folder(tmp_path, family, **changes)
    folders.assert_same(read(folder), params)


@pytest.mark.parametrize("family", folders.STACKS)
def test_scanned_layers_are_stacks_of_the_same_numbers(tmp_path, family):
    folder, params = folders.make_folder(tmp_path, family)
    scanned = read(folder, scanned=True)
    one_by_one = params["backbone"]["layers"]
    stacked = jax.tree.map(lambda *layers: np.stack(layers), *one_by_one.values())
    folders.assert_same(scanned["backbone"]["layers"], {"0": stacked})
    tensors = to_tensors(family, scanned, scanned=True)
    folders.assert_same(tensors, load_file(folder / "model.safetensors"))


def test_scanned_layers_of_a_longer_pattern_are_in_their_order(tmp_path):
    folder, params = folders.make_folder(tmp_path, "bert", num_hidden_layers=4)
    scanned = read(folder, scanned=True, settings={"pattern": "AA"})
    bias = scanned["backbone"]["layers"]["1"]["mixer"]["query"]["bias"]
    for period, layer in enumerate("13"):
        expected = params["backbone"]["layers"][layer]["mixer"]["query"]["bias"]
        np.testing.assert_array_equal(bias[period], expected)


def renamed(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


RENAMED = {
    "gpt2": ("transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_attn.wait"),
    "llama": ("model.layers.2.mlp.gate_proj.weight", "model.layers.2.mlp.door_proj.weight"),
    "bert": ("cls.predictions.transform.dense.bias", "cls.predictions.transform.tense.bias"),
    "vit": ("vit.embeddings.cls_token", "vit.embeddings.class_token"),
    "resnet": (
        "resnet.encoder.stages.2.layers.0.layer.1.normalization.running_var",
        "resnet.encoder.stages.2.layers.0.layer.1.normalization.running_variance",
    ),
    "convnext": (
        "convnext.encoder.stages.1.downsampling_layer.0.weight",
        "convnext.encoder.stages.1.downsampling_layer.0.wait",
    ),
    "convnextv2": (
        "convnextv2.encoder.stages.1.layers.1.grn.weight",
        "convnextv2.encoder.stages.1.layers.1.grn.scale",
    ),
}


@pytest.mark.parametrize("family", RENAMED)
def test_a_renamed_weight_is_refused_under_both_names(tmp_path, family):
    folder, _ = folders.make_folder(tmp_path, family)
    old, new = RENAMED[family]
    folders.rewrite(folder, renamed(old, new))
    with pytest.raises(UsageError) as refusal:
        read(folder)
    assert f"lacks {old}; it has {new}, for which" in str(refusal.value)


def test_parameters_of_ours_that_a_family_does_not_know_are_refused(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "llama")
    with pytest.raises(UsageError, match=r"has nothing for .*layers\.0\.mixer\.input_kernel"):
        read(folder, settings={"pattern": "RA", "depth": 3})
    mixed = folders.template(
        describe(folder).settings | {"pattern": "C"}, DataSpec(vocabulary_size=9)
    )
    with pytest.raises(UsageError, match="llama has nothing like backbone"):
        to_tensors("llama", folders.draw(mixed), scanned=False)


def test_a_shape_that_differs_is_named_with_both(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "vit")
    with pytest.raises(UsageError, match=r"intermediate\.dense\.weight is \[40, 24\].*\[44, 24\]"):
        read(folder, settings={"feed_forward_width": 44})


@pytest.mark.parametrize(
    ("family", "buffers"),
    [
        ("gpt2", {"transformer.h.0.attn.bias": (1, 1, 16, 16), "h.1.attn.masked_bias": ()}),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": (3,)}),
        ("bert", {"bert.embeddings.position_ids": (1, 16), "cls.seq_relationship.bias": (2,)}),
        ("bert", {"bert.pooler.dense.weight": (24, 24), "bert.pooler.dense.bias": (24,)}),
        ("vit", {"vit.pooler.dense.bias": (24,)}),
        ("resnet", {"resnet.embedder.embedder.normalization.num_batches_tracked": ()}),
    ],
)
def test_what_is_no_part_of_the_model_is_passed_over(tmp_path, family, buffers):
    folder, params = folders.make_folder(tmp_path, family)
    more = {name: np.ones(shape, np.float32) for name, shape in buffers.items()}
    folders.rewrite(folder, lambda tensors: tensors.update(more))
    folders.assert_same(read(folder), params)


def test_a_tied_head_may_be_there_twice_but_not_as_another(tmp_path):
    folder, params = folders.make_folder(tmp_path, "gpt2")
    table = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    folders.rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": table}))
    folders.assert_same(read(folder), params)
    folders.rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": table + 1}))
    with pytest.raises(
        UsageError, match=r"lm_head\.weight, which is not the same as .*wte\.weight"
    ):
        read(folder)


def test_files_of_the_body_alone_and_of_old_names_are_read(tmp_path):
    folder, params = folders.make_folder(tmp_path / "gpt2", "gpt2")
    folders.rewrite(folder, lambda tensors: strip(tensors, "transformer."))
    folders.assert_same(read(folder), params)
    folder, params = folders.make_folder(tmp_path / "bert", "bert")
    old = "bert.encoder.layer.1.output.LayerNorm"
    folders.rewrite(folder, renamed(f"{old}.weight", f"{old}.gamma"))
    folders.rewrite(folder, renamed(f"{old}.bias", f"{old}.beta"))
    folders.assert_same(read(folder), params)


def test_a_tensor_that_is_there_under_two_names_is_refused(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "gpt2")
    more = {"ln_f.weight": np.ones(24, np.float32)}
    folders.rewrite(folder, lambda tensors: tensors.update(more))
    with pytest.raises(UsageError, match=r"it has (transformer\.)?ln_f\.weight, for which"):
        read(folder)


def strip(tensors, prefix):
    for name in list(tensors):
        tensors[name.removeprefix(prefix)] = tensors.pop(name)


def test_fewer_positions_are_the_first_and_more_are_refused(tmp_path):
    folder, params = folders.make_folder(tmp_path, "gpt2")
    found = weights(folder, sizes={"max_length": 5})
    assert found.messages == ("of its 16 positions the first 5 are taken",)
    table = found.params["positions"]["table"]["embedding"]
    np.testing.assert_array_equal(table, params["positions"]["table"]["embedding"][:5])
    with pytest.raises(UsageError, match=r"wpe\.weight is \[16, 24\], but must be \[17, 24\]"):
        read(folder, sizes={"max_length": 17})


def test_more_tokens_begin_as_others_or_as_the_mean_and_fewer_are_the_first(tmp_path):
    folder, params = folders.make_folder(tmp_path, "bert")
    one = weights(folder, sizes={"vocabulary_size": 21}, tokens_like={20: 3})
    assert one.messages == (
        "token 20 begins as its token 3; 1 more tokens begin as the mean of all",
    )
    found, theirs = one.params, params["embedding"]["tokens"]["embedding"]
    ours = found["embedding"]["tokens"]["embedding"]
    np.testing.assert_array_equal(ours[:19], theirs)
    np.testing.assert_allclose(ours[19], theirs.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(ours[20], theirs[3])
    assert found["head_transform"]["bias"][20] == params["head_transform"]["bias"][3]
    one = weights(folder, sizes={"vocabulary_size": 18}, tokens_like={17: 3})
    assert one.messages == (
        "of its 19 tokens the first 18 are taken; token 17 begins as its token 3",
    )
    np.testing.assert_array_equal(
        one.params["embedding"]["tokens"]["embedding"], theirs[[*range(17), 3]]
    )


HEADS = {
    "gpt2": (),
    "llama": ("left aside: lm_head.weight",),
    "bert": (
        "left aside: cls.predictions.bias, cls.predictions.transform.LayerNorm.bias, "
        "cls.predictions.transform.LayerNorm.weight, cls.predictions.transform.dense.bias "
        "and 1 more",
    ),
}


@pytest.mark.parametrize("family", HEADS)
def test_the_body_alone_serves_a_classifier(tmp_path, family):
    folder, params = folders.make_folder(tmp_path, family)
    classes = {"sizes": {"num_classes": 3}, "settings": {"pooling": "attention"}}
    with pytest.raises(UsageError, match=r"for which this model has no place|nothing for|lacks"):
        read(folder, **classes)
    one = weights(folder, body_only=True, **classes)
    found, notes = one.params, one.messages
    assert tuple(note for note in notes if "positions" not in note) == HEADS[family]
    assert found.keys() == params.keys() - {"head_transform"}
    folders.assert_same(found["backbone"], params["backbone"])
    assert found["embedding"].keys() == {"tokens"}


def test_the_body_alone_brings_what_a_classifier_pools_with_where_it_is_there(tmp_path):
    folder, params = folders.make_folder(tmp_path, "bert", num_classes=3)
    found = read(folder, sizes={"num_classes": 7}, body_only=True)
    folders.assert_same(found, {name: params[name] for name in params if name != "classes"})


def test_another_number_of_classes_needs_the_body_alone(tmp_path):
    folder, params = folders.make_folder(tmp_path, "vit", num_classes=5)
    with pytest.raises(UsageError, match=r"classifier\.\w+ is \[5"):
        read(folder, sizes={"num_classes": 7})
    found = read(folder, sizes={"num_classes": 7}, body_only=True)
    folders.assert_same(found, {name: params[name] for name in params if name != "classes"})
