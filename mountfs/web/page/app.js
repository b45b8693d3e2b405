// The page: the state of the mount, live, and what can be done about it. Files are in files.js.
// Everything that comes from the mount is set as text, never as HTML.

import * as brake from "/page/brake.js";
import * as files from "/page/files.js";
import { place, reason, said } from "/page/reasons.js";
import * as uploads from "/page/uploads.js";
import { $, ask, bytes, counted, exactMoment, icon, language, make, moment, named, number, remember, speak, t, tell } from "/page/words.js";

const LIST_MAX = 50;
let status = null;
let heardMs = 0;
let lost = false;

// --- the connection

function stateNow() {
  if (lost || !status) return lost ? "lost" : "wait";
  if (!status.connected) return "none";
  return hasIll() || !isEverywhere() ? "some" : "ok";
}

// Does every server hold everything that this mount wrote?
function isEverywhere() {
  const [held, of] = String(status?.copies ?? "").split("/");
  return held === of;
}

const hasIll = () => (status?.servers ?? []).some((server) => !server.healthy);

function drawConnection() {
  const state = stateNow();
  const titles = { wait: "connection.wait", lost: "connection.lost", none: "connection.none", some: "connection.some", ok: "connection.ok" };
  const key = state === "some" && !hasIll() ? "connection.ok" : titles[state];
  $("connection").dataset.state = state;
  $("bar-icon").setAttribute("href", { wait: "#i-clock", lost: "#i-alert", none: "#i-device", some: "#i-alert", ok: "#i-plug" }[state]);
  const downSince = status?.disconnected_s == null ? null : moment(heardMs - status.disconnected_s * 1000);
  const title = state === "none" && downSince ? t("connection.none_since", { since: downSince }) : t(key, { server: place(status?.server) });
  setText($("bar-title"), title);
  setText($("bar-detail"), detail(state));
  if (!status) return;
  setText($("pending-none"), t(isEverywhere() ? "pending.none" : "pending.none_fewer"));
  const pending = status.pending ?? {};
  const conflicts = Array.isArray(status.conflicts) ? status.conflicts.length : (status.conflicts ?? 0);
  setText($("copies"), status.copies ?? "–");
  setText($("pending-count"), number(pending.operations ?? 0));
  setText($("conflict-count"), number(conflicts));
  $("copies").classList.toggle("warn", !isEverywhere());
  $("pending-count").classList.toggle("warn", !status.connected && pending.operations > 0);
  $("conflict-count").classList.toggle("warn", conflicts > 0);
}

