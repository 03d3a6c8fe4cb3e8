"""Time shipped networks in the runtimes at hand, and print one Markdown table a network.

python tools/bench_latency.py --threads 2
python tools/bench_latency.py --only yolor_csp_n --spinning

Each cfg is built with fresh weights, which take as long as trained ones, and exported at 320
pixels. Its file stands in the table twice, as two copies on the disk: what they differ by is what a
difference between two other rows must exceed. With --spinning there is also ONNX Runtime with its
own defaults, whose threads spin while they wait; that slows down the rows beside it, too.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from prune.bench.rows import Measured, MeasuredPair, Pair, measure
from prune.export.onnx import export
from prune.models.darknet import build
from prune.runtimes.backends import MODULES, RUNTIMES, Opened, Setting, installed, onnxruntime_feeds
from prune.runtimes.file_inputs import settle
from prune.runtimes.machine import machine, threads_of
from prune.runtimes.timing import Ratio, ratio

CFG = Path(__file__).resolve().parents[1] / "cfg"
NETWORKS = ("yolor_csp_n", "yolor_csp_s", "yolor_csp")
RUNTIMES_TIMED = ("onnxruntime", "openvino")
SPINNING = "onnxruntime, spinning"
COLUMNS = (
    *("file", "runtime", "precision", "ms", "p10 to p90", "to the first (95 %)"),
    *("to its copy (95 %)", "load", "memory"),
)


def main() -> None:
    """Export, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=0, help="of a run (0: one a core)")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--spinning", action="store_true", help="also ONNX Runtime's defaults")
    args = parser.parse_args()
    runtimes = [name for name in RUNTIMES_TIMED if name in installed()]
    here = machine(runtimes)
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    threads = threads_of(args.threads)
    print(f"{here.cpu}, {threads} of {here.cores} core(s), load {here.load}, {args.img_size} px")
    print(f"{versions}, {args.rounds} runs each, in turn")
    if args.spinning:
        RUNTIMES[SPINNING], MODULES[SPINNING] = spinning, "onnxruntime"
        runtimes.append(SPINNING)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            path = written(name, Path(folder), args.img_size)
            setting = settle(path, threads=threads)
            print(f"\n{table(timed(path, runtimes, setting, args.rounds))}")


def written(name: str, folder: Path, imgsz: int) -> Path:
    """Export a shipped network."""
    net = build((CFG / f"{name}.cfg").read_text(encoding="utf-8"))
    names = [str(number) for number in range(net.heads[0].classes)]
    return export(net, folder / f"{name}.onnx", names=names, imgsz=(imgsz, imgsz)).out


def timed(path: Path, runtimes: Sequence[str], setting: Setting, rounds: int) -> Measured:
    """Time a file and a copy of it."""
    copy = path.with_stem(f"{path.stem}, copy")
    shutil.copy(path, copy)
    pairs = [Pair(file, name, file, setting) for name in runtimes for file in (path, copy)]
    return measure(pairs, rounds=rounds)


def spinning(path: Path, setting: Setting) -> Opened:
    """Open a file as a program does that sets nothing but the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = onnxruntime_feeds(session, setting)
    return Opened(lambda: session.run(None, feeds), setting.shape, lambda: "float32")


def table(measured: Measured) -> str:
    """Set the rows as Markdown; every second one is the copy of the one above it."""
    times = measured.times
    copies = [ratio(times[:, i], times[:, i - 1]) if i % 2 else None for i in range(times.shape[1])]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, measured.rows, copies)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: MeasuredPair, copy: Ratio | None) -> tuple[str, ...]:
    """Write one row."""
    ms = row.spread
    memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f} MB"
    return (
        row.pair.file.stem,
        row.pair.runtime,
        row.precision,
        f"{ms.median:.1f}",
        f"{ms.p10:.1f} to {ms.p90:.1f}",
        told(row.ratio_to_first),
        told(copy) if copy else "",
        f"{row.load_ms:.0f} ms",
        memory,
    )


def told(one: Ratio) -> str:
    """Write a ratio with its interval."""
    return f"{one.middle:.3f} ({one.low:.3f} to {one.high:.3f})"


if __name__ == "__main__":
    main()
