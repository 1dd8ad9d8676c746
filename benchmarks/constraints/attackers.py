"""Clients that send one hostile pattern after another, in a process of their own."""

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


def main() -> None:
    """Attack `ADDRESS` with `COUNT` clients until the process is ended."""
    address, count = sys.argv[1], int(sys.argv[2])
    threads = [threading.Thread(target=attack, args=(address, n)) for n in range(count)]
    for thread in threads:
        thread.start()


def attack(address: str, number: int) -> None:
    with Client(address) as client:
        turn = 0
        while True:
            turn += 1
            pattern = HOSTILE[turn % len(HOSTILE)].format(n=number % 8 + 2)
            # No two are the same, so that nothing is kept for the next.
            constraint = {"regex": f"{pattern}{number}x{turn}"}
            try:
                client.generate("x", constraint=constraint, max_tokens=1, timeout=20)
            except BosalError:
                time.sleep(0.05)


if __name__ == "__main__":
    main()
