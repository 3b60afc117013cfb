// Keeps the live part fresh, asks for a reason before anything is done, and reads charts out. No framework.
"use strict";

const base = document.body.dataset.base;
const byId = (id) => document.getElementById(id);

/* ---- times, in the reader's own zone ---------------------------------------------------------------- */
const exact = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});
function localTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.title = `${exact.format(at)} (${time.dateTime})`;
    if ("exact" in time.dataset) time.textContent = exact.format(at);
  }
}

/* ---- live ------------------------------------------------------------------------------------------- */
const live = byId("live");
let etag = null;
let failures = 0;
let waiting = null;

async function refresh() {
  clearTimeout(waiting);
  if (document.hidden) return;
  try {
    const answer = await fetch(live.dataset.live, {
      headers: { accept: "text/html", ...(etag ? { "if-none-match": etag } : {}) },
      redirect: "manual",
      cache: "no-store",
    });
    if (answer.type === "opaqueredirect" || answer.status === 401) return tell("You are signed out. Reload the page to sign in again.");
    if (answer.status === 200) { etag = answer.headers.get("etag"); put(await answer.text()); }
    else if (answer.status !== 304) throw new Error(String(answer.status));
    failures = 0;
    tell("");
  } catch {
    failures += 1;
    if (failures > 1) tell(`No connection to Slipway since ${exact.format(lastSeen)}. What you see is as of then; trying again.`);
  }
  if (!failures) lastSeen = new Date();
  waiting = setTimeout(refresh, Number(live.dataset.every) * Math.min(2 ** failures, 8));
}
let lastSeen = new Date();

// Replaces only what differs, so that focus, open details and selected text stay.
function put(html) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  localTimes(fresh);
  const said = live.querySelector("[data-announce]")?.dataset.announce;
  merge(live, fresh);
  const says = live.querySelector("[data-announce]")?.dataset.announce;
  if (says && says !== said) byId("announcer").textContent = says;
}
// What has a name is found again by it, also when something appeared or went above it.
const keyOf = (node) => node?.id || (node?.hasAttribute?.("aria-labelledby") ? `by ${node.getAttribute("aria-labelledby")}` : "");
function merge(old, fresh) {
  const news = [...fresh.childNodes];
  const wanted = new Set(news.map(keyOf));
  let was = old.firstChild;
  for (const node of news) {
    const key = keyOf(node);
    let same = key ? was : null;
    while (same && keyOf(same) !== key) same = same.nextSibling;
    while (same && was !== same) { const gone = was; was = was.nextSibling; gone.remove(); }
    if (!was || (keyOf(was) && keyOf(was) !== key && wanted.has(keyOf(was)))) { old.insertBefore(node, was); continue; }
    const next = was.nextSibling;
    if (was.nodeType !== node.nodeType || was.nodeName !== node.nodeName || keyOf(was) !== key) was.replaceWith(node);
    else if (node.nodeType !== Node.ELEMENT_NODE) { if (was.data !== node.data) was.data = node.data; }
    // What the reader points at on a chart stays.
    else if (!was.matches(".cursor, .readout")) { attributes(was, node); merge(was, node); }
    was = next;
  }
  while (was) { const gone = was; was = was.nextSibling; gone.remove(); }
}
function attributes(was, node) {
  for (const { name, value } of node.attributes) if (was.getAttribute(name) !== value) was.setAttribute(name, value);
  for (const { name } of [...was.attributes]) {
    const isTheReaders = name === "open" && was.nodeName === "DETAILS";
    if (!node.hasAttribute(name) && !isTheReaders) was.removeAttribute(name);
  }
}
function tell(words) {
  const banner = byId("connection");
  banner.textContent = words;
  banner.hidden = !words;
}

/* ---- acting ----------------------------------------------------------------------------------------- */
const dialog = byId("act");
let act = null;

