"""Stop and banned strings against searches over the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.counted_ends import SentenceWatcher
from bosal_decoding.stopping import BanMatch, OwnedWatcher, StopMatch, TextStop
from bosal_decoding.string_automaton import StringAutomaton
from bosal_decoding.watching import PatternWatcher

# A small alphabet, so that strings overlap and repeat themselves often.
CHUNK = st.text("ab", max_size=3).map(str.encode)
STRINGS = st.lists(st.text("ab", min_size=1, max_size=5).map(str.encode), max_size=4, unique=True)
TOKENS = st.lists(CHUNK, max_size=25)


def first_completed(text: bytes, strings: list[bytes]) -> tuple[int, int, bytes] | None:
    """(end, start, string) of the match that ends first, the longest of those."""
    found = [
        (place + len(string), place, string)
        for string in strings
        if (place := text.find(string)) >= 0
    ]
    return min(found, default=None)


def position_of(tokens: list[bytes], offset: int) -> int:
    owners = [position for position, token in enumerate(tokens) for _ in token]
    return owners[offset]


@given(tokens=TOKENS, stops=STRINGS)
def test_a_stop_is_found_where_a_search_of_the_whole_text_finds_it(
    tokens: list[bytes], stops: list[bytes]
) -> None:
    stop = TextStop.of(stops, [])
    expected = first_completed(b"".join(tokens), stops)
    shown = b""
    for token in tokens:
        match = stop.feed(token)
        shown += stop.take()
        if match is not None:
            break
    else:
        assert expected is None
        assert shown + stop.flush() == b"".join(tokens)
        return
    assert expected is not None
    assert match == StopMatch(string=expected[2], start=expected[1])
    assert shown + stop.flush() == b"".join(tokens)[: expected[1]] == stop.text


@given(text=st.text("abQ:\nß中", max_size=40), cuts=st.lists(st.integers(0, 120)))
def test_the_result_does_not_depend_on_how_the_text_is_cut(text: str, cuts: list[int]) -> None:
    whole = text.encode()
    stops = [b"\nQ:", "ß".encode(), "中\n".encode(), b"ab"]
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    stop = TextStop.of(stops, [])
    matches = [stop.feed(whole[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    first = next((match for match in matches if match is not None), None)
    expected = first_completed(whole, stops)
    if expected is None:
        assert first is None
    else:
        assert first == StopMatch(string=expected[2], start=expected[1])


@given(tokens=TOKENS, stops=STRINGS)
def test_held_bytes_are_exactly_those_a_stop_could_still_cut(
    tokens: list[bytes], stops: list[bytes]
) -> None:
    stop = TextStop.of(stops, [])
    for token in tokens:
        if stop.feed(token) is not None:
            assert stop.num_held == 0
            return
        text = stop.text
        longest = max(
            (
                size
                for string in stops
                for size in range(1, len(string))
                if text.endswith(string[:size])
            ),
            default=0,
        )
        assert stop.num_held == longest
        assert stop.num_final == len(text) - longest


@given(tokens=TOKENS, banned=STRINGS, stops=STRINGS)
def test_a_banned_string_names_the_token_that_began_it(
    tokens: list[bytes], banned: list[bytes], stops: list[bytes]
) -> None:
    stop = TextStop.of(stops, banned)
    fed: list[bytes] = []
    for token in tokens:
        match = stop.feed(token)
        fed.append(token)
        text = b"".join(fed)
        expected_stop = first_completed(text, stops)
        expected_ban = first_completed(text, banned)
        if expected_stop is None and expected_ban is None:
            assert match is None
            continue
        if expected_ban is None or (
            expected_stop is not None and expected_stop[0] <= expected_ban[0]
        ):
            assert isinstance(match, StopMatch)
        else:
            assert match == BanMatch(
                string=expected_ban[2], position=position_of(fed, expected_ban[1])
            )
        return


@given(tokens=TOKENS, banned=STRINGS, stops=STRINGS, data=st.data())
def test_taken_text_is_never_taken_back(
    tokens: list[bytes], banned: list[bytes], stops: list[bytes], data: st.DataObject
) -> None:
    stop = TextStop.of(stops, banned)
    taken = b""
    for token in tokens:
        match = stop.feed(token)
        while isinstance(match, BanMatch):
            # What an engine does: roll back to the position and draw another token there.
            stop.rewind(stop.num_tokens - match.position)
            instead = data.draw(st.sampled_from([b"x", b"ax", b"a", b"b", b"ab"]), label="instead")
            match = stop.feed(instead)
        taken += stop.take()
        assert stop.text.startswith(taken)
        if match is not None:
            break
    assert taken + stop.flush() == stop.text
    assert not any(string in stop.text for string in banned)


@given(tokens=TOKENS, detour=TOKENS, banned=STRINGS, stops=STRINGS)
def test_rewinding_is_as_if_the_tokens_had_never_come(
    tokens: list[bytes], detour: list[bytes], banned: list[bytes], stops: list[bytes]
) -> None:
    straight, winding = TextStop.of(stops, banned), TextStop.of(stops, banned)
    for token in tokens:
        count = 0
        for extra in detour:
            count += 1
            if winding.feed(extra) is not None:
                break
        winding.rewind(count)
        outcome = straight.feed(token)
        assert winding.feed(token) == outcome
        assert winding.text == straight.text
        assert winding.num_final == straight.num_final
        if outcome is not None:
            return


def test_a_stop_string_behind_a_kept_ban_in_one_token_is_known() -> None:
    stop = TextStop.of([b"END"], [b"bad"])
    assert stop.feed(b"a bad END!") == BanMatch(string=b"bad", position=0)
    assert stop.stop == StopMatch(string=b"END", start=6)
    assert stop.flush() == b"a bad "


def test_a_stop_string_wins_over_a_ban_completed_by_the_same_byte() -> None:
    stop = TextStop.of([b"\nQ:"], [b"x\nQ:"])
    assert stop.feed(b"x\n") is None
    assert stop.feed(b"Q:") == StopMatch(string=b"\nQ:", start=1)
    assert stop.flush() == b"x"


def test_text_before_a_banned_string_in_the_same_token_is_held() -> None:
    stop = TextStop.of([], [b"bad"])
    assert stop.feed(b"so b") is None
    assert stop.take() == b""
    assert stop.feed(b"ad") == BanMatch(string=b"bad", position=0)
    stop.rewind(2)
    assert stop.feed(b"fine") is None
    assert stop.take() == b"fine"


def test_text_that_going_back_would_open_again_is_held() -> None:
    # While `the` may come, ` th` may go; and without it `e` may begin `ee`.
    stop = TextStop.of([], [b"the", b"ee"])
    assert [stop.feed(token) for token in (b"so", b"e", b" th")] == [None] * 3
    assert stop.take() == b"so"
    assert stop.feed(b"e") == BanMatch(string=b"the", position=2)
    stop.rewind(2)
    assert stop.feed(b"e") == BanMatch(string=b"ee", position=1)
    stop.rewind(2)
    assert stop.feed(b"!") is None
    assert stop.take() == b"!"


def test_watchers_look_at_a_token_whose_banned_string_is_kept() -> None:
    watcher = OwnedWatcher(PatternWatcher("b.", 2))
    stop = TextStop(StringAutomaton([]), StringAutomaton([b"ab"]), [watcher])
    assert stop.feed(b"xa") is None
    assert isinstance(stop.feed(b"bc"), BanMatch)
    assert stop.stop is None
    assert stop.keep() == StopMatch(string=b"bc", start=2, reason="STOP_RULE")
    assert stop.text == b"xa"
    scoped = TextStop(
        StringAutomaton([]), StringAutomaton([b"a"]), [OwnedWatcher(watcher.watcher, 3)]
    )
    assert isinstance(scoped.feed(b"abc"), BanMatch)
    assert scoped.keep() is None
    assert scoped.keep(in_force=[3]) == StopMatch(string=b"bc", start=1, reason="STOP_RULE")


def test_a_banned_string_that_is_kept_leaves_later_matches_right() -> None:
    stop = TextStop.of([b"\nQ:"], [b"bad"])
    assert stop.feed(b"a bad d") == BanMatch(string=b"bad", position=0)
    assert stop.feed(b"ay\nQ") is None
    assert stop.take() == b"a bad day"
    assert stop.feed(b": b") == StopMatch(string=b"\nQ:", start=9)
    behind = TextStop.of([b"\nQ:"], [b"bad"])
    assert behind.feed(b"bad\nQ:") == BanMatch(string=b"bad", position=0)
    assert behind.feed(b"more") == StopMatch(string=b"\nQ:", start=3)
    assert behind.flush() == b"bad"


def test_tokens_without_bytes_hold_nothing_and_count_as_positions() -> None:
    stop = TextStop.of([], [b"cat"])
    assert [stop.feed(token) for token in (b"", b"a", b"", b"c", b"")] == [None] * 5
    assert stop.feed(b"at") == BanMatch(string=b"cat", position=3)


def test_rewinding_more_than_there_is_is_an_error() -> None:
    stop = TextStop.of([b"x"], [])
    stop.feed(b"a")
    with pytest.raises(ValueError, match="cannot take back 2 of 1"):
        stop.rewind(2)
    stop.take()
    with pytest.raises(ValueError, match="already taken"):
        stop.rewind(1)


def test_a_stop_at_the_start_leaves_no_text() -> None:
    stop = TextStop.of([b"\nQ:"], [])
    assert isinstance(stop.feed(b"\nQ: next"), StopMatch)
    assert stop.flush() == b""


def scoped(stops: dict[bytes, int | None], bans: dict[bytes, int | None]) -> TextStop:
    """Strings with the place of the rule each counts for; None counts always."""

    def automaton(strings: dict[bytes, int | None]) -> StringAutomaton:
        owners = {text: frozenset({rule}) for text, rule in strings.items() if rule is not None}
        return StringAutomaton(strings, owners)

    return TextStop(automaton(stops), automaton(bans))


def test_a_string_counts_only_while_its_rule_is_in_force() -> None:
    stop = scoped({b"ab": 1, b"b": 2, b"c": None}, {b"xx": 3})
    assert stop.feed(b"a") is None
    assert stop.feed(b"b", in_force=[]) is None
    assert stop.feed(b"xx", in_force=[1, 2]) is None
    assert stop.feed(b"ab", in_force=[2]) == StopMatch(string=b"b", start=5)
    stop.rewind(1)
    assert stop.feed(b"ab", in_force=[1, 2]) == StopMatch(string=b"ab", start=4)
    stop.rewind(1)
    assert stop.feed(b"xx", in_force=[3]) == BanMatch(string=b"xx", position=2, rule=3)
    stop.rewind(1)
    assert stop.feed(b"c") == StopMatch(string=b"c", start=4)


def test_a_watcher_that_did_not_look_before_cuts_nothing_given_out() -> None:
    watcher = OwnedWatcher(SentenceWatcher(1), 0)
    stop = TextStop(StringAutomaton(()), StringAutomaton(()), [watcher])
    shown = b""
    for piece in (b"One. ", b"Two. ", b"Three"):
        assert stop.feed(piece) is None
        shown += stop.take()
    assert stop.feed(b" four", in_force=[0]) == StopMatch(
        string=b"", start=len(shown), reason="STOP_RULE"
    )
    assert stop.flush() == b""
