"""The process `numpy-vit`, also as `python -m numpy_vit`: Ctrl-C is heard from its first lines on."""

# As little as can be is imported before `main` listens for Ctrl-C.
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> int:
    """Run the command of this process's arguments and return its exit status."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, say, as in a shell's background job
        from .cli import main

        return main()
    # An exception raised within an import can get lost, or be printed by it. Nothing is begun yet, so nothing is to be undone.
    signal.signal(signal.SIGINT, leave)
    from .cli import main

    try:
        return main(begin=listen)
    except KeyboardInterrupt:  # after its last line
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, leave)


def leave(*_: object) -> "NoReturn":
    """End the process at once."""
    try:  # noqa: SIM105 (contextlib is one of the imports that are spared)
        os.write(2, b"numpy-vit: error: interrupted\n")
    except OSError:  # a closed stderr
        pass
    os._exit(128 + signal.SIGINT)


def listen() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, which unwinds what is begun."""
    import numpy  # noqa: F401 (what every command needs, and the longest import)

    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
