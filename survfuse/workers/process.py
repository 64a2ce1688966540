"""The program of one process of ``processes``: ``python -m survfuse.workers.process FD``.

FD is an open socket to the process that started this one. Work and items come from there alone.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from survfuse.runtime.waiting import wait_asleep
from survfuse.workers.hand import Hand


def main(descriptor: int) -> None:
    """Serve the process at the other end of the socket until it closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the other process decides
    wait_asleep()
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):  # the other process is done, or gone
        hand = Hand[object, object](*connection.recv())
        _answer(connection, hand.start)
        while True:
            _answer(connection, hand.run, *connection.recv())


def _answer(connection: Connection, action: Callable[..., object], *given: object) -> None:
    """Send what ``action`` returns, or the unforeseen error that it raises, with its traceback as the text."""
    try:
        connection.send(action(*given))
    except (EOFError, OSError):
        raise
    except Exception as error:  # an answer that cannot be pickled is one as well
        connection.send(RuntimeError("".join(traceback.format_exception(error))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
