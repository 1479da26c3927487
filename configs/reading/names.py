"""The names of all fields, and messages that suggest the right name for a wrong one."""

import difflib
import functools
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from configs.schema.config import Config
from configs.schema.settings import Settings, accepts, field_metadata, kind_name, kinds

_MIN_SIMILARITY = 0.72
"""Minimum similarity (difflib's ratio) of a suggested name to the wrong name."""

_ABSENT_SETTINGS = {
    "training goes on by itself from the newest checkpoint in --workdir: run the same command "
    "again (another run's weights are --config.train.initialize_from=DIR)": (
        "resume", "resume_from", "resume_from_checkpoint", "resume_training", "resume_path",
        "auto_resume", "continue", "continue_training", "restore", "restore_from",
        "restore_checkpoint", "checkpoint", "checkpoint_path", "ckpt", "ckpt_path",
        "load_checkpoint", "load_ckpt", "last_ckpt", "load", "load_weights", "weights_only",
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
"""Settings of other trainers that do not exist here. Maps the reason to the settings' names."""


@functools.cache
def fields() -> dict[str, FieldInfo]:
    """Return the fields of all kinds of all sections: path (`model.width`) to declaration."""
    infos: dict[str, FieldInfo] = {}
    for path, info in _walk(Config, ""):
        infos.setdefault(path, info)
    return infos


def absence_reason(name: str) -> str | None:
    """Return why `name`, a setting of other trainers, does not exist here. None for other names."""
    plain = name.rpartition(".")[2].lower().replace("-", "_")
    return next((why for why, aliases in _ABSENT_SETTINGS.items() if plain in aliases), None)


def is_field_or_section(path: str) -> bool:
    """Return whether `path` is a section, or a field of any kind of a section."""
    return any(f"{field}.".startswith(f"{path}.") for field in fields())


def is_discriminator(path: str) -> bool:
    """Return whether the field `path` selects the kind of its section, as `model.architecture`."""
    return any(kind.discriminator == path.rpartition(".")[2] for kind, _ in _kinds_with(path))


def nearest_fields(wanted: str) -> list[str]:
    """Return the paths of up to two fields that are similar to `wanted`, most similar first.

    Names in other trainers are compared too. Fields in the same section as `wanted` rank higher. A
    section's name (`optimizer`) also matches its discriminator (`optimizer.name`).
    """
    section, _, name = wanted.rpartition(".")
    scores = {}
    for path, info in fields().items():
        own_section, _, own_name = path.rpartition(".")
        candidates = (own_name, *field_metadata(info).get("aliases", ()))
        similarity = max(_similarity(name, candidate) for candidate in candidates)
        if is_discriminator(path):
            similarity = max(similarity, 0.95 * _similarity(name, own_section.rpartition(".")[2]))
        if similarity >= _MIN_SIMILARITY:
            depth = path.count(".")
            scores[path] = similarity + 0.25 * _similarity(section, own_section) - 0.1 * depth
    best = sorted(scores, key=lambda path: scores[path], reverse=True)
    return [path for path in best if scores[path] > scores[best[0]] - 0.15][:2]


def unknown_field(path: str, prefix: str = "") -> str:
    """Return the message for a field that does not exist.

    prefix: written before each name, such as `--config.`.
    """
    if why := absence_reason(path):
        return f"{prefix}{path} is no field: {why}"
    near = [f"{prefix}{field}" for field in nearest_fields(path)]
    if near:
        return f"{prefix}{path} is no field of the configuration: did you mean {' or '.join(near)}?"
    section = path.rpartition(".")[0]
    inside = [field for field in fields() if section and field.startswith(f"{section}.")]
    if inside:
        names = dict.fromkeys(field.removeprefix(f"{section}.").split(".")[0] for field in inside)
        return f"{prefix}{path} is no field: {section} has {', '.join(names)}"
    return f"{prefix}{path} is no field: the sections are {', '.join(Config.model_fields)}"


def not_of_this_kind(path: str, actual: type[Settings] | None = None) -> str:
    """Return the message for a field that exists only in other kinds of its section.

    actual: the section's kind, if known.
    """
    choices = [choice for _, choice in _kinds_with(path) if choice]
    ((discriminator, _), *_) = choices
    names = dict.fromkeys(name for field, name in choices if field == discriminator)
    name = None if actual is None else kind_name(actual)
    given = "" if name is None else f", and {discriminator} is {name}"
    return f"{path} belongs to {discriminator}={' or '.join(names)}{given}"


def accepted(path: str, *, brief: bool = False) -> str:
    """Describe the valid values of the field `path` in words. brief: as in `settings.accepts`."""
    if is_discriminator(path):
        choices = list(dict.fromkeys(str(kind_name(kind)) for kind, _ in _kinds_with(path)))
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return accepts(fields()[path], brief=brief)


def _kinds_with(path: str) -> list[tuple[type[Settings], tuple[str, str] | None]]:
    """Return the kinds of section that contain the field or section `path`.

    The second item of each pair is the choice that selects this kind: the path and the value of a
    discriminator ("model.architecture", "cnn"). If several sections around `path` have kinds, the
    discriminator is the one of the innermost. If none has, the second item is None.
    """
    *sections, name = path.split(".")
    reached: list[tuple[type[Settings], tuple[str, str] | None]] = [(Config, None)]
    for depth, section in enumerate(sections, 1):
        outer_kinds, reached = reached, []
        for outer, choice in outer_kinds:
            info = outer.model_fields.get(section)
            for kind in kinds(info) if info else ():
                discriminator = ".".join((*sections[:depth], str(kind.discriminator)))
                own_choice = (discriminator, str(kind_name(kind))) if kind.discriminator else choice
                reached.append((kind, own_choice))
    return [(kind, choice) for kind, choice in reached if name in kind.model_fields]


def _walk(section: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        if not kinds(info):
            yield f"{prefix}{name}", info
        for kind in kinds(info):
            yield from _walk(kind, f"{prefix}{name}.")


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
