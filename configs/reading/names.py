"""The names of all fields, and which of them somebody who misspelt one may have meant."""

import difflib
import functools
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from configs.schema.config import Config
from configs.schema.settings import Settings, accepts, field_metadata, kind_name, kinds

_MIN_SIMILARITY = 0.72
"""How alike (difflib's ratio) two names are at least, when one may be the other misspelt."""

_ABSENT_SETTINGS = {
    "training goes on by itself from the newest checkpoint in --workdir: run the same command "
    "again (another run's weights are --config.train.initialize_from=DIR)": (
        "resume", "resume_from", "resume_from_checkpoint", "resume_training", "resume_path",
        "auto_resume", "continue", "continue_training", "restore", "restore_from",
        "restore_checkpoint", "checkpoint", "checkpoint_path", "ckpt", "ckpt_path",
        "load_checkpoint", "load_ckpt", "last_ckpt",
    ),
    "all devices that JAX finds are used: CUDA_VISIBLE_DEVICES=0,1 before the command chooses "
    "GPUs, JAX_PLATFORMS=cpu the CPU, --config.mesh.data=N how many": (
        "device", "devices", "gpu", "gpus", "num_gpus", "n_gpu", "ngpu", "gpu_ids", "cuda", "cpu",
        "tpu", "use_gpu", "no_cuda", "use_cpu", "accelerator", "strategy", "local_rank",
        "nproc_per_node", "num_devices", "num_nodes", "nnodes", "distributed",
    ),
    "a run is never written over: give another --workdir": (
        "overwrite", "overwrite_output_dir", "force", "exist_ok",
    ),
    "it trains, validates on the way, and measures the test split at the end; evaluate.py "
    "--workdir=DIR measures a trained model": (
        "do_train", "do_eval", "do_predict", "do_test", "eval", "evaluate", "eval_only", "test",
        "test_only", "mode",
    ),
    "the train step is always compiled": ("compile", "jit", "torch_compile"),
}  # fmt: skip
"""Why there is no such setting, and what other trainers call it."""


@functools.cache
def fields() -> dict[str, FieldInfo]:
    """Every field of every kind of section, by its path (`model.width`)."""
    found: dict[str, FieldInfo] = {}
    for path, info in _walk(Config, ""):
        found.setdefault(path, info)
    return found


def absence_reason(name: str) -> str | None:
    """Why there is no setting for what other trainers call `name`; None for any other name."""
    plain = name.rpartition(".")[2].lower().replace("-", "_")
    return next((why for why, called in _ABSENT_SETTINGS.items() if plain in called), None)


def is_field_or_section(path: str) -> bool:
    """Whether some kind of section has the field `path`, or `path` is a section."""
    return any(f"{field}.".startswith(f"{path}.") for field in fields())


def is_discriminator(path: str) -> bool:
    """Whether the field `path` says of which kind its section is."""
    return any(owner.discriminator == path.rpartition(".")[2] for owner in _owners(path))


def nearest_fields(wanted: str, limit: int = 2) -> list[str]:
    """Fields that `wanted` may have meant, best first: by name or by what others call them.

    A field of the section that was named goes before one of another section. A section stands for
    the field that tells its kind.
    """
    section, _, name = wanted.rpartition(".")
    scores = {}
    for path, info in fields().items():
        own_section, _, own_name = path.rpartition(".")
        similarity = max(
            _similarity(name, one) for one in (own_name, *field_metadata(info).aliases)
        )
        if is_discriminator(path):
            similarity = max(similarity, 0.95 * _similarity(name, own_section.rpartition(".")[2]))
        if similarity >= _MIN_SIMILARITY:
            depth = path.count(".")
            scores[path] = similarity + 0.25 * _similarity(section, own_section) - 0.1 * depth
    best = sorted(scores, key=scores.get, reverse=True)
    return [path for path in best if scores[path] > scores[best[0]] - 0.15][:limit]


def unknown_field(path: str, prefix: str = "") -> str:
    """The message for a field that is not there; `prefix` (`--config.`) is how fields are given."""
    if why := absence_reason(path):
        return f"{prefix}{path} is no field: {why}"
    near = [f"{prefix}{one}" for one in nearest_fields(path)]
    if near:
        return f"{prefix}{path} is no field of the configuration: did you mean {' or '.join(near)}?"
    section = path.rpartition(".")[0]
    inside = [one for one in fields() if section and one.startswith(f"{section}.")]
    if inside:
        names = dict.fromkeys(one.removeprefix(f"{section}.").split(".")[0] for one in inside)
        return f"{prefix}{path} is no field: {section} has {', '.join(names)}"
    return f"{prefix}{path} is no field: the sections are {', '.join(Config.model_fields)}"


def not_of_this_kind(path: str, owner: type[Settings] | None = None) -> str:
    """The message for a field that other kinds of its section have, and the one at hand has not.

    owner: the kind at hand, where it is known.
    """
    told = _kinds_with(path)
    ((discriminator, _), *_) = told
    names = dict.fromkeys(name for where, name in told if where == discriminator)
    known = owner is not None and kind_name(owner) is not None
    here = f", and {discriminator} is {kind_name(owner)}" if known else ""
    return f"{path} belongs to {discriminator}={' or '.join(names)}{here}"


def accepted(path: str, *, brief: bool = False) -> str:
    """What a valid value of the field `path` is, in words; `brief` as `accepts` has it."""
    if is_discriminator(path):
        choices = list(dict.fromkeys(kind_name(owner) for owner in _owners(path)))
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return accepts(fields()[path], brief=brief)


def _owners(path: str) -> list[type[Settings]]:
    """The kinds of section that have the field or section `path`."""
    *sections, name = path.split(".")
    here: list[type[Settings]] = [Config]
    for section in sections:
        infos = [kind.model_fields[section] for kind in here if section in kind.model_fields]
        here = [kind for info in infos for kind in kinds(info)]
    return [kind for kind in dict.fromkeys(here) if name in kind.model_fields]


def _kinds_with(path: str) -> list[tuple[str, str]]:
    """The kinds of section that have the field `path`, in a section inside them too: each as the
    field that tells it, and its name there."""
    *sections, name = path.split(".")
    here: list[tuple[type[Settings], tuple[str, str] | None]] = [(Config, None)]
    for depth, section in enumerate(sections, 1):
        told = ".".join(sections[:depth])
        here = [
            (
                kind,
                (f"{told}.{kind.discriminator}", kind_name(kind)) if kind.discriminator else above,
            )
            for outer, above in here
            if section in outer.model_fields
            for kind in kinds(outer.model_fields[section])
        ]
    return [above for kind, above in here if name in kind.model_fields and above]


def _walk(section: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        if not kinds(info):
            yield f"{prefix}{name}", info
        for kind in kinds(info):
            yield from _walk(kind, f"{prefix}{name}.")


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
