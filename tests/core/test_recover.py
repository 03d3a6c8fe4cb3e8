"""Recovery: exact where channels are constant or copies, never worse where they are not."""

from __future__ import annotations

from collections.abc import Sequence

import nets
import pytest
import torch
from plans import plan_of
from torch import Generator, Tensor, nn

from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.recover.compensate import compensate, means_from_images, means_from_norms
from prune.core.recover.normal import Sums, error, solve
from prune.core.recover.patches import draw, made, seen, solve_shape
from prune.core.recover.readers import readers
from prune.core.recover.recalibrate import recalibrate
from prune.core.recover.reconstruct import Settings, reconstruct
from prune.core.trace.groups import Group, Slot, trace
from prune.errors import InputError


def _images(count: int = 24, *, seed: int = 0, size: int = 8) -> list[Tensor]:
    generator = Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator).double()
    return list(torch.split(images, 7))


def _first_free(groups: Sequence[Group]) -> int:
    return next(i for i, g in enumerate(groups) if not g.protected and g.channels > 1)


def _cut(net: nn.Module, groups: Sequence[Group], number: int) -> tuple[Plan, nn.Module]:
    """Take the first channel of a group."""
    plan = plan_of(groups, {number: [0]})
    return plan, apply_plan(net, groups, plan)


