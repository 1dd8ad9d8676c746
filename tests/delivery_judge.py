"""A judge for a server of the tests: answers may not grow beyond twenty characters."""


def judge(text: str, is_whole: bool) -> bool:
    return len(text) <= 20
