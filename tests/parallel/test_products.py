"""Products by oneDNN: what they give, which programs take them, where they are selected."""

import contextlib
import functools
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

from configs.errors import UsageError
from parallel import bfloat16, convolutions, cpu, onednn, products
from parallel.feeding import put_batch
from parallel.mesh import make_mesh
from tests.selection import few_of
from tests.training import runs

PRODUCTS = [
    ("BTD,DF->BTF", (4, 16, 32), (32, 64)),
    ("BTD,DGU->BTGU", (4, 16, 32), (32, 4, 24)),
    ("BTNH,NHD->BTD", (2, 32, 4, 16), (4, 16, 64)),
    ("BTKGH,BSKH->BKGTS", (2, 32, 4, 1, 16), (2, 32, 4, 16)),
    ("BTKGH,BSKH->BKGTS", (2, 32, 4, 2, 16), (2, 32, 4, 16)),
    ("BKGTS,BSKH->BTKGH", (2, 4, 1, 32, 32), (2, 32, 4, 16)),
    ("BKGTS,BTKGH->BSKH", (2, 4, 2, 32, 32), (2, 32, 4, 2, 16)),
    ("TBU,TBGV->UGV", (9, 20, 32), (9, 20, 4, 32)),
    ("ABC,CBD->DA", (8, 16, 32), (32, 16, 24)),  # contracted in another order on each side
    ("MKB,NKB->BMN", (16, 32, 4), (16, 32, 4)),  # the batch is the fastest dimension
]
CONVOLUTIONS = [
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 1), "padding": "VALID"},
    {"window_strides": (1, 1), "padding": ((2, 2), (1, 3)), "rhs_dilation": (2, 1)},
]

THERE = (sys.platform, platform.machine()) == ("linux", "x86_64")
"""Whether jaxlib carries oneDNN. Elsewhere all has to stay as it is, and what asks is refused."""


def compiled(function, *arguments) -> tuple:
    """What a fresh program of `function` gives, and its text."""
    program = jax.jit(lambda *x: function(*x)).lower(*arguments).compile()
    return program(*arguments), program.as_text()


def use_onednn():
    onednn.check(in_bfloat16=cpu.has_avx512())
    products.use_library("onednn")


@pytest.fixture
def by_onednn():
    """Both ways of a function: as XLA has it, and with oneDNN's products."""

    def both(function, *arguments):
        plain, _ = compiled(function, *arguments)
        with contextlib.nullcontext() if THERE else pytest.raises(jax.errors.JaxRuntimeError):
            use_onednn()
        found, text = compiled(function, *arguments)
        return plain, found, text

    products.remove_rules()
    yield both
    products.remove_rules()


def assert_same(ours, xlas):
    for one, other in zip(ours, xlas, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.max(np.abs(other)))