function detail(state) {
  if (state === "wait") return "";
  if (state === "lost") return t("connection.lost_detail", { since: moment(heardMs || Date.now()) });
  const pending = status.pending ?? {};
  const values = {
    changes: counted("changes", pending.operations ?? 0),
    bytes: bytes(pending.bytes ?? 0),
    since: moment(heardMs - (pending.oldest_age_s ?? 0) * 1000),
  };
  if (state === "none") return t(pending.operations ? "connection.only_here" : "connection.nothing_only_here", values);
  const why = status.why ? sentence(reason(status.why)) : "";
  if (pending.operations) return why + t("connection.sending", values);
  if (isEverywhere()) return state === "ok" ? why + t("connection.all_there") : why;
  const behind = pending.not_everywhere_operations;
  return behind ? why + t("connection.fewer", { changes: counted("changes", behind) }) : why;
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}. `;
}

// A live region speaks when its text is set, so it is set only when it differs.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function drawServers() {
  const list = (status?.servers ?? []).map((server) => {
    const facts = [];
    if (server.healthy && server.latency_ms != null) facts.push(`${number(server.latency_ms, server.latency_ms < 10 ? 1 : 0)} ms`);
    if (server.healthy && server.lag_operations) facts.push(t("servers.lag", { count: number(server.lag_operations) }));
    if (server.healthy && server.free_bytes) facts.push(t("servers.free", { bytes: bytes(server.free_bytes) }));
    const main = make("div", { class: "main" }, place(server.url), " ");
    if (server.url === status.server) main.append(make("span", { class: "chip" }, t("servers.in_use")));
    const item = make("li", { class: server.healthy ? "good" : "ill" }, icon("server"), main, make("span"), make("div", { class: "more" }, [t(server.healthy ? "servers.healthy" : "servers.ill"), ...facts].join(" · ")));
    if (server.last_error && !server.healthy) item.append(make("span"), make("div", { class: "more bad", lang: "en" }, said(server.last_error)));
    return item;
  });
  $("servers").replaceChildren(...list);
}

// --- pending changes and conflicts

async function drawPending() {
  try {
    const { total, items } = await ask("GET", "pending", { limit: LIST_MAX });
    const symbols = { created: "plus", modified: "pencil", deleted: "trash", moved: "move" };
    const list = items.map((item) => {
      const main = make("div", { class: "main" }, `${t(`pending.${item.type}`)}: `, named(item.path));
      if (item.dest) main.append(" → ", named(item.dest));
      const facts = [moment(item.time_ms)];
      if (item.bytes) facts.push(bytes(item.bytes));
      const more = make("div", { class: "more", title: exactMoment(item.time_ms) }, facts.join(" · "));
      const row = make("li", {}, icon(symbols[item.type]), main, make("span"), more);
      if (item.tries > 1 && item.last_error) row.append(make("span"), make("div", { class: "more" }, t("pending.tries", { count: number(item.tries), reason: said(item.last_error) })));
      return row;
    });
    if (total > items.length) list.push(make("li", {}, icon("clock"), make("div", { class: "main" }, t("pending.more", { count: number(total - items.length) }))));
    $("pending").replaceChildren(...list);
    $("pending-none").hidden = total > 0;
  } catch {
    // the connection's bar says that the mount is gone
  }
}

async function drawConflicts() {
  try {
    const { total, items } = await ask("GET", "conflicts", { limit: LIST_MAX });
    const list = items.map((item) => {
      const show = make("button", { class: "linkish", type: "button", "aria-label": t("action.show", { name: item.name }) }, named(item.path));
      show.onclick = () => files.open(files.parentOf(item.path));
      const facts = [bytes(item.size), moment(item.mtime_ms)].join(" · ");
      return make("li", {}, icon("fork"), make("div", { class: "main" }, show), make("span"), make("div", { class: "more" }, facts));
    });
    if (total > items.length) list.push(make("li", {}, icon("fork"), make("div", { class: "main" }, t("pending.more", { count: number(total - items.length) }))));
    $("conflicts").replaceChildren(...list);
    $("conflicts-none").hidden = total > 0;
    $("conflicts-some").hidden = total === 0;
  } catch {
    // as above
  }
}

function drawAbout() {
  if (!status) return;
  const values = { version: status.version ?? "", mount: status.mount ?? document.body.dataset.volume, device: status.device ?? "", cache: bytes(status.cache?.bytes ?? 0) };
  setText($("about"), t("about", values));
}

function drawAll() {
  drawConnection();
  brake.draw(status?.held);
  drawServers();
  drawAbout();
  drawPending();
  drawConflicts();
}

// --- live

function later(run, ms) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      run();
    }, ms);
  };
}

const pendingSoon = later(drawPending, 200);
const conflictsSoon = later(drawConflicts, 200);

function heard(fresh) {
  const before = status;
  status = fresh;
  heardMs = Date.now();
  if (lost) {
    lost = false;
    files.refresh();
    drawPending();
    drawConflicts();
  }
  drawConnection();
  brake.draw(fresh.held);
  drawServers();
  drawAbout();
  if ((fresh.held?.operations ?? 0) !== (before?.held?.operations ?? 0)) files.refreshSoon();
  const operations = fresh.pending?.operations ?? 0;
  if (operations !== (before?.pending?.operations ?? 0)) {
    pendingSoon();
    files.refreshSoon();
  }
  if (JSON.stringify(fresh.conflicts) !== JSON.stringify(before?.conflicts)) conflictsSoon();
}

function listen() {
  const events = new EventSource("/api/events");
  events.addEventListener("status", (event) => heard(JSON.parse(event.data)));
  events.addEventListener("change", (event) => {
    const { paths = [], truncated = false } = JSON.parse(event.data);
    files.changed(paths, truncated);
  });
  events.addEventListener("pending", () => {
    pendingSoon();
    files.refreshSoon();
  });
  events.addEventListener("conflict", () => {
    conflictsSoon();
    files.refreshSoon();
  });
  events.addEventListener("resync", () => {
    files.refresh();
    drawAll();
  });
  events.onerror = () => {
    lost = true;
    drawConnection();
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

// --- pull, push, language

function action(name) {
  const button = $(name);
  button.onclick = async () => {
    const text = button.querySelector("span");
    button.disabled = true;
    text.textContent = t(`${name}.busy`);
    try {
      await ask("POST", name, {});
      tell(t(`${name}.ok`));
    } catch (error) {
      tell(error.code === "unreachable" ? t("failed", { reason: error.message }) : t(`${name}.error`), true);
    }
    text.textContent = t(name);
    button.disabled = false;
    files.refresh();
  };
}

async function main() {
  await speak(language);
  $("language").value = language;
  $("language").onchange = async (event) => {
    remember(event.target.value);
    await speak(event.target.value);
    files.draw();
    drawAll();
  };
  action("pull");
  action("push");
  brake.begin(() => status?.held);
  uploads.begin();
  await files.begin();
  drawPending();
  drawConflicts();
  listen();
}

main();
