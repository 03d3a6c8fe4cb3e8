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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

OLD = b"old"
_CUT = ("--weights", "dense.pt", "--out", "o.pt")


@dataclass(frozen=True)
class Command:
    """A command line, and the files that it writes; in a `folder` of its own where one is named.

    Other content is put in the place of the outputs; a folder is removed instead, since `data`
    replaces no description of another's.
    """

    words: tuple[str, ...]
    outputs: tuple[str, ...]
    folder: str = ""


COMMANDS: Mapping[str, Command] = {
    "conv": Command(
        ("conv", *_CUT, "--layer", "1", "--amount", "0.4", "--plan-out", "p.json"),
        ("o.pt", "p.json"),
    ),
    "global": Command(("global", *_CUT, "--macs", "0.7", "--criterion", "l1"), ("o.pt",)),
    "whole": Command(("whole", "--weights", "y.pt", "--cfg", "y.cfg", "--out", "w.pt"), ("w.pt",)),
    "export": Command(("export", "--weights", "dense.pt", "--out", "o.onnx"), ("o.onnx",)),
    "data voc": Command(("data", "voc", "voc", "--out", "v/d.yaml"), ("v/d.yaml",), folder="v"),
}


def start(command: Command, place: Path) -> subprocess.Popen[bytes]:
    """Start a command."""
    words = (sys.executable, "-P", "-m", "prune", *command.words)
    with (place / "said.txt").open("wb") as said:
        return subprocess.Popen(words, cwd=place, stdout=said, stderr=said)


def digests(command: Command, place: Path) -> tuple[str, ...]:
    """Return the SHA-256 of each output; "" of one that is not there."""
    files = [place / name for name in command.outputs]
    return tuple(
        hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in files
    )


def leftovers(place: Path) -> list[str]:
    """List what has the name of a temporary file."""
    return sorted(str(path.relative_to(place)) for path in place.rglob(".*-part-*"))


def strike(
    command: Command, place: Path, *, seconds: float, number: int, random: Random
) -> tuple[int, int]:
    """Kill a command that runs; return its exit status and how many temporary files it left."""
    run = start(command, place)
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
    began = time.monotonic()
    if start(command, place).wait():
        return Counter(), [f"{name} failed: {(place / 'said.txt').read_text().strip()}"]
    seconds = time.monotonic() - began
    new = digests(command, place)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(kills):
        if command.folder:
            shutil.rmtree(place / command.folder)
        for output in () if command.folder else command.outputs:
            (place / output).write_bytes(OLD)
        old = digests(command, place)
        status, left = strike(command, place, seconds=seconds, number=number, random=random)
        found = digests(command, place)
        ended = {0: "ended before", -9: "SIGKILL", 130: "SIGTERM, exit 130"}.get(status)
        seen[ended or f"exit {status}"] += 1
        seen["left temporary files"] += bool(left)
        seen["new" if found == new else "old" if found == old else "neither"] += 1
        if found not in (old, new):
            wrong.append(f"{name}: kill {number}: outputs are neither all old nor all new")
        if left and status == 130:
            wrong.append(f"{name}: kill {number}: SIGTERM left temporary files")
        if start(command, place).wait() or digests(command, place) != new:
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
