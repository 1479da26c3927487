"""Where a number that is not finite was made: a step run again, operation by operation."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from training.state import TrainState

ROOT = Path(__file__).parents[1]


def explain_not_finite(step: Callable[..., Any], state: TrainState, batch: Any) -> str:
    """Names the first operation of `step(state, batch)` that makes a NaN, and an infinity.

    `step` is jitted; it is traced, not run: each operation runs on its own, on the devices where
    its inputs lie, and nothing is donated. That takes a while and more memory than the step.
    """
    poisoned = [
        f"{what}{jax.tree_util.keystr(path)}"
        for what, tree in (("state", state), ("batch", batch))
        for path, leaf in jax.tree.leaves_with_path(tree)
        if any(_has(kind, [leaf]) for kind in KINDS)
    ]
    if poisoned:
        return f"it begins with {', '.join(poisoned[:3])}, which is not finite before the step"
    closed = step.trace(state, batch).jaxpr
    hunt = _Hunt()
    with contextlib.suppress(_NaNFound):
        hunt.run(closed.jaxpr, closed.consts, jax.tree.leaves((state, batch)), None)
    if not hunt.found:
        return "no operation made it when each ran alone: only the compiled step does, by rounding"
    return "; ".join(f"the first {kind} comes out of {told}" for kind, told in hunt.found.items())


KINDS = {"NaN": jnp.isnan, "infinity": jnp.isinf}


class _NaNFound(Exception):
    """Nothing after the first NaN matters."""


class _Hunt:
    """An interpreter of jaxprs that watches what comes out of each operation."""

    def __init__(self):
        self.found: dict[str, str] = {}

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], values: Sequence[Any], place: str | None
    ) -> list[Any]:
        """The outputs of `jaxpr`. place: of all its operations, if they have none of their own."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
        last_use = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if _is_var(v)}
        kept = {v for v in jaxpr.outvars if _is_var(v)}

        def read(variable: Any) -> Any:
            return known[variable] if _is_var(variable) else variable.val

        for index, eqn in enumerate(jaxpr.eqns):
            inputs = [read(variable) for variable in eqn.invars]
            functions, parameters = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*functions, *inputs, **parameters)
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
        for arguments in _inner_calls(eqn, inputs):
            self.run(*arguments, self._place(eqn, place))
        for kind in made:
            self.found.setdefault(kind, f"`{eqn.primitive.name}` {self._place(eqn, place)}")
        if "NaN" in self.found:
            raise _NaNFound

    @staticmethod
    def _place(eqn: core.JaxprEqn, place: str | None) -> str:
        """The innermost line of ours, and whether it is on the way forward or backward.

        What a library jits keeps the lines of its first caller: there the line of the call holds.
        """
        if place is not None:
            return place
        trace = eqn.source_info.traceback
        lines = [frame for frame in (trace.frames if trace else ()) if _is_ours(frame.file_name)]
        way = "backward" if "transpose(" in str(eqn.source_info.name_stack) else "forward"
        if not lines:
            return f"({way}, in a library)"
        path = Path(lines[0].file_name).relative_to(ROOT)
        return f"({way}, {path}:{lines[0].line_num} in {lines[0].function_name})"


def _inner_calls(eqn: core.JaxprEqn, inputs: list[Any]) -> Iterator[tuple]:
    """(jaxpr, constants, inputs) of what an operation is made of, in the order it runs."""
    name, parameters = eqn.primitive.name, eqn.params
    if name == "scan":
        body = parameters["jaxpr"]
        fixed, carried = parameters["num_consts"], parameters["num_carry"]
        consts, carry = inputs[:fixed], inputs[fixed : fixed + carried]
        order = range(parameters["length"])
        for i in reversed(order) if parameters["reverse"] else order:
            items = [x[i] for x in inputs[fixed + carried :]]
            yield body.jaxpr, body.consts, [*consts, *carry, *items]
            carry = core.jaxpr_as_fun(body)(*consts, *carry, *items)[:carried]
    elif name == "while":
        body, test = parameters["body_jaxpr"], parameters["cond_jaxpr"]
        tested, fixed = parameters["cond_nconsts"], parameters["body_nconsts"]
        of_test, consts = inputs[:tested], inputs[tested : tested + fixed]
        carry = inputs[tested + fixed :]
        while core.jaxpr_as_fun(test)(*of_test, *carry)[0]:
            yield body.jaxpr, body.consts, [*consts, *carry]
            carry = core.jaxpr_as_fun(body)(*consts, *carry)
    elif name == "cond":
        branches = parameters["branches"]
        branch = branches[int(np.clip(inputs[0], 0, len(branches) - 1))]
        yield branch.jaxpr, branch.consts, inputs[1:]
    else:
        inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
        if isinstance(inner, core.ClosedJaxpr):
            yield inner.jaxpr, inner.consts, inputs
        elif isinstance(inner, core.Jaxpr) and name != "shard_map":
            yield inner, (), inputs


def _has(kind: str, values: Sequence[Any]) -> bool:
    return any(
        bool(KINDS[kind](value).any())
        for value in values
        if jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.floating)
    )


def _is_var(variable: Any) -> bool:
    return not isinstance(variable, core.Literal)


def _is_ours(file: str) -> bool:
    path = Path(file)
    return (
        path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__)
    )
