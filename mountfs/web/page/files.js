// The files of one folder: the table, where one is, new folders, names, deletions. Uploads are in uploads.js.

import { $, ask, bytes, encode, exactMoment, icon, language, make, moment, named, number, question, t, tell, url } from "/page/words.js";

const ROWS_AT_FIRST = 500;

export const here = { path: "", items: [], shown: ROWS_AT_FIRST };
let sorting = { by: "name", down: false };
let asked = 0;
let later = null;
const rows = new Map(); // path -> { row, item }

export const join = (folder, name) => (folder ? `${folder}/${name}` : name);
export const parentOf = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

// --- where one is: the path is in the history's state; what stands after # is for people and for reloads

function pathOfHash() {
  try {
    return decodeURIComponent(location.hash.replace(/^#\/?/, ""));
  } catch {
    return "";
  }
}

export function open(path, { push = true } = {}) {
  if (push) history.pushState({ path }, "", "#/" + encode(path).replaceAll("%2F", "/"));
  here.path = path;
  here.shown = ROWS_AT_FIRST;
  drawCrumbs();
  return refresh();
}

export function begin() {
  window.addEventListener("popstate", (event) => open(event.state?.path ?? pathOfHash(), { push: false }));
  $("new-folder").onclick = newFolder;
  $("more").onclick = () => {
    here.shown += ROWS_AT_FIRST;
    draw();
  };
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.onclick = () => sortBy(button.dataset.sort);
  }
  return open(history.state?.path ?? pathOfHash(), { push: false });
}

function drawCrumbs() {
  const names = here.path ? here.path.split("/") : [];
  const list = [make("li", {}, crumb("", document.body.dataset.volume, !names.length))];
  names.forEach((name, index) => {
    const path = names.slice(0, index + 1).join("/");
    list.push(make("li", {}, crumb(path, name, index === names.length - 1)));
  });
  $("crumbs").firstElementChild.replaceChildren(...list);
}

function crumb(path, name, current) {
  if (current) return make("span", { "aria-current": "page" }, named(name));
  const link = make("a", { href: "#/" + encode(path).replaceAll("%2F", "/") }, named(name));
  link.onclick = (event) => {
    event.preventDefault();
    goTo(path);
  };
  return link;
}

async function goTo(path) {
  await open(path);
  $("files-title").focus();
}

// --- keeping the listing right

export function refreshSoon() {
  later ??= setTimeout(() => {
    later = null;
    refresh();
  }, 150);
}

export function changed(paths, truncated) {
  const touches = (path) => parentOf(path) === here.path || here.path === path || here.path.startsWith(path + "/");
  if (truncated || paths.some(touches)) refreshSoon();
}

export async function refresh() {
  const mine = ++asked;
  try {
    const answer = await ask("GET", "files", { path: here.path });
    if (mine !== asked) return;
    here.items = answer.items;
    draw();
  } catch (error) {
    if (mine !== asked) return;
    if (here.path && (error.code === "NotFound" || error.code === "NotADirectory")) {
      tell(t("files.gone"), true);
      await open(parentOf(here.path));
    } else if (error.code !== "unreachable") tell(t("files.error", { reason: error.message }), true);
  }
}

function sortBy(by) {
  sorting = { by, down: sorting.by === by ? !sorting.down : by !== "name" };
  draw();
}

function sorted(items) {
  const names = new Intl.Collator(language, { numeric: true, sensitivity: "base" });
  const byName = (a, b) => names.compare(a.name, b.name) || (a.name < b.name ? -1 : 1);
  const value = { size: (item) => item.size, time: (item) => item.mtime_ms }[sorting.by];
  const order = value ? (a, b) => value(a) - value(b) || byName(a, b) : byName;
  return [...items].sort((a, b) => b.is_dir - a.is_dir || (sorting.down ? order(b, a) : order(a, b)));
}

// Rows are kept by path, so that what has the focus keeps it when something else changes.
export function draw() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const head = button.parentElement;
    if (button.dataset.sort === sorting.by) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const wanted = sorted(here.items).slice(0, here.shown);
  const body = $("rows");
  const lang = language;
  const kept = new Set(wanted.map((item) => item.path));
  for (const [path, { row }] of rows) {
    if (!kept.has(path)) {
      row.remove();
      rows.delete(path);
    }
  }
  let before = body.firstElementChild;
  for (const item of wanted) {
    const text = JSON.stringify(item) + lang;
    let known = rows.get(item.path);
    if (!known) {
      known = { row: make("tr"), text: "" };
      rows.set(item.path, known);
    }
    if (known.text !== text) {
      fill(known.row, item);
      known.text = text;
    }
    if (known.row === before) before = before.nextElementSibling;
    else body.insertBefore(known.row, before);
  }
  $("empty").hidden = here.items.length > 0;
  $("table").hidden = here.items.length === 0;
  const left = here.items.length - wanted.length;
  $("more").hidden = left <= 0;
  $("more").textContent = t("files.more", { count: number(Math.min(left, ROWS_AT_FIRST)) });
}

