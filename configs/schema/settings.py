"""Building blocks of the configuration: base class of sections, field declarations, number types.

A section is a pydantic model. Some sections have several kinds, such as the architectures of
`model`. They are a union of classes, and one field (the discriminator) selects the class.
"""

import types
import typing
from typing import Annotated, Any, ClassVar, TypedDict, Unpack, cast

import pydantic
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

INTEGER_LIMIT = 2**31 - 1
"""The largest 32-bit integer. JAX counts steps and seeds random keys with 32-bit integers."""

FLOAT_SMALLEST, FLOAT_LARGEST = 1e-30, 1e30
"""Bounds of floating-point fields. float32, in which models are trained, covers this range."""

Count = Annotated[int, Interval(ge=1, le=INTEGER_LIMIT)]
NonNegativeInteger = Annotated[int, Interval(ge=0, le=INTEGER_LIMIT)]
PositiveNumber = Annotated[float, Interval(ge=FLOAT_SMALLEST, le=FLOAT_LARGEST)]
NonNegativeNumber = Annotated[float, Interval(ge=0.0, le=FLOAT_LARGEST)]
Fraction = Annotated[float, Interval(ge=0.0, lt=1.0)]
Probability = Annotated[float, Interval(ge=0.0, le=1.0)]
PlainText = Annotated[str, pydantic.StringConstraints(min_length=1)]
FilePath = PlainText
NamePattern = Annotated[str, pydantic.StringConstraints(pattern=r"^[\w.*?\[\]!-]+$")]
"""A pattern of parameter names with wildcards, such as `embedding.*`."""


class Settings(pydantic.BaseModel):
    """Base class of sections. Types are strict; unknown fields, NaN and infinity are errors.

    A field that a base class has too states only what differs. It keeps the rest of the base's
    declaration: default, meaning and metadata.
    """

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    discriminator: ClassVar[str | None] = None
    """Name of the field that selects the kind of this section; None if it has only one kind."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in vars(cls).get("__annotations__", ()):
            bases = (getattr(base, "model_fields", {}) for base in cls.__mro__[1:])
            declared = next((fields[name] for fields in bases if name in fields), None)
            if declared is not None:
                stated = vars(cls).get(name, PydanticUndefined)
                setattr(cls, name, _complete(stated, declared))

    def model_post_init(self, context: Any) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError if fields of this section conflict."""

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect because of other fields of this section.

        The result maps the name of the field to the reason.
        """
        return {}


class FieldMetadata(TypedDict, total=False):
    """Properties of a field in addition to its type, range and meaning."""

    unit: str
    """The unit of the value."""

    mutable_on_resume: bool
    """Whether the value may change when a run resumes."""

    required: bool
    """Whether the user must replace the default None."""

    aliases: tuple[str, ...]
    """Names of the same setting in other trainers, for suggestions."""

    accepts: str
    """A description of the valid values, if their type and range do not describe them."""


def field(
    default: Any = PydanticUndefined,
    meaning: str | None = None,
    **metadata: Unpack[FieldMetadata],
) -> Any:
    """Declare a field of a section. meaning: its description.

    A field that a base class has too needs none of the arguments: see `Settings`.
    """
    extra: Any = metadata
    return pydantic.Field(default, description=meaning, json_schema_extra=extra)


def field_metadata(info: FieldInfo) -> FieldMetadata:
    """Return the metadata of a field that was declared with `field`."""
    return cast(FieldMetadata, info.json_schema_extra or {})


def _complete(own: Any, declared: FieldInfo) -> Any:
    """Return the declaration of a field in a subclass.

    own: what the subclass states: a `field`, a default, or nothing (undefined).
    declared: the base class's declaration, which gives the rest.
    """
    own = own if isinstance(own, FieldInfo) else field(own)
    default = declared.default if own.default is PydanticUndefined else own.default
    metadata = field_metadata(declared) | field_metadata(own)
    return field(default, own.description or declared.description, **metadata)


def union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union as a tuple. For another type, return a tuple with this type."""
    if typing.get_origin(annotation) is Annotated:
        return union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def kinds(info: FieldInfo) -> tuple[type[Settings], ...]:
    """Return the classes of all kinds of the section `info`; () if `info` is not a section."""
    members = union_members(info.annotation)
    if all(isinstance(one, type) and issubclass(one, Settings) for one in members):
        return members
    return ()


def kind_name(section: type[Settings]) -> str | None:
    """Return the name of a kind, such as "cnn": the value of its discriminator.

    Returns None for a section with only one kind.
    """
    if section.discriminator is None:
        return None
    return section.model_fields[section.discriminator].default


def accepts(info: FieldInfo, *, brief: bool = False) -> str:
    """Describe the valid values of a field: "an integer >= 1", "one of cosine, constant".

    brief: omit the bounds that only exclude numbers beyond 32 bits.
    """
    members = union_members(info.annotation)
    text = field_metadata(info).get("accepts") or _accepts_type(members[0], [*info.metadata], brief)
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
    """Return the bounds of a constraint as text: [">= 0", "< 1"] for `Interval(ge=0, lt=1)`."""
    if isinstance(item, Interval):
        return [text for part in item for text in _bounds(part, brief)]
    for kind, sign in ((Ge, ">="), (Gt, ">"), (Le, "<="), (Lt, "<")):
        if isinstance(item, kind):
            limit = getattr(item, kind.__name__.lower())
            if not brief or limit not in (INTEGER_LIMIT, FLOAT_LARGEST):
                return [f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}"]
    return []
