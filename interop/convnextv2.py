"""ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808): `ConvNextV2ForImageClassification`."""

from interop.convnext import COMMON_FIELDS, more, table
from interop.family import Family
from interop.fields import Ours

FAMILY = Family(
    "convnextv2",
    table("convnextv2."),
    fields=(Ours({"architecture": "convnext", "response_norm": True}), *COMMON_FIELDS),
    classes={"classes": "ConvNextV2ForImageClassification"},
    more=more,
    any_image_size=True,
)