function csrf() {
  return document.cookie.split("; ").find((one) => one.startsWith("slipway_csrf="))?.slice("slipway_csrf=".length) ?? "";
}
async function send(url, method, body) {
  const answer = await fetch(url, {
    method,
    headers: { "content-type": "application/json", accept: "application/json", "x-slipway-csrf": decodeURIComponent(csrf()) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  let said = {};
  try { said = text ? JSON.parse(text) : {}; } catch { said = { detail: text.slice(0, 300) }; }
  if (!answer.ok) throw said.detail ? said : { detail: `Slipway answered ${answer.status}.`, remedy: "Try again, or look into the API server's log." };
  return said;
}
function showProblem(box, problem) {
  box.replaceChildren();
  const words = document.createElement("strong");
  const isSignedOut = problem.status === 401;
  words.textContent = isSignedOut ? "You are signed out: your session is over." : problem.detail ?? "Slipway does not answer.";
  box.append(words);
  if (isSignedOut) {
    // In another tab, so that what was written here stays.
    const link = Object.assign(document.createElement("a"), { href: `${base}/`, target: "_blank", textContent: "Sign in (in another tab)" });
    box.append(document.createElement("br"), link, ", then press the button again.");
  } else if (problem.remedy) box.append(document.createElement("br"), problem.remedy);
  box.hidden = false;
}
function toast(words) {
  const box = byId("toast");
  box.textContent = words;
  box.hidden = false;
  setTimeout(() => { box.hidden = true; }, 4000);
}
function field(label, input, id) {
  const words = document.createElement("label");
  words.htmlFor = input.id = id;
  words.textContent = label;
  byId("act-fields").append(words, input);
  return input;
}
function ask(button) {
  // A copy: the page goes on being refreshed, and what counts is what the person saw when they began.
  act = { ...button.dataset };
  byId("act-title").textContent = act.title;
  byId("act-text").textContent = act.text;
  byId("act-reason").value = "";
  byId("act-problem").hidden = true;
  byId("act-fields").replaceChildren();
  if (act.versions !== undefined) {
    const select = field("To version", document.createElement("select"), "act-version");
    for (const [place, version] of act.versions.split(",").entries()) {
      select.append(new Option(`v${version}${place === 0 ? " (the one before)" : ""}`, version));
    }
  }
  if (act.freeze !== undefined) {
    const hours = field("For how many hours (empty: until somebody lifts it)", document.createElement("input"), "act-hours");
    Object.assign(hours, { type: "number", min: "0.1", max: "8784", step: "any" });
  }
  const go = byId("act-go");
  go.textContent = act.confirm;
  go.disabled = false;
  go.classList.toggle("danger", act.danger !== undefined);
  dialog.showModal();
  (byId("act-version") ?? byId("act-reason")).focus();
}
function body() {
  const said = { reason: byId("act-reason").value.trim() };
  if (act.generation !== undefined) said.generation = Number(act.generation);
  if (act.bundle !== undefined) said.bundle = act.bundle;
  if (byId("act-version")) Object.assign(said, { version: Number(byId("act-version").value), from_version: Number(act.from) });
  if (act.freeze !== undefined) {
    if (act.model) said.model = act.model;
    if (byId("act-hours").value) said.hours = Number(byId("act-hours").value);
  }
  return said;
}
async function carryOut(event) {
  event.preventDefault();
  const go = byId("act-go");
  go.disabled = true;
  try {
    const said = await send(act.url, "POST", body());
    dialog.close();
    // What was asked for is not always done yet: then the answer says how far it is.
    toast(said.words ? `${act.confirm}: ${said.words}` : `${act.confirm}: done`);
    if (live) await refresh(); else location.reload();
  } catch (problem) {
    showProblem(byId("act-problem"), problem);
    go.disabled = false;
    if (live) refresh();
  }
}

/* ---- charts ----------------------------------------------------------------------------------------- */
const places = new Map();
function readOut(figure, share, step = 0) {
  const points = JSON.parse(figure.dataset.points);
  if (!points.seconds.length) return;
  const last = points.end || 1;
  const name = figure.querySelector(".chart-title").textContent;
  let place = step ? (places.get(name) ?? points.seconds.length - 1) + step
    : points.seconds.reduce((best, at, n) => (Math.abs(at - share * last) < Math.abs(points.seconds[best] - share * last) ? n : best), 0);
  place = Math.max(0, Math.min(points.seconds.length - 1, place));
  places.set(name, place);
  const said = Object.entries(points.lines)
    .map(([name, values]) => `${name} ${(values[place] ?? null) === null ? "–" : `${values[place]} ${points.unit}`}`);
  const out = figure.querySelector(".readout");
  out.setAttribute("aria-live", step ? "polite" : "off");
  out.textContent = `${points.seconds[place].toFixed(0)} s: ${said.join(", ")}`;
  const cursor = figure.querySelector(".cursor");
  const x = (1000 * points.seconds[place]) / last;
  cursor.setAttribute("d", `M${x},0V200`);
  cursor.setAttribute("visibility", "visible");
}

/* ---- wiring ----------------------------------------------------------------------------------------- */
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) return ask(button);
  if (event.target.closest("[data-close]")) return dialog.close();
  const link = event.target.closest("a[target]");
  if (link && window.parent !== window) leaveFrame(event, link);
});
// Airflow shows this page in a frame that may not lead its window elsewhere, and may open none: Airflow's own
// document may.
function leaveFrame(event, link) {
  try {
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    if (link.target === "_blank") { outside.target = "_blank"; outside.rel = "noopener"; }
    event.preventDefault();
    outside.click();
  } catch { /* somebody else's frame: let the browser decide */ }
}
document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.(".plot .frame");
  if (!plot) return;
  const box = plot.getBoundingClientRect();
  readOut(plot.closest("[data-chart]"), (event.clientX - box.left) / box.width);
});
document.addEventListener("keydown", (event) => {
  const plot = event.target.closest?.(".plot .frame");
  if (!plot || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
  event.preventDefault();
  readOut(plot.closest("[data-chart]"), 0, event.key === "ArrowLeft" ? -1 : 1);
});
// Without this script a moment is read as UTC, as its label says then.
for (const input of document.querySelectorAll("[data-moment]")) {
  if (input.dataset.moment) {
    const at = new Date(input.dataset.moment);
    input.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  }
  input.form.querySelector("[data-zone]").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
  input.form.addEventListener("formdata", (event) => event.formData.set(input.name, new Date(input.value).toISOString()));
}
if (window.parent === window) for (const link of document.querySelectorAll("[data-standalone]")) link.hidden = false;
byId("act-form").addEventListener("submit", carryOut);
localTimes(document);
if (live) {
  waiting = setTimeout(refresh, Number(live.dataset.every));
  document.addEventListener("visibilitychange", refresh);
}
