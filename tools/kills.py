"""Kill commands at random moments: outputs are whole, old or new, and the next run tidies up.

python tools/kills.py --kills 5        # of each command, by SIGKILL and SIGTERM in turn

Each command first runs undisturbed. It is then started again with other content in the place of its
outputs, and killed after a random part of its time, or once a temporary file of it is there. Every
output must then be what it was or what the undisturbed run wrote, all outputs of a command alike; a
command that got SIGTERM must have left no temporary file. The next run must end well and leave
nothing but its outputs. Exit status 1 where any of it does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

OLD = b"old"
_CUT = ("--weights", "dense.pt", "--out", "o.pt")
_SHAPES = ("data", "shapes", "--size", "64", "--images")


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: what follows `prune`.
        outputs: the files and folders that it writes.
        before: commands that make its inputs, or what it is to replace: outputs that are not there
            after them are files of other content.
    """

    words: tuple[str, ...]
    outputs: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


COMMANDS: Mapping[str, Command] = {
    "conv": Command(
        ("conv", *_CUT, "--layer", "1", "--amount", "0.4", "--plan-out", "p.json"),
        ("o.pt", "p.json"),
    ),
    "global": Command(("global", *_CUT, "--macs", "0.7", "--criterion", "l1"), ("o.pt",)),
    "whole": Command(("whole", "--weights", "y.pt", "--cfg", "y.cfg", "--out", "w.pt"), ("w.pt",)),
    "export": Command(("export", "--weights", "dense.pt", "--out", "o.onnx"), ("o.onnx",)),
    "apply": Command(("apply", *_CUT, "--plan", "plan.json"), ("o.pt",)),
    "depth": Command(("depth", *_CUT, "--blocks", "1"), ("o.pt",)),
    "quantize": Command(
        ("quantize", "--weights", "s.onnx", "--data", "s.yaml", "--images", "8", "--out", "q.onnx"),
        ("q.onnx",),
        before=(
            (*_SHAPES, "16", "--out", "s.yaml"),
            (
                "whole",
                "--random",
                "--cfg",
                "shapes.cfg",
                "--names",
                "circle,square,triangle",
                "--out",
                "s.pt",
            ),
            ("export", "--weights", "s.pt", "--out", "s.onnx"),
        ),
    ),
    "data voc": Command(
        ("data", "voc", "voc", "--out", "v/d.yaml"),
        ("v/d.yaml", "v/d"),
        before=((*_SHAPES, "12", "--out", "v/d.yaml"),),
    ),
}
ENDS = {
    0: "ended before",
    -signal.SIGKILL: "SIGKILL",
    -signal.SIGTERM: "SIGTERM before Python listened",
    130: "SIGTERM, exit 130",
}


def start(words: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    """Start a command."""
    with (place / "said.txt").open("wb") as out:
        return subprocess.Popen(
            (sys.executable, "-P", "-m", "prune", *words), cwd=place, stdout=out, stderr=out
        )


def said(place: Path) -> str:
    """Return what the last command printed."""
    return (place / "said.txt").read_text().strip()


def digests(command: Command, place: Path) -> tuple[str, ...]:
    """Return the SHA-256 of each output: of a file, or of all in a folder with their names."""
    return tuple(_digest(place / name) for name in command.outputs)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(f"{one.relative_to(path)}\n".encode())
        found.update(one.read_bytes() if one.is_file() else b"none")
    return found.hexdigest()


def put(command: Command, start: Path, end: Path) -> None:
    """Put one folder's outputs in the place of another's; where they are missing, other content."""
    for name in command.outputs:
        there, here = start / name, end / name
        here.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.rmtree(here)
        if there.is_dir():
            shutil.copytree(there, here, symlinks=True)
        else:
            here.write_bytes(there.read_bytes() if there.is_file() else OLD)


def leftovers(place: Path) -> list[str]:
    """List what has the name of a temporary file."""
    return sorted(str(path.relative_to(place)) for path in place.rglob(".*-part-*"))


def strike(
    command: Command, place: Path, *, seconds: float, number: int, random: Random
) -> tuple[int, int]:
    """Kill a command that runs; return its exit status and how many temporary files it left."""
    run = start(command.words, place)
    until = time.monotonic() + random.uniform(0.2, 1) * seconds
    amid = random.random() < 0.5
    while run.poll() is None and (amid or time.monotonic() < until):
        if amid and leftovers(place):
            break
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
    return run.wait(), len(leftovers(place))


def judge(name: str, kills: int, place: Path, random: Random) -> tuple[Counter[str], list[str]]:
    """Kill one command so many times; return what was seen, and what does not hold."""
    command = COMMANDS[name]
    kept = place / "kept"
    for words in command.before:
        if start(words, place).wait():
            return Counter(), [f"{words} failed: {said(place)}"]
    put(command, place, kept)
    put(command, kept, place)
    began = time.monotonic()
    if start(command.words, place).wait():
        return Counter(), [f"{name} failed: {said(place)}"]
    seconds = time.monotonic() - began
    new = digests(command, place)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(kills):
        put(command, kept, place)
        old = digests(command, place)
        status, left = strike(command, place, seconds=seconds, number=number, random=random)
        found = digests(command, place)
        seen[ENDS.get(status, f"exit {status}")] += 1
        if status not in ENDS:
            wrong.append(f"{name}: kill {number}: exit {status}: {said(place)}")
        seen["left temporary files"] += bool(left)
        seen["new" if found == new else "old" if found == old else "neither"] += 1
        if found not in (old, new):
            wrong.append(f"{name}: kill {number}: outputs are neither all old nor all new")
        if left and status == 130:
            wrong.append(f"{name}: kill {number}: SIGTERM left temporary files")
        if start(command.words, place).wait() or digests(command, place) != new:
            wrong.append(f"{name}: kill {number}: the next run ended otherwise")
        if rest := leftovers(place):
            wrong.append(f"{name}: kill {number}: the next run left {rest}")
    return seen, wrong


def main() -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=6, help="of each command (default 6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=COMMANDS, help="only this one")
    options = parser.parse_args()
    faults: list[str] = []
    for name in options.command or COMMANDS:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            place = Path(folder)
            code = "import sys; sys.path[0] = sys.argv[1]; import fuzz_readers as f; f.prepare()"
            tools = str(Path(__file__).parent)
            words = [sys.executable, "-c", code, tools]
            subprocess.run(words, cwd=place, check=True, stdout=subprocess.DEVNULL)
            cfg = (place / "x.cfg").read_text().replace("filters=21", "filters=24")
            (place / "shapes.cfg").write_text(cfg.replace("classes=2", "classes=3"))
            random = Random(f"{options.seed} {name}")
            seen, wrong = judge(name, options.kills, place, random)
        print(
            f"| {name} | {', '.join(f'{n} {what}' for what, n in seen.items() if n)} |", flush=True
        )
        faults += wrong
    print("", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
