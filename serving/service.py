"""The state that all routes share: the loaded model, the thread that runs it, and the limits."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from flax import nnx
from starlette.requests import Request

from configs.errors import UsageError
from configs.schema.serve import Serve
from inference.engine.batcher import Batcher
from inference.engine.engine import Engine
from inference.engine.prefix_cache import PrefixCache
from inference.engine.programs import ALL_OPTIONS
from inference.loading import LoadedModel
from inference.predictors.completion import TextCompletion
from serving.access import network_of
from serving.body import read_json_body
from serving.errors import ApiError, stopping, try_again
from serving.forms.form import Form
from serving.log import log, log_fault
from serving.metrics import Metrics
from serving.sandbox import Sandbox
from serving.texts import TextWriter
from serving.uploads import Uploads
from serving.worker import Lane, Worker

FormType = TypeVar("FormType", bound=Form)

SMALLEST_ROOM = 128
"""Minimum number of tokens for which programs with less room than the model's context are
compiled."""

SIZES = (1, 4)
"""Numbers of slots, or of rows of a batch, for which programs are compiled in addition to the
largest."""

GC_THRESHOLDS = (700, 10, 10)
"""The default arguments of `gc.set_threshold`, which `run_verb` raises for start-up."""

CHECK_SECONDS = 60.0
"""Minimum time between two checks of a model whose batches fail."""


class Failure:
    """Takes the place of the output of each input in a batch that failed unexpectedly."""


class Service:
    """The model of a server, and everything that its routes share.

    name: the model's name in requests. limits: the section `serve` of the configuration. report:
    the HTML report of the training run; None if there is none.

    texts: generates texts; None unless the model generates text token by token. sandbox: decodes
    files and renders conversations. in_flight: number of requests that are being answered.
    """

    def __init__(
        self, model: LoadedModel, *, name: str, limits: Serve, report: bytes | None = None
    ):
        self.model = model = model.with_context(limits.max_context)
        self.name, self.limits, self.report = name, limits, report
        self.created = int(time.time())
        self.predictor = model.default_predictor
        self.metrics = Metrics()
        self.sandbox = Sandbox(limits.sandbox_processes, limits.sandbox_mb, limits.sandbox_seconds)
        self.uploads = Uploads(limits)
        self.is_ready = self.has_failed = self.is_draining = False
        self.in_flight = 0
        self._warm_ups: list[Callable[[], None]] = []
        self._lanes: list[Lane] = []
        self.texts: TextWriter | None = None
        self._engine: Engine | None = None
        if isinstance(self.predictor, TextCompletion):
            self._engine = self._build_engine(self.predictor)
            self._warm_ups.append(self._engine.warm_up)
            # One text more than there are slots, so that the next one is ready when a slot is free.
            # While clients share the slots, each of them gets all but one at most.
            kept = 2 if limits.slots > 1 else 0
            self._lanes.append(Lane(self._engine, limits.slots + 1, kept))
        self.worker = Worker(
            self._lanes,
            most_waiting=limits.max_waiting_requests,
            most_tokens=limits.max_waiting_tokens,
            on_failure=self._fail,
        )
        if self._engine is not None and isinstance(self.predictor, TextCompletion):
            self.texts = TextWriter(
                self._engine,
                self._lanes[0],
                self.worker,
                self.predictor.plain,
                context=self._engine.limit,
                limits=limits,
            )
        self._watch()

    @property
    def fingerprint(self) -> str:
        """Return the `system_fingerprint` of answers, which names the step of the checkpoint."""
        return f"fp_step_{self.model.restored.step}"

    @property
    def row_sizes(self) -> list[int]:
        """Return the numbers of slots or rows for which programs are compiled, in ascending
        order."""
        slots = self.limits.slots
        return sorted({*(size for size in SIZES if size < slots), slots})

    def batch_lane(
        self,
        answer: Callable[[Sequence[Any]], Iterable[Any]],
        *,
        most_rows: int,
        warm_up: Callable[[], None],
    ) -> Lane:
        """Add and return a lane whose inputs are answered in batches. To be called before `start`.

        answer: returns the outputs for at most `most_rows` inputs, in order; raises `UsageError`
        for an input that can't be answered. After any other exception, each output of the batch is
        a `Failure`. warm_up: calls `answer` with every shape that can occur, which compiles its
        programs. It also checks the model after such a failure: if it raises then, the model has
        failed.
        """
        contained = _contained(answer, check=warm_up)
        lane = Lane(Batcher(contained, most_rows=most_rows), 2 * most_rows)
        self._lanes.append(lane)
        self._warm_ups.append(warm_up)
        return lane

    async def start(self) -> None:
        """Compile all programs in a thread, then start the worker: from then on, requests are
        answered. An exception while compiling is logged, and the model has failed."""
        began = time.perf_counter()
        log(
            "compiling",
            model=self.name,
            batch_sizes=self.row_sizes,
            note="/ready and requests to the model get status 503 until the event ready",
        )
        self.sandbox.start()
        try:
            for warm_up in self._warm_ups:
                await asyncio.to_thread(warm_up)
            await asyncio.to_thread(_collect_often)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # A panic in a library of Rust is not an Exception.
            self._fail(error)
            return
        self.worker.start(asyncio.get_running_loop())
        self.is_ready = True
        log("ready", seconds=round(time.perf_counter() - began, 1), model=self.name)

    def give_up(self) -> None:
        """End all incomplete answers with an error 503 that asks clients to try again."""
        self.worker.give_up(stopping())

    def stop(self) -> None:
        """Stop the processes of the sandbox, the model's thread, and the thread that compiles
        grammars."""
        self.sandbox.stop()
        self.worker.stop()
        if self.texts is not None:
            self.texts.stop()

    @property
    def status(self) -> str:
        """Return the state of the server: ready, compiling, stopping or failed."""
        if self.has_failed:
            return "failed"
        if self.is_draining:
            return "stopping"
        return "ready" if self.is_ready else "compiling"

    def check_ready(self) -> None:
        """Raise `ApiError` 503 unless requests can be answered now."""
        if self.has_failed:
            raise try_again("the model has failed: the server must be started again")
        if self.is_draining:
            raise stopping()
        if not self.is_ready:
            raise try_again("the model is not ready: its programs are being compiled", seconds=5)

    async def read(self, request: Request, form: type[FormType]) -> FormType:
        """Read, parse and check the JSON body of a request. Raises `ApiError` for an invalid body,
        for a model that is not served, and if the server can't answer now. A full queue is reported
        before the body is parsed."""
        self.check_ready()
        limits = self.limits
        body = await read_json_body(
            request, most_bytes=limits.max_body_bytes, seconds=limits.body_seconds
        )
        self.worker.check_queue(self.client_of(request))
        filled = form.read(body)
        self.check_model(filled.model)
        filled.check(limits)
        self.log_content(
            request, "prompt", lambda: filled.model_dump(mode="json", exclude_unset=True)
        )
        return filled

    def log_content(self, request: Request, event: str, content: Callable[[], Any]) -> None:
        """Log what a client asked or what it was answered, if `serve.log_prompts` is set. content:
        returns the value to log."""
        if self.limits.log_prompts:
            log(event, request_id=request.state.request_id, content=content())

    def check_model(self, name: str) -> None:
        """Raise `ApiError` if `name` is not the model that is served."""
        if name != self.name:
            message = f"there is no model {name[:100]!r}: this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def client_of(self, request: Request) -> str:
        """Return the client that a request counts for in the queue: the name of its token if it
        needed one, else its address or IPv6 network."""
        address = request.client.host if request.client else ""
        return request.state.token_name or network_of(address)

    def _build_engine(self, predictor: TextCompletion) -> Engine:
        module: Any = self.model.module  # a language model
        graph, params = nnx.split(module)
        context = predictor.context if module.has_bounded_context else None
        rooms = None
        if context is not None:
            smaller = (room for room in (context // 4, context // 2) if room >= SMALLEST_ROOM)
            rooms = [*smaller, context]
        capacity = self.limits.prefix_cache_mb << 20
        self.prefix_cache = PrefixCache(capacity) if capacity else None
        return Engine(
            predictor.programs(graph, ALL_OPTIONS),
            params,
            predictor.tokenizer,
            context=context,
            sizes=self.row_sizes,
            rooms=rooms,
            prefix_cache=self.prefix_cache,
            expects_more=True,
        )

    def _watch(self) -> None:
        watch, worker = self.metrics.watch, self.worker
        watch("triform_num_requests_waiting", "Answers that wait.", lambda: worker.waiting)
        watch("triform_num_requests_running", "Answers being computed.", lambda: worker.running)
        watch("triform_requests_in_flight", "Open requests.", lambda: self.in_flight)
        watch(
            "triform_upload_bytes",
            "Size of the uploads in memory.",
            lambda: self.uploads.held_bytes,
        )
        watch("triform_waiting_tokens", "Prompt tokens that wait.", lambda: worker.waiting_tokens)
        engine = self._engine
        if engine is not None:
            watch(
                "triform_kv_cache_usage_perc",
                "Share of the slots that write, from 0 to 1.",
                lambda: engine.busy_slots / self.limits.slots,
            )
        if (cache := getattr(self, "prefix_cache", None)) is not None:
            watch("triform_prefix_cache_bytes", "Size of the states kept.", lambda: cache.bytes)

    def _fail(self, error: BaseException) -> None:
        self.has_failed, self.is_ready = True, False
        log_fault("", error)
        log("the model has failed", logging.CRITICAL)


def _collect_often() -> None:
    """Exclude all objects that exist now from garbage collection, and collect at the default rate
    again: reference cycles of a few objects can hold megabytes of a request's body."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _contained(
    answer: Callable[[Sequence[Any]], Iterable[Any]], *, check: Callable[[], None]
) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """Return `answer` with a `Failure` for each input of a batch that fails unexpectedly.

    check: repeats a computation that has worked before. If it raises too, the cause is not the
    inputs, which a client chooses, but the model or its accelerator, and the exception is passed
    on. As it may take long, it runs at most once in `CHECK_SECONDS`.
    """
    next_check = 0.0

    def contained(inputs: Sequence[Any]) -> Iterable[Any]:
        nonlocal next_check
        try:
            return list(answer(inputs))
        except UsageError:
            raise
        except Exception as error:
            log_fault("", error)
            if time.monotonic() >= next_check:
                check()
                next_check = time.monotonic() + CHECK_SECONDS
            return [Failure()] * len(inputs)

    return contained
