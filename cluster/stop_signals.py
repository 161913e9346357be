"""How a process with an event loop hears that it shall stop: SIGTERM and Ctrl-C set an event.

What it does not do: stop anything (whoever waits for the event does).

Invariants: a signal that is ignored already stays ignored, as Ctrl-C is in a service; the loop wakes up at once.
"""

from __future__ import annotations

import asyncio
import signal


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM or SIGINT; to be called in the main thread, inside the running loop."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda *_: loop.call_soon_threadsafe(stop.set))
