"""What goes wrong between the processes that load images and the main one, each in one line."""

import errno
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from prune.data.workers import Context
from prune.errors import LoaderError

_ALONE = "--workers 0 works without them"

# How torch ends the text of what the system refused it, e.g. "No space left on device (28)".
_NUMBER = re.compile(r"\((\d+)\)$")

_REFUSED = {
    errno.ENOSPC: "/dev/shm is too small for loader processes; --workers 0 does without it, and "
    "docker run --shm-size 2g makes it larger",
    errno.EMFILE: f"loader processes need more open files than ulimit -n allows; {_ALONE}",
}
_ENDED = {
    "SIGKILL": f"a loader process was killed; is memory short? {_ALONE}",
    "SIGBUS": _REFUSED[errno.ENOSPC],
}


@contextmanager
def watched(context: Context) -> Iterator[None]:
    """Tell by one line why loader processes no longer give batches.

    Args:
        context: what started them.

    Raises:
        LoaderError: one of them has ended, could not be started, or did not answer.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if ended := context.ended():
            how = _named(ended[0])
            usual = f"a loader process ended early ({how}); {_ALONE}"
            raise LoaderError(_ENDED.get(how, usual)) from error
        if why := _refusal(error):
            raise LoaderError(why) from error
        raise


def pass_on(*tensors: Tensor) -> None:
    """Put tensors where the main process finds them; torch would do so later, in a thread.

    What that thread cannot pass on is lost, and the main process waits for it for ever.

    Raises:
        LoaderError: the system refuses it.
    """
    try:
        for tensor in tensors:
            if tensor.numel():
                tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch's
    except (RuntimeError, OSError) as error:
        why = _refusal(error)
        if not why:
            raise
        raise LoaderError(why) from error


def _refusal(error: Exception) -> str:
    """Say what the system refused; nothing where the error is another, one of ours perhaps."""
    number = getattr(error, "errno", None)
    if found := _NUMBER.search(str(error)):
        number = int(found[1])
    if isinstance(error, EOFError):
        return f"a loader process could not be started; {_ALONE}"
    if number is None:
        return ""
    return _REFUSED.get(number, f"loader processes cannot work: {os.strerror(number)}; {_ALONE}")


def _named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
