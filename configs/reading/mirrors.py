"""Workdirs in object stores, and mirrors of workdirs: which places they can have."""

from pathlib import Path

from configs.errors import UsageError
from configs.remote import ANY, GS, check_place, folder_in_cache, is_remote
from configs.schema.config import Config


def place_of_workdir(workdir: str | None) -> tuple[str | None, str | None]:
    """Return the folder of a run, and the URL that it is the copy of; None for a folder.

    A workdir in an object store is a folder in the cache, with the URL as its mirror. Raises
    `UsageError` for a URL that can't be a workdir.
    """
    otherwise = f"train in a folder, with --config.checkpoint.mirror={workdir}"
    is_s3 = workdir is not None and is_remote(workdir)
    check_place("--workdir=", workdir, GS, otherwise if is_s3 else "give one of these")
    if workdir is None or not is_remote(workdir):
        return workdir, None
    url = workdir.rstrip("/")
    return str(folder_in_cache(url, "workdirs")), url


def with_mirror(config: Config, url: str) -> Config:
    """Return `config` with the URL of its workdir as the mirror. Raises `UsageError` if the
    configuration names another one."""
    other = config.checkpoint.mirror
    if other not in (None, url):
        raise UsageError(f"--workdir={url} has no mirror of its own: leave out {other}")
    checkpoint = config.checkpoint.model_copy(update={"mirror": url})
    return config.model_copy(update={"checkpoint": checkpoint})


def check_mirror(config: Config, workdir: str | None) -> None:
    """Raise `UsageError` if `checkpoint.mirror` can't be the mirror of `workdir`."""
    mirror = config.checkpoint.mirror
    check_place("checkpoint.mirror=", mirror, ANY, "give one of these")
    if workdir is None or mirror is None or is_remote(mirror):
        return
    of, to = Path(workdir).resolve(), Path(mirror).resolve()
    if of == to or of in to.parents or to in of.parents:
        raise UsageError(f"checkpoint.mirror={mirror} and {workdir} overlap: give another place")
    if to.exists() and not to.is_dir():
        raise UsageError(f"checkpoint.mirror={mirror} is a file: give a folder")
