"""The times of a video's packets, made to run on where the clock of the file jumps, as in transport streams joined end to end."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import av

if TYPE_CHECKING:
    Packet: TypeAlias = av.Packet[Any]
else:  # not generic at run time
    Packet = av.Packet

_BACK = 0.2  # seconds by which a stream's times jump back where another part begins
_AHEAD = 10.0  # seconds by which all streams' times jump ahead there


class Clock:
    """Sets the times of packets, as they come, so that those of each stream grow.

    A file may consist of parts, each with a clock of its own. All streams of a part are shifted by the same time, so that sound
    and picture stay in step.

    Args:
        jumps_ahead: Whether a jump ahead also begins a part. Only where a container is known for it, as others may have gaps.
    """

    def __init__(self, jumps_ahead: bool) -> None:
        self._jumps_ahead = jumps_ahead
        self._shifts = [0.0]  # of each part, in seconds
        self._end = -math.inf  # the latest time of any stream, shifted
        self._parts: dict[int, int] = {}  # the part that each stream is in
        self._stored: dict[int, float] = {}  # each stream's last time as the file has it, in seconds
        self._set: dict[int, int] = {}  # the same as it was set, in ticks

    def shift(self, stream: int) -> float:
        """By how many seconds the packets of a stream are shifted now."""
        return self._shifts[self._parts.get(stream, 0)]

    def set(self, packet: Packet) -> None:
        """Set the times of the next packet."""
        stored = packet.dts if packet.dts is not None else packet.pts
        base = packet.time_base
        if stored is None or not base:
            return
        stream, kind = packet.stream.index, packet.stream.type
        shown = float((stored if packet.pts is None else packet.pts) * base)
        if kind in ("video", "audio"):
            self._choose_part(stream, float(stored * base), shown)
        else:  # too sparse to tell; it belongs to the part that the others are in
            self._parts[stream] = max(self._parts.values(), default=0)
        ticks = round(Fraction(self.shift(stream)).limit_denominator(10**6) / base)
        if kind != "video" and stream in self._set:  # frames are put in order once they are decoded
            ticks += max(0, self._set[stream] + (kind == "audio") - stored - ticks)
        self._stored[stream], self._set[stream] = float(stored * base), stored + ticks
        self._end = max(self._end, shown + float((ticks + (packet.duration or 0)) * base))
        if ticks:
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    def _choose_part(self, stream: int, time: float, shown: float) -> None:
        part = self._parts.setdefault(stream, 0)
        last = self._stored.get(stream, time)
        ahead = self._jumps_ahead and time - last > _AHEAD and time + self._shifts[part] - self._end > _AHEAD
        if time < last - _BACK or ahead:
            self._parts[stream] = part + 1
            if part + 1 == len(self._shifts):  # the first stream to get there
                self._shifts.append(self._end - shown)
