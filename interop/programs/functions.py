"""The functions of a model that are exported as programs, with their inputs and results.

Shapes are tuples of sizes. A size is a number, or the name of a symbolic dimension:

    batch           rows
    length          positions: tokens, or frames of a recording; also as "4*length"
    source_length   tokens of the source of an encoder-decoder
    room            tokens that the state of a decoder has room for
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from training.model_def import ModelDef
from training.trees import Tree, flat

Size = int | str
Results = dict[str, Any]

BATCH, LENGTH, SOURCE_LENGTH, ROOM = "batch", "length", "source_length", "room"

SHORTEST = 16
"""The shortest length for which a program is written if it can't have a symbolic length."""

STATIC_LENGTH = 128
"""The largest length of the static program, in tokens or in positions of an audio model."""

LARGE = 1 << 20
"""A number of tokens above every window, to find out which dimensions grow with the room."""


@dataclass(frozen=True)
class ArraySpec:
    """An input or a result: its shape with symbolic dimensions, its dtype, and its meaning."""

    shape: tuple[Size, ...]
    dtype: str
    meaning: str


Specs = ArraySpec | Mapping[str, ArraySpec]


@dataclass(frozen=True)
class Function:
    """A function of a model.

    call: `call(module, *inputs)`, which returns its results by name.
    inputs: by name, in order; a dictionary of arrays, such as a state, is one input.
    results: by name.
    buckets: lengths for programs that can't have symbolic ones, from the shortest to the longest,
        by the names of the dimensions.
    """

    name: str
    meaning: str
    call: Callable[..., Results]
    inputs: Mapping[str, Specs]
    results: Mapping[str, Specs]
    buckets: Sequence[Mapping[str, int]] = ()

    @property
    def static_sizes(self) -> dict[str, int]:
        """Return the sizes of the static program: one row, and the longest lengths, but at most
        `STATIC_LENGTH`."""
        longest = self.buckets[-1] if self.buckets else {}
        return {BATCH: 1, **{name: min(size, STATIC_LENGTH) for name, size in longest.items()}}


def functions_of(model_def: ModelDef) -> list[Function]:
    """Return the functions of a model, `forward` first. A generator also has `prefill` and
    `decode`."""
    output = model_def.config.task.model_output
    if model_def.data_spec.image_shape is not None:
        return [_picture_classifier(model_def)]
    if model_def.data_spec.num_mels is not None:
        return [_sound_model(model_def)]
    if output == "target_tokens":
        return _encoder_decoder(model_def)
    if output == "next_tokens":
        return _language_model(model_def)
    return [_text_encoder(model_def, is_classifier=output == "classes")]


def _picture_classifier(model_def: ModelDef) -> Function:
    shape = model_def.data_spec.require("image_shape")
    return Function(
        "forward",
        "classifies images",
        lambda module, image: {"logits": module(image, train=False).astype(jnp.float32)},
        {"image": ArraySpec((BATCH, *shape), "uint8", "pixels: height, width, channels")},
        {"logits": _class_logits(model_def)},
    )


