// Shows the messages of a Queuey queue as they come, sends new ones and deletes what is dismissed.
//
// With a key it reads with requests that wait for the next message, since EventSource cannot send
// the key; a public queue is followed with EventSource. Either way the page keeps its own position
// in the queue, and goes on from there after a lost connection. A message may hold anything, so it
// is only ever shown as text, never as markup.
"use strict";

const SHOWN = 200;
const WAIT_SECONDS = 30;
const FIRST_PAUSE_MILLISECONDS = 500;
const LONGEST_PAUSE_MILLISECONDS = 10000;

const followForm = document.getElementById("follow");
const sendForm = document.getElementById("send");
const stateLine = document.getElementById("state");
const list = document.getElementById("notifications");

let stopFollowing = null;
let attempts = 0;

function say(text) {
  stateLine.textContent = text;
}

// What the form says, as it is now: a running reader must not follow the fields.
function readForm() {
  const { server, application, queue, key, since } = followForm.elements;
  const base = server.value.replace(/\/+$/, "");
  const path = `${encodeURIComponent(application.value)}/${encodeURIComponent(queue.value)}`;
  return {
    applicationUrl: `${base}/v1/${encodeURIComponent(application.value)}`,
    url: `${base}/v1/${path}`,
    queue: queue.value,
    headers: key.value ? { Authorization: `Application ${key.value}` } : {},
    since: since.value === "" ? "0" : String(Date.now() / 1000 - Number(since.value)),
  };
}

async function ask(method, url, target, options = {}) {
  const headers = { ...target.headers, ...options.headers };
  const response = await fetch(url, { method, ...options, headers });
  const answer = await response.json();
  if (!response.ok) {
    const [text] = Object.values(answer.error_msg ?? { error: answer.message });
    const error = new Error(`${response.status}: ${text}`);
    error.refused = response.status < 500;
    error.status = response.status;
    throw error;
  }
  return answer;
}

function show(message, target) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const moment = new Date(Number(message.timestamp) * 1000);
  time.dateTime = moment.toISOString();
  time.textContent = moment.toLocaleString();
  const body = document.createElement("span");
  body.className = "body";
  body.textContent = message.body;
  item.append(time, body);
  if (target.headers.Authorization) {
    const dismiss = document.createElement("button");
    dismiss.textContent = "Dismiss";
    dismiss.addEventListener("click", async () => {
      try {
        const id = `${message.partition}:${message.message_id}`;
        await ask("DELETE", `${target.url}/${id}`, target);
        item.remove();
      } catch (error) {
        say(`Not dismissed: ${error.message}`);
      }
    });
    item.append(dismiss);
  }
  list.prepend(item);
  while (list.children.length > SHOWN) {
    list.lastChild.remove();
  }
}

// One request after the other; each waits for something that comes after the last message.
function followWithRequests(target) {
  const aborter = new AbortController();
  let position = `since=${target.since}`;
  let pause = FIRST_PAUSE_MILLISECONDS;

  async function read() {
    const url = `${target.url}?wait=${WAIT_SECONDS}&${position}`;
    const answer = await ask("GET", url, target, { signal: aborter.signal });
    for (const message of answer.messages) {
      show(message, target);
      position = `last_event_id=${message.partition}:${message.message_id}`;
    }
    pause = FIRST_PAUSE_MILLISECONDS;
    say(`Following ${target.url}.`);
  }

  async function run() {
    while (!aborter.signal.aborted) {
      try {
        await read();
      } catch (error) {
        if (aborter.signal.aborted || error.refused) {
          say(aborter.signal.aborted ? "" : `Refused, ${error.message}`);
          return;
        }
        say(`No answer (${error.message}). Is ${location.origin} in allowed_origins?`);
        await new Promise((resolve) => setTimeout(resolve, pause));
        pause = Math.min(pause * 2, LONGEST_PAUSE_MILLISECONDS);
      }
    }
  }

  run();
  return () => aborter.abort();
}

// EventSource connects again by itself, and tells the server which event it saw last.
function followWithEvents(target) {
  const source = new EventSource(`${target.url}?since=${target.since}`);
  source.onopen = () => say(`Following ${target.url} (server-sent events).`);
  source.onmessage = (event) => show(JSON.parse(event.data), target);
  source.onerror = () => {
    say(
      source.readyState === EventSource.CLOSED
        ? `Refused. Is the queue public, and ${location.origin} in allowed_origins?`
        : "Connecting ...",
    );
  };
  return () => source.close();
}

async function start(target) {
  if (!target.headers.Authorization) {
    return followWithEvents(target);
  }
  try {
    await ask("GET", `${target.url}?limit=1`, target);
  } catch (error) {
    if (error.status === 404) {
      const form = new URLSearchParams({ queue_name: target.queue });
      await ask("POST", target.applicationUrl, target, { body: form });
    } else if (error.refused) {
      throw error;
    }
  }
  return followWithRequests(target);
}

followForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  stopFollowing?.();
  stopFollowing = null;
  list.replaceChildren();
  say("Connecting ...");
  attempts += 1;
  const attempt = attempts;
  try {
    const stop = await start(readForm());
    if (attempt === attempts) {
      stopFollowing = stop;
    } else {
      stop(); // the button was pressed again meanwhile
    }
  } catch (error) {
    say(`Refused, ${error.message}`);
  }
});

sendForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const target = readForm();
  const field = sendForm.elements.body;
  try {
    await ask("POST", target.url, target, {
      headers: { "Content-Type": "text/plain; charset=utf-8" },
      body: field.value,
    });
    field.value = "";
  } catch (error) {
    say(`Not sent: ${error.message}`);
  }
});

const query = new URLSearchParams(location.search);
followForm.elements.server.value = query.get("server") || "http://127.0.0.1:8888";
followForm.elements.application.value = query.get("application") || "demo";
followForm.elements.queue.value = query.get("queue") || "notifications";
