"""Threads in which torch computes alone."""

import threading

import torch

from vsodpipe.threads import lone_threads


def _number_in_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_each_has_one_of_torchs_threads_and_others_keep_theirs(two_threads: None) -> None:
    assert _number_in_a_new_thread() == 2
    with lone_threads(3, "lone") as pool:
        ready = threading.Barrier(3)

        def number() -> int:
            ready.wait(60)
            return torch.get_num_threads()

        calls = [pool.submit(number) for _ in range(3)]
        assert [call.result(60) for call in calls] == [1, 1, 1]
        assert torch.get_num_threads() == 2
        # the last number said is that of NNPACK's pool, which nobody may have to wait for
        assert _number_in_a_new_thread() == 1
    assert torch.get_num_threads() == _number_in_a_new_thread() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lone")]


def test_blocks_may_overlap_and_begin_in_threads(two_threads: None) -> None:
    first = lone_threads(1, "first")
    first.__enter__()
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with lone_threads(1, "second"):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=second)
    thread.start()
    assert entered.wait(60)
    first.__exit__(None, None, None)
    assert _number_in_a_new_thread() == 1, "the second is still at work"
    leave.set()
    thread.join()
    assert _number_in_a_new_thread() == 2
