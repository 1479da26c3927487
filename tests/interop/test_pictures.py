"""Folders of models of pictures: their pixels, their sizes, their batch statistics, and back."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from interop.converting import read_weights, to_tensors
from interop.families import FAMILIES, describe
from interop.fields import Unsupported
from interop.formats import huggingface
from interop.formats.adapter import adapter_tensors, write_adapter
from interop.formats.hub_pictures import preprocessor
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.interop import folders
from training.model_def import build_model_def
from training.restore import Restored

DIGITS = DataSpec(num_classes=10, image_shape=(8, 8, 1))
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def described(tmp_path, family="resnet", preprocessor=None, **changes):
    folder = folders.write_config(tmp_path, folders.FAMILIES[family], **changes)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return describe(folder)


def full_settings(settings):
    kind = next(one for one in ARCHITECTURES if kind_name(one) == settings["architecture"])
    return kind(**settings).model_dump()


PIXELS = {
    "ImageNet's": (IMAGENET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "ours": (HALF | {"rescale_factor": 0.00392156862745098}, (0.5,), (0.5,)),
    "one number": ({"image_mean": 0.25, "image_std": [0.5]}, (0.25,), (0.5,)),
    "none": ({"do_normalize": False}, (0.0,), (1.0,)),
    "none, beside numbers": (IMAGENET | {"do_normalize": False}, (0.0,), (1.0,)),
    "the default": ({"do_normalize": None, "image_mean": None}, (0.5,), (0.5,)),
    "CLIP's": (
        {"image_processor_type": "CLIPImageProcessor"},
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}


@pytest.mark.parametrize("family", folders.PICTURES)
@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_standardised_as_the_folder_says(tmp_path, family, name):
    preprocessor, mean, std = PIXELS[name]
    settings = described(tmp_path, family, preprocessor).settings
    assert (settings["pixel_mean"], settings["pixel_std"]) == (mean, std)
    full_settings(settings)  # valid values


def test_a_folder_that_says_nothing_of_pixels_leaves_them_to_the_recipe(tmp_path):
    assert "pixel_mean" not in described(tmp_path).settings


@pytest.mark.parametrize(
    "preprocessor",
    [
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.1, 0.2]},
        {"do_resize": False},
        {"resample": 9},
        {"crop_pct": 2},
        {"size": {"longest_edge": 32}},
        {"size": {"height": 32, "width": 32}},
        {"image_processor_type": "BeitImageProcessor"},
    ],
    ids=lambda fields: "-".join(map(str, *fields.items())),
)
def test_pixels_that_cannot_be_had_are_refused_by_field(tmp_path, preprocessor):
    (name,) = preprocessor
    with pytest.raises(UsageError, match=rf"preprocessor_config\.json: {name}=.* can't be had"):
        described(tmp_path, preprocessor=IMAGENET | preprocessor)


VIEWS = {
    "ViT's default": ("vit", {"size": 8}, (1.0, "squeeze", "bilinear")),
    "as written": (
        "vit",
        {"size": {"height": 8, "width": 8}, "resample": 3, "do_center_crop": False},
        (1.0, "squeeze", "bicubic"),
    ),
    "an old name": (
        "vit",
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 8},
        (1.0, "squeeze", "bilinear"),
    ),
    "DeiT's": (
        "vit",
        {"image_processor_type": "DeiTImageProcessor", "size": 10, "crop_size": 8},
        (0.8, "squeeze", "bicubic"),
    ),
    "the middle": (
        "vit",
        {"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": 8},
        (0.8, "crop", "bilinear"),
    ),
    "SigLIP's": ("siglip", {"size": {"height": 8, "width": 8}}, (1.0, "squeeze", "bicubic")),
    "ConvNeXt's default": ("convnext", {"size": 224}, (0.875, "crop", "bicubic")),
    "a part": (
        "resnet",
        {"size": 224, "crop_pct": 0.95, "resample": 2},
        (224 / 235, "crop", "bilinear"),
    ),
    "the whole from 384 on": ("convnextv2", {"size": 384}, (1.0, "squeeze", "bicubic")),
    "CLIP's": (
        "resnet",
        {"image_processor_type": "CLIPImageProcessorFast", "size": 256, "crop_size": 224},
        (0.875, "crop", "bicubic"),
    ),
    "no file": ("vit", None, None),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_picture_is_seen_as_the_folder_says(tmp_path, name):
    family, preprocessor, view = VIEWS[name]
    found = described(tmp_path, family, preprocessor).preparation
    names = ("crop_ratio", "resize", "interpolation")
    assert found == ({} if view is None else dict(zip(names, view, strict=True)))


UNSEEN = {
    "another size than the model's": ("vit", {"size": 16}, "size=16 .* makes 16 x 16 of pictures"),
    "another crop": (
        "siglip",
        {"size": {"height": 9, "width": 9}, "do_center_crop": True, "crop_size": 7},
        "crop_size=7 .* the model has 8 x 8",
    ),
    "a crop with a frame": (
        "vit",
        {"size": {"shortest_edge": 4}, "do_center_crop": True, "crop_size": 8},
        "crop_size=8 .* a part of size, which is 4 x 4",
    ),
    "any shape": (
        "resnet",
        {"image_processor_type": "BitImageProcessor", "do_center_crop": False, "size": 32},
        "do_center_crop=false .* must be true",
    ),
    "a field that nobody knows": ("vit", {"do_flip": True}, "do_flip=true: not known here"),
    "a field of another processor": ("vit", {"crop_pct": 0.9}, r"crop_pct=0\.9: not known here"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_picture_that_cannot_be_seen_so_is_refused_by_field(tmp_path, name):
    family, preprocessor, message = UNSEEN[name]
    with pytest.raises(UsageError, match=rf"preprocessor_config\.json: {message}"):
        described(tmp_path, family, preprocessor)


def test_how_pictures_are_seen_is_written_back(tmp_path):
    fields = {"data.resize": "squeeze", "data.interpolation": "lanczos", "data.crop_ratio": "0.8"}
    config = load_config("configs/digits_convnext.py", fields, inputs=False)
    model_def = build_model_def(config, DIGITS, flat_mesh(jax.devices()[:1]))
    written = preprocessor(Source(Restored(1, {}, model_def, {}, {}), None, None, ""))
    found = described(tmp_path, "vit", written).preparation
    assert found == {"crop_ratio": 0.8, "resize": "squeeze", "interpolation": "lanczos"}


SIZES = {
    "of config.json": (None, {}, (32, 32, 3)),
    "the default": (None, {"image_size": None}, (224, 224, 3)),
    "a number": ({"size": 64}, {}, (64, 64, 3)),
    "the shortest edge": ({"size": {"shortest_edge": 96}}, {"num_channels": 1}, (96, 96, 1)),
    "the crop": (
        {
            "size": {"shortest_edge": 72},
            "do_center_crop": True,
            "crop_size": {"height": 64, "width": 48},
        },
        {},
        (64, 48, 3),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_usual_size_of_pictures_is_that_of_their_preparation(tmp_path, name):
    preprocessor, changes, shape = SIZES[name]
    config = {n: v for n, v in (folders.RESNET | changes).items() if v is not None}
    folder = folders.write_config(tmp_path, config)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    found = describe(folder)
    assert found.data_spec.image_shape == shape and found.any_image_size


BOTTLENECKS = {"layer_type": "bottleneck", "hidden_sizes": [16, 32, 64, 128]}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in ("vit", "resnet", "convnext", "convnextv2")),
        ("resnet", BOTTLENECKS),
        ("resnet", BOTTLENECKS | {"depths": [3, 8, 36, 3]}),
        ("convnext", {"num_stages": 3, "depths": [1, 2, 1], "hidden_sizes": [4, 4, 8]}),
    ],
)
def test_what_config_json_says_is_written_back(tmp_path, family, changes):
    config = folders.FAMILIES[family] | changes
    found = described(tmp_path, family, **changes)
    written = FAMILIES[family].configure(
        full_settings(found.settings), found.data_spec, output="classes"
    )
    assert {name: written[name] for name in config} == config
    again = described(tmp_path / "again", family, **written)
    assert again == found


RESNET = {"architecture": "resnet"}
CONVNEXT = {"architecture": "convnext", "patch_size": 2, "channels": (4, 8), "depths": (1, 1)}
WITHOUT_COUNTERPART = {
    "a small stem": ("resnet", RESNET | {"stem": "small"}, "model.stem=small: it only has large"),
    "a small stem, by itself": (
        "resnet",
        RESNET,
        "model.stem=auto on pictures of 30 x 30: it only has large",
    ),
    "squeeze and excitation": (
        "resnet",
        RESNET | {"stem": "large", "squeeze_excitation": True},
        "model.squeeze_excitation=true: it only has false",
    ),
    "odd sides": ("convnext", CONVNEXT, "pictures of 30 x 30: .* multiples of 4"),
    "no scale": (
        "convnext",
        CONVNEXT | {"patch_size": 1, "response_norm": True},
        "model.response_norm=true: it only has false",
    ),
    "a scale": (
        "convnextv2",
        CONVNEXT | {"patch_size": 1},
        "model.response_norm=false: it only has true",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_COUNTERPART)
def test_what_has_no_counterpart_is_told_by_its_field(name, tmp_path):
    family, settings, message = WITHOUT_COUNTERPART[name]
    sizes = described(tmp_path, image_size=30).data_spec
    with pytest.raises(Unsupported, match=message):
        FAMILIES[family].configure(full_settings(settings), sizes, output="classes")


NOT_EXPORTED = {
    "digits_cnn": "model.architecture=cnn: transformers has none",
    "image_folder_resnet": "model.stem=auto on pictures of 8 x 8: it only has large",
}


@pytest.mark.parametrize("recipe", NOT_EXPORTED)
def test_a_recipe_without_a_counterpart_is_told(recipe):
    config = load_config(f"configs/{recipe}.py", {}, inputs=False)
    reason = huggingface.obstacle(config, DIGITS)
    assert reason is not None and reason.startswith(NOT_EXPORTED[recipe])


def test_the_recipe_of_convnext_has_its_counterpart():
    config = load_config("configs/digits_convnext.py", {}, inputs=False)
    found = huggingface.counterpart(config, DIGITS)
    assert found.family.name == "convnext" and found.fields["drop_path_rate"] == 0.1
    again = config.model_copy(
        update={"model": config.model.model_copy(update={"response_norm": True})}
    )
    assert huggingface.counterpart(again, DIGITS).family.name == "convnextv2"


def test_there_are_as_many_numbers_for_pixels_as_channels():
    fields = {"model.pixel_mean": "0.485,0.456,0.406"}
    config = load_config("configs/digits_convnext.py", fields, inputs=False)
    with pytest.raises(
        UsageError, match=r"model\.pixel_mean has 3 numbers, but .* 1 channel: give"
    ):
        build_model_def(config, DIGITS, flat_mesh(jax.devices()[:1]))


def test_pairs_of_lora_are_named_by_stage_and_layer(tmp_path):
    fields = {"train.lora.rank": "2", "train.lora.on": "stages.*"}
    config = load_config("configs/digits_convnext.py", fields, inputs=False)
    model_def = build_model_def(config, DIGITS, flat_mesh(jax.devices()[:1]))
    params, _ = model_def.graph.initialize(jax.random.key(0))
    source = Source(Restored(1, {}, model_def, params, {}), None, None, "", "adapter")
    _, modules, whole = adapter_tensors(source, FAMILIES["convnext"])
    assert "convnext.encoder.stages.1.layers.0.pwconv2" in modules and len(modules) == 8
    assert not whole
    write_adapter(source, FAMILIES["convnext"], tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == modules
    assert written["task_type"] is None  # PEFT's class for classifiers passes on tokens.


def test_batch_statistics_are_read_and_written_beside_the_parameters(tmp_path):
    folder, params = folders.make_folder(tmp_path, "resnet")
    found = describe(folder)
    of_model = folders.template(found.settings, found.data_spec)
    shapes = (folders.shapes(of_model), folders.statistics(of_model))
    weights = read_weights(folder, *shapes, scanned=False)
    folders.assert_same(weights.params, params)
    folders.assert_same(weights.statistics, folders.draw_statistics(of_model))
    tensors = to_tensors("resnet", weights.params, weights.statistics, scanned=False)
    folders.assert_same(tensors, load_file(folder / "model.safetensors"))
    assert "resnet.encoder.stages.3.layers.0.shortcut.normalization.running_mean" in tensors


def test_missing_statistics_are_named(tmp_path):
    folder, _ = folders.make_folder(tmp_path, "resnet")
    found = describe(folder)
    of_model = folders.template(found.settings, found.data_spec)
    name = "resnet.embedder.embedder.normalization.running_var"
    folders.rewrite(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(UsageError, match=f"lacks {name}$"):
        read_weights(folder, folders.shapes(of_model), folders.statistics(of_model), scanned=False)


def test_a_head_of_other_classes_leaves_the_statistics(tmp_path):
    folder, params = folders.make_folder(tmp_path, "resnet", num_classes=5)
    found = describe(folder)
    of_model = folders.template(found.settings, found.data_spec)
    weights = read_weights(
        folder,
        folders.shapes(of_model),
        folders.statistics(of_model),
        scanned=False,
        body_only=True,
    )
    assert params.keys() - weights.params.keys() == {"classes"}
    assert weights.messages == ("left aside: classifier.1.bias, classifier.1.weight",)
    np.testing.assert_array_equal(
        weights.statistics["stem_norm"]["var"],
        folders.draw_statistics(of_model)["stem_norm"]["var"],
    )