function fill(row, item) {
  const focused = row.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  const size = item.is_dir ? "" : bytes(item.size);
  const time = () => make("time", { dateTime: new Date(item.mtime_ms).toISOString(), title: exactMoment(item.mtime_ms) }, moment(item.mtime_ms));
  const symbol = item.is_dir ? "folder" : item.kind === "symlink" ? "link" : "file";
  const name = make("div", { class: item.is_dir ? "name dir" : "name" }, icon(symbol), link(item));
  const meta = make("div", { class: "meta" }, badge(item.state), item.is_dir ? t("kind.folder") : size, time());
  row.replaceChildren(
    make("td", {}, name, meta),
    make("td", { class: "number" }, size),
    make("td", { class: "when" }, time()),
    make("td", { class: "state" }, badge(item.state)),
    make("td", { class: "actions" }, make("div", {}, ...actions(item))),
  );
  if (focused) row.querySelector(`[data-act="${focused}"]`)?.focus();
}

function link(item) {
  if (!item.is_dir) return make("a", { href: url("file", { path: item.path }), download: "", "data-act": "open" }, named(item.name));
  const opens = make("a", { href: "#/" + encode(item.path).replaceAll("%2F", "/"), "data-act": "open" }, named(item.name));
  opens.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    goTo(item.path);
  };
  return opens;
}

export function badge(state) {
  const symbol = { synced: "check", pending: "clock", conflict: "fork" }[state] ?? "check";
  return make("span", { class: "badge", "data-state": state }, icon(symbol), t(`state.${state}`));
}

function actions(item) {
  const out = [];
  if (!item.is_dir) {
    const href = url("file", { path: item.path });
    out.push(make("a", { class: "icon", href, download: "", "data-act": "download", ...label("download", item) }, icon("download")));
  }
  out.push(button("rename", "pencil", item, rename), button("delete", "trash", item, remove));
  return out;
}

const label = (act, item) => ({ "aria-label": t(`action.${act}`, { name: item.name }), title: t(`action.${act}`, { name: item.name }) });

function button(act, symbol, item, run) {
  const made = make("button", { class: `icon ${act}`, type: "button", "data-act": act, ...label(act, item) }, icon(symbol));
  made.onclick = () => run(item);
  return made;
}

// --- doing

async function attempt(work, done) {
  try {
    await work();
    tell(done);
  } catch (error) {
    tell(t("failed", { reason: error.message }), true);
  }
  await refresh();
}

async function newFolder() {
  const name = await question({ title: t("new_folder.title"), label: t("new_folder.label"), ok: t("new_folder.ok") });
  if (name === null) return;
  await attempt(() => oneName(name) && ask("POST", "mkdir", { path: join(here.path, name) }), t("new_folder.done", { name }));
}

async function rename(item) {
  const name = await question({ title: t("rename.title"), label: t("rename.label"), ok: t("rename.ok"), value: item.name });
  if (name === null || name === item.name) return;
  const to = join(parentOf(item.path), name);
  await attempt(() => oneName(name) && ask("POST", "move", { path: item.path, to }), t("rename.done", { name }));
}

function oneName(name) {
  if (name.includes("/") || name === "." || name === "..") throw new Error(t("error.InvalidName"));
  return true;
}

async function remove(item) {
  const text = t(item.is_dir ? "delete.folder" : "delete.file");
  const sure = await question({ title: t("delete.title", { name: item.name }), text, ok: t("delete.ok"), danger: true });
  if (!sure) return;
  await attempt(() => ask("DELETE", "file", { path: item.path }), t("delete.done", { name: item.name }));
  $("files-title").focus();
}

export async function mayReplace(names) {
  const taken = names.filter((name) => here.items.some((item) => item.name === name));
  if (!taken.length) return true;
  const some = taken.slice(0, 5).join(", ") + (taken.length > 5 ? " …" : "");
  return question({ title: t("replace.title"), text: t("replace.text", { names: some }), ok: t("replace.ok"), danger: true });
}

