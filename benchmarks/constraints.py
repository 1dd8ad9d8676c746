"""What a constraint costs: a step, a mask, a compilation; and 1,000 texts of every kind."""

import json
import os
import re
import statistics
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import numpy as np
import torch
import transformers
from outlines import Transformers
from outlines.backends import get_json_schema_logits_processor

import bosal_models
from benchmarks import models
from benchmarks.engines import GREEDY, Collector
from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from bosal_decoding import Prompt, Recipe, Vocabulary
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import InvalidConstraint
from bosal_decoding.constraints.program import Program
from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import EngineRequest, FailedEvent, TokensEvent
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.model import LoadedModel, load_model

WIDE = 128_256
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        "orders": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["id", "note"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "age", "address", "tags", "orders"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "choice": {"choice": ["yes", "no", "not sure", "nothing of the kind"]},
    "regex": {"regex": r"[a-z]+@[a-z]+\.(com|org|net)"},
    "json_schema": {"json_schema": NESTED},
    "grammar": {"grammar": 'start: sum\nsum: term ("+" term)*\nterm: /[0-9]+/ | "(" sum ")"'},
}
SCHEMAS = (
    NESTED,
    {"type": "array", "items": {"type": "number"}, "maxItems": 20},
    {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(40)}},
    {"enum": [f"value {n}" for n in range(200)]},
    {"anyOf": [{"type": "string", "maxLength": 30}, {"type": "null"}]},
)
HOSTILE = (
    "[ab]*a[ab]{{{n}}}",
    ".{{0,{n}000}}",
    "(a|b|ab)*c{{{n}}}",
    "([a-z]{{1,{n}0}} ){{1,{n}0}}",
)


class Bench:
    """An engine over one model, asked with and without a constraint."""

    def __init__(self, model: LoadedModel, runner: str, *, max_groups: int = 32) -> None:
        self.model = model
        threads = torch.get_num_threads()
        engine_model = EngineModel(
            runner=choose_runner(model, preference=runner, threads=threads).runner,
            vocabulary=model.vocabulary,
            context_tokens=model.context_tokens,
            digest=model.digest,
        )
        config = EngineConfig(max_groups=max_groups, torch_threads=threads)
        self.loop = EngineLoop({model.name: engine_model}, config, self._deliver)
        self.loop.start()
        self._count = 0

    @staticmethod
    def _deliver(events: list[tuple[object, Any]]) -> None:
        for sink, event in events:
            assert isinstance(sink, Texts)
            sink.take(event)

    def plan(self, constraint: Constraint | None, **recipe: Any) -> Plan:
        document = {**GREEDY, **recipe}
        parsed = Recipe.parse(document)
        if constraint is not None:
            parsed = parsed.with_constraint(constraint)
        return compile_recipe(
            parsed, self.model.vocabulary, context_tokens=self.model.context_tokens
        )

    def submit(
        self,
        plan: Plan,
        program: Program | None,
        prompt: list[int],
        sink: "Texts",
        *,
        max_tokens: int,
        seed: int = 0,
        logprobs: int = -1,
    ) -> None:
        self._count += 1
        self.loop.submit(
            EngineRequest(
                request_id=str(self._count),
                model=self.model.name,
                plan=plan,
                prompts=(Prompt(text="", token_ids=tuple(prompt), history_ids=(), pin_tokens=0),),
                seed=seed,
                max_tokens=max_tokens,
                program=program,
                logprobs=logprobs,
            ),
            sink,
        )


class Texts(Collector):
    """Keeps the texts and the times of tokens beside what it counts."""

    def __init__(self, left: int) -> None:
        super().__init__(left)
        self.text = ""
        self.reason = ""
        self.times: list[float] = []

    def take(self, event: Any) -> None:
        if isinstance(event, FailedEvent):  # cancelled, once enough of it was timed
            self.done.set()
            return
        if isinstance(event, TokensEvent):
            self.text += event.text
            self.times += [time.perf_counter()] * len(event.token_ids)
        elif hasattr(event, "endings"):
            self.reason = event.endings[0].reason.value
        super().take(event)


def wide_model(name: str) -> LoadedModel:
    """Return a benchmark model whose head and tokenizer have 128,256 entries."""
    size = models.VOCABULARY_SIZE
    models.VOCABULARY_SIZE = WIDE
    try:
        with TemporaryDirectory() as folder:
            models.build(name).save_pretrained(folder)
            models.tokenizer(WIDE).save_pretrained(folder)
            return load_model(name, folder, dtype="bfloat16")
    finally:
        models.VOCABULARY_SIZE = size


