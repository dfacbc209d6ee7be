import { $, clock, h, keyed } from "./dom.js";
import { ask } from "./server.js";

const words = { ok: "ok", note: "another's", warning: "warning", failure: "fails" };
const most = 500; // rows; more are found by the filter

const cell = (...children) => h("td", {}, ...children);
const list = (texts) => cell(...(texts ?? []).map((t) => h("div", { class: "code" }, t)));

// rows shows items as rows of a table of which one is a stop of the Tab key; the arrow keys move on.
function rows(body, items, keyOf, labelOf, cellsOf) {
  keyed(body, items, keyOf, () => h("tr", { tabindex: -1 }), (row, item) => {
    const text = JSON.stringify(item);
    if (row.text === text) return;
    row.text = text;
    row.item = item;
    row.setAttribute("aria-label", labelOf(item));
    row.replaceChildren(...cellsOf(item));
  });
  if (!body.querySelector('[tabindex="0"]')) body.firstElementChild?.setAttribute("tabindex", 0);
}

function move(body, event) {
  const row = event.target.closest("tr");
  const all = [...body.children];
  const at = all.indexOf(row);
  const to = {
    ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: all.length - 1,
  }[event.key];
  if (row === null || to === undefined) return;
  event.preventDefault();
  const next = all[Math.max(0, Math.min(all.length - 1, to))];
  row.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

for (const body of [$("service-rows"), $("session-rows")]) {
  body.addEventListener("keydown", (event) => move(body, event));
}

export function showServices(frame) {
  const text = $("filter").value.trim().toLowerCase();
  const found = (frame.services ?? []).filter((s) =>
    (!$("only-problems").checked || s.problem) && (!text || JSON.stringify(s).toLowerCase().includes(text)));
  rows($("service-rows"), found.slice(0, most), (s) => `${s.namespace}/${s.name}`,
    (s) => `Service ${s.name} in ${s.namespace}: ${words[s.health]}${s.problem ? `, ${s.problem}` : ""}`,
    (s) => [
      cell(h("span", { class: `health ${s.health}` }, words[s.health])),
      cell(h("b", {}, s.name), h("div", { class: "muted" }, s.namespace)),
      list(s.addresses), list(s.pools), list(s.owners),
      cell(s.problem ? s.problem : h("span", { class: "muted" }, s.announced ?? "")),
    ]);
  const all = frame.services?.length ?? 0;
  $("services-title").textContent = found.length === all && all <= most ? `Services (${all})`
    : `Services (${Math.min(found.length, most)} of ${all})`;
}

export function showSessions(frame) {
  const silent = new Set((frame.nodes ?? []).filter((n) => n.state === "NotReady").map((n) => n.name));
  const state = (s) => (silent.has(s.node) ? ["note", `was ${s.state}`]
    : [s.state === "Established" ? "ok" : "failure", s.state]);
  $("sessions").hidden = !frame.sessions?.length && !frame.routers?.length;
  const sessions = (frame.sessions ?? []).map((s) => ({ ...s, shown: state(s) }));
  rows($("session-rows"), sessions, (s) => `${s.node} ${s.neighbor} ${s.address}`,
    (s) => `Session of ${s.node} with ${s.neighbor}: ${s.shown[1]}`,
    (s) => [
      cell(h("span", { class: `health ${s.shown[0]}` }, s.shown[1]),
        ...(s.state !== "Established" && s.lastError ? [h("div", { class: "muted" }, s.lastError)] : [])),
      cell(s.node), cell(s.neighbor, h("div", { class: "muted code" }, s.address ?? "")),
      h("td", { class: "number" }, String(s.prefixes)), cell(s.since ? clock(s.since) : ""),
    ]);
}

export function whenServicesChange(again) {
  $("filter").addEventListener("input", again);
  $("only-problems").addEventListener("change", again);
}

// tells are the steps whose details are shown, as kubectl berth why does without -o wide.
const tells = (step) => step.grade !== "ok" || step.name === "Events" || step.name === "Owner";

async function follow(service) {
  $("why-title").textContent = `Service ${service.namespace}/${service.name}`;
  $("why-body").replaceChildren(h("p", { class: "muted" }, "following it to the packet"));
  $("why").showModal();
  const path = [service.namespace, service.name].map(encodeURIComponent).join("/");
  try {
    const answer = await ask(`why/${path}`);
    if (!answer.ok) throw new Error(await answer.text());
    const report = await answer.json();
    $("why-body").replaceChildren(
      h("p", { class: "muted" }, report.summary),
      h("p", { class: report.reachable ? "verdict" : "verdict failure" }, report.verdict),
      h("ol", { class: "steps" }, ...report.steps.map((step) => h("li", { class: step.grade },
        h("b", {}, step.name), h("div", {}, step.text,
          ...(tells(step) ? step.details ?? [] : []).map((d) => h("div", { class: "muted" }, d)))))),
      h("p", {}, h("b", {}, "Next: "), h("code", {}, report.next)),
    );
  } catch (error) {
    $("why-body").replaceChildren(h("p", { class: "failure" }, String(error.message ?? error)));
  }
}

$("service-rows").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !getSelection().toString()) follow(row.item);
});
$("service-rows").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  follow(event.target.closest("tr").item);
});
