"""The configuration section `serve`: the limits of the server."""

from typing import Annotated, Any

from annotated_types import Interval

from configs.schema.settings import Count, NonNegativeInteger, Settings, field

Seconds = Annotated[float, Interval(ge=0.1, le=86_400)]
MegaBytes = Annotated[int, Interval(ge=1, le=1 << 20)]

MOST_MESSAGES = 4096
"""Upper bound of `max_messages`. Up to this many messages of a body are parsed before they are
counted."""


def _limit(default: Any, meaning: str, unit: str = "") -> Any:
    """Declare a field of `serve`. Training does not use these fields, so they may change on
    resume."""
    return field(default, meaning, unit=unit, mutable_on_resume=True)


class Serve(Settings):
    """Configures how `serve.py` answers requests, and limits what it accepts.

    A request that is larger than a limit gets a status from 400 to 499, with a message that states
    the limit.
    """

    # The model, and its memory.
    model_name: str = _limit("", "Name of the model in requests; empty: the workdir's name.")
    slots: Count = _limit(
        16, "Texts that are generated, or inputs that are answered, at the same time; others wait."
    )
    max_context: Count | None = _limit(
        None,
        "Tokens of a prompt and its answer together, at most, or of a text to embed; none: as many "
        "as the model can attend to. Each slot has room for so many.",
    )
    prefix_cache_mb: NonNegativeInteger = _limit(
        256, "Memory for states of prompts that later prompts can reuse; 0: none are kept.", "MB"
    )

    # Hosts, connections and the queue.
    allowed_hosts: tuple[str, ...] = _limit(
        (), "Names that a request's Host header may have, beside the address of the server."
    )
    max_connections: Count = _limit(
        1024, "Open connections; beyond it, the one that has been idle longest is closed."
    )
    max_waiting_requests: Count = _limit(
        256, "Requests that wait for a slot; `n` answers to a prompt count as n."
    )
    max_waiting_tokens: Count = _limit(1 << 18, "Prompt tokens of all requests that wait.")

    # Time limits.
    header_seconds: Seconds = _limit(10.0, "Time for the header of a request.", "seconds")
    body_seconds: Seconds = _limit(60.0, "Time for the body of a request.", "seconds")
    keep_alive_seconds: Seconds = _limit(
        5.0, "Time for which an idle connection stays open.", "seconds"
    )
    first_token_seconds: Seconds = _limit(
        60.0, "Time from a request's body until its answer begins, all waiting included.", "seconds"
    )
    answer_seconds: Seconds = _limit(
        600.0, "Time from a request's header until its answer is complete.", "seconds"
    )
    unread_seconds: Seconds = _limit(
        60.0, "Time for which a client may leave a part of an answer unread.", "seconds"
    )
    drain_seconds: Seconds = _limit(
        30.0, "Time to finish the answers that are incomplete at SIGTERM.", "seconds"
    )

    # Size limits.
    max_header_bytes: Count = _limit(1 << 14, "Size of a request's header.", "bytes")
    max_body_bytes: Count = _limit(1 << 20, "Size of a JSON body.", "bytes")
    max_upload_bytes: Count = _limit(25 << 20, "Size of an uploaded image or audio file.", "bytes")
    max_held_upload_bytes: Count = _limit(
        256 << 20, "Size of all uploads that are being read and decoded at the same time.", "bytes"
    )
    max_prompts: Count = _limit(128, "Prompts or inputs of a request.")
    max_input_characters: Count = _limit(
        1 << 18, "Characters of a text to embed, fill in, translate or classify, or a `prediction`."
    )
    max_input_tokens: Count = _limit(
        8192, "Tokens of a text to embed, for a model whose context is unlimited."
    )
    max_messages: Annotated[int, Interval(ge=1, le=MOST_MESSAGES)] = _limit(
        256, "Messages of a conversation."
    )
    max_n: Count = _limit(16, "Answers to each prompt (`n`).")
    max_tokens: Count = _limit(
        4096, "Tokens of an answer; for a model with a context, the context is a limit too."
    )
    max_stops: Count = _limit(4, "Stop strings of a request.")
    max_stop_characters: Count = _limit(256, "Characters of a stop string.")
    max_bias_tokens: Count = _limit(1024, "Tokens in `logit_bias`.")
    max_schema_bytes: Count = _limit(1 << 16, "Size of the JSON schema of an answer.", "bytes")

    # Decoding of files, in sandbox processes.
    max_pixels: Count = _limit(50_000_000, "Pixels of an image.", "pixels")
    max_sound_seconds: Seconds = _limit(600.0, "Length of an audio recording.", "seconds")
    sandbox_processes: Count = _limit(2, "Processes that decode files and render conversations.")
    sandbox_mb: MegaBytes = _limit(1024, "Memory of each sandbox process.", "MB")
    sandbox_seconds: Seconds = _limit(
        20.0, "Time to decode one file or render one conversation.", "seconds"
    )

    log_prompts: bool = _limit(
        False, "Whether the JSON bodies of requests and the generated texts are written to the log."
    )
