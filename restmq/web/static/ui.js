// What moves on the dashboard's pages: figures and charts, by one stream of server-sent events.
//
// Pages are complete without this. Figures come ready to be shown, and only ever as text; a list
// that has changed is fetched as the page that the server makes of it, and put in place of the old.
"use strict";

const KEPT_POINTS = 60;
const WIDTH = 120;
const HEIGHT = 32;
const REFRESH_MILLISECONDS = 3000;
const RETRY_MILLISECONDS = 5000;

const eventsAddress = document.body.dataset.events;
const live = document.getElementById("live");
const problem = document.getElementById("problem");

let stream = null;
let retryTimer = 0;
let lastRefresh = Date.now();
let isRefreshing = false;

// Charts

const charts = new Map();

function readPoints(chart) {
  const text = chart.dataset.points.trim();
  return text === "" ? [] : text.split(" ").map((pair) => pair.split(",").map(Number));
}

function pointsOf(chart) {
  let points = charts.get(chart);
  if (points === undefined) {
    points = readPoints(chart);
    charts.set(chart, points);
  }
  return points;
}

// Where nothing ever moved there is no line, only the ground.
function isFlat(points) {
  return points.every((point) => point[0] === 0 && point[1] === 0);
}

function trace(points, which, highest) {
  if (isFlat(points)) {
    return { line: "", area: "" };
  }
  const step = WIDTH / (KEPT_POINTS - 1);
  const start = WIDTH - (points.length - 1) * step;
  const places = points.map((point, index) => {
    const x = (start + index * step).toFixed(2);
    const y = (HEIGHT - (point[which] / highest) * (HEIGHT - 2)).toFixed(2);
    return `${x} ${y}`;
  });
  const line = `M${places.join("L")}`;
  return { line, area: `${line}L${WIDTH} ${HEIGHT}L${start.toFixed(2)} ${HEIGHT}Z` };
}

function draw(chart) {
  const points = pointsOf(chart);
  if (points.length === 0) {
    return;
  }
  const highest = Math.max(1, ...points.map((point) => Math.max(point[0], point[1])));
  const into = trace(points, 0, highest);
  const out = trace(points, 1, highest);
  chart.querySelector(".line.in").setAttribute("d", into.line);
  chart.querySelector(".line.out").setAttribute("d", out.line);
  chart.querySelector(".area").setAttribute("d", into.area);
  const [lastIn, lastOut] = points[points.length - 1];
  chart.setAttribute("aria-label", `${chart.dataset.label}: now ${lastIn} in, ${lastOut} out`);
  const scale = chart.parentElement.querySelector("[data-scale]");
  if (scale !== null) {
    const digits = highest < 10 ? 1 : 0;
    const top = highest.toLocaleString("en", { maximumFractionDigits: digits });
    scale.textContent = `top: ${top}/s`;
  }
}

function addPoint(chart, rates) {
  const points = pointsOf(chart);
  points.push(rates);
  if (points.length > KEPT_POINTS) {
    points.shift();
  }
  draw(chart);
}

function drawAll(root) {
  for (const chart of root.querySelectorAll(".chart")) {
    draw(chart);
  }
}

// Figures

function showFigures(root, figures) {
  for (const place of root.querySelectorAll("[data-figure]")) {
    const figure = figures[place.dataset.figure];
    if (figure !== undefined && place.textContent !== figure[0]) {
      place.textContent = figure[0];
      place.classList.toggle("zero", figure[0] === "0" || figure[0] === "–");
    }
    if (figure !== undefined) {
      place.title = figure[1];
    }
  }
}

function showPaused(root, isPaused) {
  for (const badge of root.querySelectorAll("[data-paused]")) {
    badge.hidden = !isPaused;
  }
}

function showRows(rows) {
  const places = [...document.querySelectorAll("[data-row]")];
  for (const place of places) {
    const row = rows[place.dataset.row];
    if (row !== undefined) {
      showFigures(place, row.figures);
      showPaused(place, row.paused);
      place.classList.toggle("paused", row.paused);
      addPoint(place.querySelector(".chart"), row.rates);
    }
  }
  sortRows(places, Object.keys(rows));
}

