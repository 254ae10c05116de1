"""Checkpoints of a long run: written whole or not at all, taken up again by themselves.

A file is written beside its place, flushed to the disk and moved into place, so that a
kill, a crash or a full disk at any moment leaves the last whole checkpoint readable.
PyTorch is imported late: ``Stop`` needs none of it.
"""

import os
import signal
import sys
import time
from pathlib import Path


class Checkpoint:
    """One file of training state, tied to the ``settings`` (any JSON-able value) it belongs to."""

    def __init__(self, path, settings, *, seconds=10.0, say=None):
        self.path, self.settings, self.seconds = Path(path), settings, seconds
        self.say = say or (lambda text: print(text, file=sys.stderr))
        self.written = time.monotonic()

    def load(self, device="cpu"):
        """The saved state, or None where there is none, or none that fits."""
        import torch

        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            settings, state = saved["settings"], saved["state"]
        except FileNotFoundError:
            return None
        except Exception as error:  # torn, foreign, of another version of PyTorch: all the same
            self.say(f"{self.path} cannot be read ({type(error).__name__}); starting anew")
            return None
        if settings != self.settings:
            self.say(f"{self.path} belongs to other settings or other code; starting anew")
            return None
        self.say(f"taking up {self.path} after iteration {state['iteration']}")
        return state

    def after(self, state, last=False):
        """Called between iterations: save now and then, at the last, and when asked to stop."""
        stop = Stop.asked
        if not (last or stop or time.monotonic() - self.written >= self.seconds):
            return
        saved = self.save(state)
        if stop:
            goes_on = f"the same command goes on after iteration {state['iteration']}"
            kept = goes_on if saved else "the last checkpoint stands"
            self.say(f"stopped by {signal.Signals(stop).name}; {kept}")
            raise KeyboardInterrupt

    def save(self, state):
        """Whether the state is now on the disk; a full disk is told of, and the run goes on."""
        import torch

        self.written = time.monotonic()
        # named after the process, as two of them must not write into one file
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save({"settings": self.settings, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except (OSError, RuntimeError) as error:  # PyTorch's own where a write falls short
            partial.unlink(missing_ok=True)
            self.say(
                f"could not write {self.path} ({error}); the checkpoint before it, if any, "
                "stands, and the run goes on"
            )
            return False
        return True

    def remove(self):
        """Remove the file, and what a kill in the midst of writing has left."""
        for path in [self.path, *self.path.parent.glob(f"{self.path.name}.*.partial")]:
            path.unlink(missing_ok=True)


class Stop:
    """``with Stop():`` the first interrupt waits for the end of an iteration, a second does not.

    ``Stop.asked`` is the signal that asked to stop, or 0; ``Checkpoint.after`` heeds it.
    """

    asked = 0
    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __enter__(self):
        Stop.asked = 0
        self.before = [signal.signal(number, self.hear) for number in self.SIGNALS]

    def __exit__(self, *exception):
        for number, handler in zip(self.SIGNALS, self.before):
            signal.signal(number, handler)
        Stop.asked = 0

    @staticmethod
    def hear(number, frame):
        if Stop.asked:
            raise KeyboardInterrupt
        Stop.asked = number
