"""Clients that send one hostile pattern after another, in a process of their own; and controls."""

import sys
import threading
import time

from bosal_client import BosalError, Client

# Filled with a number from 2 to 9.
HOSTILE = (
    "[ab]*a[ab]{{{n}}}",
    ".{{0,{n}000}}",
    "(a|b|ab)*c{{{n}}}",
    "([a-z]{{1,{n}0}} ){{1,{n}0}}",
)
_PAUSE_SECONDS = 0.05


def main() -> None:
    """Attack `ADDRESS` with `COUNT` clients, as `KIND` says, until the process is ended.

    Says so on standard output once every client is connected.
    """
    address, count, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    connected = threading.Barrier(count + 1)

    def attack(number: int) -> None:
        with Client(address) as client:
            client.server_info()
            connected.wait()
            KINDS[kind](client, number)

    for number in range(count):
        threading.Thread(target=attack, args=(number,)).start()
    connected.wait()
    sys.stdout.write("connected\n")
    sys.stdout.flush()


def compile_hostile(client: Client, number: int) -> None:
    """Send patterns that are costly to compile or to match; no two are the same."""
    turn = 0
    while True:
        turn += 1
        pattern = HOSTILE[turn % len(HOSTILE)].format(n=number % 8 + 2)
        constraint = {"regex": f"{pattern}{number}x{turn}"}
        try:
            client.generate("x", constraint=constraint, max_tokens=1, timeout=20)
        except BosalError:
            time.sleep(_PAUSE_SECONDS)


def be_refused(client: Client, number: int) -> None:
    """Send, as often as a refusal lets it, what is refused before any work."""
    while True:
        try:
            client.generate("x", max_tokens=0, timeout=20)
        except BosalError:
            time.sleep(_PAUSE_SECONDS)


def be_idle(client: Client, number: int) -> None:
    """Ask for nothing."""
    threading.Event().wait()


KINDS = {"hostile": compile_hostile, "refused": be_refused, "idle": be_idle}

if __name__ == "__main__":
    main()
