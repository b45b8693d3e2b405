// The banner of the brake: deletions that this device made in a burst, and that nobody else gets before a person decides.

import * as files from "/page/files.js";
import { $, ask, counted, make, moment, named, number, question, t, tell } from "/page/words.js";

const FOLDERS_MAX = 5;
let shown = "";
let busy = false;

export function draw(held) {
  const count = held?.deletions ?? 0;
  $("brake").hidden = !held?.operations;
  // What is read aloud when it changes is set only when it differs.
  const now = JSON.stringify([held?.operations, count, held?.bringing_back, held?.folders, t("brake.discard")]);
  if (now === shown || !held?.operations) return;
  shown = now;
  $("brake-title").textContent = counted("brake.title", count);
  const rest = held.operations - count;
  const detail = [t("brake.detail", { since: moment(held.since * 1000) })];
  if (rest > 0) detail.push(t("brake.more", { changes: counted("changes", rest) }));
  if (held.bringing_back) detail.push(t("brake.busy"));
  $("brake-detail").textContent = detail.join(" ");
  const list = (held.folders ?? []).slice(0, FOLDERS_MAX).map(({ path, deletions }) => make("li", {}, path ? named(path) : t("brake.top"), `: ${number(deletions)}`));
  $("brake-folders").replaceChildren(...list);
  for (const button of ["brake-confirm", "brake-discard"]) $(button).disabled = busy || held.bringing_back;
}

async function decide(decision, done) {
  busy = true;
  for (const button of ["brake-confirm", "brake-discard"]) $(button).disabled = true;
  try {
    await ask("POST", "brake", { do: decision });
    tell(t(done));
    $("files-title").focus();
  } catch (error) {
    tell(t("failed", { reason: error.message }), true);
  }
  busy = false;
  shown = "";
  files.refresh();
}

export function begin(heldNow) {
  $("brake-discard").onclick = () => decide("discard", "brake.discarded");
  $("brake-confirm").onclick = async () => {
    const deletions = counted("brake.deletions", heldNow()?.deletions ?? 0);
    const sure = await question({ title: t("brake.ask"), text: t("brake.ask_text", { deletions }), ok: t("brake.confirm"), danger: true });
    if (sure) decide("confirm", "brake.confirmed");
  };
}
