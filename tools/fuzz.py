"""Change files at random and have every reader read them: it must accept or refuse each.

python tools/fuzz.py --tries 1000                         # of each reader
python tools/fuzz.py --minutes 10 --seed 7 --keep found/  # what was found is kept there
python tools/fuzz.py --reader checkpoint --reader cfg

Each reader gets a small sound file and then changed ones (mutations.py). A try is good where the
reader returns, or refuses the file by an error of ours (PruneError). Anything else is a finding: a
traceback, a process that died, more than 10 s, more than 2 GB. Findings of one kind and place are
counted together, with one file kept. Readers run within a few processes, thousands of tries per
minute. Exit status 1 where anything was found.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from random import Random
from types import FrameType

from fuzz_readers import READERS, Reader, prepare

from prune.common import notes
from prune.errors import PruneError

SECONDS, MB = 10, 2048  # what a try may take: of the processor, and beyond what was there before
GOOD = ("accepted", "refused")
LARGE = 2**20  # bytes of a file that is changed no further
SILENT = 120  # seconds in which a process must answer; it may be stopped for a while


class TooSlowError(BaseException):
    """Raised by the alarm within a try; no reader catches it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a try.

    Attributes:
        index: the try's number.
        what: "accepted", "refused", or what kind of finding it is.
        seconds: of the processor.
        mb: memory at its highest, beyond what was in use before.
        detail: the traceback of a finding.
        data: the file of a finding.
    """

    index: int
    what: str
    seconds: float = 0.0
    mb: float = 0.0
    detail: str = ""
    data: bytes = b""


@dataclass
class Tally:
    """A reader's outcomes: how many, the findings by kind, the slowest and the largest."""

    name: str
    tries: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    mb: float = 0.0
    findings: dict[str, list[Outcome]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count a try."""
        self.tries += 1
        self.seconds, self.mb = max(self.seconds, outcome.seconds), max(self.mb, outcome.mb)
        if outcome.what in GOOD:
            setattr(self, outcome.what, getattr(self, outcome.what) + 1)
        else:
            self.findings.setdefault(outcome.what, []).append(outcome)

    def __add__(self, other: Tally) -> Tally:
        """Join two tallies, of two processes or of two readers."""
        both = Tally(self.name, self.tries + other.tries)
        both.accepted, both.refused = self.accepted + other.accepted, self.refused + other.refused
        both.seconds, both.mb = max(self.seconds, other.seconds), max(self.mb, other.mb)
        kinds = dict.fromkeys((*self.findings, *other.findings))
        both.findings = {
            what: [*self.findings.get(what, ()), *other.findings.get(what, ())] for what in kinds
        }
        return both


def changed(reader: Reader, sound: bytes, *, seed: int, index: int) -> bytes:
    """Make the file of a try; the first one is the sound file itself."""
    if not index:
        return sound
    random = Random(f"{seed} {reader.name} {index}")
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if len(sound) > LARGE:
            break
        with suppress(Exception):  # what an earlier change broke cannot be read for a later one
            sound = random.choice(reader.mutations)(sound, random)
    return sound


def attempt(reader: Reader, data: bytes, index: int) -> Outcome:
    """Have a reader read a file, within the limits of time and memory."""
    path = Path(reader.file)
    path.write_bytes(data)
    start, before = time.process_time(), _memory("VmRSS")
    _forget_peak()
    what = detail = ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        notes.forget()
        reader.read(path)
        what = "accepted"
    except (PruneError, SystemExit) as error:
        hungry = any(isinstance(one, MemoryError) for one in _causes(error))
        what = "asked for too much memory" if hungry else "refused" if index else "sound, refused"
        detail = traceback.format_exc()
    except BaseException as error:  # of any kind: that is what is looked for
        what, detail = f"{type(error).__name__} at {_place(error)}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    mb = max(0.0, (_memory("VmHWM") - before) / 1024)
    what = f"over {MB} MB" if mb > MB and what in GOOD else what
    kept = b"" if what in GOOD else data
    return Outcome(index, what, time.process_time() - start, mb, detail, kept)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """Name the last line of ours in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/prune/" in frame.filename] or frames[-1:]
    return f"{ours[-1].filename.rpartition('/prune/')[2]}:{ours[-1].name}"


def _memory(name: str) -> int:
    """Read one of this process's figures, KB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _forget_peak() -> None:
    with suppress(OSError):  # not every container allows it; the peak is then of all tries so far
        Path("/proc/self/clear_refs").write_text("5")


def work(reader: Reader, indices: Sequence[int], seed: int, place: Path, pipe: Connection) -> None:
    """Try a reader in a process of its own; tell what came of each try."""
    _settle()
    os.chdir(place)
    sound = Path(reader.file).read_bytes()
    attempt(reader, sound, 0)  # imports what it needs, which is not counted
    limit = _memory("VmSize") * 1024 + MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index in indices:
        os.chdir(place)
        pipe.send(attempt(reader, changed(reader, sound, seed=seed, index=index), index))


def _settle() -> None:
    """Keep what readers print to themselves, and have the alarm raise."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the whole process
    signal.signal(signal.SIGPROF, _late)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _late(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def follow(reader: Reader, indices: Sequence[int], seed: int, sound: Path) -> Iterator[Outcome]:
    """Have processes try a reader; one that dies or falls silent is a finding, and the next begins.

    Args:
        reader: the reader.
        indices: the tries.
        seed: of all chance.
        sound: the folder of sound files, which each process gets a copy of.
    """
    context = get_context("fork")
    left = list(indices)
    while left:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            place = Path(folder, "files")
            shutil.copytree(sound, place)
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(reader, tuple(left), seed, place, there))
            process.start()
            there.close()
            try:
                while left and (outcome := _answer(here, process)):
                    left.pop(0)
                    yield outcome
            finally:
                process.kill()
                process.join()
            if left:
                lost = "was silent" if process.exitcode == -signal.SIGKILL else "died"
                what = f"the process {lost}: status {process.exitcode}"
                yield Outcome(left.pop(0), what, data=(place / reader.file).read_bytes())


def _answer(pipe: Connection, process: ForkProcess) -> Outcome | None:
    """Wait for an answer; not by the clock, since both processes may have been stopped."""
    if any(pipe.poll(1) for _ in range(SILENT)):
        with suppress(EOFError):
            outcome: Outcome = pipe.recv()
            return outcome
        process.join()  # it died; how is told by its status
    return None


def lane(number: int, *, options: argparse.Namespace, sound: Path) -> list[Tally]:
    """Try each reader at every so many-th number, as long as it may take."""
    tallies = []
    for name in options.reader or READERS:
        until = time.monotonic() + 60 * options.minutes / len(options.reader or READERS)
        tally = Tally(name)
        numbers = range(number, options.tries, options.jobs)
        for outcome in follow(READERS[name], numbers, options.seed, sound):
            tally.add(outcome)
            if time.monotonic() > until:
                break
        tallies.append(tally)
    return tallies


def keep(tally: Tally, folder: Path) -> None:
    """Write one file of each finding, and its traceback."""
    reader = READERS[tally.name]
    for number, (what, found) in enumerate(tally.findings.items()):
        name = f"{tally.name.replace(' ', '-')}-{number}-{found[0].index}"
        path = folder / f"{name}{Path(reader.file).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found[0].data)
        path.with_name(f"{path.name}.txt").write_text(
            f"{what}\n{found[0].detail}", "utf-8", "replace"
        )


def table(tallies: Sequence[Tally]) -> str:
    """Write the counts as Markdown, and below them each kind of finding."""
    rows = ["| reader | tries | accepted | refused | findings | slowest, s | most memory, MB |"]
    rows += ["|---|--:|--:|--:|--:|--:|--:|"]
    for one in (*tallies, sum(tallies, Tally("all"))):
        bad = one.tries - one.accepted - one.refused
        rows.append(
            f"| {one.name} | {one.tries:,} | {one.accepted:,} | {one.refused:,} | {bad:,} | "
            f"{one.seconds:.1f} | {one.mb:.0f} |"
        )
    rows += [
        f"\n{one.name}: {what}: {len(found)} times, first at number {found[0].index}"
        for one in tallies
        for what, found in one.findings.items()
    ]
    return "\n".join(rows)


def run(options: argparse.Namespace) -> list[Tally]:
    """Try all readers; return a tally of each."""
    context = get_context("fork")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        sound = Path(folder, "sound")
        sound.mkdir()
        maker = context.Process(target=_make, args=(sound,))  # threads it starts end with it
        maker.start()
        maker.join()
        assert maker.exitcode == 0, "a sound file could not be made"
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            lanes = pool.map(partial(lane, options=options, sound=sound), range(options.jobs))
            tallies = [sum(of_one[1:], of_one[0]) for of_one in zip(*lanes, strict=True)]
        for tally in tallies if options.keep else ():
            keep(tally, options.keep)
    return tallies


def _make(place: Path) -> None:
    _settle()
    os.chdir(place)
    prepare()


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=1000, help="of each reader (default 1000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of all readers, at most")
    parser.add_argument("--reader", action="append", choices=READERS, help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where findings are kept")
    return parser.parse_args(words)


def main() -> int:
    """Run the tool."""
    tallies = run(options_of())
    print(table(tallies))
    return 1 if any(tally.findings for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
