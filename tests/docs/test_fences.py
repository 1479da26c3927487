"""What the documents say is so: their commands run, and what they name is there."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import (
    DOCUMENTS,
    ROOT,
    commands,
    copy_tree,
    fences,
    prose,
    read,
    run,
    serving,
    with_overrides,
    write_files,
)

LANGUAGES = {"bash", "console", "python", "diff", "text", "json"}

FEW_STEPS = ("--config.train.steps=4", "--config.train.evaluate_every_steps=4")
TINY = (*FEW_STEPS, "--config.model.width=16", "--config.model.depth=1")
TINY_TEXT = (*TINY, "--config.data.sequence_length=16", "--config.data.global_batch_size=4",
             "--config.task.sample_tokens=4")  # fmt: skip
# In place of the standard library, which takes a while to prepare.
OWN_TEXT = (*TINY_TEXT, "--config.data.source=text_files", "--config.data.path=input.txt")

OVERRIDES = {
    "python train.py --config=configs/digits_mlp.py --workdir": FEW_STEPS,
    "python train.py --config=configs/digits_focal.py --workdir": (
        *FEW_STEPS, "--config.model.channels=4,4", "--config.model.width=16",
    ),
    "python train.py --config=configs/digits_cnn.py --workdir": FEW_STEPS,
    "python train.py --config=configs/sums.py --workdir": (*TINY_TEXT, "--config.data.largest=30"),
    "python train.py --config=configs/python_stdlib.py --workdir": OWN_TEXT,
    "python train.py --config=configs/python_stdlib.py --workdir=runs/python_stdlib"
    " --config.train.steps": (*OWN_TEXT, "--config.train.steps=8"),  # goes on
    "python train.py --config=configs/finetune_chat.py --workdir": (
        *TINY_TEXT, "--config.data.sequence_length=64",
    ),
    "python train.py --config=configs/own_text.py --workdir": TINY_TEXT,
    "python train.py --config=configs/shakespeare_char.py --workdir": TINY_TEXT,
    "python train.py --config=configs/shakespeare_char_lstm.py --workdir": TINY_TEXT,
    "python serve.py --workdir": ("--config.serve.slots=2", "--config.serve.prefix_cache_mb=0"),
}  # fmt: skip
"""What makes commands of the documents quick, by how they begin; others run as they are."""

NOT_RUN = ("git clone ", "cd ", "source ", ". ", "pip install ", "python -m pip install ", "make ")
"""Set-up, which the continuous integration itself does, and which needs a network."""

SERVER = "python serve.py --workdir"
"""Begins a command that runs until its document ends; the commands below it can ask the server."""

ADDRESS = "http://127.0.0.1:8000"
"""Of a server in the documents. In the tests it listens on another port."""

OF_A_COMMIT = re.compile(r"`([\w./-]+)`\s+of\s+commit\s+([0-9a-f]{7,40})\b")
"""A script that is no longer here, and the commit that has it."""


def here(text: str) -> str:
    """Return `text` without the names of files of earlier commits."""
    return OF_A_COMMIT.sub("", text)


LONG = re.compile("add_a_|export|fine_tuning|performance|serving|stablehlo")
LONG_PAGES = [name for name in DOCUMENTS if LONG.search(name)]
"""Their commands check types, run tests, train, export and serve, which takes minutes: see
tests/full."""


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in LONG_PAGES])
def test_the_commands_of_a_document_run(document, tmp_path, cache_dir):
    run_commands(document, tmp_path / "tree", cache_dir)


def run_commands(document: str, folder: Path, cache_dir: str) -> None:
    """Write the files of a document into a copy of the tree at `folder`, and run its commands."""
    tree = copy_tree(folder)
    (tree / "input.txt").write_text("".join(f"{n} times 7 is {n * 7}.\n" for n in range(400)))
    made = [path for path in write_files(document, tree) if path.suffix == ".py"]
    if made:
        names = " ".join(str(path) for path in made)
        for check in ("ruff check", "ruff format --check"):
            done = run(f"python -m {check} {names}", tree, cache_dir)
            assert done.returncode == 0, f"{document}: {done.stdout}{done.stderr}"
    url = ADDRESS
    with contextlib.ExitStack() as servers:
        for fence in fences(document):
            for command in commands(fence) if fence.language == "bash" else ():
                if command.startswith(NOT_RUN):
                    continue
                command = with_overrides(command, OVERRIDES).replace(ADDRESS, url)
                if command.startswith(SERVER):
                    url = servers.enter_context(serving(command, tree, cache_dir))
                    for path in made:
                        path.write_text(path.read_text().replace(ADDRESS, url))
                    continue
                done = run(re.sub(r"^curl ", "curl --fail-with-body ", command), tree, cache_dir)
                log = f"{document}, line {fence.line}: {command}\n{done.stdout}\n{done.stderr}"
                assert done.returncode == 0, log


@pytest.mark.parametrize("document", DOCUMENTS)
def test_fences_say_what_they_are(document):
    for fence in fences(document):
        assert fence.language in LANGUAGES, f"{document}, line {fence.line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_is_there(document):
    made = {fence.file for fence in fences(document) if fence.language == "python"}
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    named = re.findall(r"(?<![\w/.:-])[\w-]+(?:/[\w-]+)*\.(?:py|md|toml)\b", here(prose(document)))
    named += re.findall(rf"(?<![\w/.-])((?:{rooms})/[\w./-]*\w)", here(read(document)))
    for path in named:
        if path not in made and not path.startswith("runs/"):
            place = (ROOT / path, (ROOT / document).parent / path)  # links begin at the document
            assert any(one.exists() for one in place), f"{document} names {path}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_an_earlier_commit_is_in_it(document):
    for path, commit in OF_A_COMMIT.findall(read(document)):
        known = subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, check=False)
        if known.returncode:  # a shallow clone, or a copy without its history
            pytest.skip(f"commit {commit} is not known here")
        subprocess.run(["git", "cat-file", "-e", f"{commit}:{path}"], cwd=ROOT, check=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_field_that_is_named_is_one(document, tmp_path):
    named = set(re.findall(r"--config\.([a-z_0-9.]*\w)", read(document)))
    tree = copy_tree(tmp_path / "tree")
    write_files(document, tree)
    script = "from configs.reading.names import fields; print(*fields())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tree, capture_output=True, text=True, check=True
    )
    assert named <= set(done.stdout.split()), document


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document} links to {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_is_there(document):
    targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"`make ([\w-]+)", read(document))
    for fence in fences(document):
        if fence.language in ("bash", "console"):
            named += re.findall(r"(?:^|[$;&] ?)make ([\w-]+)", fence.text, re.MULTILINE)
    assert set(named) <= set(targets), document
