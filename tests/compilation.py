"""How programs are compiled in tests: quickly.

Most of what tests compile runs a few times, so that what makes it fast would take longer than it
saves: so too the emitters of fusions, half of whose time is that each makes an MLIR context of its
own; and the 32 modules into which a program is split, each of which takes memory maps, of which a
process may have 65,530.
"""

from importlib.metadata import version

_HAS_OLD_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)

QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1" + (
    " --xla_cpu_use_fusion_emitters=false" if _HAS_OLD_EMITTERS else ""
)
"""For XLA_FLAGS, before JAX is imported."""

USUAL_OPTIONS = {"xla_backend_optimization_level": 3} | (
    {"xla_cpu_use_fusion_emitters": True} if _HAS_OLD_EMITTERS else {}
)
"""Compiler options of a single program, which undo these flags but for the number of modules."""
