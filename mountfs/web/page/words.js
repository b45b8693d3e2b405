// Words, numbers and requests: the page's language, how values are written in it, and the mount's API.
// Names are bytes: one that is no UTF-8 reaches us as lone surrogates, and leaves again as percent-encoded bytes.

let texts = {};
export let language = document.documentElement.lang;

// How numbers and times are written: as this reader's own region does it, if the language is the page's.
const region = () => navigator.languages.find((tag) => tag.split("-")[0] === language.split("-")[0]) ?? language;

export async function speak(chosen) {
  const answer = await fetch(`/page/${chosen}.json`);
  texts = await answer.json();
  language = chosen;
  document.documentElement.lang = chosen;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = t(element.dataset.text);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
}

export function remember(chosen) {
  document.cookie = `gdah_language=${chosen};path=/;max-age=31536000;samesite=strict`;
}

export function t(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export function known(key) {
  return key in texts;
}

export function counted(key, count) {
  const form = new Intl.PluralRules(language).select(count) === "one" ? "one" : "other";
  return t(`${key}.${form}`, { count: number(count) });
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(region(), { maximumFractionDigits: digits }).format(value);
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit && value < 100 ? 1 : 0;
  return `${number(value, digits)}\u00a0${units[unit]}`;
}

export function moment(ms) {
  const then = new Date(ms);
  const now = new Date();
  if (then.toDateString() === now.toDateString()) {
    return new Intl.DateTimeFormat(region(), { hour: "2-digit", minute: "2-digit" }).format(then);
  }
  const day = { day: "numeric", month: "short" };
  const form = then.getFullYear() === now.getFullYear() ? { ...day, hour: "2-digit", minute: "2-digit" } : { ...day, year: "numeric" };
  return new Intl.DateTimeFormat(region(), form).format(then);
}

export function exactMoment(ms) {
  return new Intl.DateTimeFormat(region(), { dateStyle: "full", timeStyle: "medium" }).format(new Date(ms));
}

// --- requests

export class Refused extends Error {
  constructor(code, message) {
    super(known(`error.${code}`) ? t(`error.${code}`) : message);
    this.code = code;
  }
}

export function encode(path) {
  let out = "";
  for (const char of path) {
    const code = char.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) out += "%" + (code - 0xdc00).toString(16);
    else if (code >= 0xd800 && code <= 0xdfff) out += "%EF%BF%BD";
    else out += encodeURIComponent(char);
  }
  return out;
}

export function url(route, values = {}) {
  const query = Object.entries(values).map(([name, value]) => `${name}=${encode(String(value))}`);
  return `/api/${route}?${query.join("&")}`;
}

export async function ask(method, route, values) {
  let answer;
  try {
    answer = await fetch(url(route, values), { method, headers: { accept: "application/json" } });
  } catch {
    throw new Refused("unreachable", t("failed.unreachable"));
  }
  if (answer.status === 401) location.reload();
  return understand(answer.status, await answer.text());
}

export function understand(status, text) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    body = { message: `HTTP ${status}` };
  }
  if (status >= 400) throw new Refused(body.error, body.message ?? `HTTP ${status}`);
  return body;
}

// --- elements

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

// A name in its own direction, so that one with right-to-left marks cannot reorder what stands around it.
export function named(text) {
  return make("bdi", {}, text.replaceAll(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd"));
}

export const $ = (id) => document.getElementById(id);

export function tell(text, bad = false) {
  const line = make("p", { class: bad ? "bad" : "" }, make("span", {}, text));
  const close = make("button", { class: "icon", type: "button", "aria-label": t("close") }, icon("close"));
  close.onclick = () => line.remove();
  line.append(close);
  $("results").append(line);
  while ($("results").children.length > 4) $("results").firstChild.remove();
  setTimeout(() => line.remove(), bad ? 12000 : 6000);
}

// One question at a time: resolves with true, with the text of the input, or with null for "no".
export function question({ title, text = "", ok, label = null, value = "", danger = false }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-ok").textContent = ok;
  $("ask-ok").className = danger ? "danger" : "primary";
  $("ask-label").hidden = label === null;
  $("ask-label").firstChild.textContent = label ?? "";
  $("ask-input").value = value;
  $("ask-input").required = label !== null;
  $("ask-cancel").onclick = () => dialog.close("");
  dialog.returnValue = "";
  dialog.showModal();
  if (label === null) $("ask-cancel").focus();
  else {
    $("ask-input").focus();
    const dot = value.lastIndexOf(".");
    $("ask-input").setSelectionRange(0, dot > 0 ? dot : value.length);
  }
  return new Promise((resolve) => {
    dialog.onclose = () => {
      if (dialog.returnValue !== "ok") resolve(null);
      else resolve(label === null ? true : $("ask-input").value);
    };
  });
}
