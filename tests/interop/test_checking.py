"""A recipe beside a folder: what the folder needs, what differs, and what can't be had."""

import re

import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from interop.checking import check_image_shape, check_recipe
from interop.families import describe
from tests.interop import folders

RECIPES = {
    "gpt2": "base.language_modeling()",
    "llama": "base.language_modeling()",
    "bert": "base.language_modeling(architecture='encoder', task='masked_language_modeling')",
    "bert of classes": "base.text_classification()",
    "vit": "base.image_classification(architecture='vit')",
    "resnet": "base.image_classification(architecture='resnet')",
    "convnext": "base.image_classification(architecture='convnext')",
}


def recipe_for(tmp_path, name):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from configs import base\ndef get_config():\n    return {RECIPES[name]}\n")
    return recipe


def make(tmp_path, family, **changes):
    folder, _ = folders.make_folder(tmp_path / "folder", family, **changes)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def refusal(folder, config) -> str:
    with pytest.raises(UsageError) as caught:
        check_recipe(folder, config)
    return str(caught.value)


def flags_of(message: str) -> dict[str, str]:
    return dict(re.findall(r"--config\.([\w.]+)=(\S+)", message))


def fitting(tmp_path, folder, name, **fields):
    """A recipe to which the folder fits, but for some fields."""
    recipe = recipe_for(tmp_path, name)
    flags = flags_of(refusal(folder, load_config(recipe, inputs=False)))
    fields = {name.replace("__", "."): value for name, value in fields.items()}
    return load_config(recipe, flags | fields, inputs=False)


