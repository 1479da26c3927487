"""A section declares a field once: a subclass states only what differs."""

from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Interval

from configs.schema.config import Config
from configs.schema.data import Mixture, Records, Text
from configs.schema.settings import Settings, accepts, field, field_metadata, kind_name, kinds
from configs.schema.source import PreparedSet, UserFiles


class Base(Settings):
    discriminator: ClassVar = "kind"

    kind: str = field("", "Kind of thing.")
    size: Annotated[int, Interval(ge=1)] = field(
        4, "How large it is.", unit="pixels", mutable_on_resume=True, aliases=("big",)
    )


class Mixin(Settings):
    path: str | None = field(None, "Where it is.", required=True, accepts="a file")


class Joined(Mixin, Base):
    kind: Literal["joined"] = "joined"
    size: Annotated[int, Interval(ge=2)] = 8
    path: str | None = field(meaning="Where the joined thing is.", required=False)


def test_a_new_default_keeps_the_meaning_and_the_rest():
    kind, size, path = (Joined.model_fields[name] for name in ("kind", "size", "path"))
    assert (kind.default, kind.description, kind_name(Joined)) == (
        "joined",
        "Kind of thing.",
        "joined",
    )
    assert (size.default, size.description) == (8, "How large it is.")
    assert field_metadata(size) == field_metadata(Base.model_fields["size"])
    assert accepts(size) == "an integer >= 2"
    assert (path.default, path.description) == (None, "Where the joined thing is.")
    assert field_metadata(path) == {"required": False, "accepts": "a file"}


def test_the_base_keeps_its_own_declaration():
    assert Base.model_fields["size"].default == 4
    assert field_metadata(Mixin.model_fields["path"])["required"] is True


def test_a_field_that_only_bases_have_needs_no_line():
    class Plain(Mixin, Base):
        kind: Literal["plain"] = "plain"

    assert Plain.model_fields["size"].description == "How large it is."
    assert Plain(size=3).size == 3


@pytest.mark.parametrize("section", Config.model_fields)
def test_every_field_of_every_kind_has_a_default_and_a_meaning_behind_its_kind(section):
    for kind in kinds(Config.model_fields[section]):
        for name, info in kind.model_fields.items():
            assert info.description, f"{kind.__name__}.{name}"
        assert kind().model_fields_set == set()
        assert kind.discriminator in (None, next(iter(kind.model_fields)))


def test_a_source_joins_a_storage_and_a_modality():
    own = set(Records.model_fields) - set(Text.model_fields)
    assert own == {"path", "splits", "text_field", "invalid_utf8"}
    for kind in kinds(Config.model_fields["data"]):
        names = set(kind.model_fields)
        assert issubclass(kind, UserFiles) == ("path" in names)
        assert issubclass(kind, PreparedSet) == ("name" in names)
        assert ("splits" in names) == (issubclass(kind, UserFiles) or kind is Mixture)
