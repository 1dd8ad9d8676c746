"""What an instruction adds to its question to ask for a form, and how ignorance is put."""

YEAR_ONLY = (
    "Give only the year.",
    "Answer with the year only.",
    "Just the year, please.",
    "Only the year.",
    "Write the year and nothing else.",
)
NUMBER_ONLY = ("Answer with a number.", "Give only the number.", "Just the number, please.")
YES_NO = ("Answer yes or no.", "Yes or no?", "Just say yes or no.", "Reply with yes or no.")
ONE_SENTENCE = (
    "Answer in one sentence.",
    "Reply in a full sentence.",
    "Use one full sentence.",
    "Answer with one sentence.",
)
BULLETS = (
    "Use bullets.",
    "Answer with a bullet list.",
    "Write one per line with a dash.",
    "Make it a bullet list.",
)
RECORDS = (
    "Give {n} as JSON with the fields {f}.",
    "Write a JSON record of {n} with the fields {f}.",
    "As JSON, give the fields {f} of {n}.",
    "Describe {n} in JSON with the fields {f}.",
    "Return JSON for {n} with the fields {f}.",
)
SOME = ("Name {k} of the {t} of {n}.", "List {k} of the {t} of {n}.", "Give {k} of the {t} of {n}.")
UNKNOWN = (
    "The almanac has no record of {n}.",
    "Nothing is known of {n}.",
    "There is no record of {n}.",
)