def _flat(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output.flatten()
    values = output.values() if isinstance(output, dict) else output
    assert isinstance(values, (list, tuple, type({}.values())))
    return torch.cat([_flat(value) for value in values])


def _distance(net: nn.Module, other: nn.Module, images: Sequence[Tensor]) -> float:
    with torch.no_grad():
        return max((_flat(net(p)) - _flat(other(p))).abs().max().item() for p in images)


def _values(net: nn.Module, slot: Slot) -> list[tuple[Tensor, int]]:
    """List the tensors of a place where channels are made, each with its axis of channels."""
    if slot.kind == "parameter":
        return [(net.get_parameter(slot.name), slot.dim)]
    module = net.get_submodule(slot.name)
    across = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [(t, across if t.dim() > 1 else 0) for t in tensors.values() if t.dim()]


@torch.no_grad()
def _make_copies(net: nn.Module, group: Group) -> None:
    """Make the first channel of a group the second one's copy, wherever channels are made."""
    for slot in group.slots:
        for tensor, dim in _values(net, slot) if slot.side == "out" else ():
            for to, source in zip(slot.index[0], slot.index[1], strict=True):
                tensor.select(dim, to).copy_(tensor.select(dim, source))


@torch.no_grad()
def _make_constant(net: nn.Module, group: Group) -> None:
    for slot in group.slots:
        if slot.kind == "norm":
            norm = net.get_submodule(slot.name)
            assert isinstance(norm, nn.BatchNorm2d)
            norm.weight[list(slot.index[0])] = 0


COPIES = [name for name in nets.CASES if name not in ("shared", "refused")]


@pytest.mark.parametrize("name", COPIES)
def test_a_channel_that_another_copies_is_made_up_for_exactly(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    number = _first_free(groups)
    _make_copies(net, groups[number])
    plan, pruned = _cut(net, groups, number)
    new = _images(3, seed=1)
    assert _distance(net, pruned, new) > 1e-3, "the cut alone must be seen"
    reconstruct(net, pruned, groups, plan, _images())
    assert _distance(net, pruned, new) < 1e-4


# Without padding behind the constant channel, and with nothing that changes it on the way.
CONSTANT = ["residual", "concat", "concat_plus", "csp", "depthwise", "implicit", "weighted_sum"]


@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_channel_is_compensated_exactly(name: str, points: int) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    number = _first_free(groups)
    _make_constant(net, groups[number])
    plan, pruned = _cut(net, groups, number)
    images = _images(3)
    assert _distance(net, pruned, images) > 1e-3, "the cut alone must be seen"
    means = means_from_norms(net, shape, points=points)
    done = compensate(net, pruned, groups, plan, means=means, image=images[0])
    assert not done.left
    assert _distance(net, pruned, images) < 1e-9


def test_images_and_norms_agree_on_constant_channels() -> None:
    net, shape = nets.net("csp"), nets.CASES["csp"].shape
    groups = trace(net, shape)
    for group in groups:
        _make_constant(net, group)
    places = [(s.name, s.index[0]) for g in groups for s in g.slots if s.side == "in"]
    seen_means, known_means = means_from_images(net, _images()), means_from_norms(net, shape)
    for name, positions in places:
        chosen = list(positions)
        assert torch.allclose(seen_means[name][chosen], known_means[name][chosen])


def test_a_spread_channel_has_the_mean_of_its_activation() -> None:
    """Two ways to E[relu(N(0, 1))] = 0.399: by three points, and by one, which gives 0."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 1, 1))
    one, three = (means_from_norms(net, (1, 3, 4, 4), points=points)["3"] for points in (1, 3))
    assert one.item() == 0
    assert three.item() == pytest.approx(3**0.5 / 6), "nearer to 0.399"


@pytest.mark.parametrize("name", [n for n in nets.CASES if n != "refused"])
def test_no_layer_comes_out_worse_on_the_images_it_was_fitted_on(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan = plan_of(
        groups, {i: [0] for i, g in enumerate(groups) if not g.protected and g.channels > 1}
    )
    pruned = apply_plan(net, groups, plan)
    solved = reconstruct(net, pruned, groups, plan, _images())
    assert solved
    assert all(layer.after <= layer.before for layer in solved)


@pytest.mark.parametrize("name", ["csp", "grouped", "depthwise", "flat", "gate"])
def test_the_error_told_is_that_of_the_outputs(name: str) -> None:
    """Two ways to the last layer's error: from the normal equations, and by running the nets."""
    net, shape = nets.net(name), nets.CASES[name].shape
    groups, images = trace(net, shape), torch.cat(_images())
    plan, pruned = _cut(net, groups, _first_free(groups))
    solved = reconstruct(net, pruned, groups, plan, [images], settings=Settings(places=64))
    last = next(layer for layer in solved if layer.name == "end")
    with torch.no_grad():
        wished, found = net(images), pruned(images)
    share = ((wished - found).square().sum() / wished.square().sum()).item()
    assert share == pytest.approx(last.after, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", ["chain", "residual", "csp", "grouped", "chunk", "pool_up"])
def test_outputs_on_new_images_come_nearer(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan, pruned = _cut(net, groups, _first_free(groups))
    new = _images(6, seed=1)
    before = _distance(net, pruned, new)
    reconstruct(net, pruned, groups, plan, _images(40))
    assert _distance(net, pruned, new) < before / 2


@pytest.mark.parametrize("name", ["csp", "concat", "grouped", "implicit", "flat"])
def test_constants_added_before_are_not_added_again(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups, images = trace(net, shape), _images()
    plan, pruned = _cut(net, groups, _first_free(groups))
    _, compensated = _cut(net, groups, _first_free(groups))
    means = means_from_images(net, images)
    compensate(net, compensated, groups, plan, means=means, image=images[0])
    assert _distance(pruned, compensated, images) > 1e-3
    for copy in (pruned, compensated):
        reconstruct(net, copy, groups, plan, images)
    assert _distance(pruned, compensated, images) < 1e-9


def test_little_memory_gives_the_same_weights() -> None:
    net, shape = nets.net("csp"), nets.CASES["csp"].shape
    groups = trace(net, shape)
    plan, pruned = _cut(net, groups, 0)
    _, again = _cut(net, groups, 0)
    images = _images(size=32)
    begun = []
    for copy, memory in ((pruned, 1 << 30), (again, 400_000)):
        passes: list[int] = []
        hook = copy.get_submodule("stem.0").register_forward_pre_hook(
            lambda *_, passes=passes: passes.append(1)
        )
        small = Settings(places=5, memory=memory)
        reconstruct(net, copy, groups, plan, images, settings=small)
        hook.remove()
        begun.append(len(passes))
    assert begun[0] == len(images) + 2, "once a batch, once to look at layers, once at memory"
    assert begun[1] > begun[0], "what does not fit begins anew"
    for name, tensor in pruned.state_dict().items():
        assert torch.allclose(tensor, again.state_dict()[name], rtol=1e-6, atol=1e-9), name


def test_a_network_without_a_cut_stays_bit_for_bit() -> None:
    net, shape = nets.net("residual"), nets.CASES["residual"].shape
    groups = trace(net, shape)
    same = {name: name for name, _ in net.named_modules()}
    copy = apply_plan(net, groups, Plan("", "given", ()))
    solved = reconstruct(net, copy, groups, Plan("", "given", ()), _images(), names=same)
    assert max(layer.before for layer in solved) < 1e-20
    assert all(torch.equal(t, net.state_dict()[k]) for k, t in copy.state_dict().items())


def test_what_is_not_solved_for_is_left_and_said() -> None:
    net, shape = nets.net("shared"), nets.CASES["shared"].shape
    groups = trace(net, shape)
    plan, pruned = _cut(net, groups, _first_free(groups))
    reasons = {s.name: s.left for s in reconstruct(net, pruned, groups, plan, _images())}
    assert "2 times" in str(reasons["tower"])
    net, shape = nets.net("pool_up"), nets.CASES["pool_up"].shape
    groups = trace(net, shape)
    plan, pruned = _cut(net, groups, _first_free(groups))
    reasons = {s.name: s.left for s in reconstruct(net, pruned, groups, plan, _images())}
    assert "ConvTranspose2d" in str(reasons["up"])
    assert reasons["end"] is None


def test_a_layer_without_a_place_for_a_constant_is_left_and_said() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False), nn.ReLU())
    net.append(nn.Conv2d(5, 2, 1))
    groups = trace(net.double(), (1, 3, 8, 8))
    plan, pruned = _cut(net, groups, 0)
    image = _images(1)[0]
    means = means_from_images(net, [image])
    done = compensate(net, pruned, groups, plan, means=means, image=image)
    assert done.layers == ()
    assert "neither a bias" in done.left["2"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2), bias=False),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
    ],
    ids=["plain", "oblong", "grouped", "depthwise"],
)
def test_places_times_weights_are_the_output(layer: nn.Conv2d) -> None:
    image = torch.rand(2, 4, 9, 7)
    with torch.no_grad():
        output = layer(image)
        at = draw(output, layer, places=5, generator=Generator().manual_seed(0))
        x = seen(image, layer, at)
        found = torch.einsum("nsf,sof->nso", x, solve_shape(layer.weight, layer.groups)).flatten(1)
        if layer.bias is not None:
            found = found + layer.bias
        assert torch.allclose(found, made(output, layer, at).flatten(0, 1), atol=1e-6)


