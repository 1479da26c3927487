"""Reads the user's images: a folder for each class, or for each split and class."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.classes import alike, held_out_classes
from data.file_stat_cache import FileStatCache
from data.forms import describe_joined_forms, nfc
from data.progress import Progress
from data.sources.file_rows import UserFile, opened_files
from data.sources.files import file_sha256, files_in, is_hidden, name_below
from data.sources.rows import Opened, View
from data.sources.source import hold_out_validation
from data.sources.splits import assign_folders, listed, split_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def open_folder(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the images in the folder `data.path`: CLASS/NAME.jpg, or SPLIT/CLASS/NAME.jpg if
    `splits.assign_folders` recognises splits.

    Without a validation split, `data.validation_fraction` of the training images is held out,
    chosen by a hash of their names. Files without the suffix of an image, in no class folder or
    outside the split folders are ignored with a warning; hidden files, without one. A class folder
    may be a symbolic link. SPLIT/SPLIT/CLASS, as some archives unpack, is read with a warning.
    Raises UsageError if a split has no images, if there is only one class, if the splits differ in
    their classes, or if splits are inside of the classes.
    """
    root = Path(settings.path).expanduser()
    layout = assign_folders([*_of_pictures(root)], settings)
    parts = {split: folder for split, (folder,) in layout.splits.items()}
    folders = {split: _without_twin(folder) for split, folder in parts.items()}
    found = {split: _Found(folder) for split, folder in (folders or {"train": root}).items()}
    classes = found["train"].classes()
    _check_classes(settings.path, found, classes)
    if settings.splits == "names":
        _refuse_inner_splits(settings.path, found["train"])
    every = {
        split: _pictures(one, root, classes, settings, progress, f"opening {split}")
        for split, one in found.items()
    }
    pictures, share = hold_out_validation(every, settings)
    warnings = [*_beside(root, [one.name for one in parts.values()])] if parts else []
    doubled = [folders[split] for split, outer in parts.items() if folders[split] != outer]
    warnings += [f"the classes of {one.parent} are read from {one}" for one in doubled]
    warnings += [note for one in found.values() for note in one.warnings(classes)]
    warnings += _doubtful_classes(found["train"], classes)
    warnings += describe_joined_forms(
        (name for one in found.values() for name in one.folders()), "classes"
    )
    warnings += [*alike(classes)]
    trained = {classes[one.target] for one in pictures["train"]}
    warnings += held_out_classes(classes, trained, "picture")
    return opened_files(
        pictures, share, view, layout=layout, classes=classes, warnings=tuple(warnings)
    )


class _Found:
    """The files found in the folder of a split."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[tuple[Path, str]] = []  # paths of images, and their classes
        self.others: list[Path] = []
        self.inside: dict[str, set[str]] = {}  # names of folders with images in those of classes
        there = [*files_in(folder, self.others)]
        for path in self.folders().values():
            there += files_in(path, self.others) if path.is_symlink() else ()
        for path in sorted(there):
            parts = name_below(folder, path).split("/")
            if len(parts) > 1 and _is_picture(path):
                self.files.append((path, nfc(parts[0])))
                if len(parts) > 2:
                    self.inside.setdefault(nfc(parts[0]), set()).add(nfc(parts[1]))
            else:
                self.others.append(path)
        self.counts = Counter(label for _, label in self.files)

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes that have images."""
        return tuple(sorted(self.counts))

    def loose(self) -> str:
        """Return a hint that images are in no folder of a class, or nothing."""
        count = sum(map(_is_picture, self.others))
        what = "1 picture is" if count == 1 else f"{count:,} pictures are"
        return f": {what} directly in {self.folder}" if count else ""

    def folders(self) -> dict[str, Path]:
        """Return the subfolders by name, with or without images."""
        with os.scandir(self.folder) as there:
            found = [Path(one.path) for one in there if one.is_dir() and not is_hidden(one.name)]
        return {name_below(self.folder, path): path for path in sorted(found)}

    def warnings(self, classes: Sequence[str]) -> Iterator[str]:
        for name, path in self.folders().items():
            if not self.counts[nfc(name)]:
                what = "the class has none here" if nfc(name) in classes else "it is no class"
                yield f"{path} holds no picture: {what}"
        if self.others:
            plural = "" if len(self.others) == 1 else "s"
            one_of_each = {path.suffix.lower(): path for path in reversed(self.others)}
            commonest = Counter(path.suffix.lower() for path in self.others).most_common(3)
            yield (
                f"{len(self.others)} file{plural} in {self.folder} left out: no picture by its "
                f"name ({', '.join(SUFFIXES)}), in no folder of a class, or no regular file; "
                f"such as {', '.join(str(one_of_each[suffix]) for suffix, _ in commonest)}"
            )


