"""Products of float32 arrays whose operands are rounded to bfloat16: alike on one device and eight,
and on each platform."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers.numerics import BFLOAT16_PRODUCTS
from parallel import bfloat16, cpu, products
from tests.parallel.test_products import CONVOLUTIONS, PRODUCTS, THERE, draw
from tests.selection import a_third_of
from tests.training import cells

VECTORS = [("MK,K->M", (64, 512), (512,)), ("K,K->", (512,), (512,))]
SMALL = [("MK,KN->MN", (3, 5), (5, 7)), ("BMK,BKN->BMN", (2, 3, 5), (2, 5, 7))]


@pytest.fixture(autouse=True)
def rules():
    products.remove_rules()
    products.install_rules()
    yield
    products.remove_rules()


def both_ways(function):
    """A function and its gradients for both operands."""

    def computed(a, b):
        result, backward = jax.vjp(function, a, b)
        return result, *backward(jnp.sin(result))

    return computed


def rounded(x) -> np.ndarray:
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float64)


def assert_near(found, expected) -> None:
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("with_instructions", [True, False])
@pytest.mark.parametrize("library", products.LIBRARIES)
@pytest.mark.parametrize(("equation", "left", "right"), PRODUCTS + VECTORS + SMALL)
def test_operands_are_rounded_and_sums_are_not(
    monkeypatch, equation, left, right, library, with_instructions
):
    """However the CPU multiplies."""
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: with_instructions)
    if library == "onednn" and not (THERE and cpu.has_avx512()):
        pytest.skip("oneDNN multiplies in bfloat16 only on CPUs with AVX-512")
    products.use_library(library)
    product = functools.partial(jnp.einsum, equation, precision=BFLOAT16_PRODUCTS)
    a, b = draw(left, right)
    result, a_gradient, b_gradient = jax.jit(both_ways(product))(a, b)
    assert result.dtype == a_gradient.dtype == b_gradient.dtype == jnp.float32
    inputs, _, output = equation.partition("->")
    of_a, of_b = inputs.split(",")
    assert_near(result, np.einsum(equation, rounded(a), rounded(b)))
    gradient = rounded(jnp.sin(result))
    assert_near(a_gradient, np.einsum(f"{output},{of_b}->{of_a}", gradient, rounded(b)))
    assert_near(b_gradient, np.einsum(f"{output},{of_a}->{of_b}", gradient, rounded(a)))


def test_eight_devices_compute_what_one_does():
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), axis_types=kinds)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    a, b = draw((64, 96), (96, 64))
    product = jax.jit(both_ways(functools.partial(jnp.matmul, precision=BFLOAT16_PRODUCTS)))
    one = product(a, b)
    eight = product(jax.device_put(a, rows), b)
    for found, expected in zip(eight, one, strict=True):
        assert_near(found, np.asarray(expected, np.float64))


@pytest.mark.parametrize("rows", [products.FEW_BFLOAT16_ROWS, products.FEW_BFLOAT16_ROWS + 1])
def test_few_rows_are_multiplied_as_float32(monkeypatch, rows):
    """So a loop of decoding rounds a kernel once, before it begins."""
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: True)
    product = functools.partial(jnp.matmul, precision=BFLOAT16_PRODUCTS)
    text = jax.jit(product).lower(*draw((rows, 512), (512, 512))).as_text()
    assert ("bf16" in text) == (rows > products.FEW_BFLOAT16_ROWS)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_product_runs_with_its_gradients(data):
    """XLA has no bfloat16 product of some forms, and finds out when the program runs."""
    with mock.patch.object(cpu, "has_bfloat16", lambda: True):
        any_product_with_its_gradients(data)


def any_product_with_its_gradients(data):
    letters = data.draw(st.permutations("abcde"))
    batch, free_left, free_right, shared = (
        letters[: data.draw(st.integers(0, 1))],
        letters[1:2],
        letters[2:3],
        letters[3 : 3 + data.draw(st.integers(1, 2))],
    )
    sizes = {letter: data.draw(st.sampled_from([1, 2, 24, 64])) for letter in letters}
    left = data.draw(st.permutations([*batch, *free_left, *shared]))
    right = data.draw(st.permutations([*batch, *free_right, *shared]))
    output = data.draw(st.permutations([*batch, *free_left, *free_right]))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(output)}"
    shapes = [tuple(sizes[letter] for letter in side) for side in (left, right)]
    a, b = draw(*shapes)
    product = functools.partial(jnp.einsum, equation, precision=BFLOAT16_PRODUCTS)
    result, *gradients = jax.jit(both_ways(product))(a, b)
    assert_near(result, np.einsum(equation, rounded(a), rounded(b)))
    assert [x.shape for x in gradients] == shapes


@pytest.mark.parametrize(("channels", "features"), [(16, 32), (80, 96)])
@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_operands_of_a_convolution_are_rounded(options, channels, features):
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **options)
    x, kernel = draw((4, 12, 10, channels), (3, 3, channels, features))
    in_bfloat16 = functools.partial(convolve, precision=BFLOAT16_PRODUCTS)
    result, *gradients = jax.jit(both_ways(in_bfloat16))(x, kernel)
    plain = [jnp.float32(rounded(array)) for array in (x, kernel)]
    assert_near(result, np.asarray(convolve(*plain), np.float64))
    _, backward = jax.vjp(convolve, *plain)
    cotangent = jnp.float32(rounded(jnp.sin(result)))
    for found, expected in zip(gradients, backward(cotangent), strict=True):
        assert_near(found, np.asarray(expected, np.float64))


def test_gpus_round_the_operands_of_convolutions_too():
    x, kernel = draw((4, 12, 10, 16), (3, 3, 16, 32))
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    for precision, count in ((None, 0), (BFLOAT16_PRODUCTS, 2)):
        traced = jax.jit(functools.partial(convolve, precision=precision)).trace(x, kernel)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("stablehlo.reduce_precision") == count


@pytest.mark.parametrize("library", products.LIBRARIES)
def test_products_of_any_number_of_rows_are_exported(library):
    products.use_library(library)
    product = jax.jit(functools.partial(jnp.matmul, precision=BFLOAT16_PRODUCTS))
    a, b = draw((8, 96), (96, 64))
    (rows,) = jax.export.symbolic_shape("rows")
    of_rows = jax.ShapeDtypeStruct((rows, 96), jnp.float32)
    exported = jax.export.export(product)(of_rows, b)
    assert_near(exported.call(a, b), rounded(a) @ rounded(b))


def products_of(jaxpr) -> list:
    """The products and convolutions of a program, those of its inner programs too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation)
        for part in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                found += products_of(inner)
    return found


