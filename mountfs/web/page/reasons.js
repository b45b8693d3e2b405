// Why the mount uses the server that it uses: its sentence (of mountfs/sync/servers.py) in the page's language. What is not
// known here is shown as it came.

import { number, t } from "/page/words.js";

const MS = String.raw`([\d.]+) ms`;
const KNOWN = [
  [/^no server was reached yet$/, "why.none_yet", []],
  [/^no server answers$/, "why.none", []],
  [/^the only server$/, "why.only", []],
  [/^the only server that answers$/, "why.only_answering", []],
  [/^it was the first to answer, and no other is much better$/, "why.still", []],
  [new RegExp(`^answers in ${MS}$`), "why.answers", ["ms"]],
  [new RegExp(`^answers in ${MS}, (\\S+) in ${MS}$`), "why.faster", ["ms", "server", "other_ms"]],
  [new RegExp(`^(\\S+) is lost \\((.*)\\); this one answers in ${MS}$`, "s"), "why.lost", ["server", "reason", "ms"]],
  [/^(\S+) cannot store: (.*)$/s, "why.cannot_store", ["server", "reason"]],
  [/^(\S+) fails more often \((.*) of late\)$/, "why.fails", ["server", "share"]],
];

export const place = (address) => String(address ?? "").replace(/^https?:\/\//, "");

// What the operating system said, without its number.
export const said = (error) => String(error ?? "").replace(/\[Errno -?\d+\] /g, "");

export function keyOf(why) {
  return KNOWN.find(([pattern]) => pattern.test(why))?.[1] ?? null;
}

export function reason(why) {
  for (const [pattern, key, names] of KNOWN) {
    const found = pattern.exec(why);
    if (!found) continue;
    const values = Object.fromEntries(names.map((name, index) => [name, found[index + 1]]));
    for (const name of ["ms", "other_ms"]) {
      if (values[name] !== undefined) values[name] = number(Number(values[name]), 1);
    }
    if (values.server !== undefined) values.server = place(values.server);
    return t(key, values);
  }
  return why;
}
