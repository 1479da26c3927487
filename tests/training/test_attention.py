"""What attends is tried on the devices of the run before it is trusted."""

import pytest

import train
from configs.errors import UsageError
from model.layers import attend
from model.layers.attend import NATIVE_ATTENTION
from parallel.mesh import make_mesh
from tests.end_to_end import verbs
from tests.training import runs
from training.attention import working_attention


def found(**overrides) -> tuple[str | None, list[str]]:
    """What a run on one device attends with, and what its user is told."""
    config = runs.load("python_stdlib", mesh__data="1", **overrides)
    told: list[str] = []
    return working_attention(config, make_mesh(config), told.append), told


@pytest.fixture
def native(monkeypatch):
    """Makes an implementation the native one of the CPUs that tests run on."""
    return lambda name: monkeypatch.setitem(NATIVE_ATTENTION, "cpu", name)


def test_on_cpus_it_is_xlas():
    assert found() == ("xla", [])


@pytest.mark.parametrize("name, made_for", [("cudnn", "NVIDIA GPUs"), ("splash", "TPUs")])
def test_one_that_is_made_for_other_devices_is_refused(name, made_for):
    with pytest.raises(UsageError, match=f"model.attention={name} is made for {made_for}"):
        found(model__attention=name)


def test_one_beyond_its_limits_is_refused_where_it_is_asked_for(native):
    native("splash")
    with pytest.raises(UsageError, match="a multiple of 128 positions on each device, no"):
        found(model__attention="splash")
    assert found() == ("xla", [])
    native("cudnn")
    with pytest.raises(UsageError, match="it computes in bfloat16, not float32"):
        found(model__attention="cudnn")


def test_one_that_works_is_taken(native):
    native("splash")
    assert found(data__sequence_length="128", model__num_kv_heads="2") == ("auto", [])


def test_one_that_computes_something_else_is_not_taken(native, monkeypatch):
    native("splash")
    monkeypatch.setattr(
        attend, "_splash", lambda q, k, v, mask: q + k.repeat(q.shape[2] // k.shape[2], 2)
    )
    attention, told = found(data__sequence_length="128")
    assert attention == "xla"
    assert told[0].startswith("attention by splash fails on these devices, XLA's is used instead")
    assert "is off by" in told[0]


def test_a_failure_is_in_the_report_and_the_run_goes_on(native, tmp_path, capfd):
    """There is no cuDNN here: it really fails."""
    native("cudnn")
    text = verbs.write_text(tmp_path / "text.txt")
    fields = verbs.TINY_TEXT | {
        "data.path": str(text),
        "train.steps": "2",
        "mesh.data": "1",
        "precision.compute_dtype": "bfloat16",
        "task.sample_prompts": "one",
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    workdir = tmp_path / "run"
    recipe = "--config=configs/shakespeare_char.py"
    assert train.main([recipe, f"--workdir={workdir}", *arguments]) == 0
    told = "attention by cudnn fails on these devices, XLA's is used instead"
    assert told in (workdir / "report.html").read_text().replace("&#39;", "'")
    assert told in capfd.readouterr().err
