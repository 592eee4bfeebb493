"""How a fold says that spans begin and end: once each, those of a sitting that was left when it is known to be over."""

from __future__ import annotations

from msgspec.structs import replace

from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Attributes, Record, SpanClosed, SpanOpened, Value
from shipworthy.rules.telemetry.whose import Open, Told


class Saying:
    """What is said of spans, in `_out`. `_mute`: nothing is, for it was said before; `_of_past`: it is of a sitting
    before; `_root`: the sitting's own span."""

    def __init__(self, told: Told, out: list[Record], *, content: bool) -> None:
        self.told, self._out, self._content = told, out, content
        self._mute = self._of_past = False
        self._root: Open | None = None

    def _open(
        self, key: str, operation: names.Operation, name: str, at: int, attributes: Attributes, call: str = ""
    ) -> Open:
        parent = "" if self._root is None else self._root.opened.key
        return self._say(
            SpanOpened(key, operation, name, at, attributes, parent=parent, past=self._of_past, call=call)
        )

    def _say(self, opened: SpanOpened) -> Open:
        if not self._mute:
            self._out.append(opened)
        return Open(opened, not self._mute)

    def _close(
        self, span: Open, at: int, attributes: dict[str, Value], error: str = "", detail: str = ""
    ) -> None:
        if self._mute:
            return
        if not span.told:
            self._out.append(replace(span.opened, past=True))
        attributes[names.KEY] = span.opened.key
        if error:
            attributes[names.ERROR_TYPE] = error
        detail = detail if self._content else ""
        self._out.append(SpanClosed(span.opened.key, max(at, span.at), attributes, error, detail))
