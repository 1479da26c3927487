"""Named numbers in one array: the host gets all of them with one copy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Scalars(Mapping[str, jax.Array]):
    """The metrics of a step: `array`, float32 [len(names)], in the order of `names`.

    Separate arrays would cost an output of the step and a copy to the host each. `scalars[name]` is
    a JAX operation and does not wait for the device; `read()` does.
    """

    array: jax.Array
    names: tuple[str, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, numbers: Mapping[str, jax.Array]) -> Self:
        """Return scalars as one array; they become float32: counts are exact up to 2**24."""
        return cls(jnp.stack([jnp.float32(x) for x in numbers.values()]), tuple(numbers))

    def read(self) -> dict[str, float]:
        """Wait for the step; return the numbers on the host."""
        # Not `jax.device_get`, which takes six times as long for a few numbers.
        return dict(zip(self.names, np.asarray(self.array).tolist(), strict=True))

    def is_ready(self) -> bool:
        """Return whether `read()` would return without waiting."""
        return self.array.is_ready()

    def __getitem__(self, name: str) -> jax.Array:
        try:
            return self.array[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
