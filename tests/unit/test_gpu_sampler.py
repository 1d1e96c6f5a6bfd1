"""GPUs that do not answer hold up nobody who asks for their readings."""

import threading

from node.gpus.provider import NoGpus
from node.gpus.sampler import STALE_S, Sampler
from scheduler.host_protocol import GpuReading
from tests.waiting import wait_for

READING = GpuReading("GPU-0", simulated=False, healthy=True)


class HangingGpus(NoGpus):
    """Answers while `answers` is set, and keeps who asks meanwhile."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def readings(self) -> tuple[GpuReading, ...]:
        self.asked += 1
        assert self.answers.wait(20)
        return (READING,)


def test_a_gpu_that_hangs_makes_readings_absent_and_is_a_problem() -> None:
    gpus, now = HangingGpus(), [100.0]
    sampler = Sampler(gpus, clock=lambda: now[0])
    assert (sampler.readings(), sampler.problem) == ((), None), "nothing has been asked yet"
    sampler.sample()
    assert (sampler.readings(), sampler.problem) == ((READING,), None)
    gpus.answers.clear()
    thread = threading.Thread(target=sampler.sample)
    thread.start()
    try:
        wait_for(lambda: gpus.asked == 2, timeout_s=10, what="the second look")
        now[0] += STALE_S
        assert (sampler.readings(), sampler.problem) == ((READING,), None)
        now[0] += 1
        assert (sampler.readings(), sampler.problem) == ((), "the GPUs do not answer")
    finally:
        gpus.answers.set()
        thread.join(20)
    assert (sampler.readings(), sampler.problem) == ((READING,), None)
