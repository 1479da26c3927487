"""Named numbers in one array, which the host fetches with one copy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Scalars(Mapping[str, jax.Array]):
    """The metrics of a step in one array: `array`, float32 [len(names)], in the order of `names`.

    Fetching the metrics one by one takes the host ten times as long. `scalars[name]` is a JAX
    operation and does not wait; `read()` waits until the step is done.
    """

    array: jax.Array
    names: tuple[str, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, numbers: Mapping[str, jax.Array]) -> Self:
        """Pack scalars, cast to float32: counts are exact up to 2**24."""
        return cls(jnp.stack([jnp.float32(one) for one in numbers.values()]), tuple(numbers))

    def read(self) -> dict[str, float]:
        """Wait until the step is done, and return the numbers on the host."""
        return dict(zip(self.names, np.asarray(self.array).tolist(), strict=True))

    def is_ready(self) -> bool:
        """Return whether `read()` would return without waiting."""
        return self.array.is_ready()  # type: ignore[attr-defined]  # Missing in JAX's types.

    def __getitem__(self, name: str) -> jax.Array:
        if name not in self.names:
            raise KeyError(name)
        return self.array[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
