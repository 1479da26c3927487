"""The page about the house: what it says of files, functions and imports is so."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.documents import ROOT, read

HOUSE = "docs/house.md"
MOST_FILES_ON_A_WAY = 8
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def rows(title: str) -> list[list[str]]:
    """Returns the cells of the table under the heading `title`, without the table's head."""
    section = re.search(rf"^## {title}.*?(?=^## |\Z)", read(HOUSE), re.MULTILINE | re.DOTALL)
    lines = [line for line in section[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def definitions(file: str) -> set[str]:
    """Returns the functions and classes of a file, methods as `Class.method`."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, FUNCTIONS):
                found.add(f"{node.name}.{inner.name}")
    return found


def imports(room: str) -> Iterator[tuple[str, str]]:
    """Yields (file, module) for every import in a room, those inside functions too."""
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path.name, node.module


@pytest.mark.parametrize("title", ["A batch", "A weight", "A request"])
def test_each_way_goes_through_few_files_and_functions_that_are_there(title):
    way = rows(title)
    assert [number for number, *_ in way] == [str(n) for n in range(1, len(way) + 1)]
    assert 1 < len(way) <= MOST_FILES_ON_A_WAY
    for _, file, functions, _ in way:
        assert quoted(functions) and set(quoted(functions)) <= definitions(*quoted(file)), file


def test_functions_named_with_their_file_are_in_it():
    named = re.findall(r"`([A-Za-z_.]+)` (?:in|of) `([\w/]+\.py)`", read(HOUSE))
    assert named
    for function, file in named:
        assert function in definitions(file), (function, file)


def test_the_table_of_rooms_is_what_the_code_imports():
    table = {quoted(room)[0].rstrip("/"): quoted(may) for room, _, may in rows("The rooms")[:-1]}
    assert set(table) <= {path.name for path in ROOT.iterdir() if path.is_dir()}
    for room, allowed in table.items():
        for file, module in imports(room):
            if module.partition(".")[0] in table.keys() - {room}:
                fits = any(f"{module}.".startswith(f"{one}.") for one in allowed)
                assert fits, f"{room}/{file} imports {module}"
