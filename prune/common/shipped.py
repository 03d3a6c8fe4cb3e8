"""Files that come with the package: networks in cfg/, hyper-parameters in cfg/hyp/."""

from __future__ import annotations

from pathlib import Path

from prune.common.inputs import exists, is_file

# A link in a checkout; in an installed wheel the files themselves.
FOLDER = Path(__file__).resolve().parents[1] / "cfg"


def find(path: Path, *, folder: Path = FOLDER, suffix: str = ".cfg") -> Path:
    """Return the file that a path names: one that is there, else the one that comes with us.

    Ours are found by their bare name, "yolor_csp_s" or "yolor_csp_s.cfg", and in the spelling of a
    checkout, "cfg/yolor_csp_s.cfg". Any other path stays as it is.

    Args:
        path: as the user gave it.
        folder: where ours of this kind lie.
        suffix: of ours.
    """
    own = folder / f"{path.stem}{suffix}"
    bare = path.suffix in ("", suffix) and path.parent in (Path(), _in_checkout(folder))
    return own if bare and not exists(path) and is_file(own) else path


def _in_checkout(folder: Path) -> Path:
    """Return a folder of ours as it is called from the top of a checkout: cfg, cfg/hyp."""
    return Path("cfg") / folder.relative_to(FOLDER)
