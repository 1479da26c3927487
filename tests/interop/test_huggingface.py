"""export.py --format=huggingface: what is written, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import export
from configs.errors import UsageError
from configs.reading.saved import read_config
from interop.converting import read_weights
from interop.folder import Folder
from interop.formats.source import Source
from interop.tensor_files import write_tensors
from parallel.mesh import flat_mesh
from training.restore import restore_model
from training.trees import flat

WORKDIRS = Path(__file__).parents[1] / "golden" / "workdirs"


@pytest.fixture
def exported(tmp_path):
    """Exports a copy of a workdir; returns the workdir and the folder."""

    def run(name: str, *flags: str) -> tuple[Path, Path]:
        workdir, out = tmp_path / name, tmp_path / "out"
        shutil.copytree(WORKDIRS / name, workdir)
        given = ("--format=huggingface", *flags)
        assert export.main([f"--workdir={workdir}", f"--out={out}", *given]) == 0
        return workdir, out

    return run


def restored(workdir: Path, weights: str | None = None):
    import jax

    mesh = flat_mesh(jax.devices()[:1])
    config = read_config(workdir)
    return restore_model(workdir, config, step="latest", weights=weights, mesh=mesh, warn=print)


def fields(file: Path):
    return json.loads(file.read_text())


FILES = {"config.json", "model.safetensors", "README.md", "triform.json"}
OF_TEXTS = {
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
}


def test_a_language_model_is_a_folder_of_all_that_it_needs(exported, capsys):
    workdir, out = exported("attention_text")
    assert capsys.readouterr().out == f"{out}\n"
    assert {file.name for file in out.iterdir()} == FILES | OF_TEXTS
    config, model = fields(out / "config.json"), restored(workdir)
    expected = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": model.model_def.data_spec.vocabulary_size,
        "max_position_embeddings": 16,
        "dtype": "float32",
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    assert config | expected == config
    assert fields(out / "generation_config.json")["eos_token_id"] == 0
    ours, theirs = (fields(folder / "tokenizer.json") for folder in (workdir, out))
    assert ours == theirs
    read = flat(read_weights(out, model.model_def.abstract_params, scanned=False).params)
    for name, array in flat(model.params).items():
        np.testing.assert_array_equal(read[name], array)
    assert fields(out / "triform.json")["format"] == "huggingface"


def test_the_card_has_the_figures_the_data_and_the_command(exported):
    workdir, out = exported("attention_text")
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n")
    metrics = restored(workdir).manifest["metrics"]
    for line in (
        f"| loss | {metrics['loss']:.6g} |",
        "| source | text_files |",
        "| path | tests/golden/text.txt |",
        f"python export.py --workdir={workdir} --out={out} --format=huggingface",
        "for 12 steps",
    ):
        assert line in card, line


def test_pairs_are_merged(exported):
    workdir, out = exported("attention_text_lora")
    model = restored(workdir)
    expected = Source(model, None, None, "").params()
    read = flat(read_weights(out, model.model_def.own_params, scanned=False).params)
    name = "backbone.layers.1.mixer.query.kernel"
    assert not np.array_equal(read[name], flat(model.params)[name])
    tensor = Folder(out).tensor("model.layers.1.self_attn.q_proj.weight")
    np.testing.assert_array_equal(tensor.T.reshape(expected[name].shape), expected[name])
    assert fields(out / "config.json")["dtype"] == "float32"
    assert fields(out / "triform.json")["config"]["train"]["lora"]["rank"] is None


def test_averages_and_raw_weights_and_another_dtype_are_written(exported, tmp_path):
    workdir, out = exported("attention_text_averaged", "--weights=raw", "--dtype=bfloat16")
    raw = flat(restored(workdir, "raw").params)["embedding.tokens.embedding"]
    averaged = flat(restored(workdir).params)["embedding.tokens.embedding"]
    tensor = Folder(out).tensor("model.embed_tokens.weight")
    assert tensor.dtype.name == fields(out / "config.json")["dtype"] == "bfloat16"
    np.testing.assert_array_equal(tensor, np.asarray(raw.astype("bfloat16")))
    assert not np.array_equal(tensor, np.asarray(averaged.astype("bfloat16")))


def test_a_classifier_of_pictures_says_how_they_are_prepared(exported):
    _, out = exported("attention_pictures")
    assert {file.name for file in out.iterdir()} == FILES | {"preprocessor_config.json"}
    config = fields(out / "config.json")
    assert config["id2label"] == {str(n): str(n) for n in range(10)}
    assert config["label2id"] == {str(n): n for n in range(10)}
    prepared = fields(out / "preprocessor_config.json")
    assert prepared["crop_size"] == {"height": 8, "width": 8}
    assert prepared["image_mean"] == prepared["image_std"] == [0.5] * 3
    assert "image-classification" in (out / "README.md").read_text()


def test_an_adapter_has_the_pairs_alone(exported, capsys):
    _, out = exported("attention_text_lora", "--lora=adapter")
    names = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {file.name for file in out.iterdir()} == names | OF_TEXTS
    config = fields(out / "adapter_config.json")
    assert config["r"] == 2 and config["lora_alpha"] == 16
    assert config["base_model_name_or_path"] == "tests/golden/workdirs/attention_text"
    assert "export that with --format=huggingface" in capsys.readouterr().err


REFUSED = {
    "hybrid_text": ((), r"model\.pattern=RRA: transformers has no recurrent blocks; these can: "),
    "convolution_text": ((), "transformers has no blocks of short convolutions"),
    "recurrence_sound": ((), "--format=huggingface can't hold this model: model.pattern="),
    "rnn_text": ((), r"model\.architecture=rnn: transformers has none"),
    "attention_text": (("--lora=adapter",), "this run has no LoRA pairs"),
    "attention_text_lora": (
        ("--lora=adapter", "--format=safetensors"),
        "--lora=adapter is for --format=huggingface, not safetensors",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_written_is_one_line_and_leaves_nothing(tmp_path, name):
    flags, message = REFUSED[name]
    workdir = shutil.copytree(WORKDIRS / name, tmp_path / name)
    given = [*flags] if any("--format" in one for one in flags) else [*flags, FORMAT]
    with pytest.raises(UsageError, match=message) as caught:
        export.main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *given])
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == [name]


FORMAT = "--format=huggingface"


def test_large_models_are_written_in_parts(tmp_path):
    generator = np.random.default_rng(0)
    tensors = {f"tensor.{n}": generator.normal(size=(n + 1, 100)) for n in range(5)}
    write_tensors(tensors, tmp_path, most_bytes=3000)
    index = fields(tmp_path / "model.safetensors.index.json")
    files = {file.name for file in tmp_path.glob("*.safetensors")}
    assert files == set(index["weight_map"].values()) and len(files) == 4
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in tensors.values())
    opened = Folder(tmp_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(opened.tensor(name), tensor)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        (tmp_path / "model.safetensors.index.json").stat().st_mode & 0o777
    }
