"""`pod start --timeline FILE`: a start as a Chrome trace, or as a picture when FILE is an .svg.

Source: the Trace Event Format, which Perfetto and chrome://tracing read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import NamedTuple

from podrt.errors import InvalidConfig
from podrt.runtime.timeline import Timeline, Track

_WAIT, _PREPARE, _QUEUE, _STAGE = "wait", "prepare", "queue", "stage"
_COLOURS = {_WAIT: "#e3e3e3", _PREPARE: "#e0a545", _QUEUE: "#f3d9a4"}
# Stages follow each other: neighbours must differ.
_STAGE_COLOURS = ("#1f6f8b", "#5fa8c0")
_RUNNING, _FAILED = "#2e8b57", "#c0504d"
_ROW, _BAR, _LEFT, _WIDTH, _TOP, _RIGHT = 18, 12, 190, 1200, 58, 30
_STEPS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)


class Span(NamedTuple):
    """A piece of a container's track."""

    kind: str
    name: str
    start_ns: int
    end_ns: int


@contextlib.contextmanager
def writing(path: str) -> Iterator[Timeline]:
    """A timeline that is written to `path` at the end, also of a failure.

    Raises: InvalidConfig before anything is started when the file cannot be written.
    """
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (what is there stays so far)
    except OSError as exc:
        raise InvalidConfig("--timeline", f"cannot write {path}: {exc.strerror}") from exc
    with file:
        timeline = Timeline()
        try:
            yield timeline
        finally:
            text = picture(timeline) if path.endswith(".svg") else trace(timeline)
            if file.seekable():
                file.truncate(0)
            file.write(text)


def spans(timeline: Timeline, track: Track) -> list[Span]:
    """What a container did, without gaps, until it ran or failed."""
    end = track.ended_ns or max(track.expected_ns, track.begun_ns, track.sent_ns)
    begun = track.begun_ns or end
    need = timeline.awaited(track)
    found = [Span(_WAIT, f"wait for {need}" if need else "wait", track.expected_ns, begun)]
    if track.begun_ns:
        found.append(Span(_PREPARE, "prepare (lock, cgroup)", begun, track.sent_ns or end))
    if track.sent_ns:
        first = track.stages[0].at_ns if track.stages else end
        found.append(Span(_QUEUE, "queue at the monitor", track.sent_ns, first))
    ends = [stage.at_ns for stage in track.stages[1:]] + [end]
    for stage, until in zip(track.stages, ends, strict=False):
        found.append(Span(_STAGE, stage.name, stage.at_ns, until))
    return [span for span in found if span.end_ns > span.start_ns]


def trace(timeline: Timeline) -> str:
    """The Chrome trace: a process for each pod, a thread for each container."""
    pods = {track.pod: number + 1 for number, track in enumerate(_firsts(timeline))}
    events: list[dict[str, object]] = [
        _named("process_name", f"pod {pod}", pid=pid, tid=0) for pod, pid in pods.items()
    ]
    for number, track in enumerate(timeline.tracks.values()):
        place = {"pid": pods[track.pod], "tid": number + 1}
        events.append(_named("thread_name", track.name, **place))
        for span in spans(timeline, track):
            start, took = _us(timeline, span.start_ns), (span.end_ns - span.start_ns) / 1e3
            events.append(
                {"ph": "X", "name": span.name, "cat": span.kind, "ts": start, "dur": took} | place
            )
        if track.ended_ns:
            word = f"failed: {track.error}" if track.error else "running"
            at = _us(timeline, track.ended_ns)
            events.append({"ph": "i", "name": word, "cat": "end", "ts": at, "s": "t"} | place)
    document = {
        "displayTimeUnit": "ms",
        "otherData": {"begun_at_ns": timeline.begun_ns},
        "traceEvents": events,
    }
    return json.dumps(document, indent=0) + "\n"


def _firsts(timeline: Timeline) -> Iterable[Track]:
    return {track.pod: track for track in timeline.tracks.values()}.values()


def _named(what: str, name: str, **place: int) -> dict[str, object]:
    return {"ph": "M", "name": what, "args": {"name": name}, **place}


def _us(timeline: Timeline, at_ns: int) -> float:
    return (at_ns - timeline.begun_ns) / 1e3


# ---- the picture ----


def picture(timeline: Timeline) -> str:
    """An SVG: a row for each container, time to the right, a mark where it ran or failed."""
    tracks = list(timeline.tracks.values())
    last_ns = max((track.ended_ns for track in tracks), default=0)
    total_ms = max((last_ns - timeline.begun_ns) / 1e6, 0.1)
    scale = (_WIDTH - _LEFT - _RIGHT) / total_ms
    height = _TOP + _ROW * len(tracks) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        *_legend(total_ms),
        *_grid(total_ms, scale, height),
    ]
    for number, track in enumerate(tracks):
        parts += _row(timeline, track, _TOP + _ROW * number, scale)
    return "\n".join([*parts, "</svg>\n"])


def _legend(total_ms: float) -> Iterator[str]:
    words = [
        ("waits", _COLOURS[_WAIT]), ("prepared", _COLOURS[_PREPARE]),
        ("queued at the monitor", _COLOURS[_QUEUE]), ("its stages", _STAGE_COLOURS[0]),
        ("running", _RUNNING), ("failed", _FAILED),
    ]  # fmt: skip
    yield f'<text x="8" y="17" font-weight="bold">start: {total_ms:.1f} ms</text>'
    x = _LEFT
    for word, colour in words:
        yield f'<rect x="{x}" y="8" width="12" height="11" fill="{colour}"/>'
        yield f'<text x="{x + 17}" y="17">{word}</text>'
        x += 40 + 7 * len(word)


def _grid(total_ms: float, scale: float, height: int) -> Iterator[str]:
    step = next((step for step in _STEPS_MS if step * scale >= 60), _STEPS_MS[-1])
    for number in range(int(total_ms / step) + 1):
        x = _LEFT + number * step * scale
        yield f'<line x1="{x:.1f}" y1="44" x2="{x:.1f}" y2="{height - 8}" stroke="#eeeeee"/>'
        yield f'<text x="{x:.1f}" y="40" text-anchor="middle">{number * step:g} ms</text>'


def _row(timeline: Timeline, track: Track, y: int, scale: float) -> Iterator[str]:
    name = track.name if len(track.name) <= 26 else track.name[:25] + "…"
    yield f'<text x="{_LEFT - 8}" y="{y + 10}" text-anchor="end">{escape(name)}</text>'
    for number, span in enumerate(spans(timeline, track)):
        x = _LEFT + (span.start_ns - timeline.begun_ns) / 1e6 * scale
        wide = (span.end_ns - span.start_ns) / 1e6 * scale
        colour = _COLOURS.get(span.kind, _STAGE_COLOURS[number % 2])
        took = f"{escape(span.name)}: {(span.end_ns - span.start_ns) / 1e6:.3f} ms"
        yield (
            f'<rect x="{x:.2f}" y="{y}" width="{wide:.2f}" height="{_BAR}" fill="{colour}">'
            f"<title>{took}</title></rect>"
        )
    if track.ended_ns:
        x = _LEFT + (track.ended_ns - timeline.begun_ns) / 1e6 * scale
        word = escape(track.error) if track.error else "running"
        yield (
            f'<circle cx="{x:.2f}" cy="{y + _BAR / 2}" r="4.5" '
            f'fill="{_FAILED if track.error else _RUNNING}"><title>{word}</title></circle>'
        )
