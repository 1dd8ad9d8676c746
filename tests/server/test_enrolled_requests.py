"""Requests under an experiment whose store fails: served, and not enrolled."""

import sqlite3

import pytest
from tests.server.held import begin, inline, served
from tests.server.test_core import run

from bosal_server.core import GenerationCore
from bosal_server.engine.loop import EngineLoop
from bosal_server.experiments import writer
from bosal_server.generate_command import ExperimentCommand, GenerateCommand, PromptCommand
from bosal_server.model import LoadedModel
from bosal_server.started import Started


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
