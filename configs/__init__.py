"""The configuration of a run: its schema, its recipes, and the command lines that change it."""

from configs.errors import UsageError
from configs.json_text import json_text
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.explanation import explain
from configs.reading.inputs import check_inputs, check_origin, is_hugging_face, nearest_path
from configs.reading.recipes import load_config
from configs.reading.saved import (
    check_workdir,
    differences,
    read_config,
    refuse_differences,
    with_own_tokenizer,
    write_config,
    written_config,
)
from configs.schema import Config, resolve_mesh, resolve_steps, written_task
from configs.schema.mesh import AXES as MESH_AXES

__all__ = [
    "MESH_AXES",
    "Config",
    "Flag",
    "UsageError",
    "check_inputs",
    "check_origin",
    "check_workdir",
    "differences",
    "explain",
    "is_hugging_face",
    "json_text",
    "load_config",
    "nearest_path",
    "parse_command_line",
    "read_config",
    "refuse_differences",
    "resolve_mesh",
    "resolve_steps",
    "run_verb",
    "with_own_tokenizer",
    "write_config",
    "written_config",
    "written_task",
]
