"""A request in the engine: its tokens and its text, on the host."""

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import ConstraintState
from inference.engine.programs import LOGPROBS, MASKS, SPECULATION
from inference.engine.slots import ALTERNATIVES, NOTHING
from inference.requests import Completion, Request, RequestError, TokenLogprob
from inference.sampling import row_key, used_options
from inference.text import GrowingText
from model.layers.states import ModelState

OnText = Callable[[str, Completion | None], None]
"""Called with each new piece of a text, and with its completion, which is None until the text has
ended."""


class Job:
    """A request in the engine.

    ids: the tokens of the prompt and the text.
    prompt_tokens: the number of tokens of the prompt.
    text: the generated text.
    key: the random key of the text, uint32 [2].
    prediction: the tokens of the request's prediction.
    unread: tokens that must be read before the text can continue.
    read: the number of tokens in the model state; while the text is generated, all except the last.
    state: the model state of one row while tokens are unread; None while a slot has it.
    steps_left: the number of steps that the slot can still take, as far as the host knows.
    steps_granted: the number of generated tokens after these steps.
    read_granted: the number of tokens in the model state after these steps.
    keep_after: the numbers of tokens after which the state is kept for other requests.
    cached_tokens: the number of tokens whose state was kept from another request.
    logprobs, prompt_logprobs: as in `Completion`.
    end_logprob: the log-probability of the separator that ended the text; it is not in `logprobs`.
    accepted, rejected: the number of tokens that speculation guessed right and wrong.
    has_begun: whether the request has got a slot.
    is_cancelled: whether the text is no longer wanted.
    completion: None until the text has ended.
    error: the reason why the text could not be continued; the completion then has the text so far.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        on_text: OnText | None,
        constraint: ConstraintState | None,
    ):
        self.request, self.on_text, self.constraint = request, on_text, constraint
        prompt = request.prompt
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt).tolist()
            opening = tokenizer.opening if ids else tokenizer.document_opening
            self.ids, prompt_hash = [*opening.tolist(), *ids], zlib.crc32(prompt.encode())
        else:
            ids = self.ids = [*prompt]
            prompt_hash = zlib.crc32(np.array(ids, np.int32).tobytes())
        self.prompt_tokens = len(self.ids)
        self.text = GrowingText(
            tokenizer,
            max_tokens=request.max_tokens,
            stop=request.stop,
            stop_tokens=request.stop_tokens,
            after=ids if tokenizer.joins_prompt else [],
        )
        self.key = row_key(request.sampling.seed, prompt_hash, request.repeat)
        self.prediction: Sequence[int] = ()
        if isinstance(request.prediction, str):
            # `encode` of a chat model's tokenizer would make a message of it.
            (prediction,) = tokenizer.encode_many([request.prediction])
            self.prediction = prediction.tolist()
        elif request.prediction is not None:
            self.prediction = request.prediction
        self.unread: Sequence[int] = self.ids[:-1]
        self.read = self.cached_tokens = 0
        self.steps_left = self.steps_granted = self.read_granted = 0
        self.state: ModelState | None = None
        self.keep_after: set[int] = set()
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.end_logprob: TokenLogprob | None = None
        self.accepted = self.rejected = 0
        self.has_begun = self.is_cancelled = False
        self.completion: Completion | None = None
        self.error: RequestError | None = None

    @property
    def is_done(self) -> bool:
        """Return whether the text has ended."""
        return self.completion is not None

    @property
    def written(self) -> int:
        """Return the number of generated tokens."""
        return len(self.ids) - self.prompt_tokens

    @property
    def will_shift(self) -> bool:
        """Return whether the text will continue after the context is full."""
        return self.request.context_shift and self.steps_granted < self.request.max_tokens

    def write(self, columns_SC: np.ndarray, limit: int | None) -> None:
        """Append drawn tokens to the text, and call `on_text` with the new piece.

        columns_SC: int32, one row per token, with the columns that `inference.engine.slots.decode`
            returns. Rows after the end of the text are ignored.
        limit: the number of tokens that fill the context; None if it is unlimited.
        """
        pieces = []
        scores = token_logprobs(columns_SC) if self.request.logprobs else []
        for number, token in enumerate(columns_SC[:, 0].tolist()):
            self.read += 1
            pieces.append(self._append(token))
            if scores and self.text.finish == "separator":
                self.end_logprob = scores[number]
            elif scores:
                self.logprobs.append(scores[number])
            if self.text.finish is not None:
                break
        is_full = self.read == limit and not self.request.context_shift
        if self.text.finish is None and is_full:
            pieces.append(self.text.end("length"))
        self.tell("".join(pieces))

    def _append(self, token: int) -> str:
        self.ids.append(token)
        if self.constraint is not None:
            try:
                self.constraint.push(token)
            except RequestError as error:
                self.error = error
                return self.text.end("cancelled")
        return self.text.push(token)

    def write_forced(self, limit: int | None) -> None:
        """Append the next tokens if the constraint determines them; they become `unread`.

        The model reads them together, which is faster than one step for each. Does nothing for a
        single token, or if the request asks for log-probabilities or for frequency or presence
        penalties, which only steps compute.

        limit: the number of tokens that fill the context; None if it is unlimited.
        """
        sampling = self.request.sampling
        has_penalties = sampling.frequency_penalty or sampling.presence_penalty
        if self.constraint is None or self.request.logprobs or has_penalties:
            return
        left = self.request.max_tokens - self.written
        if limit is not None:
            left = min(left, limit - len(self.ids))  # A step fills the context and ends the text.
        forced = self.constraint.forced()[: max(left, 0)]
        if len(forced) < 2:
            return
        pieces = []
        for token in forced:
            pieces.append(self._append(token))
            if self.text.finish is not None:
                break
        self.unread = self.ids[self.read : -1]
        self.tell("".join(pieces))

    def end(self) -> None:
        """End the text of a request that only asks for the log-probabilities of its prompt."""
        self.tell(self.text.end("length"))

    def fail(self, error: RequestError) -> None:
        """End the text because of an error."""
        self.error = error
        self.tell(self.text.end("cancelled"))

    def tell(self, piece: str) -> None:
        """Call `on_text` with a piece of the text and, if it has ended, its completion."""
        text = self.text
        if text.finish is not None:
            self.completion = Completion(
                self.request.prompt,
                self.prompt_tokens,
                text.tokens,
                text.text,
                text.finish,
                tuple(self.logprobs),
                tuple(self.prompt_logprobs),
                self.accepted,
                self.rejected,
            )
        if self.on_text is not None and (piece or self.completion):
            self.on_text(piece, self.completion)

    def shift_context(self, limit: int) -> None:
        """Make the last `limit` / 2 tokens unread, to be read again into an empty state."""
        self.unread, self.read = self.ids[-(limit // 2) :][:-1], 0


def options_of(requests: Iterable[Request]) -> frozenset[str]:
    """Return the options of `ALL_OPTIONS` that at least one request uses."""
    requests = list(requests)
    used = set(used_options(request.sampling for request in requests))
    if any(request.logprobs or request.prompt_logprobs for request in requests):
        used.add(LOGPROBS)
    if any(request.constraint for request in requests):
        used.add(MASKS)
    if any(request.speculates for request in requests):
        used.add(SPECULATION)
    return frozenset(used)


def token_logprobs(columns_SC: np.ndarray) -> list[TokenLogprob]:
    """Return the log-probabilities in columns of `inference.engine.slots.packed_logprobs`."""
    K = ALTERNATIVES
    floats_SC = np.ascontiguousarray(columns_SC).view(np.float32)
    return [
        TokenLogprob(
            token=int(row[0]),
            logprob=float(values[1]),
            top=tuple(
                (token, value)
                for token, value in zip(
                    row[2 : 2 + K].tolist(), values[2 + K :].tolist(), strict=True
                )
                if token != NOTHING
            ),
        )
        for row, values in zip(columns_SC, floats_SC, strict=True)
    ]
