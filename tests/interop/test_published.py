"""The configurations that people have: config.json as published, and parameters counted."""

from dataclasses import replace

import pytest

from interop.families import describe
from model.architectures import parameter_count
from tests.interop import folders

# What config.json of each says of its shape, and how many parameters its authors count.
PUBLISHED = {
    "gpt2": (
        {
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-05,
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        124_439_808,
    ),
    "Llama-3.2-1B": (
        {
            "model_type": "llama",
            "attention_bias": False,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
        1_235_814_400,
    ),
    "Llama-2-7b": (
        {
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        6_738_415_616,
    ),
    "bert-base-uncased": (
        {
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
        109_514_298,
    ),
    "vit-base-patch16-224": (
        {
            "model_type": "vit",
            "hidden_act": "gelu",
            "hidden_size": 768,
            "image_size": 224,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "num_attention_heads": 12,
            "num_channels": 3,
            "num_hidden_layers": 12,
            "patch_size": 16,
        },
        86_567_656,
    ),
    "resnet-18": (
        {
            "model_type": "resnet",
            "depths": [2, 2, 2, 2],
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
            "hidden_sizes": [64, 128, 256, 512],
            "layer_type": "basic",
            "num_channels": 3,
        },
        11_689_512,
    ),
    "resnet-50": (
        {
            "model_type": "resnet",
            "depths": [3, 4, 6, 3],
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
            "hidden_sizes": [256, 512, 1024, 2048],
            "layer_type": "bottleneck",
            "num_channels": 3,
        },
        25_557_032,
    ),
    "convnext-tiny-224": (
        {
            "model_type": "convnext",
            "depths": [3, 3, 9, 3],
            "hidden_act": "gelu",
            "hidden_sizes": [96, 192, 384, 768],
            "image_size": 224,
            "layer_norm_eps": 1e-12,
            "layer_scale_init_value": 1e-06,
            "num_channels": 3,
            "num_stages": 4,
            "patch_size": 4,
        },
        28_589_128,
    ),
    "convnextv2-tiny-1k-224": (
        {
            "model_type": "convnextv2",
            "depths": [3, 3, 9, 3],
            "hidden_act": "gelu",
            "hidden_sizes": [96, 192, 384, 768],
            "image_size": 224,
            "layer_norm_eps": 1e-12,
            "num_channels": 3,
            "num_stages": 4,
            "patch_size": 4,
        },
        28_635_496,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_parameters_here(tmp_path, name):
    config, parameters = PUBLISHED[name]
    found = describe(folders.write_config(tmp_path, config))
    data_spec = found.data_spec
    if data_spec.image_shape is not None:
        data_spec = replace(data_spec, num_classes=1000)
    scanned = {} if found.any_image_size else {"scan_layers": True}
    of_model = folders.template(found.settings, data_spec, **scanned)
    assert parameter_count(folders.shapes(of_model)) == parameters
