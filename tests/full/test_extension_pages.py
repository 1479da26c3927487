"""Someone who follows the pages on a new model, dataset or task passes the checks they name."""

import pytest

from tests.docs.test_fences import EXTENSION_PAGES, run_commands


@pytest.mark.parametrize("document", EXTENSION_PAGES)
def test_a_page_on_an_extension_can_be_followed(document, tmp_path, cache_dir):
    run_commands(document, tmp_path / "tree", cache_dir)
