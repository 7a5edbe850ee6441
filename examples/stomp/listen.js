// A STOMP client in a page, with nothing but a WebSocket. Serve this folder from somewhere, and
// let its origin in: restmq serve --allowed-origins http://127.0.0.1:8000
"use strict";

const ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"};
const escape = (text) => text.replace(/[\\\n\r:]/g, (character) => ESCAPES[character]);

function frame(command, headers, body = "") {
  const lines = Object.entries(headers).map(([name, value]) => `${escape(name)}:${escape(value)}\n`);
  return `${command}\n${lines.join("")}\n${body}\0`;
}

// One WebSocket message may hold several frames; between them there may be line feeds.
function frames(text) {
  return text.split("\0").map((part) => part.replace(/^\n+/, "")).filter(Boolean).map((part) => {
    const end = part.indexOf("\n\n");
    const [command, ...lines] = part.slice(0, end).split("\n");
    const headers = Object.fromEntries(lines.map((line) => line.split(":")));
    return {command, headers, body: part.slice(end + 2)};
  });
}

let socket = null;

function show(text) {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("messages").append(item);
}

function listen(server, destination) {
  if (socket) socket.close();
  socket = new WebSocket(server, ["v12.stomp"]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    // Names and values of CONNECT are not escaped.
    socket.send("CONNECT\naccept-version:1.2\nhost:restmq\nheart-beat:0,10000\n\n\0");
    socket.send(frame("SUBSCRIBE", {id: "0", destination}));
  };
  socket.onmessage = ({data}) => {
    const text = typeof data === "string" ? data : new TextDecoder().decode(data);
    for (const {command, headers, body} of frames(text)) {
      if (command === "MESSAGE") show(body);
      if (command === "ERROR") show(`the server says: ${headers.message}`);
    }
  };
  socket.onclose = () => show("the connection is closed");
}

document.getElementById("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target.elements;
  listen(form.server.value, form.destination.value);
});

document.getElementById("send").addEventListener("submit", (event) => {
  event.preventDefault();
  const destination = document.getElementById("connect").elements.destination.value;
  if (socket) socket.send(frame("SEND", {destination}, event.target.elements.body.value));
});
