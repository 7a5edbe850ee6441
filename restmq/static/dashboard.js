// The table of queues: one page of /stats/ at a time, asked for again every few seconds.
//
// Names come from whoever may publish, so they are only ever set as text and percent-encoded in
// addresses. Rows are kept from one answer to the next, so that a button keeps its focus.
"use strict";

const PAGE_ROWS = 200;
const REFRESH_MILLISECONDS = 2000;
const ANSWER_MILLISECONDS = 10000;
const ROUNDROBIN = 2;

// Relative to this page, so that it also works behind a proxy that adds a prefix.
const server = new URL("../", location.href).href;
const numbers = new Intl.NumberFormat();

const element = (id) => document.getElementById(id);
const rows = new Map();
const earlierPages = [];
let after = "";
let lastShown = "";
let refreshTimer = 0;
let newestRequest = 0;

function routeUrl(prefix, name) {
  return `${server}${prefix}/${encodeURIComponent(name)}`;
}

// The server orders names by code points; comparing strings would go by UTF-16 units.
function compareNames(left, right) {
  const ours = Array.from(left);
  const theirs = Array.from(right);
  const common = Math.min(ours.length, theirs.length);
  for (let index = 0; index < common; index += 1) {
    const difference = ours[index].codePointAt(0) - theirs[index].codePointAt(0);
    if (difference !== 0) {
      return difference;
    }
  }
  return ours.length - theirs.length;
}

// A text that sorts before every name that starts with the given one, and after nearly all others:
// the server lists names after one that need not exist.
function justBefore(name) {
  const points = Array.from(name);
  const last = points.pop();
  if (last === undefined) {
    return "";
  }
  const below = last.codePointAt(0) - 1;
  if (below < 0) {
    return points.join("");
  }
  const isSurrogate = below >= 0xd800 && below <= 0xdfff;
  return points.join("") + String.fromCodePoint(isSurrogate ? 0xd7ff : below) + "\u{10ffff}";
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function makeLink(text, title, url) {
  const link = make("a", "", text);
  link.href = url;
  link.title = title;
  return link;
}

function setText(target, text) {
  if (target.textContent !== text) {
    target.textContent = text;
  }
}

function makeRow(name) {
  const line = document.createElement("tr");
  const title = make("th", "", "");
  title.scope = "row";
  const page = `${server}ui/queue?name=${encodeURIComponent(name)}`;
  title.append(makeLink(name, "What is in this queue, and how it moves", page));
  const length = make("td", "number", "");
  const status = make("td", "", "");
  const statusText = make("span", "status", "");
  status.append(statusText);
  const policy = make("td", "", "");
  const cell = make("td", "", "");
  const actions = make("span", "actions", "");
  const toggle = make("button", "", "");
  toggle.type = "button";
  actions.append(
    makeLink("jobs", "The newest messages of this queue", routeUrl("j", name)),
    makeLink("take", "Takes the oldest message off this queue", routeUrl("q", name)),
    toggle,
  );
  cell.append(actions);
  line.append(title, length, status, policy, cell);

  let started = true;
  toggle.addEventListener("click", () => setStatus(name, !started, toggle));

  function show(queue) {
    started = Boolean(queue.status);
    setText(length, numbers.format(queue.len));
    setText(statusText, started ? "started" : "stopped");
    statusText.className = started ? "status started" : "status stopped";
    setText(policy, queue.policy === ROUNDROBIN ? "roundrobin" : "broadcast");
    setText(toggle, started ? "Stop" : "Start");
    toggle.setAttribute("aria-label", `${toggle.textContent} ${name}`);
  }

  return { line, show };
}

function showIn(id, text) {
  setText(element(id), text);
  element(id).hidden = text === "";
}

async function ask(url, options) {
  const response = await fetch(url, {
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_MILLISECONDS),
    ...options,
  });
  if (!response.ok) {
    const text = (await response.text()).trim();
    throw new Error(`the server answered ${response.status}: ${text.slice(0, 200)}`);
  }
  return response.json();
}

function showQueues(answer) {
  const queues = Object.values(answer.queues).sort((one, other) =>
    compareNames(one.name, other.name),
  );
  const present = new Set(queues.map((queue) => queue.name));
  for (const [name, row] of rows) {
    if (!present.has(name)) {
      row.line.remove();
      rows.delete(name);
    }
  }
  let expected = element("queues").firstElementChild;
  for (const queue of queues) {
    let row = rows.get(queue.name);
    if (row === undefined) {
      row = makeRow(queue.name);
      rows.set(queue.name, row);
    }
    row.show(queue);
    if (row.line === expected) {
      expected = expected.nextElementSibling;
    } else {
      element("queues").insertBefore(row.line, expected);
    }
  }
  lastShown = queues.length > 0 ? queues[queues.length - 1].name : "";
  showSurroundings(queues.length, answer.redis);
}

function showSurroundings(shown, backend) {
  element("empty").hidden = shown > 0;
  const isFirst = after === "";
  setText(element("empty-text"), isFirst ? "No queues yet. The first message makes one:" : "No more queues.");
  element("empty-example").hidden = !isFirst;
  setText(element("empty-example"), `curl -d value=hello ${server}q/first`);
  element("first").disabled = isFirst;
  element("previous").disabled = earlierPages.length === 0;
  element("next").disabled = shown < PAGE_ROWS;
  const more = isFirst && shown < PAGE_ROWS ? "" : " on this page";
  setText(element("summary"), `${numbers.format(shown)} ${shown === 1 ? "queue" : "queues"}${more}`);
  setText(element("updated"), `${backend} - ${new Date().toLocaleTimeString()}`);
}

// Asks for the page that is wanted now; an answer that a later request has overtaken is dropped.
async function refresh() {
  clearTimeout(refreshTimer);
  newestRequest += 1;
  const request = newestRequest;
  const query = new URLSearchParams({ limit: String(PAGE_ROWS) });
  if (after !== "") {
    query.set("after", after);
  }
  try {
    const answer = await ask(`${server}stats/?${query}`);
    if (request === newestRequest) {
      showQueues(answer);
      showIn("problem", "");
    }
  } catch (error) {
    if (request === newestRequest) {
      showIn("problem", `The queues cannot be shown: ${error.message}`);
    }
  }
  if (request === newestRequest && !document.hidden) {
    refreshTimer = setTimeout(refresh, REFRESH_MILLISECONDS);
  }
}

async function setStatus(name, start, toggle) {
  toggle.disabled = true;
  showIn("refusal", "");
  try {
    await ask(routeUrl("control", name), {
      method: "POST",
      body: new URLSearchParams({ status: start ? "start" : "stop" }),
    });
    await refresh();
  } catch (error) {
    showIn("refusal", `${name} cannot be ${start ? "started" : "stopped"}: ${error.message}`);
  } finally {
    toggle.disabled = false;
    toggle.focus();
  }
}

function goTo(position) {
  after = position;
  scrollTo({ top: 0 });
  return refresh();
}

element("find").addEventListener("submit", (event) => {
  event.preventDefault();
  earlierPages.length = 0;
  goTo(justBefore(element("name").value));
});
element("first").addEventListener("click", () => {
  earlierPages.length = 0;
  element("name").value = "";
  goTo("");
});
element("previous").addEventListener("click", () => goTo(earlierPages.pop()));
element("next").addEventListener("click", () => {
  earlierPages.push(after);
  goTo(lastShown);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    refresh();
  }
});

refresh();
