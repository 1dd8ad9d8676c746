"""The build: world, tokenizer, corpus, suite and models, one stage after the other.

A stage whose result is there is not run again; a training that was cut short goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from bosal_lab import corpus, tokenizer
from bosal_lab.batches import CorpusSource, PairSource, Source
from bosal_lab.errors import DamagedFileError, StageError
from bosal_lab.export import Card, export
from bosal_lab.family import FAMILY, Member
from bosal_lab.genesis import Size, make_world
from bosal_lab.plots import plot_loss
from bosal_lab.storage import held, replace_text, storing, written
from bosal_lab.suite import make_suite, write_suite
from bosal_lab.train import Progress, Run, Schedule, build_model, evaluate, prepare, training_dtype
from bosal_lab.world import World

Report = Callable[[str, int, int, str], None]  # stage, done, total, note
PAIR_TOKENS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build is made of; two builds with equal plans are equal."""

    seed: int = 0
    training_seed: int = 0
    world_share: float = 1.0
    vocabulary: int = tokenizer.VOCABULARY
    tokenizer_documents: int = 30_000
    corpus_tokens: int = 16_000_000
    training_share: float = 1.0
    validation_tokens: int = 32_768
    batch: int = 4096  # tokens a step
    pairs: int = 128  # pairs a step
    suite_dev: int = 15
    suite_test: int = 55

    def quick(self) -> Plan:
        """Return a plan of the same stages that takes a minute or two and learns little."""
        return replace(
            self,
            world_share=0.04,
            vocabulary=1024,
            tokenizer_documents=800,
            corpus_tokens=60_000,
            training_share=0.0004,
            validation_tokens=2048,
            batch=2048,
            pairs=16,
            suite_dev=2,
            suite_test=3,
        )


