// A page that listens to a destination and sends to it, with the library stompjs. Serve this folder
// from somewhere, and let its origin in: restmq serve --allowed-origins http://127.0.0.1:8000
"use strict";

const HEART_BEAT_MILLISECONDS = 10000;
const RECONNECT_MILLISECONDS = 2000;

let client = null;

function tell(text) {
  document.getElementById("status").textContent = text;
}

function show(text) {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById("messages").append(item);
}

function listen({server, login, passcode, destination}) {
  const former = client;
  const current = new StompJs.Client({
    brokerURL: server.value,
    connectHeaders: login.value ? {login: login.value, passcode: passcode.value} : {},
    heartbeatIncoming: HEART_BEAT_MILLISECONDS,
    heartbeatOutgoing: HEART_BEAT_MILLISECONDS,
    reconnectDelay: RECONNECT_MILLISECONDS,
    onConnect: () => {
      // Messages of a topic need no acknowledgement. One of a queue is shown first, then acknowledged.
      current.subscribe(destination.value, (message) => {
        show(message.body);
        message.ack();
      }, {ack: "client-individual"});
      tell(`listening to ${destination.value}`);
    },
    onStompError: ({headers}) => tell(`the server says: ${headers.message}`),
    onWebSocketClose: () => tell("not connected"),
  });
  client = current;
  if (former) former.deactivate();
  current.activate();
}

document.getElementById("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  listen(event.target.elements);
});

document.getElementById("send").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!client || !client.connected) return;
  const destination = document.getElementById("connect").elements.destination.value;
  client.publish({destination, body: event.target.elements.body.value});
});
