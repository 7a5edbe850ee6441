"""The dashboard and the help page: what they hold, and that the server answers what they ask."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest

import restmq
from tests.server_process import running_server

STATIC = Path(restmq.__file__).with_name("static")
BROWSER_EXAMPLE = Path(__file__).parents[1] / "examples" / "browser"
PAGES = [STATIC / "index.html", STATIC / "help.html", BROWSER_EXAMPLE / "listen.html"]
SCRIPTS = [*STATIC.glob("*.js"), *BROWSER_EXAMPLE.glob("*.js")]
STYLES = [*STATIC.glob("*.css"), *BROWSER_EXAMPLE.glob("*.css")]

# What the pages may point to outside their own folder: routes of the server.
SERVER_ROUTES = {"../q/", "../stats/", "../queue", "../ui/", "../docs/"}

MARKUP_FROM_TEXT = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment"
    r"|\beval\b|\bFunction\(|javascript:"
)


class PageReader(HTMLParser):
    """Collects every start tag of a page, and the text inside scripts and styles."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline_code: list[str] = []
        self._inside = ""
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in {"script", "style"} and data.strip():
            self.inline_code.append(data)

    def find(self, tag: str, **wanted: str) -> dict[str, str | None]:
        """The attributes of the only such tag."""
        (found,) = [
            attributes
            for name, attributes in self.tags
            if name == tag and wanted.items() <= attributes.items()
        ]
        return found

    def references(self) -> list[str]:
        """Every address the page loads from, links to or posts to."""
        return [
            value
            for _, attributes in self.tags
            for name in ("src", "href", "action", "formaction", "srcset", "poster")
            if (value := attributes.get(name))
        ]


