"""Hashes of a checkpoint's files: in pieces, by several processes, in the formats of all times."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden.workdirs import WORKDIRS
from tests.training.test_checkpoints import save_all
from training import hashes
from training.hashes import FORMATS, NEWEST_FORMAT, share_of, written_by
from training.manifest import (
    Damaged,
    digest_of,
    find_faults,
    hash_written_files,
    read_manifest,
    verify,
    write_manifest,
)


@pytest.fixture
def step(tmp_path) -> Path:
    save_all(tmp_path / "run" / "checkpoints", {1: 1.0})
    return tmp_path / "run" / "checkpoints" / "1"


@pytest.fixture
def short_pieces(monkeypatch):
    """Pieces of 100 bytes, so that small files have several."""
    short = dataclasses.replace(FORMATS[NEWEST_FORMAT], piece_bytes=100)
    monkeypatch.setitem(FORMATS, NEWEST_FORMAT, short)


def files_of(step: Path) -> list[Path]:
    return sorted(p for p in step.rglob("*") if p.is_file() and p.name != "manifest.json")


@pytest.mark.parametrize(
    ("size", "lengths"), [(0, [0]), (1, [1]), (100, [100]), (201, [100, 100, 1])]
)
def test_the_pieces_of_a_file_are_all_of_it(short_pieces, size, lengths):
    pieces = FORMATS[NEWEST_FORMAT].pieces("name", size)
    assert [piece.length for piece in pieces] == lengths
    assert [piece.start for piece in pieces] == [100 * n for n in range(len(lengths))]
    assert [piece.length for piece in FORMATS[1].pieces("name", size)] == [size]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_each_process_reads_its_share_and_together_they_read_everything_once(short_pieces, count):
    hashing = FORMATS[NEWEST_FORMAT]
    sizes = {"a": 0, "b": 5000, "c": 1, "d": 299, "e": 1200}
    pieces = [piece for name, size in sizes.items() for piece in hashing.pieces(name, size)]
    shares = [share_of(pieces, index, count) for index in range(count)]
    assert [piece for share in shares for piece in share] == pieces
    for share in shares:
        assert sum(piece.length for piece in share) <= 6500 / count + 100


def test_orbax_names_files_after_the_process_that_wrote_them():
    assert written_by("model/ocdbt.process_1/d/0ab", 4) == 1
    assert written_by("model/ocdbt.process_12/manifest.ocdbt", 16) == 12
    assert written_by("training/array_metadatas/process_3", 4) == 3
    for name in ("model/d/0ab", "model/manifest.ocdbt", "model/_METADATA", "commit_success.txt"):
        assert written_by(name, 4) == 0
    assert written_by("model/ocdbt.process_3/d/0ab", 2) == 0  # nobody is left out


def test_every_process_hashes_its_files_and_the_manifest_has_all(step, monkeypatch):
    """As if the files had been written by three processes."""
    (step / "manifest.json").unlink()
    names = sorted(path.relative_to(step).as_posix() for path in files_of(step))
    monkeypatch.setattr(hashes, "written_by", lambda name, count: names.index(name) % count)
    written = [hash_written_files(step, index, 3) for index in range(3)]
    assert [sorted(part) for part in written] == [names[index::3] for index in range(3)]
    write_manifest(step, {"step": 1}, written)
    assert sorted(verify(step)["files"]) == names
    with pytest.raises(OSError, match=f"{names[1]} is not seen by all processes"):
        write_manifest(step, {"step": 1}, [written[0], written[2]])
    (step / names[1]).write_text("not as its writer left it")
    with pytest.raises(OSError, match=f"{names[1]} is not seen by all processes"):
        write_manifest(step, {"step": 1}, written)


@pytest.mark.parametrize("count", [1, 3])
def test_a_flipped_bit_in_any_piece_is_found_by_the_process_that_reads_it(
    step, short_pieces, count
):
    (step / "manifest.json").unlink()
    write_manifest(step, {"step": 1}, [hash_written_files(step, 0, 1)])
    manifest = verify(step)
    assert any(len(entry) > 3 for entry in manifest["files"].values())
    random = np.random.default_rng(0)
    paths = [path for path in files_of(step) if path.stat().st_size]
    weights = np.array([path.stat().st_size for path in paths], float)
    for _ in range(150):
        path = paths[random.choice(len(paths), p=weights / weights.sum())]
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        found = [find_faults(step, manifest, index, count) for index in range(count)]
        name = path.relative_to(step).as_posix()
        assert [part for part in found if part] == [{name: f"{path} is damaged (its XXH3 differs)"}]
        path.write_bytes(whole)
    assert not any(find_faults(step, manifest, index, count) for index in range(count))


def test_a_file_that_can_not_be_read_is_damaged(step, monkeypatch):
    victim = files_of(step)[0]
    hash_piece = hashes.hash_piece

    def fails(folder, piece, hashing):
        if folder / piece.name == victim:
            raise OSError(5, "Input/output error", str(victim))
        return hash_piece(folder, piece, hashing)

    monkeypatch.setattr(hashes, "hash_piece", fails)
    with pytest.raises(Damaged, match=r"can't be read \(Input/output error\)"):
        verify(step)


def test_manifests_of_earlier_are_read_and_their_files_are_verified(tmp_path):
    step = shutil.copytree(WORKDIRS / "attention_text" / "checkpoints" / "12", tmp_path / "12")
    assert verify(step)["format"] == 1
    for path in files_of(step):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Damaged, match=f"{path} is damaged .its SHA-256 differs"):
            verify(step)
        path.write_bytes(whole)


def test_manifests_of_later_are_refused(step):
    assert read_manifest(step)["format"] == NEWEST_FORMAT
    manifest = json.loads((step / "manifest.json").read_text()) | {"format": 9}
    manifest["digest"] = digest_of(manifest)
    (step / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="has format 9; this version reads 1 and 2"):
        verify(step)
