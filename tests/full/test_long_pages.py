"""Someone who follows the pages on a new model, dataset or task, on fine-tuning or serving, passes
the checks that they name."""

import pytest

from tests.docs.test_fences import LONG_PAGES, run_commands


@pytest.mark.parametrize("document", LONG_PAGES)
def test_a_page_can_be_followed(document, tmp_path, cache_dir):
    run_commands(document, tmp_path / "tree", cache_dir)
