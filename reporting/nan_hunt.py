"""Finds the operation that produced a NaN or an infinity, by running a step again, one operation at
a time."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from training.step import TrainState

ROOT = Path(__file__).parents[1]


def explain_not_finite(step: jax.stages.Wrapped, state: TrainState, batch: Any) -> str:
    """Return a text that names the operations of `step(state, batch)` where the first NaN and the
    first infinity appear.

    The search ends at the first NaN. If an input is not finite, the text names the input instead.
    `step` is a jitted function. It is traced, and its operations then run one at a time, on the
    devices of their inputs, without donating buffers. This takes longer than the step, and more
    memory.
    """
    poisoned = [
        f"{what}{jax.tree_util.keystr(path)}"
        for what, tree in (("state", state), ("batch", batch))
        for path, leaf in jax.tree.leaves_with_path(tree)
        if any(_has(kind, [leaf]) for kind in KINDS)
    ]
    if poisoned:
        return f"it begins with {', '.join(poisoned[:3])}, which is not finite before the step"
    jaxpr = step.trace(state, batch).jaxpr
    hunt = _Hunt()
    with contextlib.suppress(_NaNFound):
        hunt.run(jaxpr, jax.tree.leaves((state, batch)), None)
    if not hunt.found:
        return "no operation made it when each ran alone: only the compiled step does, by rounding"
    return "; ".join(f"the first {kind} comes out of {text}" for kind, text in hunt.found.items())


KINDS = {"NaN": jnp.isnan, "infinity": jnp.isinf}


class _NaNFound(Exception):
    """Stops the search at the first NaN."""


class _Hunt:
    """Interprets a jaxpr, and checks the output of each operation for NaN and infinity."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def run(self, closed: Any, values: Sequence[Any], place: str | None) -> list[Any]:
        """Run a `Jaxpr` or `ClosedJaxpr`, and return its outputs.

        place: the source line to report for all its operations; None to report each operation's own
            line.
        """
        jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
        last_use = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if _is_var(v)}
        kept = {v for v in jaxpr.outvars if _is_var(v)}

        def read(variable: Any) -> Any:
            return known[variable] if _is_var(variable) else variable.val

        for index, eqn in enumerate(jaxpr.eqns):
            inputs = [read(variable) for variable in eqn.invars]
            with eqn.ctx.manager:
                parameters = eqn.primitive.get_bind_params(eqn.params)
                results = eqn.primitive.bind(*inputs, **parameters)
            results = results if eqn.primitive.multiple_results else [results]
            self._watch(eqn, inputs, results, place)
            known.update(zip(eqn.outvars, results, strict=True))
            for variable in {v for v in eqn.invars if _is_var(v)}:
                if last_use[variable] == index and variable not in kept:
                    del known[variable]
        return [read(variable) for variable in jaxpr.outvars]

    def _watch(
        self, eqn: core.JaxprEqn, inputs: list[Any], results: list[Any], place: str | None
    ) -> None:
        made = [
            kind
            for kind in KINDS
            if kind not in self.found and _has(kind, results) and not _has(kind, inputs)
        ]
        if not made:
            return
        self._enter(eqn, inputs, self._place(eqn, place) if eqn.primitive.name == "jit" else None)
        for kind in made:
            self.found.setdefault(kind, f"`{eqn.primitive.name}` {self._place(eqn, place)}")
        if "NaN" in self.found:
            raise _NaNFound

    @staticmethod
    def _place(eqn: core.JaxprEqn, place: str | None) -> str:
        """Return a text with the innermost source line of this project that called `eqn`, and with
        the pass, forward or backward, that `eqn` belongs to.

        An operation in a function that a library jitted has the source lines of the function's
        first caller. For such an operation, `place` is the line of the actual call.
        """
        if place is not None:
            return place
        trace = eqn.source_info.traceback
        frames: Sequence[Any] = trace.frames if trace else ()
        lines = [frame for frame in frames if _is_ours(frame.file_name)]
        way = "backward" if "transpose(" in str(eqn.source_info.name_stack) else "forward"
        if not lines:
            return f"({way}, in a library)"
        path = Path(lines[0].file_name).relative_to(ROOT)
        return f"({way}, {path}:{lines[0].line_num} in {lines[0].function_name})"

    def _enter(self, eqn: core.JaxprEqn, inputs: list[Any], place: str | None) -> None:
        """Run the inner operations of an operation such as `scan` or `cond`, one at a time."""
        if eqn.primitive.name == "scan":
            self._enter_scan(eqn, inputs, place)
        elif eqn.primitive.name == "cond":
            branches = eqn.params["branches"]
            chosen = branches[int(np.clip(inputs[0], 0, len(branches) - 1))]
            self.run(chosen, inputs[1:], place)
        elif eqn.primitive.name != "shard_map":
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                self.run(inner, inputs, place)

    def _enter_scan(self, eqn: core.JaxprEqn, inputs: list[Any], place: str | None) -> None:
        """Run a scan iteration by iteration. Its inputs are constants, carry and slices; its
        outputs are carry and slices. Outside the body, a sliced array has one more dimension."""
        body = eqn.params["jaxpr"]
        inside = getattr(body, "jaxpr", body)
        sliced = _more_dimensions(eqn.invars, inside.invars)
        carried = len(eqn.outvars) - _more_dimensions(eqn.outvars, inside.outvars)
        begin = len(inputs) - sliced
        consts, carry = inputs[: begin - carried], inputs[begin - carried : begin]
        order = range(eqn.params["length"])
        for i in reversed(order) if eqn.params["reverse"] else order:
            slices = [x[i] for x in inputs[begin:]]
            carry = self.run(body, [*consts, *carry, *slices], place)[:carried]


def _has(kind: str, values: Sequence[Any]) -> bool:
    return any(
        bool(KINDS[kind](value).any())
        for value in values
        if jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.floating)
    )


def _more_dimensions(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.ndim > b.aval.ndim for a, b in zip(outside, inside, strict=True))


def _is_var(variable: Any) -> bool:
    return not isinstance(variable, core.Literal)


def _is_ours(file: str) -> bool:
    path = Path(file)
    return (
        path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__)
    )