def draw(*shapes):
    random = np.random.default_rng(0)
    return [jnp.asarray(0.3 * random.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.fixture
def at_any_size(monkeypatch):
    """Rows by kernels too, of which XLA keeps the small ones, are multiplied by oneDNN."""
    monkeypatch.setattr(products, "FEW_ROWS", 0)
    monkeypatch.setattr(products, "SMALLEST_OF_ROWS", 0)


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize(("equation", "left", "right"), PRODUCTS)
def test_a_product_and_its_gradients_are_those_of_xla(by_onednn, equation, left, right):
    def both_ways(a, b):
        result, backward = jax.vjp(functools.partial(jnp.einsum, equation), a, b)
        return result, *backward(jnp.sin(result))

    plain, found, text = by_onednn(both_ways, *draw(left, right))
    assert text.count(onednn.MATMUL) == (3 if THERE else 0)
    assert_same(found, plain)


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize(("channels", "features", "count"), [(16, 32, 2), (80, 96, 9)])
@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_and_its_gradients_are_those_of_xla(
    by_onednn, options, channels, features, count
):
    """Of few channels in patches, forward too; of many a kernel's gradient place by place."""
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **options)

    def both_ways(x, kernel):
        result, backward = jax.vjp(convolve, x, kernel)
        return result, *backward(jnp.sin(result))

    shapes = (4, 12, 10, channels), (3, 3, channels, features)
    plain, found, text = by_onednn(both_ways, *draw(*shapes))
    assert text.count(onednn.MATMUL) == (count if THERE else 0)
    assert_same(found, plain)


OF_MANY_CHANNELS = [
    ("NWC", "WIO", (3, 70, 80), (5, 80, 96), {"window_strides": (1,), "padding": "SAME"}),
    ("NHWC", "HWIO", (2, 18, 12, 80), (3, 3, 80, 96), {}),
    ("NHWC", "HWIO", (2, 18, 12, 80), (1, 1, 80, 96), {"window_strides": (2, 1)}),
    ("NHWC", "HWIO", (2, 24, 20, 80), (3, 2, 80, 96), {"rhs_dilation": (2, 1)}),
    ("NHWC", "HWIO", (2, 12, 12, 80), (3, 3, 80, 96), {"padding": ((-1, 2), (3, -1))}),
    ("NDHWC", "DHWIO", (2, 6, 8, 7, 80), (3, 3, 3, 80, 96), {}),
]


@pytest.mark.parametrize(("layout", "kernel", "left", "right", "options"), OF_MANY_CHANNELS)
@pytest.mark.parametrize("rounded", [False, True])
def test_a_convolution_of_many_channels_is_onednns(
    by_onednn, layout, kernel, left, right, options, rounded
):
    """Its gradient by lhs is a convolution too, of a dilated array if it has strides."""
    if rounded and not cpu.has_avx512():
        pytest.skip("oneDNN has no products in bfloat16 on a CPU without AVX-512")
    options = {"window_strides": (1,) * (len(left) - 2), "padding": "VALID"} | options
    convolve = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=(layout, kernel, layout), **options
    )

    def both_ways(x, weights):
        precision = bfloat16.ROUNDED if rounded else None
        result, backward = jax.vjp(functools.partial(convolve, precision=precision), x, weights)
        return result, *backward(jnp.sin(result))

    plain, found, text = by_onednn(both_ways, *draw(left, right))
    is_spaced = any(stride > 1 for stride in options["window_strides"])
    count = 1 if is_spaced and not rounded else 2
    assert text.count(f'custom_call_target="{onednn.CONVOLUTION}"') == (count if THERE else 0)
    tolerance = 3e-2 if rounded else 1e-5
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.max(np.abs(other)))


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("terms", [10**9, 300, 0])
def test_the_gradient_of_a_kernel_is_summed_over_parts_of_the_batch(monkeypatch, options, terms):
    """Over as many as there need to be, and no more than there may be."""
    monkeypatch.setattr(convolutions, "MAX_CONTRACTION", terms)
    monkeypatch.setattr(convolutions, "MAX_PARTS", 7)
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **options)

    def gradient(x, kernel):
        result, backward = jax.vjp(lambda kernel: convolve(x, kernel), kernel)
        return backward(jnp.sin(result))

    operands = draw((6, 12, 10, 16), (3, 3, 16, 32))
    products.remove_rules()
    plain, usual = compiled(gradient, *operands)
    products.install_rules()
    found, text = compiled(gradient, *operands)
    products.remove_rules()
    places = convolve(*operands)[..., 0].size
    count = next((n for n in (1, 2, 3, 6) if places / n <= terms), 6)
    assert text.count(" convolution(") - usual.count(" convolution(") == count - 1
    assert_same(found, plain)


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("MK,MN->KN", (8, 8), (8, 8)),
        ("MK,K->M", (512, 512), (512,)),
        ("BU,UGV->BGV", (products.FEW_ROWS, 512), (512, 4, 512)),
        ("BV,UV->BU", (products.FEW_ROWS, 2048), (512, 2048)),
        ("BTNH,NHD->BTD", (8, 64, 4, 32), (4, 32, 128)),
    ],
)
def test_small_products_vectors_and_few_rows_stay_with_xla(by_onednn, equation, left, right):
    *_, text = by_onednn(functools.partial(jnp.einsum, equation), *draw(left, right))
    assert onednn.MATMUL not in text


@pytest.mark.parametrize(
    ("layout", "kernel", "left", "right", "groups"),
    [
        ("NCHW", "OIHW", (2, 80, 18, 12), (96, 80, 3, 3), 1),
        ("NHWC", "HWIO", (2, 18, 12, 80), (3, 3, 1, 80), 80),
        ("NHWC", "HWIO", (2, 6, 5, 80), (3, 3, 80, 96), 1),
    ],
)
def test_other_layouts_groups_and_few_positions_stay_with_xla(
    by_onednn, layout, kernel, left, right, groups
):
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=(layout, kernel, layout),
        feature_group_count=groups,
    )
    *_, text = by_onednn(convolve, *draw(left, right))
    assert onednn.CONVOLUTION not in text


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("MK,MN->KN", (32, 32), (32, 32)),
        ("BMK,BKN->BMN", (4, 32, 32), (4, 32, 32)),
        ("BTD,DF->BTF", (8, 128, 128), (128, 128)),
    ],
)
def test_what_is_large_enough_goes_to_onednn(by_onednn, equation, left, right):
    *_, text = by_onednn(functools.partial(jnp.einsum, equation), *draw(left, right))
    assert (onednn.MATMUL in text) == THERE


