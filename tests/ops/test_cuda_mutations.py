"""Every barrier and a list of slips: with any one of them, a schedule test fails (slow: some minutes)."""

import pytest

from tests.shim import ShimError, compiler
from tests.shim.mutations import mutations, survives


@pytest.mark.slow
@pytest.mark.parametrize("mutation", mutations(), ids=str)
def test_a_fault_in_a_kernel_is_found(mutation):
    try:
        compiler()
    except ShimError as error:
        pytest.skip(str(error))
    assert not survives(mutation)
