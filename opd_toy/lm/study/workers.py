"""Who does the jobs of a study: this process, or several of one thread each.

Whoever does a job does it on one thread.  Sums over several threads are added in another
order, so that results would depend on how many there are.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

import torch

from opd_toy.records.checkpoints import Stop

HAVE_CHECKPOINTS = ("make", "train")  # these jobs stop by themselves, at a checkpoint


@contextlib.contextmanager
def one_thread():
    """While PyTorch computes on one thread of this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """``number`` processes that share the methods of ``jobs`` out among them; with 1 this one.

    jobs goes to each process by pickle.
    """

    def __init__(self, jobs, number):
        self.jobs, self.number = jobs, number

    def __enter__(self):
        if self.number > 1:
            spawn = multiprocessing.get_context("spawn")
            self.reports, self.stop = spawn.SimpleQueue(), spawn.Event()
            handed = (self.jobs, self.reports, self.stop)
            self.pool = concurrent.futures.ProcessPoolExecutor(
                self.number, spawn, _begin_worker, handed
            )
        return self

    def __exit__(self, *exception):
        if self.number > 1:
            self.stop.set()
            self.pool.shutdown(cancel_futures=True)

    def each(self, kind, cases, units, report):
        """{case: what the jobs' method ``kind`` makes of it}; a case is a tuple of arguments.

        report(done, total) is called in ``units`` a case.
        """
        done, total = dict.fromkeys(cases, 0), units * len(cases)

        def heard(case, at, of):
            done[case] = units * at / of
            if report is not None:
                report(min(total - 1, int(sum(done.values()))), total)

        do = self._here if self.number == 1 else self._elsewhere
        results = do(kind, cases, heard)
        if report is not None and total:
            report(total, total)
        return results

    def _here(self, kind, cases, heard):
        def report_of(case):
            def report(at, of):
                heard(case, at, of)
                _stop_if_asked(kind)

            return report

        return {case: getattr(self.jobs, kind)(*case, report=report_of(case)) for case in cases}

    def _elsewhere(self, kind, cases, heard):
        futures = {self.pool.submit(_work, kind, case): case for case in cases}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.3)
            if Stop.asked:
                self.stop.set()
            while not self.reports.empty():
                heard(*self.reports.get())
            for future in finished:
                future.result()
                heard(futures[future], 1, 1)
        return {case: future.result() for future, case in futures.items()}


def _stop_if_asked(kind):
    if Stop.asked and kind not in HAVE_CHECKPOINTS:
        raise KeyboardInterrupt


# --- in a worker process -----------------------------------------------------------------

_HANDED = {}


def _begin_worker(jobs, reports, stop):
    torch.set_num_threads(1)
    for number in Stop.SIGNALS:  # the first process hears them and tells
        signal.signal(number, signal.SIG_IGN)
    _HANDED.update(jobs=jobs, reports=reports, stop=stop)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    wait([parent])
    os._exit(1)  # nobody waits for the work; its checkpoints are whole


def _work(kind, case):
    def report(at, of):
        _HANDED["reports"].put((case, at, of))
        if _HANDED["stop"].is_set():
            Stop.asked = signal.SIGINT  # heard at the next checkpoint
        _stop_if_asked(kind)

    return getattr(_HANDED["jobs"], kind)(*case, report=report)
