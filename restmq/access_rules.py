"""What ``acl.conf`` says, as values: its sections, its addresses, its user names and passwords.

The rules are those of the RestMQ specification, section 7. ``access.py`` asks them.
"""

import base64
import configparser
import contextlib
import hmac
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import unquote_to_bytes

from restmq.errors import AccessDenied, CredentialsRequired, SettingsError

_KEYS: Final = ("hosts_allow", "hosts_deny", "username", "password")
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4_PREFIX: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{0,2}}\.?")
_IPV6_PREFIX: Final = re.compile(r"(?:[0-9a-fA-F]{1,4}:){1,7}")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# A plain string underneath, because a lookup by an ordinary Enum member calls Python code to
# hash it, and this one is made on every request.
class Section(StrEnum):
    """What a client may want to do; the value is the section's name in the file."""

    PRODUCER = "rest:producer"
    CONSUMER = "rest:consumer"
    COMET = "comet:consumer"
    WEBSOCKET = "websocket:consumer"
    STOMP = "stomp"


@dataclass(frozen=True, slots=True)
class HostList:
    """The addresses that one ``hosts_allow`` or ``hosts_deny`` names."""

    everyone: bool = False  # "all" was among the entries; the others are still kept
    addresses: frozenset[str] = frozenset()  # whole addresses, spelt as canonical_address does
    prefixes: tuple[str, ...] = ()  # beginnings of IPv4 addresses
    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read entries separated by white space; ValueError tells which one is no address."""
        everyone, addresses, prefixes, networks = False, set[str](), list[str](), list[_Network]()
        for entry in text.split():
            if entry.lower() == "all":
                everyone = True
            elif _IPV4_PREFIX.fullmatch(entry):
                prefixes.append(entry)
            elif _IPV6_PREFIX.fullmatch(entry):
                networks.append(ipaddress.ip_network(f"{entry}:/{16 * entry.count(':')}"))
            elif "/" in entry:
                networks.append(_parse_network(entry))
            else:
                addresses.add(_parse_address(entry))
        return cls(everyone, frozenset(addresses), tuple(prefixes), tuple(networks))

    def names(self, address: str) -> bool:
        """Whether an entry other than ``all`` matches this canonical address."""
        if address in self.addresses:
            return True
        # "1" is the beginning of 10.0.0.1, and not meant to be that of 1::2.
        if self.prefixes and ":" not in address and address.startswith(self.prefixes):
            return True
        if not self.networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.networks)


def canonical_address(address: str) -> str:
    """Spell a peer's address in the one way that rules are compared with.

    IPv4-mapped IPv6 becomes IPv4, IPv6 is compressed and loses its zone. Text that is no address
    comes back as it is; only ``all`` matches it.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or parsed)


def _parse_address(entry: str) -> str:
    try:
        parsed = ipaddress.ip_address(entry)
    except ValueError:
        raise ValueError(
            f"{entry!r} is not an address, the beginning of one, a network or 'all'"
            " (host names are not looked up, and a comment needs a line of its own)"
        ) from None
    if "%" in entry:
        raise ValueError(f"{entry!r} has a zone; leave out the '%' and what follows it")
    return canonical_address(str(parsed))


def _parse_network(entry: str) -> _Network:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError as error:
        raise ValueError(f"{entry!r} is not a network: {error}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        # Peers from such a network are compared by their IPv4 address.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one section; a section that lets everyone in has none."""

    section: Section
    allow: HostList | None
    deny: HostList | None
    credentials: bytes | None  # b"user:password" in UTF-8

    def check_address(self, address: str) -> None:
        """Raise AccessDenied if the hosts of this rule keep the address out."""
        if not self._admits(canonical_address(address)):
            raise AccessDenied(f"the address {address} has no access to {self.section}")

    def check_credentials(self, authorization: str | None, cookie: str | None) -> None:
        """Raise CredentialsRequired unless the headers hold the right user name and password."""
        if self.credentials is None:
            return
        offers = [] if authorization is None else list(basic_credentials(authorization))
        if cookie is not None and self.section is Section.WEBSOCKET:
            offers.extend(_cookie_credentials(cookie))
        if not any(hmac.compare_digest(offer, self.credentials) for offer in offers):
            raise CredentialsRequired(f"{self.section} needs the right user name and password")

    def _admits(self, address: str) -> bool:
        if self.allow is not None:
            if self.allow.names(address):
                return True
            if self.deny is None and not self.allow.everyone:
                return False
        return self.deny is None or not (self.deny.everyone or self.deny.names(address))


def basic_credentials(authorization: str) -> Iterator[bytes]:
    """Yield the ``user:password`` of each RFC 7617 credential in a header value.

    There may be others beside it, with semicolons between them, as Queuey's clients send.
    """
    for credential in authorization.split(";"):
        scheme, _, token = credential.strip().partition(" ")
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):  # it is no base64, so it matches nothing
                yield base64.b64decode(token.strip(), validate=True)