@pytest.mark.usefixtures("at_any_size")
def test_what_is_spread_over_devices_stays_with_xla(by_onednn):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows = jax.NamedSharding(mesh, jax.P("data"))
    a, b = draw((64, 64), (64, 64))
    *_, text = by_onednn(jnp.matmul, jax.device_put(a, rows), b)
    assert onednn.MATMUL not in text


def losses(recipe: str, library: str) -> list[float]:
    """Of three steps of a narrow recipe on one device."""
    config = runs.load(recipe, train__matrix_products=library, mesh__data="1")
    products.select_products(config, make_mesh(config))
    program = runs.as_users_have_it(runs.build(config))
    state, found = program.initialize(), []
    for batch in runs.batches(config, 3):
        placed = put_batch(batch, program.batch_sharding, len(batch["weights"]))
        state, metrics = program.train_step(state, placed)
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize(
    "recipe", few_of(["shakespeare_char", "shakespeare_char_lstm", "digits_cnn"], "digits_cnn")
)
def test_a_recipe_trains_alike_with_either(by_onednn, recipe):
    expected = losses(recipe, "xla")
    if THERE:
        assert losses(recipe, "onednn") == pytest.approx(expected, rel=1e-5)
    else:
        with pytest.raises(UsageError, match="does not work here"):
            losses(recipe, "onednn")


@pytest.mark.usefixtures("at_any_size")
def test_what_was_asked_for_does_not_outlive_its_run(by_onednn):
    if THERE:
        losses("digits_cnn", "onednn")
    losses("digits_cnn", "xla")
    _, text = compiled(jnp.matmul, *draw((64, 64), (64, 64)))
    assert onednn.MATMUL not in text


@pytest.mark.usefixtures("at_any_size")
def test_its_programs_are_not_given_to_the_writer_that_can_not_write_them(monkeypatch, by_onednn):
    """Where there is no oneDNN, all are given to it as ever."""
    kept = []
    monkeypatch.setattr(
        compilation_cache, "put_executable_and_time", lambda _, name, *__: kept.append(name)
    )

    def keep(function):
        program = jax.jit(lambda *x: function(*x)).lower(*draw((64, 64), (64, 64))).compile()
        executable = program.runtime_executable()
        compilation_cache.put_executable_and_time("key", function.__name__, executable, None, 1)

    with contextlib.nullcontext() if THERE else pytest.raises(jax.errors.JaxRuntimeError):
        use_onednn()
    keep(jnp.matmul)
    keep(jnp.add)
    assert kept == (["add"] if THERE else ["matmul", "add"])
    products.use_library("xla")
    keep(jnp.matmul)
    assert kept[-1] == "matmul"


def test_convolutions_by_onednn_are_not_cached_either(by_onednn, monkeypatch):
    kept = []
    monkeypatch.setattr(
        compilation_cache, "put_executable_and_time", lambda *arguments: kept.append(arguments)
    )

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    operands = draw((2, 18, 12, 80), (3, 3, 80, 96))
    for library in ("xla", "onednn") if THERE else ("xla",):
        products.use_library(library)
        executable = jax.jit(lambda *x: convolve(*x)).lower(*operands).compile()
        executable = executable.runtime_executable()
        compilation_cache.put_executable_and_time("key", library, executable, None, 1)
    assert [name for _, name, *_ in kept] == ["xla"]


def test_several_devices_are_refused(by_onednn):
    config = runs.load("digits_cnn", train__matrix_products="onednn", mesh__data="8")
    with pytest.raises(UsageError) as error:
        products.select_products(config, make_mesh(config))
    assert str(error.value) == (
        "train.matrix_products=onednn is made for one CPU device, and the mesh has 8 of cpu: "
        "use xla"
    )


