"""What proto says and what the server means by it are one."""

from bosal.v1 import generation_pb2 as pb
from bosal_server.engine.request import FinishReason


def test_every_reason_to_finish_is_given_or_marked_as_never_given() -> None:
    wire = pb.FinishReason.DESCRIPTOR.values
    unset, *reasons = (one for one in wire if not one.GetOptions().deprecated)
    assert unset.number == pb.FINISH_REASON_UNSPECIFIED
    assert {one.name for one in reasons} == {f"FINISH_REASON_{one}" for one in FinishReason}
    assert pb.FINISH_REASON_MAX_TIME not in {one.number for one in reasons}
