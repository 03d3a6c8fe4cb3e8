"""What `prune train` prints at its end: the best epoch and the last, and what to use next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.score.metrics import Scores
    from prune.train.keep import Row


def tell(
    rows: list[Row],
    folder: Path,
    as_json: bool,
    *,
    best_after: int = 0,
    pruned: bool,
    test: Scores | None,
) -> None:
    """Print the best epoch and the last, the best on the test split, and what to use next."""
    from prune.cli import console
    from prune.train.keep import fitness

    best = max((row for row in rows[best_after:] if "map" in row), key=fitness)
    scores = ("precision", "recall", "f1", "map50", "map")
    files = {name: folder / "weights" / f"{name}.pt" for name in ("best", "last")}
    if as_json:
        figures = {name: best[name] for name in scores}
        if test is not None:
            figures |= {"test_map50": test.map50, "test_map": test.map}
        seconds = sum(row["seconds"] for row in rows)
        console.print_json(
            {"epochs": len(rows), "best_epoch": int(best["epoch"]), **figures}
            | {"seconds": seconds, "folder": str(folder)}
            | {name: str(path) for name, path in files.items()}
        )
        return
    lines = [("best", best), ("last", rows[-1])]
    if test is not None:
        lines.append(
            ("best, test split", {**best, **{name: getattr(test, name) for name in scores}})
        )
    console.print_table(
        ["", "epoch", "P", "R", "F1", "mAP@.5", "mAP@.5:.95"],
        [[name, int(row["epoch"]), *(row[score] for score in scores)] for name, row in lines],
    )
    print(f"\nbest weights  {files['best']}\nlast weights  {files['last']}")
    if (folder / "results.png").is_file():
        print(f"curves        {folder / 'results.png'}")
    then = "export" if pruned else "layers --upto 60"
    print(f"next          prune {then} --weights {files['best']}")
