"""TLS for listeners: certificate and key from files, which are read again when told to."""

import asyncio
import logging
import ssl
from typing import Final

from restmq.errors import SettingsError

_logger = logging.getLogger(__name__)

MINIMUM_VERSION: Final = ssl.TLSVersion.TLSv1_2


class Tls:
    """What the listeners of one kind need for TLS; ``context`` serves all of them.

    ``setting`` is the name of the setting with the certificate, for errors.
    """

    def __init__(self, certificate: str, key: str, setting: str, protocols: list[str]) -> None:
        """Raises SettingsError if the files cannot be used."""
        self._certificate = certificate
        self._key = key
        self._setting = setting
        self._last_fault: str | None = None
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = MINIMUM_VERSION
        if protocols:
            self.context.set_alpn_protocols(protocols)
        # Before they are used: what takes their place meanwhile must count as a change.
        self._applied = self._content()
        self._read_into(self.context)

    def _read_into(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._certificate, self._key or None, password=_no_password)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"{self._setting} {self._certificate} and its key cannot be used: {error}"
            ) from error

    def _content(self) -> tuple[bytes, ...]:
        content = []
        for path in filter(None, (self._certificate, self._key)):
            try:
                with open(path, "rb") as file:
                    content.append(file.read())
            except OSError as error:
                raise SettingsError(f"{self._setting} {path} cannot be read: {error}") from error
        return tuple(content)

    async def reload_if_changed(self) -> bool:
        """Read the files again if they have changed; new connections get what they hold.

        Files that cannot be used are logged and change nothing. Returns whether there was a change.
        """
        try:
            content = await asyncio.to_thread(self._content)
            if content == self._applied:
                return False
            # Tried out first: half of a pair must not get into the context that is in use.
            self._read_into(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
            self._read_into(self.context)
        except SettingsError as error:
            if str(error) != self._last_fault:
                self._last_fault = str(error)
                _logger.error("%s; the certificate in force stays as it is", error)
            return False
        self._applied, self._last_fault = content, None
        _logger.info("%s has changed and serves new connections", self._certificate)
        return True


def _no_password() -> str:
    """Answer what asks for a password at the terminal otherwise, and would hold up the server."""
    raise ssl.SSLError("the key is encrypted; give one without a password")


def load_tls(
    certificate: str, key: str, *, prefix: str, protocols: list[str] | None = None
) -> Tls | None:
    """Return what TLS needs, or None without a certificate; raises SettingsError.

    The settings are ``<prefix>_certificate`` and ``<prefix>_key``. ``protocols`` are those that
    are offered to clients which ask (ALPN).
    """
    if certificate:
        return Tls(certificate, key, f"{prefix}_certificate", protocols or [])
    if key:
        raise SettingsError(f"{prefix}_key goes with {prefix}_certificate")
    return None