// The order may change from one sample to the next; a row that has the focus keeps its place.
function sortRows(places, order) {
  const shown = places.map((place) => place.dataset.row);
  const wanted = order.filter((key) => shown.includes(key));
  if (places.length === 0 || wanted.length !== shown.length) {
    return;
  }
  const body = places[0].parentElement;
  if (wanted.every((key, index) => key === shown[index]) || body.contains(document.activeElement)) {
    return;
  }
  const byKey = new Map(places.map((place) => [place.dataset.row, place]));
  body.append(...wanted.map((key) => byKey.get(key)));
}

// Lists

// Whoever reads or is about to click something does not want it to be replaced.
function isInUse(list) {
  const selection = getSelection();
  return (
    list.querySelector("details[open]") !== null ||
    list.contains(document.activeElement) ||
    (!selection.isCollapsed && list.contains(selection.anchorNode))
  );
}

async function refresh(list) {
  isRefreshing = true;
  lastRefresh = Date.now();
  try {
    const response = await fetch(location.href, { cache: "no-store" });
    if (!response.ok) {
      return;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("list");
    if (fresh === null || isInUse(list)) {
      return;
    }
    const drawn = new Map();
    for (const row of list.querySelectorAll("[data-row]")) {
      drawn.set(row.dataset.row, pointsOf(row.querySelector(".chart")));
    }
    list.replaceWith(document.adoptNode(fresh));
    charts.forEach((_, chart) => chart.isConnected || charts.delete(chart));
    for (const row of fresh.querySelectorAll("[data-row]")) {
      const points = drawn.get(row.dataset.row);
      if (points !== undefined) {
        charts.set(row.querySelector(".chart"), points);
      }
    }
    drawAll(fresh);
  } catch (error) {
    // The stream will say that the server is gone.
  } finally {
    isRefreshing = false;
  }
}

function considerList(sample) {
  const list = document.getElementById("list");
  if (list === null || isRefreshing) {
    return;
  }
  const hasMoved = "moves" in list.dataset && sample.rates[0] + sample.rates[1] > 0.05;
  if (list.dataset.version === sample.version && !hasMoved) {
    return;
  }
  if (isInUse(list)) {
    const stale = list.querySelector("[data-stale]");
    if (stale !== null) {
      stale.hidden = false;
    }
  } else if (Date.now() - lastRefresh > REFRESH_MILLISECONDS) {
    refresh(list);
  }
}

// The stream

function showState(word, className) {
  live.hidden = false;
  live.className = `live ${className}`;
  if (live.textContent !== word) {
    live.textContent = word;
  }
}

function showProblem(text) {
  problem.hidden = text === "";
  problem.textContent = text;
}

function showSample(event) {
  const sample = JSON.parse(event.data);
  showState("live", "on");
  showProblem("");
  const scope = document.querySelector("[data-scope]");
  showFigures(scope, sample.figures);
  addPoint(scope.querySelector(".chart"), sample.rates);
  if (sample.rows === undefined) {
    showFigures(document.querySelector(".tabs"), sample.figures);
    showPaused(document.querySelector(".heading"), sample.paused);
  } else {
    showRows(sample.rows);
  }
  considerList(sample);
}

function connect() {
  clearTimeout(retryTimer);
  if (stream !== null || document.hidden) {
    return;
  }
  showState("connecting", "");
  stream = new EventSource(eventsAddress);
  stream.addEventListener("sample", showSample);
  stream.addEventListener("problem", (event) => {
    showState("no figures", "off");
    showProblem(`The figures stand still: ${JSON.parse(event.data).problem}`);
  });
  stream.addEventListener("error", () => {
    showState("reconnecting", "off");
    if (stream !== null && stream.readyState === EventSource.CLOSED) {
      disconnect(); // refused: the browser does not try again by itself
      retryTimer = setTimeout(connect, RETRY_MILLISECONDS);
    }
  });
}

// A browser has only few connections to a server, so a page that nobody sees gives its own back.
function disconnect() {
  clearTimeout(retryTimer);
  if (stream !== null) {
    stream.close();
    stream = null;
  }
}

if (eventsAddress !== undefined) {
  drawAll(document);
  connect();
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", connect);
}

// Keys

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const field = document.querySelector('[data-shortcut="/"]');
    if (field !== null) {
      event.preventDefault();
      field.focus();
      field.select();
    }
  }
});
