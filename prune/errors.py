"""What can go wrong, as one tree.

    PruneError                 exit 2: the user can mend it
    ├── InputError             a file or an option that cannot be used
    │   ├── CfgError           Darknet text: unknown section or key, layers that do not fit
    │   ├── CheckpointError    not a checkpoint, truncated, weights that do not fit the cfg
    │   │   └── ForeignError   weights of another project where ours are expected
    │   └── DataError          data.yaml, labels, images
    ├── PlanError              a cut that cannot be made
    │   ├── WithinBudgetError  a budget that is met as it is
    │   └── OutOfReachError    a budget that no cut within the limits meets
    ├── DeviceError            a device this machine lacks
    └── RunError               exit 1: the input was good, the run failed
        ├── WriteError         a file that could not be written to its end: a full disk
        ├── VerificationError         a pruned network that differs from the masked original
        ├── OffTargetError     a cut that does not run in the time that was requested
        ├── ExportError        an exported file that differs from the network
        ├── LoaderError        a process that loads images is gone, or cannot pass them on
        └── TrainError         a loss that is not finite, a run that cannot go on

The command line turns each into one line on stderr; anything else is a bug and keeps its traceback.
"""

MISSED = 3  # exit status of a command that is done, and whose result falls short of what was asked


class PruneError(Exception):
    """Anything the project raises on purpose; the message says what came and what is allowed."""

    exit_code = 2


class InputError(PruneError):
    """A file or an option that cannot be used."""


class CfgError(InputError):
    """Darknet cfg text that describes no network."""


class CheckpointError(InputError):
    """A weights file that cannot be read, or weights that do not fit their cfg."""


class ForeignError(CheckpointError):
    """A file that is none of our checkpoints; it may be one of another project."""


class DataError(InputError):
    """A data set, label or image that cannot be used."""


class PlanError(PruneError):
    """A cut that cannot be made."""


class WithinBudgetError(PlanError):
    """A budget that the network is within already."""


class OutOfReachError(PlanError):
    """A budget that no cut within the limits meets."""


class DeviceError(PruneError):
    """A device this machine does not have."""


class RunError(PruneError):
    """The input was good; the run failed."""

    exit_code = 1


class WriteError(RunError):
    """A file that could not be written to its end, which leaves the one before it as it was."""


class VerificationError(RunError):
    """A pruned network whose outputs differ from the masked original's."""


class OffTargetError(RunError):
    """A cut whose measured time is far from what was requested or predicted; nothing is written."""


class ExportError(RunError):
    """An exported file that does not compute what the network computes."""


class LoaderError(RunError):
    """A process that loads images is gone, or cannot pass them on."""


class TrainError(RunError):
    """Training that cannot go on."""


def first_line(error: Exception) -> str:
    """Give the first line of what another library's error says; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
