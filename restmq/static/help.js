// Writes this server's own address into the examples.
"use strict";

const server = new URL("../", location.href).href.replace(/\/$/, "");
for (const place of document.querySelectorAll(".server")) {
  place.textContent = server;
}
