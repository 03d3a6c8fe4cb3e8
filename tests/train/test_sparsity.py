"""Sparse training: the gradients added are those of the penalty, as autograd has them."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.core.trace.groups import Group, trace
from prune.errors import InputError
from prune.models.darknet import Darknet, build
from prune.train.loop import update
from prune.train.run import start
from prune.train.settings import Settings
from prune.train.sparsity import EVERY, PENALTIES, Sparsity, on_groups, on_scales, scales


@pytest.fixture
def net() -> Darknet:
    torch.manual_seed(0)
    net = build(tiny.CFG.format(width=12))
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
        parameter.grad = torch.zeros_like(parameter)
    return net


def _groups(net: Darknet) -> tuple[Group, ...]:
    return trace(net, net.small_image, protected=net.head_convolutions())


def _weights(net: nn.Module, group: Group, channel: int) -> list[Tensor]:
    """Collect all numbers that leave with a channel, the slow way."""
    found = []
    for slot in group.slots:
        weight = net.get_parameter(f"{slot.name}.weight")
        for position in slot.index[channel]:
            found.append(weight[:, position] if slot.side == "in" else weight[position])
    return found


def test_the_group_penalty_is_the_group_lasso(net: Darknet) -> None:
    groups = _groups(net)
    penalty = torch.zeros(())
    for group in groups:
        if group.protected:
            continue
        for channel in range(group.channels):
            numbers = torch.cat([w.flatten() for w in _weights(net, group, channel)])
            penalty = penalty + len(numbers) ** 0.5 * numbers.norm()
    wanted = torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True)
    on_groups(net, groups)(1.0)
    for (name, parameter), gradient in zip(net.named_parameters(), wanted, strict=True):
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-5), name


def test_the_scale_penalty_is_the_sum_of_absolute_scales(net: Darknet) -> None:
    on_scales(net, _groups(net))(0.5)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.weight.grad is not None
        assert norm.weight.grad.equal(0.5 * norm.weight.detach().sign())
    others = [p for name, p in net.named_parameters() if "BatchNorm2d.weight" not in name]
    assert all(not p.grad.any() for p in others if p.grad is not None)
    assert len(scales(net)) == sum(len(norm.weight) for norm in norms)


def test_descending_the_group_penalty_alone_makes_channels_fade(net: Darknet) -> None:
    groups = [group for group in _groups(net) if not group.protected]
    add, before = on_groups(net, groups), _norm(net, groups[0], 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad(set_to_none=False)
        add(1.0)
        optimizer.step()
    assert _norm(net, groups[0], 0) < before


def _norm(net: nn.Module, group: Group, channel: int) -> float:
    return float(torch.cat([w.flatten() for w in _weights(net, group, channel)]).norm().detach())


def test_the_strength_grows_to_its_full_value() -> None:
    penalty = Sparsity("bn", 0.4)
    assert [penalty.strength_at(share) for share in (0, 0.125, 0.25, 1)] == pytest.approx(
        [0, 0.2, 0.4, 0.4]
    )


@pytest.mark.parametrize("kind", ["bn", "group"])
def test_updates_that_clip_add_as_much_as_the_penalty_added_each_time(
    net: Darknet, kind: str
) -> None:
    settings = Settings(epochs=1, imgsz=Size.of(tiny.SIZE), sparsity=Sparsity(kind, 0.1))
    hyp = {**SCRATCH, "clip": 1e-7}  # of the loss's gradients, nothing is left
    run = start(net, 100, settings=settings, hyp=hyp, device=torch.device("cpu"))
    run.ema.updates = 6  # as in a run that was taken up, amid four updates
    weights = dict(net.named_parameters())
    added = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    pulls = []

    def note(*_: object) -> None:
        pulls.append(any(_grad(weight).abs().max() > 1e-3 for weight in weights.values()))
        for name, weight in weights.items():
            added[name] += _grad(weight)

    run.optimizer.register_step_pre_hook(note)
    still = run.schedule.at(0)._replace(rate=0.0, bias_rate=0.0)  # the weights stay the same
    for _ in range(2 * EVERY):
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        update(run, still, done=1.0)
    assert pulls == [False, True, False, False, False, True, False, False]
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    PENALTIES[kind](net, _groups(net))(2 * EVERY * 0.1)
    for name, weight in weights.items():
        torch.testing.assert_close(added[name], _grad(weight), rtol=1e-4, atol=1e-5)


def _grad(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("l1", 0.1, "must be one of bn, group"),
        ("bn", 0.0, "must be above 0"),
        ("bn", float("nan"), "must be above 0"),
    ],
)
def test_unusable_wishes_are_refused(kind: str, strength: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sparsity(kind, strength)