@pytest.mark.parametrize("cell", a_third_of(cells.CELLS))
def test_every_product_of_a_step_is_rounded(cell):
    """A layer that doesn't pass the precision on would compute in float32, slowly and unseen."""
    config = cells.load(cell, "one device")
    precision = config.precision.model_copy(update={"products": "bfloat16"})
    program = cells.build(config.model_copy(update={"precision": precision}))
    (batch,) = cells.batches(config, 1)
    step = program.train_step.trace(
        program.abstract_state, program.batch_shape(batch, len(batch["weights"]))
    )
    jaxpr = step.jaxpr.jaxpr
    products_in_step = products_of(jaxpr)
    assert products_in_step
    for equation in products_in_step:
        shapes = [x.aval.shape for x in equation.invars]
        contracted = equation.params["dimension_numbers"]
        if equation.primitive.name == "dot_general":
            (of_left, _), (batches, _) = contracted
            shared = np.prod([shapes[0][d] for d in (*of_left, *batches)])
            if not of_left or min(np.prod(shape) for shape in shapes) == shared:
                continue  # A product with a vector is a sum, whose gradient contracts nothing.
            if any("optax" in frame.file_name for frame in equation.source_info.traceback.frames):
                continue  # The CTC loss selects log-probabilities by a product.
        assert equation.params["precision"] == bfloat16.ROUNDED, (shapes, contracted)
