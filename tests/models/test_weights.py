"""Tensors of other kinds are converted where no value changes, and else refused by their names."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prune.errors import CheckpointError
from prune.models import weights as module
from prune.models.weights import expect_values, plain_weights

COUNTER = "module_list.0.BatchNorm2d.num_batches_tracked"

# What torch may hold -> the same values as an ordinary tensor.
CONVERTED: dict[str, tuple[Tensor, Tensor]] = {
    "half": (torch.tensor([1.5, -2.0]).half(), torch.tensor([1.5, -2.0])),
    "bfloat16": (torch.tensor([1.5, -2.0]).bfloat16(), torch.tensor([1.5, -2.0])),
    "double": (torch.tensor([1.5, -2.0]).double(), torch.tensor([1.5, -2.0])),
    "gradient": (torch.tensor([1.5]).requires_grad_(), torch.tensor([1.5])),
    "parameter": (nn.Parameter(torch.tensor([1.5])), torch.tensor([1.5])),
    "transposed": (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t(),
        torch.tensor([[1.0, 3.0], [2.0, 4.0]]),
    ),
    "every other": (torch.arange(6.0)[::2], torch.tensor([0.0, 2.0, 4.0])),
    "overlapping": (
        torch.arange(4.0).as_strided((2, 2), (1, 1)),
        torch.tensor([[0.0, 1.0], [1.0, 2.0]]),
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_what_can_be_converted_is_an_ordinary_tensor(case: str) -> None:
    given, expected = CONVERTED[case]
    found = plain_weights({"w": given})["w"]
    assert type(found) is Tensor and found.dtype == torch.float32
    assert not found.requires_grad and found.is_contiguous()
    assert torch.equal(found, expected)
    found.mul_(2)  # every value has memory of its own
    assert torch.equal(found, expected * 2)


def test_names_of_one_tensor_become_two_tensors() -> None:
    shared = torch.ones(3)
    found = plain_weights({"a": shared, "b": shared})
    found["a"].zero_()
    assert torch.equal(found["b"], torch.ones(3))


def test_ordinary_weights_are_not_copied() -> None:
    own = torch.ones(3)
    assert plain_weights({"w": own})["w"].data_ptr() == own.data_ptr()


@pytest.mark.parametrize("counter", [torch.tensor(7), torch.tensor(7.0), torch.tensor(7).int()])
def test_a_counter_is_a_whole_number(counter: Tensor) -> None:
    found = plain_weights({COUNTER: counter})[COUNTER]
    assert found.dtype == torch.int64 and int(found) == 7


def _quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


class _Strange(Tensor):
    """A tensor of somebody's class."""


REFUSED: dict[str, tuple[str, Callable[[], object], str]] = {
    "integers": ("w", lambda: torch.ones(3).long(), "w holds numbers of type int64"),
    "truth values": ("w", lambda: torch.ones(3).bool(), "w holds numbers of type bool"),
    "complex": ("w", lambda: torch.ones(3).to(torch.complex64), "w is a complex tensor"),
    "sparse": ("w", lambda: torch.ones(3).to_sparse(), "w is a sparse tensor"),
    "quantized": ("w", _quantized, "w is a quantized tensor"),
    "meta": ("w", lambda: torch.ones(3, device="meta"), "w is a tensor without values"),
    "class": ("w", lambda: torch.ones(3).as_subclass(_Strange), "w is a tensor of a class"),
    "expanded": ("w", lambda: torch.ones(1).expand(9), "w is [9], more than the file holds"),
    "many of one": ("w", lambda: torch.ones(1).expand(2**40), "more than the file holds"),
    "half a batch": (COUNTER, lambda: torch.tensor(0.5), "they must be whole numbers"),
    "no number of batches": (COUNTER, lambda: torch.tensor(float("nan")), "must be whole numbers"),
    "no tensor": ("w", lambda: 5, "'w' is no named tensor"),
    "no name": ("\x1b[31m", lambda: torch.ones(1).long(), "\\x1b[31m holds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_network_computes_with_is_refused_by_its_name(case: str) -> None:
    name, make, said = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        plain_weights({name: make()})
    assert said in str(caught.value)


def test_more_weights_than_a_machine_has_memory_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WEIGHTS", 10)
    shared = torch.ones(6)
    with pytest.raises(CheckpointError, match="more than 10 weights"):
        plain_weights({"a": shared, "b": shared})


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("w", [1.0, float("nan")], "w holds 1 values that are NaN or infinite"),
        ("w", [float("inf"), float("-inf")], "w holds 2 values that are NaN or infinite"),
        ("0.running_var", [1.0, -1e-9], r"0\.running_var holds 1 values below zero"),
    ],
)
def test_values_that_no_network_has_are_refused(name: str, values: list[float], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        expect_values({name: torch.tensor(values)})


def test_values_whose_sum_overflows_are_finite() -> None:
    expect_values({"w": torch.full((4,), 3e38), "0.running_var": torch.zeros(2)})
