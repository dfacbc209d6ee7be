import { $, clock, h, keyed } from "./dom.js";
import { drawMap } from "./map.js";
import { listen } from "./server.js";
import { showServices, showSessions, whenServicesChange } from "./tables.js";

const themes = ["auto", "light", "dark"];
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  localStorage.setItem("theme", theme);
}
setTheme(themes.find((t) => t === localStorage.getItem("theme")) ?? "auto");
$("theme").addEventListener("click", () => {
  setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
});

function setLive(state, text, title = "") {
  $("live").className = `pill ${state}`;
  $("live").textContent = text;
  $("live").title = title;
}

function showSummary(frame) {
  const problems = [
    ...(frame.problems ?? []).map((text) => ({ text, grade: "failure" })),
    ...(frame.status.unknown ?? []).map((text) => ({ text, grade: "note" })),
  ];
  if (!frame.problems?.length) problems.unshift({ text: "Nothing is wrong.", grade: "ok" });
  keyed($("problems"), problems, (p) => p.text,
    (p) => h("li", { class: p.grade }, p.text), (li, p) => { li.className = p.grade; });
  const count = (c) => `${c.are} / ${c.of}`;
  const whole = (c) => (c.are === c.of ? "" : "short");
  keyed($("counts"), [
    ["Controllers ready", frame.status.controllers], ["Speakers announce", frame.status.speakers],
    ["Services announced", frame.status.services], ["Sessions established", frame.status.sessions],
  ], ([name]) => name,
  ([name]) => h("div", {}, h("dt", {}, name), h("dd")),
  (div, [, c]) => { div.className = whole(c); div.querySelector("dd").textContent = count(c); });
}

function showPools(frame) {
  keyed($("pool-list"), frame.pools ?? [], (p) => p.name,
    () => h("article", { class: "pool" }),
    (article, pool) => {
      const bars = [["IPv4", pool.ipv4, pool.percentIPv4], ["IPv6", pool.ipv6, pool.percentIPv6]]
        .filter(([, usage]) => usage);
      article.replaceChildren(
        h("h3", {}, pool.name, h("span", { class: "muted" }, pool.announcedBy?.join(", ") || "not announced")),
        ...bars.map(([family, usage, percent]) => {
          const fill = h("div", { class: percent >= 90 ? "fill full" : "fill" });
          fill.style.width = `${percent}%`;
          const text = `${usage.assigned} used, ${few(usage.free)} free`;
          return h("div", { class: "usage" }, h("span", { class: "family" }, family),
            h("div", {
              class: "track", role: "meter", "aria-label": `${family} of pool ${pool.name}`,
              "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent, "aria-valuetext": text,
            }, fill), h("span", { class: "amount" }, text));
        }),
        h("p", { class: "muted addresses" }, pool.addresses.join(", ")),
        ...(pool.problem ? [h("p", { class: "failure" }, pool.problem)] : []),
      );
    });
}

// few shortens counts that nobody reads, such as 2^64 addresses.
const few = (count) => (count.length < 10 ? count
  : `about 10${[...String(count.length - 1)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`);

let told; // the IDs of entries that were shown; undefined: none yet
function showTimeline(frame) {
  const entries = frame.timeline ?? [];
  const fresh = told ? entries.filter((e) => !told.has(e.id)) : [];
  keyed($("entries"), entries, (e) => e.id,
    (e) => h("li", { class: `${e.kind} ${e.grade}${told ? " fresh" : ""}` },
      h("time", { datetime: e.at, title: new Date(e.at).toLocaleString() }, clock(e.at)),
      h("div", {}, h("b", {}, e.object), " ", e.text)),
    () => {});
  told = new Set(entries.map((e) => e.id));
  const news = fresh.filter((e) => e.kind !== "event" || e.grade !== "ok");
  if (news.length) {
    const more = news.length > 3 ? `; and ${news.length - 3} more` : "";
    $("news").textContent = news.slice(0, 3).map((e) => `${e.object} ${e.text}`).join("; ") + more;
  }
}

let latest;
function show(frame) {
  latest = frame;
  document.title = `${frame.problems?.length ? `(${frame.problems.length}) ` : ""}Berth ${frame.title}`;
  $("title").textContent = frame.title;
  if (frame.stale) setLive("failure", `old: as of ${clock(frame.taken)}`, frame.stale);
  else setLive("ok", `live, last change ${clock(frame.taken)}`);
  showSummary(frame);
  showPools(frame);
  showTimeline(frame);
  showServices(frame);
  showSessions(frame);
  drawMap($("drawing"), frame);
}

whenServicesChange(() => latest && showServices(latest));
new ResizeObserver(() => latest && drawMap($("drawing"), latest)).observe($("drawing"));

listen("events", show, () => setLive("failure", "not connected",
  "kubectl berth ui has ended, or does not let this browser in: open the URL that it prints"));
