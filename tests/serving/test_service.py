"""A batch that fails is contained, unless the model itself has failed."""

import pytest

from configs.errors import UsageError
from serving.service import Failure, _contained


def failing(*arguments):
    raise RuntimeError("broken")


def test_inputs_that_fail_end_with_a_failure_while_the_model_works():
    checks = []
    answer = _contained(failing, check=lambda: checks.append(1))
    for _ in range(3):
        assert [type(output) for output in answer([1, 2])] == [Failure, Failure]
    assert len(checks) == 1  # It takes long: no client can have it made at each request.
    assert _contained(lambda inputs: iter(inputs), check=failing)([1, 2]) == [1, 2]


def test_a_model_that_can_not_do_what_it_could_has_failed():
    with pytest.raises(RuntimeError):
        _contained(failing, check=failing)([1])


def test_an_input_that_is_refused_is_no_fault():
    def refuse(inputs):
        raise UsageError("too long")

    with pytest.raises(UsageError):
        _contained(refuse, check=failing)([1])
