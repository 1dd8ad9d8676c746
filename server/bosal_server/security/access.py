"""Which scope each method needs, and whether a call has it."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bosal_server.security.caller import ANYBODY, Caller, Scope
from bosal_server.security.errors import KeyMissing, PermissionDenied
from bosal_server.security.keys import KeyRing, load_keys

_GENERATE = frozenset({Scope.GENERATE})
_RECIPES = frozenset({Scope.RECIPES})
_EXPERIMENTS = frozenset({Scope.EXPERIMENTS})
_ANY = frozenset(Scope)

REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# A key needs one of a method's scopes. A method that is not here is nobody's.
SCOPES: Final[dict[str, frozenset[Scope]]] = {
    "/bosal.v1.GenerationService/Generate": _GENERATE,
    "/bosal.v1.GenerationService/GenerateStream": _GENERATE,
    "/bosal.v1.GenerationService/Compare": _GENERATE,
    "/bosal.v1.GenerationService/Score": _GENERATE,
    "/bosal.v1.GenerationService/Tokenize": _GENERATE,
    "/bosal.v1.RecipeService/CreateRecipe": _RECIPES,
    "/bosal.v1.RecipeService/ArchiveRecipe": _RECIPES,
    "/bosal.v1.RecipeService/GetRecipe": _ANY,
    "/bosal.v1.RecipeService/ListRecipes": _ANY,
    "/bosal.v1.RecipeService/ValidateRecipe": _RECIPES | _GENERATE,
    "/bosal.v1.RecipeService/ListRules": _ANY,
    "/bosal.v1.ExperimentService/CreateExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/StartExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/PauseExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/StopExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/PromoteVariant": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/UpdateTraffic": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/NewPhase": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/GetExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/ListExperiments": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/GetReport": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/StreamReport": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/PlanExperiment": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/ListAuditEvents": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/DeleteUnit": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/ExportRecords": _EXPERIMENTS,
    "/bosal.v1.ExperimentService/Assign": _EXPERIMENTS | _GENERATE,
    "/bosal.v1.ExperimentService/RecordOutcomes": _EXPERIMENTS | _GENERATE,
    "/bosal.v1.ModelService/ListModels": _ANY,
    "/bosal.v1.ModelService/GetServerInfo": _ANY,
    REFLECTION: _ANY,
}
# Asked by probes and load balancers, which have no key; says nothing but up or down.
OPEN: Final = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})

_BEARER = "bearer "


class Access:
    """Decides on calls by their method and key; without a key file everybody may everything."""

    def __init__(self, keys: Path | None = None) -> None:
        """Raises InvalidConfig if the file is not one of keys."""
        self._path = keys
        self._salt = os.urandom(32)
        self._ring: KeyRing | None = None
        self.reload()

    @property
    def wants_keys(self) -> bool:
        return self._ring is not None

    def reload(self) -> None:
        """Read the key file again; calls that run keep what they were allowed."""
        if self._path is not None:
            self._ring = KeyRing(load_keys(self._path), salt=self._salt)

    def check(self, caller: Caller) -> None:
        """Find out whether a caller's key is still one, in a call that goes on and on.

        Raises:
            Unauthenticated: it was revoked, or its time is over.
        """
        if self._ring is not None and caller.key_id:
            self._ring.check(caller.key_id, datetime.now(UTC))

    def caller(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
        """Return who calls.

        Raises:
            Unauthenticated: there is no valid key.
            PermissionDenied: the key is not for this method.
        """
        if self._ring is None or method in OPEN:
            return ANYBODY
        caller = self._ring.caller(_presented(metadata), datetime.now(UTC))
        scopes = SCOPES.get(method, frozenset())
        if not scopes & caller.scopes:
            raise PermissionDenied(method, scopes, caller.name)
        return caller


def _presented(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """Return the key a call brings."""
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        raise KeyMissing
    value = values[0]
    if value[: len(_BEARER)].lower() != _BEARER:
        raise KeyMissing
    return value[len(_BEARER) :].strip()
