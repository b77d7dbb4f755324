"""The line editor of ``portico chat``."""

from __future__ import annotations

from anyio import get_cancelled_exc_class
from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT = "> "


class Prompt:
    """An editor that keeps pasted text as one message. Enter sends; Alt-Enter, or Enter after a backslash, begins a new
    line.
    """

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=" " * len(PROMPT),
            key_bindings=_keys(),
            enable_suspend=True,
        )
        self._draft = ""

    async def line(self) -> str | None:
        """Return what the user sends; None at Ctrl-D. Raises KeyboardInterrupt.

        If it is cancelled, the next call begins with the text that was typed.
        """
        draft, self._draft = self._draft, ""
        try:
            return await self._session.prompt_async(default=draft, handle_sigint=False)
        except EOFError:
            return None
        except get_cancelled_exc_class():
            self._draft = self._session.default_buffer.text
            raise


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys
