"""What a library contains, kept in its state: taken over from tapebay.toml once, changed by verbs and by `apply`.

Two documents: the content, and what tapebay.toml declared when it was last applied. The second is what tells a change
of the file from a change that a verb made.
"""

from __future__ import annotations

import structlog
from pydantic import ValidationError

from appliance.failures import Failure, OperatorError
from appliance.library.plan import Plan, compare
from appliance.settings.content import Content, ContentError, declared_in, settled, with_content
from appliance.settings.problems import problems_of
from appliance.settings.settings import Settings
from vlib_images.library.state import JsonValue, StateStore

log = structlog.get_logger(__name__)

NAMESPACE = "content"
CONTENT, APPLIED = "content", "applied"


class Contents:
    """The content of one library, and the settings that it makes of tapebay.toml (`declared`)."""

    def __init__(self, store: StateStore, declared: Settings) -> None:
        """Raises OperatorError CONFIGURATION when what is kept cannot be used."""
        self._store = store
        self._declared = declared
        kept = store.items(NAMESPACE)
        if CONTENT not in kept:
            self._content = self._applied = declared_in(declared)
            self._keep()
            log.info("the content of tapebay.toml is taken over; from now on verbs and `tapebay apply` change it")
        else:
            self._content = _read(kept[CONTENT])
            self._applied = _read(kept[APPLIED])
        self.settings = self._settings_with(self._content)

    @property
    def content(self) -> Content:
        """What there is."""
        return self._content

    @property
    def applied(self) -> Content:
        """What tapebay.toml declared when it was last applied."""
        return self._applied

    def differences(self) -> Plan:
        """Between tapebay.toml, as it was read, and what there is: what a start of the daemon may carry out."""
        return compare(declared_in(self._declared), self._applied, self._content, explicit=False)

    def checked(self, content: Content) -> Content:
        """With a LUN for every device. Raises OperatorError REFUSED when its parts do not fit together."""
        try:
            return settled(self.settings, content)
        except ContentError as error:
            raise OperatorError(Failure.REFUSED, str(error)) from None

    def change(self, content: Content, applied: Content | None = None) -> None:
        """Keep another content, durable when this returns. Raises OperatorError as checked() does, OSError; then
        nothing has changed."""
        before = self._content, self._applied
        self._content, self._applied = self.checked(content), applied or self._applied
        try:
            self._keep()
        except BaseException:
            self._content, self._applied = before
            raise
        self.settings = self._settings_with(self._content)

    def _keep(self) -> None:
        changes: dict[str, JsonValue] = {CONTENT: self._content.to_json(), APPLIED: self._applied.to_json()}
        self._store.update(NAMESPACE, changes)

    def _settings_with(self, content: Content) -> Settings:
        try:
            return with_content(self._declared, content)
        except ContentError as error:
            message = f"what the library contains does not fit this tapebay.toml:\n{error}"
            raise OperatorError(Failure.CONFIGURATION, message) from None


def _read(document: JsonValue) -> Content:
    try:
        return Content.model_validate(document)
    except ValidationError as error:
        lines = "\n".join(problems_of(error, Content))
        raise OperatorError(Failure.CONFIGURATION, f"what the library contains cannot be read:\n{lines}") from None
