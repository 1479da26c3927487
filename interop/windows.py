"""Windows in some layers, as config.json has them: by the type of each layer.

Our mixer A has the window, and G has none.
"""

from collections.abc import Sequence

from interop.family import mixers, shortest_pattern
from interop.fields import Settings, Unsupported
from interop.json_fields import JsonFields

LAYER_TYPES = {"full_attention": "G", "sliding_attention": "A"}
"""Our mixer for each entry of the field `layer_types`."""


def read_windows(config: JsonFields, window: int | None, usual: Sequence[str]) -> Settings:
    """Return the pattern and the window. usual: the types of layers if config.json has none."""
    types = config.texts("layer_types", default=None)
    types = usual if types is None else types
    if len(types) != len(usual) or not set(types) <= LAYER_TYPES.keys():
        config.reject("layer_types", f"it must be {len(usual)} of {' or '.join(LAYER_TYPES)}")
    letters = "".join(LAYER_TYPES[one] for one in types)
    if window is None or "A" not in letters:
        return {"pattern": "A", "attention_window": None}
    return {"pattern": shortest_pattern(letters), "attention_window": window}


def window_letters(ours: Settings) -> str:
    """Return the mixer of each layer: A with a window, G without. Raises `Unsupported` for other
    mixers."""
    letters = mixers(ours["pattern"], ours["depth"])
    if not set(letters) <= set(LAYER_TYPES.values()):
        raise Unsupported(f"model.pattern={ours['pattern']}: it only has attention")
    return "G" * ours["depth"] if ours["attention_window"] is None else letters


def write_layer_types(letters: str) -> Settings:
    """Return the field of config.json for the mixers A and G."""
    names = {letter: name for name, letter in LAYER_TYPES.items()}
    return {"layer_types": [names[letter] for letter in letters]}