def by_name(path: Path) -> str:
    """Name a test after the file it looks at."""
    return path.name


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_works_under_a_strict_content_security_policy(page: Path) -> None:
    """Scripts and styles stand in files of their own; no element carries code or style."""
    reader = PageReader(page)
    attributes = {name for _, attributes in reader.tags for name in attributes}
    assert reader.inline_code == []
    assert "style" not in attributes
    assert not [name for name in attributes if name.startswith("on")]
    assert all(found.get("src") for tag, found in reader.tags if tag == "script")


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_fetches_nothing_from_elsewhere(page: Path) -> None:
    """Every address is a file beside the page, a place in the page, or a route of the server."""
    reader = PageReader(page)
    places = {attributes.get("id") for _, attributes in reader.tags}
    for reference in reader.references():
        if reference.startswith("#"):
            assert reference[1:] in places
        elif reference != "data:,":
            assert reference in SERVER_ROUTES or (page.parent / reference).is_file(), reference


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_a_script_shows_names_and_values_as_text_only(script: Path) -> None:
    """No script turns text into markup or code."""
    assert MARKUP_FROM_TEXT.findall(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_every_element_that_a_script_asks_for_is_in_its_page(script: Path) -> None:
    """A name in getElementById is the id of an element of the page that loads the script."""
    text = script.read_text(encoding="utf-8")
    wanted = set(re.findall(r'(?:element|getElementById|showIn)\("([\w-]+)"', text))
    (reader,) = [
        reader
        for page in PAGES
        if page.parent == script.parent and script.name in (reader := PageReader(page)).references()
    ]
    assert wanted <= {attributes.get("id") for _, attributes in reader.tags}


@pytest.mark.parametrize("style", STYLES, ids=by_name)
def test_a_style_loads_nothing(style: Path) -> None:
    """No style sheet imports another or names an address."""
    assert re.findall(r"@import|url\(", style.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", [STATIC, BROWSER_EXAMPLE], ids=by_name)
def test_pages_follow_the_light_or_dark_colours_of_the_system(folder: Path) -> None:
    """Each folder's colours are told for both schemes."""
    text = "".join(style.read_text(encoding="utf-8") for style in folder.glob("*.css"))
    assert "color-scheme: light dark" in text
    assert "(prefers-color-scheme: dark)" in text


def test_every_static_file_is_packaged() -> None:
    """The folder is flat, as the packaging's pattern static/* needs it to be."""
    assert [path for path in STATIC.iterdir() if not path.is_file()] == []


def test_the_help_page_holds_the_form_that_clients_know() -> None:
    """The RestMQ specification, section 4: a form whose field is named body."""
    reader = PageReader(STATIC / "help.html")
    assert reader.find("form") == {"class": "try", "method": "post", "action": "../queue"}
    assert reader.find("textarea", name="body")


def test_the_dashboards_files_keep_to_its_policy() -> None:
    """Its script makes no markup of text, and its style loads nothing."""
    folder = STATIC.with_name("web") / "static"
    assert MARKUP_FROM_TEXT.findall((folder / "ui.js").read_text(encoding="utf-8")) == []
    style = (folder / "ui.css").read_text(encoding="utf-8")
    assert re.findall(r"@import|url\(", style) == []
    assert "(prefers-color-scheme: dark)" in style
    templates = STATIC.with_name("web") / "templates"
    for template in set(templates.iterdir()) - {templates / "docs.html"}:
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|style=|\son[a-z]+=", text), template.name


@pytest.mark.parametrize("page", [STATIC / "index.html", STATIC / "help.html"], ids=by_name)
def test_the_classic_pages_lead_to_the_dashboard(page: Path) -> None:
    assert "../ui/" in PageReader(page).references()


@pytest.mark.parametrize(
    "route",
    [
        "POST /q/QUEUE",
        "GET /q/QUEUE",
        "DELETE /q/QUEUE",
        "GET /q/",
        "POST /",
        "GET /?queue=QUEUE",
        "DELETE /lease/RECEIPT",
        "POST /lease/RECEIPT",
        "GET /m/KEY",
        "GET /dead/QUEUE",
        "GET /settings/QUEUE",
        "PATCH /settings/QUEUE",
        "POST /queue",
        "/queue/QUEUE",
        "GET /c/QUEUE",
        "GET /ws/QUEUE",
        "POST /p/QUEUE",
        "POST /control/QUEUE",
        "GET /stats/",
        "/stats/QUEUE",
        "GET /j/QUEUE",
        "GET /healthz",
        "/readyz",
        "POST /collectd/data",
        "POST /collectd/event",
        "GET /ui/",
        "POST /channels/CHANNEL",
        "PUT /cursors/CLIENT/CHANNEL",
        "POST /cursors/CLIENT/read",
        "POST /rse/CHANNEL",
        "GET /rse/CHANNEL",
        "POST /v1/APPLICATION/QUEUE",
        "GET /stomp",
    ],
)
def test_the_help_page_documents_every_route(route: str) -> None:
    """Each route stands in a heading."""
    text = (STATIC / "help.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h3>(.*?)</h3>", text)
    assert any(f"<code>{route}</code>" in heading for heading in headings)


@pytest.fixture
async def server_url(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server of its own."""
    async with running_server(tmp_path) as server:
        yield server.url


@pytest.fixture
async def session(server_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of that server."""
    async with aiohttp.ClientSession(server_url) as client:
        yield client


async def test_the_server_hands_out_the_pages(session: aiohttp.ClientSession) -> None:
    """/ leads to the dashboard, /queue to the help page, and each file has its media type."""
    media_types = {
        ".html": "text/html",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
    for path in STATIC.iterdir():
        async with session.get(f"/static/{path.name}") as response:
            assert response.status == 200
            assert response.content_type == media_types[path.suffix]
            assert await response.read() == path.read_bytes()
    for route, page in (("/", "index.html"), ("/queue", "help.html")):
        async with session.get(route, allow_redirects=False) as response:
            assert response.status == 302
            assert response.headers["Location"] == f"/static/{page}"


async def test_the_server_answers_what_the_dashboard_asks(
    server_url: str, session: aiohttp.ClientSession
) -> None:
    """A page of queues after a name that need not exist, in order; and stop and start."""
    for name in ("apple", "banana/ripe", "cherry", "date"):
        async with session.post(f"/q/{name}", data={"value": "v"}) as response:
            assert response.status == 200
    query = {"limit": "2", "after": "appl\U0010ffff"}
    async with session.get("/stats/", params=query) as response:
        answer = await response.json()
    assert list(answer["queues"]) == ["banana/ripe", "cherry"]
    shown = {"name": "cherry", "len": 1, "status": 1, "policy": ""}
    assert answer["queues"]["cherry"].items() >= shown.items()
    assert isinstance(answer["redis"], str)

    for word, status in (("stop", 0), ("start", 1)):
        async with session.post(
            "/control/banana%2Fripe", data={"status": word}, headers={"Origin": server_url}
        ) as response:
            assert await response.json() == {"stat": {"queue": "banana/ripe", "status": status}}
        async with session.get("/stats/") as response:
            queues = (await response.json())["queues"]
        assert queues["banana/ripe"]["status"] == status


async def test_the_server_takes_the_form_of_the_help_page(session: aiohttp.ClientSession) -> None:
    """What the form holds at first is a command that works."""
    reader = (STATIC / "help.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"<textarea[^>]*>(.*?)</textarea>", reader)
    async with session.post("/queue", data={"body": command}) as response:
        assert await response.json() == {"queue": "test", "value": "foobar", "key": "test:1"}
