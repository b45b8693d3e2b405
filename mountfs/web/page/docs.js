// The routes of /openapi.json, written out; nothing is loaded from elsewhere.

import { make } from "/page/words.js";

const api = await (await fetch("/openapi.json")).json();
const list = document.getElementById("routes");
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const item = make("li", {}, make("span", { class: "method" }, method.toUpperCase()), make("code", {}, path));
    item.append(make("p", { class: "quiet" }, route.summary ?? ""));
    const facts = make("dl");
    for (const value of route.parameters ?? []) {
      facts.append(make("dt", {}, make("code", {}, `?${value.name}=`)), make("dd", {}, value.description ?? (value.required ? "required" : "")));
    }
    if (facts.children.length) item.append(facts);
    list.append(item);
  }
}
