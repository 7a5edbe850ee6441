"""What ``restmq doctor`` says about who may reach the server: listeners, acl.conf, proxies."""

import configparser
import contextlib
import ipaddress
import socket
from pathlib import Path

from restmq.access import Access, Section
from restmq.cli.doctor.findings import DEFAULTS, Finding, Findings, Thresholds, ok, problem, warning
from restmq.errors import AccessDenied, CredentialsRequired, SettingsError
from restmq.settings import Settings

# Addresses of nobody: documentation has them to itself (RFC 5737, RFC 3849). Whoever lets them in
# lets in everyone.
_STRANGERS = ("203.0.113.77", "2001:db8:6d71:1::77")
_LOOPBACK = ("127.0.0.1", "::1")

# What STOMP clients may do is for the sections of producers and consumers.
_SECTIONS = (Section.PRODUCER, Section.CONSUMER, Section.COMET, Section.WEBSOCKET)

_COMMON_SECRETS = ("change me", "changeme", "password", "secret", "restmq", "12345678")
_STRONGER = "choose another one, as from: openssl rand -hex 16"

_WIDE_IPV4, _WIDE_IPV6 = 8, 16
_LARGE_IPV4, _LARGE_IPV6 = 16, 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_access(settings: Settings, thresholds: Thresholds = DEFAULTS) -> Findings:
    """Look at the listener and the rules for it."""
    try:
        access = Access.load(settings.acl, settings.keys, requires_key=settings.require_key)
    except SettingsError as error:
        yield problem("access-file", str(error), "mend the file: the server does not start with it")
        return
    yield from _check_listener(settings, access)
    yield from _check_clear_passwords(settings, access)
    yield from _check_unreachable(settings, access)
    yield from _check_side_doors(settings, access)
    yield from _check_secrets(settings, thresholds)


def _check_listener(settings: Settings, access: Access) -> Findings:
    reach = _reach(settings.listen)
    where = f"{settings.listen} port {settings.port}"
    if reach == "this machine":
        if not settings.trusted_proxies:
            yield ok("open-listener", f"{where} is for programs on this machine")
            return
        reach = "whomever a proxy lets through"
    open_sections = [section for section in _SECTIONS if _lets_strangers_in(access, section)]
    if not open_sections:
        yield ok("open-listener", f"{where} is open to {reach}, and {settings.acl} has rules")
        return
    names = " ".join(f"[{section}]" for section in open_sections)
    if len(open_sections) == len(_SECTIONS):
        what = f"{where} is open to {reach}, and everyone may do everything"
    else:
        what = f"{where} is open to {reach}, and everyone may do what {names} is for"
    remedy = f"set hosts_allow or a password for {names} in {settings.acl}, or listen on 127.0.0.1"
    is_bad = reach == "the whole network" and len(open_sections) == len(_SECTIONS)
    yield (problem if is_bad else warning)("open-listener", what, remedy)


def _reach(host: str) -> str:
    """Say who can reach a listener: this machine, a private network, or the whole network."""
    addresses = _addresses(host)
    if addresses and all(address.is_loopback for address in addresses):
        return "this machine"
    if addresses and all(
        (address.is_private or address.is_link_local) and not address.is_unspecified
        for address in addresses
    ):
        return "a private network"
    return "the whole network"


def _addresses(host: str) -> list[Address]:
    try:
        return [ipaddress.ip_address(host.partition("%")[0])]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # the check of the port says so
        return []
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]


def _lets_strangers_in(access: Access, section: Section) -> bool:
    return any(_admits(access, section, address) for address in _STRANGERS)


def _admits(access: Access, section: Section, address: str) -> bool:
    try:
        access.check(section, address, None)
    except AccessDenied:
        return False
    return True


def _check_clear_passwords(settings: Settings, access: Access) -> Findings:
    """Find credentials that cross the network for all to read, on each listener by itself."""
    if _reach(settings.listen) == "this machine":
        return
    asked = "API keys" if access.uses_keys else ""
    if any(_asks_for_password(access, section) for section in _SECTIONS):
        asked = asked or "passwords"
    # A proxy may speak TLS for us, but not STOMP over TCP.
    if asked and not (settings.tls_certificate or settings.trusted_proxies):
        yield warning(
            "clear-password",
            f"{asked} for {settings.listen} port {settings.port} cross the network in clear",
            "set tls_certificate, or name in trusted_proxies a proxy with TLS in front",
        )
    if settings.stomp_passcode or _asks_for_password(access, Section.STOMP):
        asked = asked or "passcodes"
    if asked and settings.stomp_port and not settings.stomp_certificate:
        yield warning(
            "clear-password",
            f"{asked} for STOMP on {settings.listen} port {settings.stomp_port} cross the network "
            "in clear",
            "set stomp_certificate",
        )


