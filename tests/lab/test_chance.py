from bosal_lab.chance import stream


def test_equal_keys_give_equal_draws() -> None:
    assert stream(1, "document", 7).random() == stream(1, "document", 7).random()


def test_seed_and_every_key_matter() -> None:
    draws = {
        stream(1, "document", 7).random(),
        stream(2, "document", 7).random(),
        stream(1, "suite", 7).random(),
        stream(1, "document", 8).random(),
    }
    assert len(draws) == 4


def test_the_first_draw_is_pinned() -> None:
    assert stream(0, "world").getrandbits(32) == 3459036314
