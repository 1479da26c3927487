"""The base class of the fields beside an uploaded file."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import pydantic

from serving.errors import invalid
from serving.forms.form import REQUEST_SETTINGS, Form
from serving.forms.parameters import complete
from serving.uploads import FILE


class UploadForm(Form):
    """Base class of the fields of an upload. Their values arrive as text, so types are not strict.

    lists: fields that may be given several times; `name[]` is the same as `name`.
    """

    model_config = pydantic.ConfigDict(**(REQUEST_SETTINGS | {"strict": False}))

    lists: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of_fields(cls, fields: Iterable[tuple[str, str]]) -> Self:
        """Check the fields of an upload, given as names and values. Raises `ApiError` that names
        the wrong parameter."""
        values: dict[str, Any] = {}
        for name, value in fields:
            plain = name.removesuffix("[]")
            if plain in cls.lists:
                values.setdefault(plain, []).append(value)
            elif name in values:
                raise invalid(f"{name[:100]} is given several times", name[:100])
            else:
                values[name] = value
        return cls.of(values)

    @classmethod
    def upload_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of the parts of an upload."""
        schema = cls.model_json_schema()
        complete(schema, cls, has_null=False)
        for name in cls.refused.keys() - cls.harmless.keys():
            del schema["properties"][name]  # No value of it is accepted, and a part can't be null.
        file = {"type": "string", "format": "binary", "description": "The file."}
        return schema | {
            "properties": {FILE: file} | schema["properties"],
            "required": [FILE, *schema.get("required", ())],
        }
