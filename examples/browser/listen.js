// Listens to a queue with EventSource or WebSocket, and publishes to it with fetch.
//
// All three need the page's origin in RestMQ's setting allowed_origins, unless RestMQ itself
// serves the page; README.rst beside this file shows how. A message may hold anything, so it is
// only ever shown as text, never as markup.
"use strict";

const MESSAGES_SHOWN = 100;
const FIRST_PAUSE_MILLISECONDS = 500;
const LONGEST_PAUSE_MILLISECONDS = 10000;

const listenForm = document.getElementById("listen");
const publishForm = document.getElementById("publish");
const openButton = document.getElementById("open");
const closeButton = document.getElementById("close");
const stateLine = document.getElementById("state");
const messageList = document.getElementById("messages");

let stopListening = null;

function routeUrl(prefix) {
  const base = listenForm.elements.server.value.replace(/\/+$/, "");
  return `${base}/${prefix}/${encodeURIComponent(listenForm.elements.queue.value)}`;
}

function say(text) {
  stateLine.textContent = text;
}

function showMessage(text) {
  const message = JSON.parse(text);
  const item = document.createElement("li");
  const key = document.createElement("span");
  key.className = "key";
  key.textContent = message.key;
  const value = document.createElement("span");
  value.className = "value";
  value.textContent = message.value;
  item.append(key, value);
  messageList.prepend(item);
  while (messageList.children.length > MESSAGES_SHOWN) {
    messageList.lastChild.remove();
  }
}

// EventSource connects again by itself after a lost connection.
function listenWithEvents() {
  const url = routeUrl("c");
  const source = new EventSource(url);
  source.onopen = () => say(`Listening to ${url} (server-sent events).`);
  source.onmessage = (event) => showMessage(event.data);
  source.onerror = () => {
    say(
      source.readyState === EventSource.CLOSED
        ? `${url} refused this page. Is ${location.origin} in allowed_origins?`
        : `Connecting to ${url} ...`,
    );
  };
  return () => source.close();
}

// A WebSocket does not connect again by itself, so this does, after growing pauses.
function listenWithSocket() {
  const url = routeUrl("ws").replace(/^http/, "ws");
  let pause = FIRST_PAUSE_MILLISECONDS;
  let timer = 0;
  let socket = null;

  function connect() {
    socket = new WebSocket(url);
    socket.onopen = () => {
      pause = FIRST_PAUSE_MILLISECONDS;
      say(`Listening to ${url} (WebSocket).`);
    };
    socket.onmessage = (event) => showMessage(event.data);
    socket.onclose = () => {
      say(`No connection to ${url}. Is ${location.origin} in allowed_origins? Trying again ...`);
      timer = setTimeout(connect, pause);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MILLISECONDS);
    };
  }

  connect();
  return () => {
    clearTimeout(timer);
    socket.onclose = null;
    socket.close();
  };
}

function setListening(stop) {
  if (stopListening) {
    stopListening();
  }
  stopListening = stop;
  closeButton.disabled = stop === null;
  openButton.textContent = stop === null ? "Listen" : "Listen anew";
}

listenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  setListening(null);
  messageList.replaceChildren();
  say("Connecting ...");
  const withSocket = listenForm.elements.transport.value === "socket";
  setListening(withSocket ? listenWithSocket() : listenWithEvents());
});

closeButton.addEventListener("click", () => {
  setListening(null);
  say("Not listening.");
});

publishForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = publishForm.elements.value;
  try {
    const response = await fetch(routeUrl("q"), {
      method: "POST",
      body: new URLSearchParams({ value: field.value }),
    });
    const answer = (await response.text()).trim();
    say(response.ok ? `Published as ${answer}.` : `Refused (${response.status}): ${answer}`);
    if (response.ok) {
      field.value = "";
    }
  } catch (error) {
    say(`Not published: ${error.message}. Is ${location.origin} in allowed_origins?`);
  }
});

const query = new URLSearchParams(location.search);
listenForm.elements.server.value = query.get("server") || "http://127.0.0.1:8888";
listenForm.elements.queue.value = query.get("queue") || "test";
