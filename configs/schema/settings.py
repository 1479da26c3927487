"""Declares sections of the configuration: their base class, fields, and number types.

A section is a class of fields. A section of several kinds is a union of such classes, which the
field named by `discriminator` distinguishes.
"""

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pydantic
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic.fields import FieldInfo

INTEGER_LIMIT = 2**31 - 1
"""The largest 32-bit integer: what JAX counts steps and seeds random keys with."""

FLOAT_SMALLEST, FLOAT_LARGEST = 1e-30, 1e30
"""Bounds of numbers that float32, in which models are trained, represents well."""

Count = Annotated[int, Interval(ge=1, le=INTEGER_LIMIT)]
NonNegativeInteger = Annotated[int, Interval(ge=0, le=INTEGER_LIMIT)]
PositiveNumber = Annotated[float, Interval(ge=FLOAT_SMALLEST, le=FLOAT_LARGEST)]
NonNegativeNumber = Annotated[float, Interval(ge=0.0, le=FLOAT_LARGEST)]
Fraction = Annotated[float, Interval(ge=0.0, lt=1.0)]
Probability = Annotated[float, Interval(ge=0.0, le=1.0)]
NamePattern = Annotated[str, pydantic.StringConstraints(pattern=r"^[\w.*?\[\]!-]+$")]
"""A pattern of parameter names; * matches anything."""


class Settings(pydantic.BaseModel):
    """A section of typed fields: no conversion, no unknown fields, only finite numbers."""

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    discriminator: ClassVar[str | None] = None
    """The field that distinguishes the kinds of this section."""

    def unused_fields(self) -> dict[str, str]:
        """Return the fields without effect under the others of this section: name to reason."""
        return {}


@dataclass(frozen=True)
class FieldMetadata:
    """Properties of a field beside its type, range and meaning.

    unit: of the value. mutable_on_resume: may change when a run resumes. required: the user must
    replace the default None. aliases: names in other trainers, for suggestions. accepts: the valid
    values in words, where type and range do not say it.
    """

    unit: str | None = None
    mutable_on_resume: bool = False
    required: bool = False
    aliases: tuple[str, ...] = ()
    accepts: str | None = None


def field(
    default: Any,
    meaning: str,
    *,
    unit: str | None = None,
    mutable_on_resume: bool = False,
    required: bool = False,
    aliases: tuple[str, ...] = (),
    accepts: str | None = None,
) -> Any:
    """Declare a field of a section; the keywords are those of `FieldMetadata`."""
    extra: Any = {"metadata": FieldMetadata(unit, mutable_on_resume, required, aliases, accepts)}
    return pydantic.Field(default, description=meaning, json_schema_extra=extra)


def field_metadata(info: FieldInfo) -> FieldMetadata:
    """Return the metadata that `field` stored."""
    extra: Any = info.json_schema_extra
    return extra["metadata"] if extra else FieldMetadata()


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or any other annotation as the only member."""
    if typing.get_origin(annotation) is Annotated:
        return union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def kinds(info: FieldInfo) -> tuple[type[Settings], ...]:
    """Return the classes that a section may be of; () for a field that is no section."""
    members = union_members(info.annotation)
    if all(isinstance(one, type) and issubclass(one, Settings) for one in members):
        return members
    return ()


def kind_name(section: type[Settings]) -> str | None:
    """Return the value of the discriminator of `section`; None for a section of one kind."""
    if section.discriminator is None:
        return None
    return section.model_fields[section.discriminator].default


def accepts(info: FieldInfo, *, brief: bool = False) -> str:
    """Describe the valid values of a field: "an integer >= 1", "one of cosine, constant".

    brief: without the limits of 32-bit numbers.
    """
    members = union_members(info.annotation)
    text = field_metadata(info).accepts or _accepts_type(members[0], [*info.metadata], brief)
    return f"{text}, or none" if type(None) in members else text


def _accepts_type(annotation: Any, metadata: list[Any], brief: bool) -> str:
    if typing.get_origin(annotation) is Annotated:
        inner, *more = typing.get_args(annotation)
        return _accepts_type(inner, more + metadata, brief)
    if typing.get_origin(annotation) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if typing.get_origin(annotation) is tuple:
        element = _accepts_type(typing.get_args(annotation)[0], [], brief)
        return f"values separated by commas, each {element}"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return "text"
    word = "an integer" if annotation is int else "a number" if brief else "a finite number"
    bounds = [bound for item in metadata for bound in _bounds(item, brief)]
    return f"{word} {' and '.join(bounds)}".strip()


def _bounds(item: Any, brief: bool) -> list[str]:
    """Return a constraint as text: [">= 0", "< 1"] for `Interval(ge=0, lt=1)`."""
    if isinstance(item, Interval):
        return [text for part in item for text in _bounds(part, brief)]
    for kind, sign in ((Ge, ">="), (Gt, ">"), (Le, "<="), (Lt, "<")):
        if isinstance(item, kind):
            limit = getattr(item, kind.__name__.lower())
            if not brief or limit not in (INTEGER_LIMIT, FLOAT_LARGEST):
                return [f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}"]
    return []
