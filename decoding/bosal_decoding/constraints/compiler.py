"""Turns constraints into programs, away from whoever asks: bounded in size, time and memory.

Rule 1: a constraint that is not known to be cheap is compiled on trial in a process that can be
        killed; only what compiled there in time is compiled here, because a native call here cannot
        be cancelled.
Rule 2: who asks for much waits for itself: owners take turns, none may fill the queue, and all
        compiling together has a bounded share of the processor.
Rule 3: programs are cached by content, a constraint that is being compiled is compiled once, and
        one that was refused is refused again without work.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Any, Final

from bosal_decoding.constraints.backends import Compiler
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.cost import is_cheap
from bosal_decoding.constraints.errors import CompileQueueFull, InvalidConstraint
from bosal_decoding.constraints.fair_thread import Allowance, FairThread
from bosal_decoding.constraints.limits import CACHE_BYTES, MAX_WAITING
from bosal_decoding.constraints.llguidance_compiler import LlguidanceCompiler
from bosal_decoding.constraints.program import Program
from bosal_decoding.constraints.spelling import Spelling
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess
from bosal_decoding.errors import UnknownName
from bosal_decoding.vocabulary import Vocabulary

_MAX_REFUSALS: Final = 256
_VALIDATE_SECONDS: Final = 2.0


@dataclass(slots=True)
class _Pending:
    """A constraint that waits to be compiled, or is."""

    future: Future[Program]
    owner: str
    # Who asked and still waits.
    num_waiting: int = 1
    turn: Future[None] | None = None


class ConstraintCompiler:
    """Compiles and keeps programs; safe to share between threads. Close it."""

    def __init__(
        self,
        types: Mapping[str, Constraint] = MappingProxyType({}),
        *,
        cache_bytes: int = CACHE_BYTES,
        max_waiting: int = MAX_WAITING,
        allowance: Allowance | None = None,
    ) -> None:
        """`types` are the python_type names the operator has registered, as other kinds.

        `allowance` bounds the processor time that compiling takes.
        """
        self.types = dict(types)
        self._cache_bytes = cache_bytes
        self._max_waiting = max_waiting
        self._lock = Lock()
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._refusals: OrderedDict[str, InvalidConstraint] = OrderedDict()
        self._pending: dict[str, _Pending] = {}
        self._validate_trial = TrialProcess(library="jsonschema")
        self._llguidance = LlguidanceCompiler()
        # Of the backends that somebody has named.
        self._compilers: dict[str, Compiler] = {"llguidance": self._llguidance}
        self._spellings: dict[str, Spelling] = {}
        # One thread each: what is known to be cheap never waits for what may take seconds.
        self._quick = FairThread("bosal-constraints-quick", allowance)
        self._compiling = FairThread("bosal-constraints", allowance)
        self._validating = FairThread("bosal-validate")

    def close(self) -> None:
        """Stop compiling; what waits is cancelled."""
        for thread in (self._quick, self._compiling, self._validating):
            thread.close()
        with self._lock:
            waiting = list(self._pending.values())
        for pending in waiting:
            pending.future.cancel()  # not what is being compiled
        holders: list[Compiler | TrialProcess] = [*self._compilers.values(), self._validate_trial]
        for holder in holders:
            holder.close()

    def prepare(self, vocabulary: Vocabulary) -> Future[Any]:
        """Do now what the first constraint over a vocabulary would wait for."""
        # Not where its time would count as that of a constraint.
        return self._validating.submit(lambda: self._llguidance.prepare(self._spelling(vocabulary)))

    def resolve(self, constraint: Constraint) -> Constraint:
        """Replace a registered type by the constraint it stands for."""
        name = constraint.python_type
        if name is None:
            return constraint
        if name not in self.types:
            raise UnknownName("python type", name, self.types, field="python_type")
        return self.types[name].with_options(constraint)

    def submit(
        self, constraint: Constraint, vocabulary: Vocabulary, lead: str = "", *, owner: str = ""
    ) -> Future[Program]:
        """Compile a constraint for texts that stand behind `lead`; the future may be shared.

        Who waits for it no more says so: see `abandon`.

        Raises:
            UnknownName: no type of that name is registered.
            CompileQueueFull: too many constraints wait, or too many of this owner's.
        """
        constraint = self.resolve(constraint)
        key = _key(constraint, vocabulary, lead)
        with self._lock:
            if (pending := self._pending.get(key)) is not None:
                pending.num_waiting += 1
                return pending.future
            future: Future[Program] = Future()
            if (program := self._programs.get(key)) is not None:
                self._programs.move_to_end(key)
                future.set_result(program)
                return future
            if (refusal := self._refusals.get(key)) is not None:
                future.set_exception(refusal)
                return future
            self._check_queue(owner)
            self._pending[key] = pending = _Pending(future, owner)
        is_quick = constraint.backend == "llguidance" and is_cheap(constraint)
        thread = self._quick if is_quick else self._compiling
        try:
            pending.turn = thread.submit(
                lambda: self._run(key, future, constraint, vocabulary, lead), owner
            )
        except RuntimeError:  # closed
            with self._lock:
                self._forget(key, future)
            raise
        return future

    def abandon(self, future: Future[Program]) -> None:
        """Say that one who asked waits no more.

        What nobody waits for is not compiled, and takes no place, unless it has begun.
        """
        with self._lock:
            found = [(key, one) for key, one in self._pending.items() if one.future is future]
            if not found:
                return
            [(key, pending)] = found
            pending.num_waiting -= 1
            if pending.num_waiting or not future.cancel():
                return
            self._forget(key, future)
        if pending.turn is not None:
            pending.turn.cancel()

    def compile(self, constraint: Constraint, vocabulary: Vocabulary, lead: str = "") -> Program:
        """Compile and wait."""
        return self.submit(constraint, vocabulary, lead).result()

    def validate(self, schema: str, text: str, *, owner: str = "") -> Future[bool | None]:
        """Say whether a text is JSON that a schema accepts; None if that took too long."""

        def ask() -> bool | None:
            request = {"do": "validate", "schema": schema, "text": text}
            try:
                answer = self._validate_trial.ask(request, _VALIDATE_SECONDS)
            except TrialKilled:
                return None
            return answer.get("is_valid")

        return self._validating.submit(ask, owner)

    def _check_queue(self, owner: str) -> None:
        """Refuse what finds the queue full, or full enough of its owner's."""
        if len(self._pending) >= self._max_waiting:
            raise CompileQueueFull(self._max_waiting)
        most = max(self._max_waiting // 2, 1)
        # Nobody in particular is everybody.
        if owner and sum(one.owner == owner for one in self._pending.values()) >= most:
            raise CompileQueueFull(most)

    def _forget(self, key: str, future: Future[Program]) -> None:
        """Take one out of what is pending, unless another took its place; the lock is held."""
        pending = self._pending.get(key)
        if pending is not None and pending.future is future:
            del self._pending[key]

    def _run(
        self,
        key: str,
        future: Future[Program],
        constraint: Constraint,
        vocabulary: Vocabulary,
        lead: str,
    ) -> None:
        if not future.set_running_or_notify_cancel():
            with self._lock:
                self._forget(key, future)
            return
        try:
            program = self._build(key, constraint, vocabulary, lead)
        except InvalidConstraint as refusal:
            with self._lock:
                self._forget(key, future)
                self._refusals[key] = refusal
                if len(self._refusals) > _MAX_REFUSALS:
                    self._refusals.popitem(last=False)
            future.set_exception(refusal)
        except BaseException as error:
            with self._lock:
                self._forget(key, future)
            future.set_exception(error)
        else:
            with self._lock:
                self._forget(key, future)
                self._keep(key, program)
            future.set_result(program)

    def _build(
        self, key: str, constraint: Constraint, vocabulary: Vocabulary, lead: str
    ) -> Program:
        try:
            compiler = self._compiler(constraint.backend)
            return compiler.compile(key, constraint, self._spelling(vocabulary), lead)
        except InvalidConstraint as error:
            if error.field is None:
                error.field = constraint.kind
            raise

    def _compiler(self, backend: str) -> Compiler:
        if backend not in self._compilers:
            if backend == "outlines_core":
                from bosal_decoding.constraints.outlines_core_program import OutlinesCoreCompiler

                self._compilers[backend] = OutlinesCoreCompiler()
            else:
                from bosal_decoding.constraints.xgrammar_compiler import XgrammarCompiler

                self._compilers[backend] = XgrammarCompiler(self._llguidance)
        return self._compilers[backend]

    def _keep(self, key: str, program: Program) -> None:
        self._programs[key] = program
        while sum(one.num_bytes for one in self._programs.values()) > self._cache_bytes:
            self._programs.popitem(last=False)

    def _spelling(self, vocabulary: Vocabulary) -> Spelling:
        return self._spellings.setdefault(vocabulary.digest, Spelling(vocabulary))


def _key(constraint: Constraint, vocabulary: Vocabulary, lead: str) -> str:
    content = [constraint.model_dump(mode="json"), vocabulary.digest, lead]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