def steps(report: Report, model: LoadedModel, compiler: ConstraintCompiler) -> None:
    """Time a decoding step with and without the nested schema, at batch 1 and 32."""
    constraint = Constraint.read({"json_schema": NESTED}, "")
    program = compiler.compile(constraint, model.vocabulary)
    bench = Bench(model, report.options.runner)
    new_tokens = 8 if report.options.quick else 48
    # A text long enough: the end and the closing bracket are out of reach.
    endless = [{"rule": "temperature", "value": 0}]
    for batch in (1, 32):

        def run(constrained: bool, batch: int = batch) -> float:
            plan = bench.plan(constraint if constrained else None, rules=endless)
            sinks = [Texts(1) for _ in range(batch)]
            for sink, prompt in zip(sinks, models.prompts(batch, 32, seed=batch), strict=True):
                # Log-probabilities of the chosen token keep fast-forwarding out of both.
                bench.submit(
                    plan,
                    program if constrained else None,
                    prompt,
                    sink,
                    max_tokens=new_tokens if not constrained else 200,
                    logprobs=0,
                )
            deadline = time.perf_counter() + 300
            while min(len(sink.times) for sink in sinks if not sink.done.is_set()) < new_tokens:
                time.sleep(0.005)
                assert time.perf_counter() < deadline
                if all(sink.done.is_set() for sink in sinks):
                    break
            for number in range(bench._count - batch + 1, bench._count + 1):
                bench.loop.cancel(str(number))
            times = [sink.times for sink in sinks if len(sink.times) > 4]
            return statistics.median(
                later - earlier
                for one in times
                for earlier, later in zip(one[1:new_tokens], one[2:new_tokens], strict=False)
            )

        samples = interleave(
            {"constrained": lambda: run(True), "free": lambda: run(False)}, report.options.rounds
        )
        report.detail(f"constrained_step_500m_b{batch}_seconds", samples["constrained"])
        report.detail(f"free_step_500m_b{batch}_seconds", samples["free"])
        value = ratio(samples, "constrained", "free")
        report.figure(f"constrained_step_500m_b{batch}", value)
    report.figure(
        "constrained_step_500m",
        max(report.figures[f"constrained_step_500m_b{batch}"] for batch in (1, 32)),
    )
    bench.loop.stop()


