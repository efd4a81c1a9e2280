"""Writing behind the search: order, what is raised, and what waits."""

import threading
import time
from functools import partial

import pytest

from tinyfaces.jobs import writing_thread
from tinyfaces.jobs.writing_thread import WritingThread


def test_tasks_are_done_one_after_another_in_another_thread():
    done, threads = [], set()

    def task(number):
        time.sleep(0.002 * (number % 3))
        done.append(number)
        threads.add(threading.get_ident())

    with WritingThread() as thread:
        for number in range(30):
            thread.do(partial(task, number))
    assert done == list(range(30))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_more_than_a_few_tasks_wait():
    may_go, begun = threading.Event(), []
    handed = []

    def feed():
        with WritingThread() as thread:
            for number in range(20):
                thread.do(lambda: begun.append(may_go.wait(10)))
                handed.append(number)

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.3)
    waiting = len(handed)
    may_go.set()
    feeder.join(10)
    assert waiting == writing_thread._MOST and len(begun) == 20


def test_what_a_task_raises_reaches_the_caller_and_later_tasks_are_left_out():
    done = []

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WritingThread() as thread:
        thread.do(partial(done.append, 0))
        thread.do(fail)
        for _ in range(100):
            thread.do(partial(done.append, 1))
    assert done == [0]
    with pytest.raises(OSError, match="disk full"), WritingThread() as thread:
        thread.do(fail)


def test_an_exception_leaves_out_what_has_not_begun():
    done, begun, may_go = [], threading.Event(), threading.Event()

    def first():
        begun.set()
        may_go.wait(10)
        done.append("first")

    with pytest.raises(KeyboardInterrupt), WritingThread() as thread:
        thread.do(first)
        thread.do(partial(done.append, "second"))
        begun.wait(10)
        threading.Timer(0.1, may_go.set).start()
        raise KeyboardInterrupt
    assert done == ["first"]