def test_where_it_fails_all_stays_and_the_run_is_refused(by_onednn, monkeypatch):
    monkeypatch.setattr(onednn, "MATMUL", "__nobody$knows")
    config = runs.load("digits_cnn", train__matrix_products="onednn", mesh__data="1")
    with pytest.raises(UsageError, match=r"does not work here \(.*nobody.*\): use xla"):
        products.select_products(config, make_mesh(config))
    _, text = compiled(jnp.matmul, *draw((64, 64), (64, 64)))
    assert "__nobody$knows" not in text


def selected(monkeypatch, *, gain: float, manifest=None, **fields: str) -> str:
    """What is selected where oneDNN works and is `gain` times as fast as XLA."""
    monkeypatch.setattr(onednn, "check", lambda in_bfloat16: None)
    monkeypatch.setattr(products, "_gain", lambda: gain)
    config = runs.load("digits_cnn", **({"mesh__data": "1"} | fields))
    return products.select_products(config, make_mesh(config), manifest)


def test_auto_takes_onednn_for_bfloat16_on_one_device_where_it_is_much_faster(
    by_onednn, monkeypatch
):
    in_bfloat16 = {"precision__products": "bfloat16"}
    assert selected(monkeypatch, gain=2.1, **in_bfloat16) == "onednn"
    assert selected(monkeypatch, gain=1.9, **in_bfloat16) == "xla"
    assert selected(monkeypatch, gain=9) == "xla"
    assert selected(monkeypatch, gain=9, mesh__data="8", **in_bfloat16) == "xla"
    repeatable = in_bfloat16 | {"train__deterministic": "true"}  # Timing must not decide.
    assert selected(monkeypatch, gain=9, **repeatable) == "xla"


def test_a_resumed_run_keeps_what_it_took_unless_told_otherwise(by_onednn, monkeypatch):
    in_bfloat16 = {"precision__products": "bfloat16"}
    took = {name: {"history": {"matrix_products": name}} for name in products.LIBRARIES}
    assert selected(monkeypatch, gain=1, manifest=took["onednn"], **in_bfloat16) == "onednn"
    assert selected(monkeypatch, gain=9, manifest=took["xla"], **in_bfloat16) == "xla"
    asked = in_bfloat16 | {"train__matrix_products": "xla"}
    assert selected(monkeypatch, gain=9, manifest=took["onednn"], **asked) == "xla"
    # Nowhere else is it an error that the run began with it.
    elsewhere = in_bfloat16 | {"mesh__data": "8"}
    assert selected(monkeypatch, gain=9, manifest=took["onednn"], **elsewhere) == "xla"


def test_auto_stays_with_xla_where_onednn_fails(by_onednn, monkeypatch):
    monkeypatch.setattr(onednn, "MATMUL", "__nobody$knows")
    config = runs.load("digits_cnn", precision__products="bfloat16", mesh__data="1")
    assert products.select_products(config, make_mesh(config)) == "xla"


def test_evaluation_takes_what_training_took_and_refuses_nothing(by_onednn, monkeypatch):
    manifest = {"history": {"matrix_products": "onednn"}}
    config = runs.load("digits_cnn", train__matrix_products="onednn", mesh__data="8")
    assert products.reuse_library(config, make_mesh(config), manifest) == "xla"
    alone = make_mesh(runs.load("digits_cnn", mesh__data="1"))
    assert products.reuse_library(config, alone, manifest) == ("onednn" if THERE else "xla")
    assert products.reuse_library(config, alone, {"history": {}}) == "xla"
    monkeypatch.setattr(onednn, "MATMUL", "__nobody$knows")
    assert products.reuse_library(config, alone, manifest) == "xla"


def test_without_avx512_nothing_is_multiplied_in_bfloat16(by_onednn, monkeypatch):
    """There, oneDNN ends the process at the first such product."""
    monkeypatch.setattr(cpu, "_FEATURES", {"AVX2": True})
    monkeypatch.setattr(onednn, "product", None)
    in_bfloat16 = {"precision__products": "bfloat16", "mesh__data": "1"}
    config = runs.load("digits_cnn", **in_bfloat16)
    mesh = make_mesh(config)
    assert products.select_products(config, mesh) == "xla"
    manifest = {"history": {"matrix_products": "onednn"}}
    assert products.reuse_library(config, mesh, manifest) == "xla"
    asked = runs.load("digits_cnn", train__matrix_products="onednn", **in_bfloat16)
    with pytest.raises(UsageError, match="only on CPUs with AVX-512"):
        products.select_products(asked, mesh)