def _check_side_doors(settings: Settings, access: Access) -> Findings:
    """Find settings that let in more than who chose them may have thought of."""
    is_open = any(_admits(access, section, _LOOPBACK[0]) for section in _SECTIONS)
    if "*" in settings.allowed_origins and is_open:
        yield warning(
            "any-origin",
            "allowed_origins holds *, so any web page that somebody here opens may use the server",
            "name the sites that shall use it, as in https://app.example",
        )
    if settings.rse_test_mode and _reach(settings.listen) != "this machine":
        yield warning(
            "rse-test-mode",
            f"rse_test_mode lets RSE clients in without a token, on {settings.listen}",
            "turn it off, and give the clients tokens with rse_tokens",
        )


def _asks_for_password(access: Access, section: Section) -> bool:
    for address in (*_LOOPBACK, *_STRANGERS):
        try:
            access.check(section, address, None)
        except CredentialsRequired:
            return True
        except AccessDenied:
            continue
    return False


def _check_unreachable(settings: Settings, access: Access) -> Findings:
    """Find rules that let in nobody who can come."""
    if _reach(settings.listen) != "this machine" or settings.trusted_proxies:
        return
    refused = [section for section in _SECTIONS if not _knows_loopback(access, section)]
    if refused:
        names = " ".join(f"[{section}]" for section in refused)
        yield warning(
            "unreachable",
            f"{names} in {settings.acl} lets no address of this machine in, and no other can reach "
            f"{settings.listen}",
            "name the proxy in trusted_proxies if there is one, or 127.0.0.1 ::1 in hosts_allow",
        )


def _knows_loopback(access: Access, section: Section) -> bool:
    for address in _LOOPBACK:
        try:
            access.check(section, address, None)
        except CredentialsRequired:
            return True
        except AccessDenied:
            continue
        return True
    return False


def _check_secrets(settings: Settings, thresholds: Thresholds) -> Findings:
    secrets = {
        "stomp_passcode": [settings.stomp_passcode] if settings.stomp_passcode else [],
        "rse_tokens": list(settings.rse_tokens),
        "queuey_application_keys": [
            pair.partition("=")[2] for pair in settings.queuey_application_keys
        ],
        **_passwords(Path(settings.acl)),
    }
    for name, values in secrets.items():
        if any(value.lower() in _COMMON_SECRETS for value in values):
            yield problem("weak-secret", f"{name} holds what everybody tries first", _STRONGER)
        elif any(len(value) < thresholds.shortest_secret for value in values):
            what = f"{name} holds a secret of fewer than {thresholds.shortest_secret} characters"
            yield warning("weak-secret", what, _STRONGER)


def _passwords(file: Path) -> dict[str, list[str]]:
    """Return the passwords of an access file, which has been checked, by its sections."""
    parser = configparser.RawConfigParser(default_section="", empty_lines_in_values=False)
    with contextlib.suppress(FileNotFoundError):  # the rules are those of the package
        parser.read_string(file.read_text(encoding="utf-8-sig"))
    found = {f"{file} [{name}]": parser[name].get("password") for name in parser.sections()}
    return {name: [password] for name, password in found.items() if password}


def check_proxies(settings: Settings) -> Findings:
    """Look for trusted proxies that are half the world."""
    for text in settings.trusted_proxies:
        finding = _check_proxy(ipaddress.ip_network(text))
        if finding is not None:
            yield finding


def _check_proxy(network: Network) -> Finding | None:
    is_ipv4 = network.version == 4
    remedy = "name only the addresses of your proxies in trusted_proxies"
    if network.prefixlen < (_WIDE_IPV4 if is_ipv4 else _WIDE_IPV6):
        return problem(
            "trusted-proxies",
            f"trusted_proxies holds {network}, so nearly everyone may claim any address, and rules "
            "by address mean nothing",
            remedy,
        )
    if not network.is_private and network.prefixlen < (_LARGE_IPV4 if is_ipv4 else _LARGE_IPV6):
        return warning(
            "trusted-proxies",
            f"trusted_proxies holds {network}, from where anyone may claim any address",
            remedy,
        )
    return ok("trusted-proxies", f"{network} may say for whom it speaks")
