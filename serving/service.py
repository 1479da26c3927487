"""What a server answers with: the restored model, the thread it works in, and its limits."""

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
"""Least number of tokens for which slots have room."""

SIZES = (1, 4)
"""Numbers of slots or rows, beside the largest, for which programs are compiled."""

GC_THRESHOLDS = (700, 10, 10)
"""Numbers of new objects, and of collections, after which garbage is collected: Python's own."""

CHECK_SECONDS = 60.0
"""Least time between two checks of a model whose batches fail."""


class Failure:
    """Stands for the output of an input whose batch failed, through no fault of the input."""


class Service:
    """The model of a server, and everything that its routes share.

    name: the model's name in requests. limits: the section `serve` of the configuration. `texts` is
    there if the model writes texts token by token. sandbox: where files are decoded and
    conversations rendered. in_flight: number of requests being answered. report: the report of the
    training, HTML; None if there is none.
    """

    def __init__(
        self, model: LoadedModel, *, name: str, limits: Serve, report: bytes | None = None
    ):
        self.model, self.name, self.limits, self.report = model, name, limits, report
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
            # One text more than there are slots, so that the next one is at hand. No client gets
            # the last slot too.
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
        """Return a name for the weights that are served."""
        return f"fp_step_{self.model.restored.step}"

    @property
    def row_sizes(self) -> list[int]:
        """Return the numbers of rows for which programs are compiled, in rising order."""
        slots = self.limits.slots
        return sorted({*(size for size in SIZES if size < slots), slots})

    def batch_lane(
        self,
        answer: Callable[[Sequence[Any]], Iterable[Any]],
        *,
        most_rows: int,
        warm_up: Callable[[], None],
    ) -> Lane:
        """Add a lane whose inputs are answered in batches. To be called before `start`.

        answer: returns the outputs for at most `most_rows` inputs, in order. If it raises, each
        output is a `Failure`. warm_up: calls it with every shape that it can meet; if that raises
        too, the model has failed.
        """
        contained = _contained(answer, check=warm_up)
        lane = Lane(Batcher(contained, most_rows=most_rows), 2 * most_rows)
        self._lanes.append(lane)
        self._warm_ups.append(warm_up)
        return lane

    async def start(self) -> None:
        """Compile all programs, beside the event loop, and begin to answer."""
        began = time.perf_counter()
        self.sandbox.start()
        try:
            for warm_up in self._warm_ups:
                await asyncio.to_thread(warm_up)
            await asyncio.to_thread(_collect_often)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # A library's panic is no Exception.
            self._fail(error)
            return
        self.worker.start(asyncio.get_running_loop())
        self.is_ready = True
        log("ready", seconds=round(time.perf_counter() - began, 1), model=self.name)

    def give_up(self) -> None:
        """End all answers that are not complete, with an error that says to try again."""
        self.worker.give_up(stopping())

    def stop(self) -> None:
        """End the thread of the model, and the processes of the sandbox."""
        self.sandbox.stop()
        self.worker.stop()
        if self.texts is not None:
            self.texts.stop()

    @property
    def status(self) -> str:
        """Return whether requests can be answered: ready, compiling, stopping or failed."""
        if self.has_failed:
            return "failed"
        if self.is_draining:
            return "stopping"
        return "ready" if self.is_ready else "compiling"

    def check_ready(self) -> None:
        """Raise `ApiError` unless requests can be answered now."""
        if self.has_failed:
            raise try_again("the model has failed: the server must be started again")
        if self.is_draining:
            raise stopping()
        if not self.is_ready:
            raise try_again("the model is not ready: its programs are being compiled", seconds=5)

    async def read(self, request: Request, form: type[FormType]) -> FormType:
        """Read the JSON body of a request. Raises `ApiError` for a wrong one, for another model,
        and if the server can't answer now; if its queue is full, whatever the body has."""
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
        """Write what a client asked, or was answered, to the log: only with `serve.log_prompts`."""
        if self.limits.log_prompts:
            log(event, request_id=request.state.request_id, content=content())

    def check_model(self, name: str) -> None:
        """Raise `ApiError` if `name` is not the model that is served."""
        if name != self.name:
            message = f"there is no model {name[:100]!r}: this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def client_of(self, request: Request) -> str:
        """Return whose turn a request takes in the queue: its token's if it had to show one, else
        its address's."""
        address = request.client.host if request.client else ""
        return request.state.token_name or network_of(address)

    def _build_engine(self, predictor: TextCompletion) -> Engine:
        module: Any = self.model.module  # a model of tokens
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
    """Let the garbage collector run as often as it does by default, but over new objects only: a
    few objects of a request can hold megabytes of its body."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _contained(
    answer: Callable[[Sequence[Any]], Iterable[Any]], *, check: Callable[[], None]
) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """Return `answer` with a `Failure` for each input of a batch that fails unexpectedly.

    check: computes what has worked before. If it raises too, the fault is not in the inputs, which
    a client chooses, but in the model or its accelerator: the exception is passed on. As it may
    take long, it is computed at most every `CHECK_SECONDS`.
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
