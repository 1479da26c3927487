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
    """What a step measured: `array` float32 [len(names)], of `names`.

    Of an array by itself each number would take the host a copy, and the step an output.
    `scalars[name]` is an operation of JAX, which waits for nothing; `read()` waits for all.
    """

    array: jax.Array
    names: tuple[str, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, numbers: Mapping[str, jax.Array]) -> Self:
        """From scalars, which become float32: counts are exact up to 2**24."""
        return cls(jnp.stack([jnp.float32(one) for one in numbers.values()]), tuple(numbers))

    def read(self) -> dict[str, float]:
        """The numbers on the host, when the step is done."""
        # Not `jax.device_get`, which takes six times as long for a few numbers.
        return dict(zip(self.names, np.asarray(self.array).tolist(), strict=True))

    def is_ready(self) -> bool:
        """Whether `read()` would not have to wait."""
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
