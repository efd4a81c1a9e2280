"""Runs a tinyfaces command again and again in processes that are killed at random moments; prints how many kills there were.

Forked from one process that has everything imported, so that the moments fall into the work and not into the start.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import PIL.Image

import tinyfaces.cli
import tinyfaces.detection.detector
import tinyfaces.detection.large
import tinyfaces.jobs.formats
from tinyfaces.detection.runtime import quiet_onnxruntime

quiet_onnxruntime()  # imported here and not in each child


def start(arguments: list[str]) -> int:
    """Begin the command in a process of its own; gives its number."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        tinyfaces.cli.app(arguments, standalone_mode=False)
        code = 0
    except BaseException as error:  # typer.Exit, with the command's code
        code = getattr(error, "exit_code", 3)
    finally:
        os._exit(code)


def results(folder: str) -> int:
    """How many label files are there."""
    return len(list(Path(folder).glob("*.xml")))


def main(whole: str, killed: str, wanted: int, arguments: list[str]) -> None:
    PIL.Image.init()
    started = time.monotonic()
    os.waitpid(start([*arguments, "--out", whole]), 0)
    duration = time.monotonic() - started
    total = results(whole)
    moments = random.Random(1)
    kills = 0
    while kills < wanted:
        child = start([*arguments, "--out", killed, "--resume"])
        if kills % 2:  # at a random point of the work
            aim = moments.randint(min(results(killed) + 1, total - 1), total - 1)
            while results(killed) < aim and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.01))
        else:  # at a random time, the start and the reading of the journal among it
            time.sleep(moments.uniform(0, 0.5) * duration)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:  # it was through: everything is to be done again
            for path in Path(killed).iterdir():
                path.unlink()
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
