"""What turns text, pictures and sound into numbers and back: for data, tasks and inference."""

import importlib

_HOMES = {
    "ChatEncoder": "data.codecs.chat",
    "ChatTemplate": "data.codecs.chat",
    "GapCodec": "data.codecs.gaps",
    "LogMel": "data.codecs.sound",
    "Piece": "data.codecs.gaps",
    "SEPARATOR": "data.codecs.tokenizers",
    "StreamDecoder": "data.codecs.tokenizers",
    "Tokenizer": "data.codecs.tokenizers",
    "UNKNOWN": "data.codecs.tokenizers",
    "decode_picture": "data.codecs.pictures",
    "decode_sound": "data.codecs.sound",
    "encode_png": "data.codecs.pictures",
    "for_prompts": "data.codecs.chat",
    "joined_ids": "data.codecs.gaps",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found
