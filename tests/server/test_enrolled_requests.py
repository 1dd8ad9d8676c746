"""Requests under an experiment: served and not enrolled by a failing store, counted as failed."""

import sqlite3
from collections.abc import AsyncGenerator

import pytest
from tests.server.held import begin, inline, reported, served
from tests.server.test_core import run

from bosal_decoding.errors import PluginFault
from bosal_server.core import GenerationCore
from bosal_server.engine.loop import EngineLoop
from bosal_server.errors import InternalFault, QueueFull
from bosal_server.experiments import writer
from bosal_server.generate_command import ExperimentCommand, GenerateCommand, PromptCommand
from bosal_server.model import LoadedModel
from bosal_server.started import CoreEvent, Started


def test_a_locked_store_serves_the_control_and_enrols_nobody(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bosal_server.database._BUSY_MS", 50)
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.05)
    variants = (
        inline("control", weight=500_000, is_control=True),
        inline("other", {"rule": "temperature", "value": 0.5}, weight=500_000),
    )

    async def started(core: GenerationCore, unit: str) -> Started:
        command = GenerateCommand(
            prompt=PromptCommand(instruction="The cat sat"),
            experiment=ExperimentCommand(experiment="held", unit=unit),
            max_tokens=2,
        )
        first, *_ = [event async for event in core.generate(command)]
        assert isinstance(first, Started)
        return first

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=variants)
        units = [f"u{index}" for index in range(20)]
        before = {unit: (await served(core, unit, max_tokens=1))[0] for unit in units[:6]}
        assert set(before.values()) == {"control", "other"}
        file = str(core.experiments._database.folder / "bosal.db")
        with sqlite3.connect(file, isolation_level=None) as lock:
            lock.execute("BEGIN IMMEDIATE")
            seen = []
            for _ in range(200):
                seen = [(await started(core, unit)).assignment for unit in before]
                if all(one is not None and not one.exposure_id for one in seen):
                    break
            for one in seen:
                assert one is not None
                assert (one.reason.value, one.variant.key) == ("STORE_UNAVAILABLE", "control")
            lock.execute("ROLLBACK")
        for _ in range(400):
            again = (await started(core, units[7])).assignment
            assert again is not None
            if again.exposure_id:
                break
        assert again is not None
        assert again.reason.value == "ASSIGNED"

    run(tiny_llama, check)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PluginFault("mine", "a-package", "it is broken"), "INTERNAL"),
        (InternalFault(), "INTERNAL"),
        (ZeroDivisionError(), "INTERNAL"),
        (QueueFull(waiting="3", limit="3", retry_after=1.0), None),
    ],
)
def test_whatever_the_server_fails_at_counts_as_a_failure(
    tiny_llama: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str | None,
) -> None:
    async def fail(started: Started, command: GenerateCommand) -> AsyncGenerator[CoreEvent, None]:
        yield started
        raise error

    variants = (
        inline("control", weight=500_000, is_control=True),
        inline("other", {"rule": "temperature", "value": 0.5}, weight=500_000),
    )

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=variants)
        monkeypatch.setattr(core, "run", fail)
        with pytest.raises(type(error)):
            await served(core, "u")
        report = await reported(core)
        assert sum(arm.requests for arm in report.arms) == 1
        assert sum(arm.failed for arm in report.arms) == (reason is not None)
        (exposure,) = [
            row async for page in core.experiments.export("held", 0) for row in page.exposures
        ]
        assert exposure.finish_reason == (reason or "")

    run(tiny_llama, check)