def masks(report: Report, vocabulary: Vocabulary, compiler: ConstraintCompiler) -> None:
    """Time the fill of 32 rows at mixed positions, and single fills along random walks."""
    program = compiler.compile(Constraint.read({"json_schema": NESTED}, ""), vocabulary)
    rng = np.random.default_rng(3)
    rows = np.zeros((32, vocabulary.size // 32 + 1), np.int32)
    states = [program.new_state() for _ in range(32)]
    singles = []
    for place, state in enumerate(states):
        for _ in range(place if not report.options.quick else 2):
            started = time.thread_time()
            state.allowed(rows[place])
            singles.append(time.thread_time() - started)
            legal = np.flatnonzero(np.unpackbits(rows[place].view(np.uint8), bitorder="little"))
            token = int(rng.choice(legal))
            if token in vocabulary.eos_ids:
                break
            state.advance(token)

    def fill() -> float:
        def every() -> None:
            for row, state in zip(rows, states, strict=True):
                state.allowed(row)

        return min(seconds(every) for _ in range(5))

    samples = interleave({"fill": fill}, report.options.rounds)
    report.detail("fill32_seconds", samples["fill"])
    report.figure("fill32_ms", statistics.median(samples["fill"]) * 1000)
    report.figure("fill_p99_ms", float(np.percentile(singles, 99)) * 1000)


def compilations(report: Report, vocabulary: Vocabulary) -> None:
    """Time compilations that no cache knows, from submission to the program."""
    compiler = ConstraintCompiler()
    compiler.prepare(vocabulary).result()
    compiler.compile(Constraint.read({"regex": "warm"}, ""), vocabulary)
    times = []
    for round_ in range(1 if report.options.quick else 6):
        for schema in SCHEMAS:
            fresh = {**schema, "description": f"round {round_}"}
            constraint = Constraint.read({"json_schema": fresh}, "")
            times.append(seconds(lambda c=constraint: compiler.compile(c, vocabulary)))  # type: ignore[misc]
        for pattern in (r"\d{4}-\d\d-\d\d", r"[a-z]+@[a-z]+\.com", r"(yes|no|maybe) [a-z ]{1,40}"):
            constraint = Constraint.read({"regex": f"{pattern}x{{{round_}}}"}, "")
            times.append(seconds(lambda c=constraint: compiler.compile(c, vocabulary)))  # type: ignore[misc]
    compiler.close()
    report.figure("compile_p50_ms", statistics.median(times) * 1000)
    report.figure("compile_p99_ms", float(np.percentile(times, 99)) * 1000)


def against_outlines(report: Report, compiler: ConstraintCompiler) -> None:
    """Time Outlines' own processors in `generate` beside the engine, on the 15m model."""
    with TemporaryDirectory() as folder:
        models.save("15m", folder)
        loaded = load_model("15m", folder, dtype="bfloat16")
        hf = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        tokenizer: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    constraint = Constraint.read({"json_schema": NESTED}, "")
    program = compiler.compile(constraint, loaded.vocabulary)
    bench = Bench(loaded, report.options.runner)
    outlines_model = Transformers(hf, tokenizer)
    new_tokens = 8 if report.options.quick else 48
    for batch in (1, 32):

        def ours(batch: int = batch) -> float:
            plan = bench.plan(constraint)
            sinks = [Texts(1) for _ in range(batch)]
            started = time.perf_counter()
            for sink, prompt in zip(sinks, models.prompts(batch, 32, seed=batch), strict=True):
                bench.submit(plan, program, prompt, sink, max_tokens=120)
            for sink in sinks:
                assert sink.done.wait(300)
            return sum(len(sink.times) for sink in sinks) / (time.perf_counter() - started)

        def theirs(batch: int = batch) -> float:
            processor = get_json_schema_logits_processor(
                "llguidance", outlines_model, json.dumps(NESTED)
            )
            prompts = torch.tensor(models.prompts(batch, 32, seed=batch))
            started = time.perf_counter()
            with torch.inference_mode():
                out = hf.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    logits_processor=[processor],
                    pad_token_id=models.VOCABULARY_SIZE - 1,
                )
            made = (out[:, 32:] != models.VOCABULARY_SIZE - 1).sum()
            return float(made) / (time.perf_counter() - started)

        samples = interleave({"ours": ours, "theirs": theirs}, report.options.rounds)
        report.detail(f"engine_15m_b{batch}_tokens_per_second", samples["ours"])
        report.detail(f"outlines_15m_b{batch}_tokens_per_second", samples["theirs"])
        report.figure(f"vs_outlines_15m_b{batch}", ratio(samples, "ours", "theirs"))
    bench.loop.stop()


def hostile(report: Report) -> None:
    """Let 64 clients compile hostile patterns while streams run; compare latencies between tokens.

    Server and clients share this machine.
    """
    from tests.live_server import LiveServer

    from bosal_client import BosalError, Client

    quick = report.options.quick
    with LiveServer(runner=report.options.runner) as server:
        stop = threading.Event()

        def attack(number: int) -> None:
            with Client(server.address) as client:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    pattern = HOSTILE[turn % len(HOSTILE)].format(n=number % 8 + 2)
                    try:
                        client.generate(
                            "x",
                            constraint={"regex": f"{pattern}{number}x{turn}"},
                            max_tokens=1,
                            timeout=20,
                        )
                    except BosalError:
                        time.sleep(0.05)

        def gaps() -> list[float]:
            found: list[float] = []

            def stream(seed: int) -> None:
                endless = [{"rule": "logit_bias", "ids": {"0": -1000}}]
                with Client(server.address) as client, client.stream(
                    "Tell me about rivers.", max_tokens=32 if quick else 256, seed=seed,
                    overrides=endless,
                ) as batches:  # fmt: skip
                    times = [time.perf_counter() for _ in batches]
                found.extend(np.diff(times).tolist())

            threads = [threading.Thread(target=stream, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return found

        gaps()
        calm = [gap for _ in range(1 if quick else 3) for gap in gaps()]
        attackers = [threading.Thread(target=attack, args=(n,)) for n in range(4 if quick else 64)]
        for thread in attackers:
            thread.start()
        time.sleep(1)
        attacked = [gap for _ in range(1 if quick else 3) for gap in gaps()]
        stop.set()
        for thread in attackers:
            thread.join()
    calm_p99, attacked_p99 = (float(np.percentile(one, 99)) for one in (calm, attacked))
    report.detail("itl_p99_calm_seconds", [calm_p99])
    report.detail("itl_p99_hostile_seconds", [attacked_p99])
    report.figure("hostile_itl_p99_ratio", attacked_p99 / calm_p99)


def soak(report: Report) -> None:
    """Generate texts of every kind on the embedded model; each is whole, or says why not."""
    loaded = load_model("base", str(bosal_models.path("base")))
    compiler = ConstraintCompiler()
    bench = Bench(loaded, report.options.runner)
    count = 20 if report.options.quick else 1000
    for kind, fields in KINDS.items():
        constraint = Constraint.read(fields, "")
        program = compiler.compile(constraint, loaded.vocabulary)
        plan = bench.plan(constraint, rules=[])
        sinks = [Texts(1) for _ in range(count)]
        shortest = len(program.close or ())
        for start in range(0, count, 32):
            batch = sinks[start : start + 32]
            for offset, sink in enumerate(batch):
                prompt = loaded.vocabulary.encode("Q: Tell me something.\nA:")
                bench.submit(
                    plan, program, prompt, sink, seed=start + offset,
                    max_tokens=shortest + (start + offset) % 40,
                )  # fmt: skip
            for sink in batch:
                assert sink.done.wait(300)
        whole = [sink for sink in sinks if sink.reason.startswith(("CONSTRAINT_C", "STOP"))]
        wrong = [sink.text for sink in whole if not satisfies(fields, sink.text)]
        report.figure(f"soak_{kind}_whole", len(whole) / count)
        report.figure(f"soak_{kind}_wrong", len(wrong))
    bench.loop.stop()
    compiler.close()


def satisfies(fields: dict[str, Any], text: str) -> bool:
    """Judge a text without the matcher."""
    if "choice" in fields:
        return text in fields["choice"]
    if "regex" in fields:
        return re.fullmatch(fields["regex"], text, re.ASCII) is not None
    if "json_schema" in fields:
        try:
            value = json.loads(text)
        except ValueError:
            return False
        return bool(jsonschema.Draft202012Validator(fields["json_schema"]).is_valid(value))
    depth = 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 0:
            return False
    term = re.compile(r"\((?:[0-9]+\+)*[0-9]+\)")
    while term.search(text):
        text = term.sub("0", text)
    return depth == 0 and re.fullmatch(r"([0-9]+\+)*[0-9]+", text) is not None


def suite(report: Report, folder: Path) -> None:
    """Score the JSON-Schema-Test-Suite, draft 2020-12: what compiles, and what it lets through."""
    tokenizer = models.tokenizer(300)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    compiler = ConstraintCompiler()
    groups = compiled = accepts = rejects = invalid = valid = 0
    causes: dict[str, int] = {}
    for file in sorted((folder / "tests" / "draft2020-12").glob("*.json")):
        for group in json.loads(file.read_text()):
            groups += 1
            try:
                fields = {"json_schema": json.dumps(group["schema"])}
                program = compiler.compile(Constraint.read(fields, ""), vocabulary)
            except InvalidConstraint:
                continue
            compiled += 1
            for test in group["tests"]:
                text = json.dumps(test["data"], ensure_ascii=False)
                tokens = [vocabulary.token_bytes.index(bytes([byte])) for byte in text.encode()]
                state = program.new_state()
                is_accepted = state.validate(tokens) == len(tokens) and state.completes(tokens)
                invalid += not test["valid"]
                valid += test["valid"]
                accepts += is_accepted and not test["valid"]
                if test["valid"] and not is_accepted:
                    rejects += 1
                    causes[file.stem] = causes.get(file.stem, 0) + 1
    compiler.close()
    report.figure("suite_compiled", compiled / groups)
    report.figure("suite_false_accepts", accepts)
    report.figure("suite_false_rejects", rejects / max(valid, 1))
    for cause, count in sorted(causes.items()):
        report.detail(f"suite_false_rejects_{cause}", [count])


def main() -> None:
    parser = arguments(__doc__ or "")
    parts = ["masks", "compile", "steps", "outlines", "hostile", "soak", "suite"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--runner", default="auto", choices=["auto", "torch", "openvino"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("constraints", options)
    compiler = ConstraintCompiler()
    if "masks" in options.parts or "compile" in options.parts:
        vocabulary = Vocabulary.from_tokenizer(models.tokenizer(WIDE))
        if "masks" in options.parts:
            masks(report, vocabulary, compiler)
        if "compile" in options.parts:
            compilations(report, vocabulary)
    if "steps" in options.parts:
        steps(report, wide_model("500m"), compiler)
    if "outlines" in options.parts:
        against_outlines(report, compiler)
    compiler.close()
    if "hostile" in options.parts:
        hostile(report)
    if "soak" in options.parts:
        soak(report)
    folder = os.environ.get("BOSAL_JSON_SCHEMA_SUITE")
    if "suite" in options.parts and folder:
        suite(report, Path(folder))
    report.finish()


if __name__ == "__main__":
    main()