def _sound_model(model_def: ModelDef) -> Function:
    spec = model_def.data_spec
    factor = getattr(model_def.config.model, "subsampling", 1)
    length = LENGTH if factor == 1 else f"{factor}*{LENGTH}"
    inputs = {
        "frames": ArraySpec((BATCH, length, spec.require("num_mels")), "float32", "log-mel frames"),
        "segments": _segments(length, "frames"),
    }
    buckets = [{LENGTH: size} for size in _lengths(-(-spec.require("max_frames") // factor))]

    def classify(module: Any, frames: jax.Array, segments: jax.Array) -> Results:
        return {"logits": module.classify(frames, segments_BT=segments)}

    def transcribe(module: Any, frames: jax.Array, segments: jax.Array) -> Results:
        logits_BUV, segments_BU = module.transcribe(frames, segments_BT=segments)
        return {"logits": logits_BUV, "segments": segments_BU}

    if spec.num_classes is not None:
        results = {"logits": _class_logits(model_def)}
        return Function("forward", "classifies recordings", classify, inputs, results, buckets)
    results = {
        "logits": _token_logits(model_def, BATCH, LENGTH),
        "segments": _segments(LENGTH, "positions"),
    }
    return Function("forward", "transcribes recordings", transcribe, inputs, results, buckets)


def _text_encoder(model_def: ModelDef, *, is_classifier: bool) -> Function:
    inputs = {"tokens": _tokens(LENGTH), "segments": _segments(LENGTH, "tokens")}
    buckets = [{LENGTH: size} for size in _lengths(model_def.data_spec.require("max_length"))]

    def classify(module: Any, tokens: jax.Array, segments: jax.Array) -> Results:
        return {"logits": module.classify(tokens, segments_BT=segments)}

    def fill(module: Any, tokens: jax.Array, segments: jax.Array) -> Results:
        return {"logits": module(tokens, segments_BT=segments)[0]}

    if is_classifier:
        results = {"logits": _class_logits(model_def)}
        return Function("forward", "classifies texts", classify, inputs, results, buckets)
    results = {"logits": _token_logits(model_def, BATCH, LENGTH)}
    return Function("forward", "finds the tokens of a text", fill, inputs, results, buckets)


def _language_model(model_def: ModelDef) -> list[Function]:
    buckets = [{LENGTH: size} for size in _lengths(model_def.data_spec.require("max_length"))]
    state, restore = _specs(
        model_def,
        lambda module, sizes: module.initial_state(sizes[BATCH], sizes[ROOM]),
        {BATCH: 2, ROOM: LARGE},
        "part of the state; zeros before the first token",
    )

    def forward(module: Any, tokens: jax.Array) -> Results:
        return {"logits": module(tokens)[0]}

    def prefill(module: Any, tokens: jax.Array, segments: jax.Array, state: Any) -> Results:
        x_BTD, new = module.hidden(tokens, segments_BT=segments, state=restore(state))
        last_B = jnp.maximum(jnp.sum(segments != 0, axis=1) - 1, 0)
        x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
        return {"logits": module.head(x_B1D)[:, 0], "state": flat(new)}

    def decode(module: Any, tokens: jax.Array, state: Any) -> Results:
        logits_B1V, new = module(tokens[:, None], state=restore(state))
        return {"logits": logits_B1V[:, 0], "state": flat(new)}

    each: Mapping[str, Specs] = {"logits": _token_logits(model_def, BATCH, LENGTH)}
    next_one: Mapping[str, Specs] = {"logits": _token_logits(model_def, BATCH), "state": state}
    read: Mapping[str, Specs] = {
        "tokens": _tokens(LENGTH),
        "segments": _segments(LENGTH, "tokens"),
        "state": state,
    }
    return [
        Function(
            "forward",
            "predicts the next token at each position of whole sequences; padding at the end "
            "changes nothing before it",
            forward,
            {"tokens": _tokens(LENGTH)},
            each,
            buckets,
        ),
        Function(
            "prefill",
            "reads the next tokens of each row; logits of the token after the last of them",
            prefill,
            read,
            next_one,
            buckets,
        ),
        Function(
            "decode",
            "reads one token of each row; logits of the next token",
            decode,
            {"tokens": _tokens(), "state": state},
            next_one,
        ),
    ]


def _encoder_decoder(model_def: ModelDef) -> list[Function]:
    longest, room = (
        model_def.data_spec.require(name) for name in ("max_source_length", "max_length")
    )

    def encode(module: Any, source: jax.Array, segments: jax.Array) -> tuple[Tree, Tree]:
        memory = module.encode(source, segments_BS=segments)
        return memory, module.initial_state(memory, room)

    def encoded(module: Any, sizes: Mapping[str, int]) -> tuple[Tree, Tree]:
        ones = jnp.ones((sizes[BATCH], sizes[SOURCE_LENGTH]), jnp.int32)
        return encode(module, ones, ones)

    sizes = {BATCH: 2, SOURCE_LENGTH: SHORTEST}
    memory, restore_memory = _specs(
        model_def, lambda *of: encoded(*of)[0], sizes, "part of the encoded source"
    )
    state, restore_state = _specs(
        model_def, lambda *of: encoded(*of)[1], sizes, "part of the state of the decoder"
    )

    def forward(module: Any, source: jax.Array, segments: jax.Array, tokens: jax.Array) -> Results:
        x_BTD, _ = module.hidden(tokens, module.encode(source, segments_BS=segments))
        return {"logits": module.head(x_BTD)}

    def prefill(module: Any, source: jax.Array, segments: jax.Array) -> Results:
        memory, state = encode(module, source, segments)
        return {"memory": flat(memory), "state": flat(state)}

    def decode(module: Any, tokens: jax.Array, memory: Any, state: Any) -> Results:
        x_B1D, new = module.hidden(
            tokens[:, None], restore_memory(memory), state=restore_state(state)
        )
        return {"logits": module.head(x_B1D)[:, 0], "state": flat(new)}

    source = {
        "source": _tokens(SOURCE_LENGTH),
        "source_segments": _segments(SOURCE_LENGTH, "tokens"),
    }
    return [
        Function(
            "forward",
            "predicts the next token at each position of the targets",
            forward,
            {**source, "tokens": _tokens(LENGTH)},
            {"logits": _token_logits(model_def, BATCH, LENGTH)},
            [{SOURCE_LENGTH: size, LENGTH: room} for size in _lengths(longest)],
        ),
        Function(
            "prefill",
            f"encodes sources; the state has room for {room} tokens of the targets",
            prefill,
            source,
            {"memory": memory, "state": state},
            [{SOURCE_LENGTH: size} for size in _lengths(longest)],
        ),
        Function(
            "decode",
            "reads one token of each target; logits of the next token",
            decode,
            {"tokens": _tokens(), "memory": memory, "state": state},
            {"logits": _token_logits(model_def, BATCH), "state": state},
        ),
    ]


def _class_logits(model_def: ModelDef) -> ArraySpec:
    shape = (BATCH, model_def.data_spec.require("num_classes"))
    return ArraySpec(shape, "float32", "logits of the classes")


def _token_logits(model_def: ModelDef, *positions: Size) -> ArraySpec:
    own, added = model_def.data_spec.require("vocabulary_size"), model_def.task.extra_tokens
    return ArraySpec((*positions, own + added), "float32", "logits of the tokens")


def _tokens(*length: Size) -> ArraySpec:
    return ArraySpec((BATCH, *length), "int32", "ids of tokens")


def _segments(length: Size, what: str) -> ArraySpec:
    return ArraySpec((BATCH, length), "int32", f"1 for {what}, 0 for padding at the end of a row")


def _lengths(longest: int) -> list[int]:
    """Return powers of two from `SHORTEST` on that are less than `longest`, and `longest`."""
    lengths, length = [], SHORTEST
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def _specs(
    model_def: ModelDef,
    arrays: Callable[[Any, Mapping[str, int]], Tree],
    sizes: Mapping[str, int],
    meaning: str,
) -> tuple[dict[str, ArraySpec], Callable[[Mapping[str, jax.Array]], Tree]]:
    """Return the specs of the arrays of a tree by their dotted names, and the function that builds
    the tree from arrays by name.

    arrays(module, sizes): returns the tree for sizes of the symbolic dimensions. A dimension is
    symbolic if it changes together with the size.
    """

    def shapes(sizes: Mapping[str, int]) -> Tree:
        return jax.eval_shape(
            lambda params, statistics: arrays(model_def.bind(params, statistics), sizes),
            model_def.abstract_params,
            model_def.abstract_statistics,
        )

    tree = shapes(sizes)
    leaves = flat(tree)
    dimensions: dict[str, list[Size]] = {name: [*leaf.shape] for name, leaf in leaves.items()}
    for size, value in sizes.items():
        for name, leaf in flat(shapes({**sizes, size: value + 1})).items():
            for axis, (now, before) in enumerate(zip(leaf.shape, leaves[name].shape, strict=True)):
                if now != before:
                    dimensions[name][axis] = size
    specs = {
        name: ArraySpec(tuple(dimensions[name]), str(leaf.dtype), meaning)
        for name, leaf in leaves.items()
    }

    def restored(by_name: Mapping[str, jax.Array]) -> Tree:
        return jax.tree.unflatten(jax.tree.structure(tree), [by_name[name] for name in leaves])

    return specs, restored
