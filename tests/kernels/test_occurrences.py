"""The places of tokens in histories against a plain look, through many rewrites of the order."""

import numpy as np
import torch

from bosal_kernels.occurrences import Occurrences

VOCAB = 9


def test_every_occurrence_is_found_however_long_the_history() -> None:
    rng = np.random.default_rng(2)
    index = Occurrences(4, torch.device("cpu"))
    said = torch.full((4, 1000), -1, dtype=torch.int32)
    length = torch.zeros(4, dtype=torch.int64)
    for slot, start in ((0, 0), (2, 300), (3, 17)):
        said[slot, :start] = torch.from_numpy(rng.integers(0, VOCAB, start)).int()
        length[slot] = start
        index.rewrite(slot, *said[slot, :start].sort(stable=True))
    for step in range(650):
        slots = torch.tensor([2, 0, 3] if step % 5 else [3, 2])
        tokens = torch.from_numpy(rng.integers(0, VOCAB, len(slots)))
        index.append(slots, tokens, said, length)
        said[slots, length[slots]] = tokens.int()
        length[slots] += 1
        if step % 90 == 50:
            length[3] -= 5
            said[3, length[3] :] = -1
            index.retract(3, int(length[3]))
        if step % 25 == 0:
            wanted = torch.from_numpy(rng.integers(0, VOCAB + 1, len(slots)))
            row, place = index.find(slots, wanted)
            found = sorted(zip(row.tolist(), place.tolist(), strict=True))
            expected = (said[slots] == wanted[:, None]).nonzero().tolist()
            assert found == [tuple(pair) for pair in expected]