def _of_pictures(root: Path) -> Iterator[Path]:
    """Yield the folders in `root` that hold a picture, or whose name says only a split."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)):
        _, is_split = split_of(folder.name) or (None, False)
        if is_split or any(map(_is_picture, files_in(folder))):
            yield folder


def _without_twin(folder: Path) -> Path:
    """Return the folder named like `folder`, if it is all that this holds; else `folder`."""
    twin = folder / folder.name
    if not os.path.isdir(twin) or any(
        path != twin and not is_hidden(path.name) for path in folder.iterdir()
    ):
        return folder
    return twin


def _refuse_inner_splits(path: str, train: _Found) -> None:
    """Raise UsageError if a class holds train/ and the folder of another split."""
    for label, names in sorted(train.inside.items()):
        splits = {name: said[0] for name in sorted(names) if (said := split_of(name)) and said[1]}
        if "train" in splits.values() and len({*splits.values()}) > 1:
            raise UsageError(
                f"data.path={path}: {listed([f'{label}/{name}' for name in splits])} are named "
                f"after splits, but are inside of a class: arrange them as "
                f"{listed([f'{name}/{label}' for name in splits])}; data.splits=none takes "
                "everything for training"
            )


def _doubtful_classes(train: _Found, classes: Sequence[str]) -> Iterator[str]:
    """Yield a warning if the folders inside those of the classes may be the classes instead."""
    counts = Counter(name for names in train.inside.values() for name in names)
    shared = sorted(name for name, count in counts.items() if 2 * count > len(classes))
    if len(shared) > 1:
        holds = "each holds" if min(counts[n] for n in shared) == len(classes) else "most hold"
        yield (
            f"the classes are {listed(classes)}, though {holds} the folders {listed(shared)}: if "
            "these are the classes, arrange the pictures as "
            f"{train.folder}/{shared[0]}/{classes[0]}"
        )
        return
    for label, names in sorted(train.inside.items()):
        if twins := sorted(names.intersection(classes) - {label}):
            yield (
                f"{train.folder}/{label} is a class of its own, though it holds {listed(twins)}, "
                f"as do the folders beside it: is it a copy?"
            )


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _beside(root: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield a warning if `root` has entries besides the split folders `parts`; they are ignored."""
    others = sorted({p.name for p in root.iterdir() if not is_hidden(p.name)} - {*parts})
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        are = "is" if len(parts) == 1 else "are"
        yield f"in {root} only {', '.join(parts)} {are} read, not {', '.join(others[:5])}{more}"


def _check_classes(path: str, found: Mapping[str, _Found], classes: Sequence[str]) -> None:
    train = found["train"]
    if not classes:
        raise UsageError(
            f"data.path={path}: there is no picture ({', '.join(SUFFIXES)}) in a folder of its "
            f"class, {train.folder}/CLASS/NAME.jpg{train.loose()}"
        )
    if len(classes) == 1:
        inside = next(path for name, path in train.folders().items() if nfc(name) == classes[0])
        hint = ""
        if len(_Found(inside).classes()) > 1:
            hint = f", or data.path={inside}"
            if len(found) > 1:
                hint = f", as are in {inside}: move them from there to {train.folder}"
        raise UsageError(
            f"data.path={path}: all pictures are of one class, {classes[0]}: give a folder for "
            f"each class, {train.folder}/CLASS/NAME.jpg{hint}"
        )
    for split, one in found.items():
        if not one.files:
            raise UsageError(
                f"data.path={path}: there is no picture for {split} in a folder of its class, "
                f"{one.folder}/CLASS/NAME.jpg{one.loose()}"
            )
        more = sorted({*one.classes()} - {*classes})
        missing = sorted({*classes} - {*map(nfc, one.folders())})
        if more or missing:
            what = f"no {', '.join(missing)} (an empty folder would do), which train has"
            if more:
                what = f"{', '.join(more)}, which train has not"
            raise UsageError(f"data.path={path}: classes differ: {split} has {what}")


def _pictures(
    found: _Found,
    root: Path,
    classes: Sequence[str],
    settings: Any,
    progress: Progress,
    stage: str,
) -> list[UserFile]:
    """Return the images of a split; their targets are the numbers of their classes."""
    numbers, paths = {one: n for n, one in enumerate(classes)}, [path for path, _ in found.files]
    with FileStatCache(settings, "pictures", str(found.folder.absolute())) as file_stat_cache:
        hashes = file_stat_cache.of_all(paths, file_sha256, progress, stage)
    return [
        UserFile(path, name_below(root, path), numbers[label], sha256)
        for (path, label), sha256 in zip(found.files, hashes, strict=True)
    ]
