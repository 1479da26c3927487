"""Every recipe and every format: it can be written, or one line names what is in the way."""

from pathlib import Path

import pytest

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from interop.formats.registry import FORMATS, format_module

RECIPES = sorted(
    path.stem for path in Path("configs").glob("*.py") if "def get_config()" in path.read_text()
)
SIZES = DataSpec(
    vocabulary_size=50,
    max_length=128,
    max_source_length=64,
    num_classes=2,
    image_shape=(64, 64, 3),
    num_mels=80,
    max_frames=100,
    classes=("a", "b"),
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_a_format_and_reasons_against_others(recipe):
    config = load_config(f"configs/{recipe}.py", {}, inputs=False)
    reasons = [format_module(name).obstacle(config, SIZES) for name in FORMATS]
    assert None in reasons
    for reason in reasons:
        assert reason is None or ("=" in reason and "\n" not in reason)