WIDTHS = {
    "resnet": ("model.width is 64", "model.width", "4"),
    "convnext": ("model.channels is 96,192,384,768", "model.channels", "4,8"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_flags_of_the_refusal_are_those_that_make_a_recipe_fit(tmp_path, name):
    family, _, classes = name.partition(" of ")
    folder = make(tmp_path, family, **{"num_classes": 3} if classes else {})
    recipe = recipe_for(tmp_path, name)
    message = refusal(folder, load_config(recipe, inputs=False))
    assert message.startswith(f"train.initialize_from={folder} holds a {family}, which this recipe")
    width = WIDTHS.get(family, ("model.width is 128", "model.width", "24"))
    assert width[0] in message
    flags = flags_of(message)
    assert flags[width[1]] == width[2]
    assert flags.get("data.tokenizer.path") == (
        None if family in folders.PICTURES else str(folder / "tokenizer.json")
    )
    config = load_config(recipe, flags, inputs=False)
    check_recipe(folder, config)
    given = config.model.model_dump()
    needed = describe(folder).settings
    assert given | needed == given or classes


def test_another_architecture_is_told_with_all_it_needs(tmp_path):
    folder = make(tmp_path, "gpt2")
    config = load_config("configs/text_lstm.py", inputs=False)
    message = refusal(folder, config)
    assert "model.architecture is rnn" in message
    assert "--config.model.architecture=decoder --config.model.pattern=A" in message
    assert "--config.model.norm_placement=pre" in message


USES = {
    "a task": ("gpt2", "bert", "gives next tokens or classes, but .*missing tokens of text"),
    "pictures": ("vit", "gpt2", "reads pictures and gives classes, but .* next tokens of text"),
}


@pytest.mark.parametrize("name", USES)
def test_what_a_model_can_not_do_is_told(tmp_path, name):
    family, recipe, message = USES[name]
    config = load_config(recipe_for(tmp_path, recipe), inputs=False)
    assert re.search(message, refusal(make(tmp_path, family), config))


def test_defaults_written_out_do_not_differ(tmp_path):
    folder = make(tmp_path, "gpt2")
    written = {"feed_forward_width": "96", "num_kv_heads": "2", "head_dim": "12", "pattern": "AA"}
    free = {"dropout": "0.1", "remat": "full", "attention": "xla"}
    fields = {f"model__{name}": value for name, value in (written | free).items()}
    check_recipe(folder, fitting(tmp_path, folder, "gpt2", **fields))
    message = refusal(folder, fitting(tmp_path, folder, "gpt2", model__attention_window="4"))
    assert message.endswith(
        "model.attention_window is 4; give --config.model.attention_window=none"
    )


def test_what_reads_tokens_out_is_free_for_a_classifier(tmp_path):
    folder = make(tmp_path, "bert")
    free = {"model__head_transform": "false", "model__tied_embeddings": "false"}
    check_recipe(folder, fitting(tmp_path, folder, "bert of classes", model__pooling="max"))
    assert "head_transform is false" in refusal(folder, fitting(tmp_path, folder, "bert", **free))


FIELDS = {
    "positions": ("bert", {"data__sequence_length": "17"}, "give --config.data.sequence_length=16"),
    "pictures": ("vit", {"data__image_size": "16"}, "give --config.data.image_size=8"),
    "a step": (
        "gpt2",
        {
            "train__initialize_from": "a",
            "train__initialize_step": "3",
            "data__sequence_length": "9",
        },
        "initialize_step is for workdirs",
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_other_fields_are_told_what_to_set(tmp_path, name):
    family, fields, message = FIELDS[name]
    folder = make(tmp_path, family)
    assert message in refusal(folder, fitting(tmp_path, folder, family, **fields))


def test_a_tokenizer_that_is_missing_is_named(tmp_path):
    folder = make(tmp_path, "gpt2")
    (folder / "tokenizer.json").unlink()
    config = load_config(recipe_for(tmp_path, "gpt2"), inputs=False)
    assert refusal(folder, config).startswith(f"{folder}/tokenizer.json is missing, and the model")
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid\n")
    assert f"{folder}/tokenizer.json is a pointer of Git LFS" in refusal(folder, config)


def test_pictures_of_another_shape_are_told_what_to_set(tmp_path):
    folder = make(tmp_path, "vit")
    with pytest.raises(UsageError, match=r"of 8 x 8 x 3, but .* 8 x 8 x 1: .*data\.channels=3"):
        check_image_shape(folder, (8, 8, 1))
    check_image_shape(folder, [8, 8, 3])
    resnet = make(tmp_path / "resnet", "resnet")
    check_image_shape(resnet, [8, 8, 3])
    with pytest.raises(UsageError, match=r"of 8 x 8 x 3, but .* 8 x 8 x 1: .*data\.channels=3"):
        check_image_shape(resnet, (8, 8, 1))
    oblong = make(tmp_path / "oblong", "vit", image_size=[8, 16])
    config = load_config(recipe_for(tmp_path, "vit"), inputs=False)
    assert "of pictures of 8 x 16, and here they are square" in refusal(oblong, config)


BEYOND = {
    "family": ("gpt2", {"model_type": "t5"}, "model_type=t5 is no family.*llama, mistral, .*, vit"),
    "quantized": ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
    "activation": ("gpt2", {"activation_function": "swish"}, "activation_function=.*must be .gelu"),
    "scores by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "inverse_layer_idx=true",
    ),
    "cross-attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention=true"),
    "some biases": ("llama", {"attention_bias": True}, "mlp_bias=.*as attention_bias says"),
    "another gate": ("llama", {"hidden_act": "gelu"}, "hidden_act=.*must be .silu"),
    "stretched": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4}},
        "rope_scaling.rope_type=.yarn. .*must be .default. or .llama3",
    ),
    "stretched by halves": (
        "llama",
        {"rope_scaling": {"rope_type": "llama3"}},
        "it has no rope_scaling.factor",
    ),
    "stretched beside null": (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4}},
        "rope_scaling.type=.yarn.",
    ),
    "part of each head": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 "),
    "part of each head, in a section": (
        "qwen2",
        {"rope_parameters": {"partial_rotary_factor": 0.25}},
        "rope_parameters.partial_rotary_factor=0.25 ",
    ),
    "a base for each type of layer": (
        "ministral",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
        "rope_parameters=.*it has full_attention, and only rope_theta, .* are known",
    ),
    "an unknown rotary field": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}},
        "rope_parameters=.*it has mrope_section",
    ),
    "biases of all heads": ("qwen3", {"attention_bias": True}, "attention_bias=true can't be had"),
    "windows in chunks": (
        "qwen2",
        {"layer_types": ["chunked_attention"] * 3},
        "layer_types=.*it must be 3 of full_attention or sliding_attention",
    ),
    "layers without a type": ("ministral", {"layer_types": []}, "layer_types=.*must be 3 of"),
    "a limit that is none": ("qwen2", {"max_window_layers": "all"}, "must be an integer"),
    "biases without a head": ("eurobert", {"mlp_bias": True}, "mlp_bias=true can't be had"),
    "a section": (
        "siglip",
        {"vision_config": {"hidden_act": "silu"}},
        "vision_config.hidden_act=.*must be .gelu",
    ),
    "relative positions": (
        "bert",
        {"position_embedding_type": "relative_key"},
        "must be .absolute",
    ),
    "a decoder": ("bert", {"is_decoder": True}, "is_decoder=true can't be had here"),
    "biases of some": ("vit", {"qkv_bias": False}, "qkv_bias=false can't be had"),
    "oblong patches": ("vit", {"patch_size": [4, 2]}, "patches are as high as wide"),
    "another number of layers": ("resnet", {"depths": [2, 2]}, r"depths=\[2, 2\].*\(basic\)"),
    "other channels": ("resnet", {"hidden_sizes": [4, 4, 8, 8]}, r"hidden_sizes=.*\[4, 8, 16, 32"),
    "a stage more of strides": (
        "resnet",
        {"downsample_in_first_stage": True},
        "downsample_in_first_stage=true",
    ),
    "strides first": ("resnet", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck="),
    "no layer scale": ("convnext", {"layer_scale_init_value": 0}, "layer_scale_init_value=0 "),
    "a missing stage": ("convnext", {"num_stages": 3}, "num_stages=3 can't be had here"),
    "an odd side": ("convnextv2", {"image_size": 10}, "image_size=10 .*multiples of 4"),
    "no width": ("vit", {"hidden_size": None}, "hidden_size=null is not an integer >= 1"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_field_that_cannot_be_had_is_named_with_its_file(tmp_path, name):
    family, changes, message = BEYOND[name]
    folder = folders.write_config(tmp_path, folders.FAMILIES[family], **changes)
    with pytest.raises(UsageError, match=f"config.json.*{message}"):
        describe(folder)


def test_a_field_that_is_missing_is_named(tmp_path):
    config = {name: folders.LLAMA[name] for name in folders.LLAMA if name != "hidden_size"}
    with pytest.raises(UsageError, match=r"config\.json is damaged: it has no hidden_size"):
        describe(folders.write_config(tmp_path, config))


@pytest.mark.parametrize(
    "written",
    [
        {"rope_theta": 7e4, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
        {"rope_parameters": {"rope_theta": 7e4, "rope_type": "llama3", "factor": 8}},
        {"rope_theta": 7e4, "rope_scaling": {"type": "llama3", "factor": 8}},
        {
            "rope_scaling": {"rope_theta": 7e4, "rope_type": "llama3", "factor": 8},
            "rope_parameters": None,
        },
    ],
    ids=["beside each other", "together", "an old name", "beside null"],
)
def test_rotary_positions_are_read_as_any_version_writes_them(tmp_path, written):
    section = next(one for one in written.values() if isinstance(one, dict))
    section |= {"low_freq_factor": 1, "high_freq_factor": 4}
    section |= {"original_max_position_embeddings": 8192}
    config = {name: folders.LLAMA[name] for name in folders.LLAMA if name != "rope_theta"}
    settings = describe(folders.write_config(tmp_path, config, **written)).settings
    assert settings["rotary_base"] == 70000.0
    assert settings["rotary_scaling"] == (8.0, 1.0, 4.0, 8192.0)


SCALED = {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("written", "base", "scaling"),
    [
        ({"rope_scaling": SCALED, "rope_parameters": {"rope_theta": 5.0}}, 1e4, (8, 1, 4, 64)),
        ({"rope_scaling": SCALED, "rope_parameters": SCALED | {"factor": 2}}, 1e4, (8, 1, 4, 64)),
        (
            {"rope_scaling": SCALED, "rope_parameters": {"rope_type": "yarn"}, "rope_theta": 7.0},
            7.0,
            (8, 1, 4, 64),
        ),
        ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 5.0}}, 5.0, None),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0}, 5.0, None),
        ({"rope_parameters": SCALED, "rope_theta": 7.0}, 7.0, (8, 1, 4, 64)),
        (
            {"rope_scaling": {"rope_type": "default", "type": "llama3", "factor": 8}},
            1e4,
            None,
        ),
        (
            {
                "rope_scaling": {k: v for k, v in SCALED.items() if k[0] != "o"},
                "max_position_embeddings": 32,
            },
            1e4,
            (8, 1, 4, 32),
        ),
    ],
)
def test_of_two_rotary_sections_the_one_counts_that_counts_in_transformers(
    tmp_path, written, base, scaling
):
    config = {name: folders.LLAMA[name] for name in folders.LLAMA if name != "rope_theta"}
    settings = describe(folders.write_config(tmp_path, config, **written)).settings
    assert (settings["rotary_base"], settings["rotary_scaling"]) == (base, scaling)
