"""Signals that ask for an end: the first is a request, the second ends; ignored ones stay so."""

import signal
import threading

import pytest

from dsv4.interrupt import CTRL_C, ENDING, Ended, ending, exit_code, interruptible


@pytest.mark.parametrize("number", ENDING)
def test_the_first_is_a_request_and_the_second_ends(number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(Ended) as ended, interruptible("wait\n", ENDING) as asked:
        assert not asked
        signal.raise_signal(number)
        assert asked == [number]
        signal.raise_signal(ENDING[0])
        pytest.fail("it went on")
    assert exit_code(ended.value) == 130 and exit_code(number) == 128 + number
    assert signal.getsignal(number) is before and capfd.readouterr().err == "wait\n"


def test_processes_that_are_told_twice_stay_patient():
    with interruptible(signals=ENDING, patient=True) as asked:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
    assert asked == [signal.SIGTERM]


def test_only_what_is_asked_for_is_changed():
    term = signal.getsignal(signal.SIGTERM)
    with interruptible() as asked:
        assert signal.getsignal(signal.SIGTERM) is term and CTRL_C == (signal.SIGINT,)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nohup, a service that is asked nicely
    try:
        with interruptible(signals=ENDING) as asked, ending():
            signal.raise_signal(signal.SIGTERM)
        assert not asked and signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(KeyboardInterrupt) as ended, ending():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(ended.value) == 143 and exit_code(KeyboardInterrupt()) == 130


def test_in_another_thread_nothing_is_changed():
    found = []

    def work():
        with interruptible(signals=ENDING) as asked, ending():
            found.append((asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [([], signal.getsignal(signal.SIGINT))]