def _cookie_credentials(cookie: str) -> Iterator[bytes]:
    """Yield what each ``auth`` cookie of a ``Cookie`` header value may mean.

    The header is taken apart by hand, because cookie parsers refuse or rewrite values with
    characters that passwords do hold.
    """
    for pair in cookie.split(";"):
        name, _, value = pair.partition("=")
        if name.strip() != "auth":
            continue
        # Header bytes that are not UTF-8 arrive as surrogates; so encoded they match nothing.
        literal = value.strip().encode("utf-8", "surrogatepass")
        yield literal
        yield unquote_to_bytes(literal)


Rules = dict[Section, Rule | None]


def parse_rules(content: bytes, name: str) -> Rules:
    """Read the text of an ``acl.conf``; ``name`` is how errors call it.

    Raises SettingsError for anything not understood, so that a typing error cannot leave a door
    open. The text of the error never repeats a value, which may be a password, except addresses.
    """
    parser = configparser.RawConfigParser(default_section="", empty_lines_in_values=False)
    try:
        parser.read_string(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: the file is not UTF-8 text at byte {error.start}") from None
    except configparser.Error as error:
        raise SettingsError(f"{name}: {_describe(error)}") from None
    known = ", ".join(Section)
    for unknown in set(parser.sections()).difference(Section):
        raise SettingsError(f"{name}: unknown section [{unknown}]; there are {known}")
    values = {section: dict(parser[section]) for section in parser.sections()}
    return {section: _parse_rule(section, values.get(section, {}), name) for section in Section}


def _describe(error: configparser.Error) -> str:
    """Say what is wrong with the form of the file, without the text of the line."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f"line {error.lineno} stands before the first [section]"
        case configparser.DuplicateSectionError():
            return f"line {error.lineno}: the section [{error.section}] is there twice"
        case configparser.DuplicateOptionError():
            return f"line {error.lineno}: {error.option} is there twice in [{error.section}]"
        case configparser.ParsingError(errors=[(line_number, _), *_]):
            return f"line {line_number} is neither [section] nor key = value"
        case _:
            return "the file is not in the form of [section] and key = value"


def _parse_rule(section: Section, values: dict[str, str], name: str) -> Rule | None:
    where = f"{name}: [{section}]"
    for key in values:
        if key not in _KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}; there are {', '.join(_KEYS)}")
    allow = _parse_hosts(values, "hosts_allow", where)
    deny = _parse_hosts(values, "hosts_deny", where)
    credentials = _parse_credentials(values, where)
    if allow == HostList(everyone=True):
        allow = None
    if allow is None and deny is None and credentials is None:
        return None
    return Rule(section, allow, deny, credentials)


def _parse_hosts(values: dict[str, str], key: str, where: str) -> HostList | None:
    try:
        hosts = HostList.parse(values.get(key, ""))
    except ValueError as error:
        raise SettingsError(f"{where} {key}: {error}") from None
    return None if hosts == HostList() else hosts


def _parse_credentials(values: dict[str, str], where: str) -> bytes | None:
    username, password = values.get("username", ""), values.get("password", "")
    for key, value in (("username", username), ("password", password)):
        if "\n" in value:
            raise SettingsError(f"{where} {key}: the next line must not start with a space")
    if not username and not password:
        return None
    if not username or not password:
        missing = "password" if username else "username"
        raise SettingsError(f"{where}: {missing} is missing; set both username and password")
    return f"{username}:{password}".encode()
