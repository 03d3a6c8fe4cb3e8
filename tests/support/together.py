"""What each process of a team does in tests: `torchrun tests/support/together.py CASE FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune import checkpoint
from prune.cli import main
from prune.data import spec
from prune.data.loader import evaluation_loader
from prune.errors import DataError
from prune.evaluate.collect import evaluate_network
from prune.train import distributed as teams
from prune.train import loop
from prune.train.distributed import SharedStatistics, Team, all_reduce
from prune.train.run import Run
from prune.train.run_log import Log

PICTURES = 7  # in batches of 3: two and one, two and one, one and none
# Of a BatchNorm that never trains, and of one that does.
FROZEN, MEAN = (f"module_list.{i}.BatchNorm2d.running_mean" for i in (0, 1))
PRUNING = ("--prune-to", "macs:0.8", "--prune-every", "1", "--prune-until", "1")
WORDS = ("--batch", "3", "--nominal-batch", "3", "--workers", "0", "--device", "cpu")


def words(folder: Path, *more: str) -> list[str]:
    """Return the command that all tests train by."""
    where = ("--data", str(folder / "data.yaml"), "--project", str(folder / "runs"))
    return ["train", "--weights", str(folder / "dense.pt"), *where, *WORDS, *more]


def values(rows: list[int]) -> Tensor:
    """Return activations of so many of four images, [N, 3, 2, 2], far from zero mean."""
    every = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 3 + 50
    return every[rows]


def normalised(rows: list[int]) -> dict[str, Tensor]:
    """Send activations through a BatchNorm and back; say all that came of it."""
    norm = nn.BatchNorm2d(3, eps=1e-4, momentum=0.03)
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    given = values(rows).requires_grad_()
    (norm(given) * values(rows).square()).sum().backward()
    assert given.grad is not None
    named = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {**named, "values": given.grad, **dict(norm.named_buffers())}


def methods(team: Team, folder: Path) -> None:
    """Try every method, and save what two processes get for the one that compares."""
    assert team.any(team.rank == 1)
    assert not team.any(False)
    assert team.counts([1, team.rank]) == [2, 1]
    assert team.gather((team.rank, "x")) == [(0, "x"), (1, "x")]
    assert team.make_on_main(lambda: folder / str(team.rank)) == folder / "0"
    assert team.make_on_all(lambda: team.rank) == team.rank
    assert refused(team, ours=team.rank == 1) == ("DataError" if team.rank else "SystemExit")
    assert team.stack(torch.tensor([team.rank])).tolist() == [[0], [1]]
    weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter()]
    weights[2].requires_grad_(False)
    if team.is_main:
        weights[0].grad = torch.arange(6.0).view(3, 2).T  # laid out otherwise in memory
    weights[1].grad = torch.full((4,), team.rank + 1.0)
    team.sum_gradients(weights)
    assert [p.grad if p.grad is None else p.grad.tolist() for p in weights] == [
        [[0, 2, 4], [1, 3, 5]],
        [3] * 4,
        None,
    ]
    mean = torch.tensor([4.0, 8.0]) * (1 - team.rank)
    team.average([mean], fraction=(0.75, 0.25)[team.rank])
    assert mean.tolist() == [3, 6]


def refused(team: Team, *, ours: bool) -> str:
    """Fail to make something, all or only this one; name what came of it."""

    def make() -> None:
        if ours:
            raise DataError("no picture")

    try:
        team.make_on_all(make)
    except (DataError, SystemExit) as error:
        if ours:
            team.wait()  # instead of an end
        return type(error).__name__
    return "nothing"


def norms(team: Team, folder: Path) -> None:
    """Share BatchNorm statistics, once with nothing to give."""
    for name, rows in {"uneven": ([0, 1, 2], [3]), "empty": ([0, 1, 2, 3], [])}.items():
        with SharedStatistics(team):
            torch.save(normalised(list(rows[team.rank])), folder / f"{name}{team.rank}.pt")


def scores(team: Team, folder: Path) -> None:
    """Score three batches together, and only one, of which one process sees nothing."""
    for batch in (3, PICTURES):
        found = score_tiny(folder, batch, team)
        torch.save(found, folder / f"scores{batch}.{team.rank}.pt")


def score_tiny(folder: Path, batch: int, team: Team) -> tuple[object, ...]:
    """Score the network on the images; return all but times."""
    kept = checkpoint.load(folder / "dense.pt")
    net = checkpoint.network(kept)
    data = spec.load(folder / "data.yaml", splits=("val",))
    judge = evaluation_loader(
        data, split="val", imgsz=64, batch_size=batch, stride=net.stride, workers=0, part=team.part
    )
    found = evaluate_network(
        net,
        judge,
        kept.names,
        device=torch.device("cpu"),
        loss=lambda maps, _: torch.stack([head.mean() for head in maps]),
        gather=team.gather,
    )
    return found.map, found.map50, found.precision, found.recall, found.images, found.losses


def trains(team: Team, folder: Path) -> None:
    """Train and prune with every process's own BatchNorms, and keep what each one ends with."""
    update, runs = loop.update, []
    means: list[tuple[Tensor, Tensor]] = []  # before and after the all-reduce

    def noting_means(run: Run, *, fraction: float) -> None:
        before = run.net.get_buffer(MEAN).clone()
        all_reduce(run, fraction=fraction)
        means.append((before, run.net.get_buffer(MEAN).clone()))

    def noting(run: Run, *args: Any, **more: Any) -> None:
        update(run, *args, **more)
        runs.append(run)

    loop.update = noting
    vars(loop)["all_reduce"] = noting_means
    vars(teams)["join"] = lambda: nullcontext(team)  # they have met already
    teacher = ("--teacher", str(folder / "dense.pt"), "--distill")
    drawn = ("--multi-scale", "--image-weights", "--freeze", "0", "--patience", "1")
    assert main(words(folder, "--epochs", "3", "--name", "own", *teacher, *drawn, *PRUNING)) == 0
    torch.save(runs[-1].net.state_dict(), folder / f"own{team.rank}.pt")
    torch.save(means, folder / f"means{team.rank}.pt")


def at_step(number: int, do: Callable[[], None]) -> None:
    """Do something in the second process after so many batches."""
    step, count = Log.step, []

    def wrapped(log: Log, *args: Any) -> None:
        step(log, *args)
        count.append(1)
        if len(count) == number and os.environ["RANK"] == "1":
            do()

    Log.step = wrapped  # type: ignore[method-assign, assignment]  # mypy sees the name first


def dies(folder: Path) -> int:
    """End the second process without a word, as a lack of memory does."""
    at_step(2, lambda: os._exit(9))
    return main(words(folder, "--epochs", "50", "--name", "dead"))


def hangs(folder: Path) -> int:
    """Stop the second process amid its work, where it answers nobody and hears no SIGTERM."""
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    return main(words(folder, "--epochs", "50", "--name", "hung"))


def stops(folder: Path) -> int:
    """Ask the second process alone to stop."""
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    status = main(words(folder, "--epochs", "2", "--sync-bn", "--name", "stopped"))
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], "threads that could abort Python's end"
    (folder / f"status{os.environ['RANK']}").write_text(str(status))
    return 0


def works(folder: Path) -> int:
    """Run all that ends well."""
    with teams.join() as team:
        for case in (methods, norms, scores, trains):
            case(team, folder)
    return 0


CASES = {"works": works, "dies": dies, "hangs": hangs, "stops": stops}

if __name__ == "__main__":
    sys.exit(CASES[sys.argv[1]](Path(sys.argv[2])))