@pytest.mark.parametrize("constant", [True, False])
def test_the_equations_give_what_a_solver_gives(constant: bool) -> None:
    generator = Generator().manual_seed(0)
    x = torch.randn(50, 1, 4, generator=generator).double() + 3
    r = torch.randn(50, 1, 2, generator=generator).double() + 1
    origin = x.mean(dim=0) * constant
    sums = Sums.empty(origin, 2)
    for start in (0, 20):
        end = start + 20 if start == 0 else 50
        sums.add(x[start:end], r[start:end])
    change = solve(sums, ridge=0.0, constant=constant)
    assert change is not None
    table = torch.cat((x[:, 0], torch.ones(50, 1).double()), dim=1) if constant else x[:, 0]
    wished = torch.linalg.lstsq(table, r[:, 0]).solution
    assert torch.allclose(change.weight[0], wished[:4])
    left = (r[:, 0] - table @ wished).square().sum().item()
    assert error(sums, change) == pytest.approx(left)


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    convolution, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.03)
    net = nn.Sequential(convolution, norm, nn.Dropout(0.5)).double().eval()
    images = _images(14)
    recalibrate(net, images)
    with torch.no_grad():
        outputs = [convolution(batch) for batch in images]
    variances = torch.stack([o.transpose(0, 1).flatten(1).var(dim=1) for o in outputs])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.cat(outputs).mean((0, 2, 3)))
    assert torch.allclose(norm.running_var, variances.mean(dim=0))
    assert (net.training, norm.training, norm.momentum) == (False, False, 0.03)


@pytest.mark.parametrize("step", ["recalibrate", "reconstruct", "means"])
def test_no_images_are_refused_before_anything_changes(step: str) -> None:
    net = nets.net("chain")
    groups = trace(net, (1, 3, 8, 8))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match="no images"):
        if step == "recalibrate":
            recalibrate(net, [])
        elif step == "means":
            means_from_images(net, [])
        else:
            reconstruct(net, net, groups, plan_of(groups, {0: [0]}), [])
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())


def test_norms_are_found_behind_their_layers_only() -> None:
    found = {r.name: r for r in readers(nets.net("concat"), torch.rand(1, 3, 8, 8).double())}
    assert found["a.0"].norm == "a.1"
    assert found["end"].norm is None, "a sigmoid stands between"
    shared = {r.name: r for r in readers(nets.net("shared"), torch.rand(1, 3, 8, 8).double())}
    assert shared["tower"].calls == 2