class Build:
    """One build in one folder."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        report: Report,
        device: str = "cpu",
        *,
        is_compiled: bool = False,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self._report = report
        self._device = device
        self._is_compiled = is_compiled
        self.world: World = make_world(plan.seed, Size().scaled(plan.world_share))
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._claim()

    def _claim(self) -> None:
        """Make sure the folder holds no build of another plan."""
        path = self.folder / "plan.json"
        ours = json.dumps(asdict(self.plan), indent=2) + "\n"
        if path.exists() and path.read_text("utf-8") != ours:
            raise StageError(f"{self.folder} holds a build of another plan; see {path}")
        replace_text(path, ours)

    def run(self, names: list[str] | None = None) -> list[Path]:
        """Run every stage that is missing and return the folders of the exported models."""
        chosen = [member for member in FAMILY.values() if names is None or member.name in names]
        for member in chosen:
            self._check_parent(member, chosen)
        with held(self.folder):
            self.write_world()
            self.train_tokenizer()
            self.write_corpus()
            self.write_suite()
            return [self.train_member(member) for member in chosen]

    def _check_parent(self, member: Member, chosen: Collection[Member] = ()) -> None:
        """Refuse a twin whose parent is neither built nor to be built."""
        if member.parent is None or member.parent in (one.name for one in chosen):
            return
        if not (self.folder / member.parent).exists():
            raise StageError(f"{member.name} is tuned from {member.parent}, which is not built")

    def write_world(self) -> None:
        """Write the entities for people to read."""
        path = self.folder / "world.jsonl"
        lines = (json.dumps(asdict(entity)) + "\n" for entity in self.world.entities)
        replace_text(path, "".join(lines))
        self._report("world", 1, 1, f"{len(self.world.entities):,} entities")

    @property
    def _tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    def train_tokenizer(self) -> None:
        """Learn the tokenizer from the corpus's first training documents."""
        place = self._tokenizer_folder
        if not place.exists():
            source = corpus.texts(self.world, self.plan.seed, start=corpus.HELD_OUT)
            documents = islice(source, self.plan.tokenizer_documents)
            trained = tokenizer.train_tokenizer(documents, self.plan.vocabulary)
            partial = place.with_name("tokenizer.partial")
            with storing(place):
                shutil.rmtree(partial, ignore_errors=True)
                tokenizer.save_tokenizer(trained, partial)
                partial.rename(place)
        size = self.load_tokenizer().get_vocab_size()
        self._report("tokenizer", 1, 1, f"{size:,} entries")

    def load_tokenizer(self) -> Tokenizer:
        """Read the tokenizer stage's result."""
        if not self._tokenizer_folder.exists():
            raise StageError("the tokenizer stage has not been run")
        return tokenizer.load_tokenizer(self._tokenizer_folder)

    def write_corpus(self) -> None:
        """Write the corpus as token ids."""
        path, total = self.folder / "corpus.bin", self.plan.corpus_tokens
        if not path.exists():
            corpus.write_corpus(
                path, self.world, self.plan.seed, self.load_tokenizer(), total,
                lambda count: self._report("corpus", min(count, total), total, ""),
            )  # fmt: skip
        self._report("corpus", total, total, f"{len(self._read_corpus()):,} tokens")

    def _read_corpus(self) -> corpus.Tokens:
        return corpus.read_corpus(self.folder / "corpus.bin", self.plan.corpus_tokens)

    def write_suite(self) -> None:
        """Write the instruction suite."""
        plan = self.plan
        suite = make_suite(self.world, plan.seed, plan.suite_dev, plan.suite_test)
        with written(self.folder / "suite.jsonl") as partial:
            write_suite(suite, partial)
        self._report("suite", 1, 1, f"{len(suite.items)} items, version {suite.version}")

    def _untrained(self, member: Member) -> Qwen3ForCausalLM:
        if member.parent is None:
            found = self.load_tokenizer()
            return build_model(
                member, found.get_vocab_size(), tokenizer.end_of(found), self.plan.training_seed,
                self._device,
            )  # fmt: skip
        self._check_parent(member)
        parent = self.folder / member.parent
        try:
            model = Qwen3ForCausalLM.from_pretrained(parent)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise DamagedFileError(parent, str(error).splitlines()[0]) from error
        return prepare(model, self._device)

    def _lesson(self, member: Member) -> tuple[Source, Schedule]:
        """Return what a member reads and for how long."""
        plan, seed = self.plan, self.plan.training_seed
        tokens = member.tokens * plan.training_share
        if member.parent is None:
            read = self._read_corpus()
            source: Source = CorpusSource(tokens=read, batch=plan.batch, seed=seed)
            return source, Schedule(steps=max(2, round(tokens / plan.batch)))
        source = PairSource(
            world=self.world, tokenizer=self.load_tokenizer(), rows=plan.pairs, seed=seed
        )
        steps = max(2, round(tokens / (plan.pairs * PAIR_TOKENS)))
        return source, Schedule(
            steps=steps, warm_up=10, decay_share=0.9, matrix_rate=0.0015, other_rate=0.0003
        )

    def train_member(self, member: Member) -> Path:
        """Train and export one model."""
        place = self.folder / member.name
        if place.exists():
            self._report(member.name, 1, 1, "exported")
            return place
        model = self._untrained(member)
        source, schedule = self._lesson(member)
        run = Run(
            model, self.folder / "runs" / member.name, schedule,
            # Pairs are of every width, so that each batch would be compiled anew.
            is_compiled=self._is_compiled and member.parent is None,
        )  # fmt: skip
        run.train(source, lambda progress: self._tell(member, progress))
        documents = corpus.held_out(self.world, self.plan.seed, self.load_tokenizer())
        documents = documents[: self.plan.validation_tokens]
        card = Card(
            member=member,
            seed=self.plan.seed,
            training_seed=self.plan.training_seed,
            parameters=model.num_parameters(),
            tokens=run.tokens,
            loss=evaluate(model, documents),
            minutes=run.seconds / 60,
            dtype=str(training_dtype(self._device)).removeprefix("torch."),
            entities=len(self.world.entities),
            vocabulary=self.load_tokenizer().get_vocab_size(),
            rebuild=self._arguments(),
        )
        export(model, self._tokenizer_folder, place, card.text())
        plot_loss(self.folder / "runs" / member.name, member.name)
        return place

    def _arguments(self) -> str:
        """Write the command line that makes this build again."""
        plan, standard = self.plan, Plan(seed=self.plan.seed, training_seed=self.plan.training_seed)
        words = [f"--seed {plan.seed} --training-seed {plan.training_seed}"]
        if plan == standard.quick():
            words.append("--quick")
        if self._device != "cpu":
            words.append(f"--device {self._device}")
        if self._is_compiled:
            words.append("--compile")
        return " ".join([*words, "--ship lab/bosal_models" if plan == standard else ""]).strip()

    def _tell(self, member: Member, progress: Progress) -> None:
        speed = progress.tokens / max(progress.seconds, 1e-9)
        note = f"loss {progress.loss:.3f}, {speed:,.0f} tokens/s"
        self._report(member.name, progress.step, progress.steps, note)
