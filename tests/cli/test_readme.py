"""What the documents tell people to type can be typed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from prune import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(document: Path) -> list[str]:
    """Return the lines of code blocks that begin with prune; continued lines are joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("prune ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_of_a_document_can_be_read(document: Path) -> None:
    """With placeholders such as $T left out, which are options of their own."""
    for line in commands(document):
        name, *words = shlex.split(line, comments=True)[1:]
        words = [word for word in words if not word.startswith("$")]
        if name not in ("help", "--help", "--version"):
            cli.read(name, words)


def test_road_recovers_what_it_cuts_and_names_its_runs() -> None:
    text = "\n".join(commands(ROOT / "README.md")[:10])
    assert "--macs 0.5 --data data/mine.yaml --reconstruct" in text
    assert "--teacher whole_model.pt" in text and "--name tuned" in text
    assert text.count("runs/train/tuned/weights/best.pt") == 2 and "runs/train/exp" not in text


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    "index", ["", "https://download.pytorch.org/whl/cpu"], ids=["usual", "CPU"]
)
def test_make_demo_takes_an_index_for_torch(index: str) -> None:
    words = ["make", "--dry-run", "--always-make", "demo", f"TORCH_INDEX={index}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if "--editable" in line)
    assert ("--extra-index-url" in line, index in line) == (bool(index), True)
