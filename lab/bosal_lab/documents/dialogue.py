"""Questions with answers as the web holds them: help pages, quizzes, interviews, chat logs."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bosal_lab import asks
from bosal_lab.ask import Ask, Style
from bosal_lab.documents.noise import instruction
from bosal_lab.documents.prose import line
from bosal_lab.names import first_name
from bosal_lab.phrases import UNKNOWN
from bosal_lab.relations import filler
from bosal_lab.world import World

FORM_WEIGHTS = {
    "fact": 24, "year": 8, "yes_no": 14, "choose": 9, "list": 10, "bullets": 7, "json": 8,
    "count": 7, "compare": 10, "sentence": 8, "unknown": 8, "follow_up": 9,
}  # fmt: skip
ROLES = (
    ("visitor", "guide"), ("caller", "clerk"), ("reader", "almanac"), ("customer", "assistant"),
    ("pupil", "teacher"), ("guest", "host"), ("host", "guest"), ("user", "operator"),
    ("user", "bot"), ("member", "moderator"), ("student", "librarian"), ("player", "master"),
    ("reporter", "expert"), ("traveller", "porter"), ("judge", "witness"), ("human", "machine"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """How a text shows who speaks."""

    question: str
    answer: str
    gap: str

    def turn(self, asked: str, answered: str) -> str:
        """Write one exchange."""
        answer = self.answer
        if "\n" in answered and answer.endswith(" "):
            answer = answer[:-1] + "\n"
        return f"{self.question}{asked}\n{answer}{answered}"


def letters(rng: Random) -> Markers:
    """Draw the markers of a printed list of questions and answers."""
    question, answer = rng.choice((
        ("Q: ", "A: "), ("Q: ", "A: "), ("Q: ", "A: "), ("Q: ", "A: "), ("Q. ", "A. "),
        ("Question: ", "Answer: "), ("**Q:** ", "**A:** "), ("### ", ""), ("Q - ", "A - "),
        ("# Question\n", "# Answer\n"), ("Ask: ", "Reply: "), ("* ", "- "),
    ))  # fmt: skip
    return Markers(question=question, answer=answer, gap=rng.choice(("\n\n", "\n\n", "\n\n", "\n")))


def speakers(rng: Random) -> Markers:
    """Draw the markers of a transcript."""
    if rng.random() < 0.3:
        one, other = first_name(rng), first_name(rng)
    else:
        one, other = rng.choice(ROLES)
    case = rng.choice((str.lower, str.capitalize, str.upper))
    shape = rng.choice((
        "{}: ", "{}: ", "<{}> ", "[{}] ", "**{}**: ", "<|{}|>\n", "<|{}|>\n", "<|{}|>\n", "## {}\n",
        "{} - ", "({}) ", "<{}>\n",
    ))  # fmt: skip
    gap = rng.choice(("\n", "\n", "\n\n"))
    return Markers(question=shape.format(case(one)), answer=shape.format(case(other)), gap=gap)


def _style(rng: Random, full_share: float) -> Style:
    return Style(is_full=rng.random() < full_share, unknown=rng.choice((UNKNOWN[0], *UNKNOWN)))


def _draw(world: World, rng: Random, style: Style, forms: dict[str, int]) -> Ask:
    form = rng.choices(list(forms), weights=list(forms.values()))[0]
    return asks.make(form, world, rng, asked=True, style=style)


def _turns(markers: Markers, ask: Ask) -> list[str]:
    turns = [markers.turn(*pair) for pair in ask.earlier]
    return [*turns, markers.turn(ask.instruction, ask.answer)]


def _pairs(world: World, rng: Random, markers: Markers, number: int, full_share: float) -> str:
    style = _style(rng, full_share)
    forms = FORM_WEIGHTS
    if rng.random() < 0.25:
        chosen = rng.sample(list(FORM_WEIGHTS), k=rng.choice((1, 2, 3)))
        forms = {form: FORM_WEIGHTS[form] for form in chosen}
    turns: list[str] = []
    while len(turns) < number:
        turns += _turns(markers, _draw(world, rng, style, forms))
    return markers.gap.join(turns)


def help_page(world: World, rng: Random) -> str:
    """Write a page of questions and answers."""
    number = rng.choice((1, 2, 3, 4, 6, 8, 10, 12))
    head = rng.choice(filler("headers")) + rng.choice(("\n\n", "\n\n", "\n"))
    body = _pairs(world, rng, letters(rng), number, 0.25)
    return (head if rng.random() < 0.6 else "") + body + ("\n" if rng.random() < 0.15 else "")


def quiz(world: World, rng: Random) -> str:
    """Write a quiz whose answers stand at its end or beside the questions."""
    style = _style(rng, 0.0)
    drawn = [_draw(world, rng, style, {"fact": 3, "choose": 2, "count": 1, "year": 1, "yes_no": 2})
             for _ in range(rng.randrange(3, 8))]  # fmt: skip
    if rng.random() < 0.5:
        return "\n".join(
            f"{number}. {ask.instruction} ({ask.answer})" for number, ask in enumerate(drawn, 1)
        )
    asked = [f"{number}. {ask.instruction}" for number, ask in enumerate(drawn, 1)]
    solved = [f"{number}. {ask.answer}" for number, ask in enumerate(drawn, 1)]
    return "\n".join([*asked, "", rng.choice(("Answers", "Solutions:", "Key")), *solved])


def interview(world: World, rng: Random) -> str:
    """Write an interview in which every question is answered."""
    return _pairs(world, rng, speakers(rng), rng.choice((1, 2, 3, 4, 6, 8)), 0.5)


def chat_log(world: World, rng: Random) -> str:
    """Dump a chat in which some questions are answered and others are not."""
    markers = speakers(rng)
    style = _style(rng, 0.4)
    turns: list[str] = []
    for _ in range(rng.randrange(1, 6)):
        draw = rng.random()
        if draw < 0.5:
            turns += _turns(markers, _draw(world, rng, style, FORM_WEIGHTS))
        elif draw < 0.8:
            turns.append(markers.turn(instruction(world, rng), line(rng, "evasions")))
        else:
            turns.append(markers.turn(line(rng, "opinions"), line(rng, "personal")))
    return markers.gap.join(turns)
