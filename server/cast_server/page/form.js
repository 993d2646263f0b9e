// What the form asks for: the body of a request.

import { byId, make } from "./dom.js";

/** The policies that the server offers, its own default first. */
export function offerPolicies({ policies, default_policy: usual }) {
  const select = byId("policy");
  if (select.options.length) return;
  const own = make("option", { value: "" }, `${usual} (the server's)`);
  const others = policies.map(({ name, default_size: size }) =>
    make("option", { value: name, "data-size": size }, name));
  select.append(own, ...others);
  select.addEventListener("change", fitSize);
  fitSize();
}

/** Only a policy that drafts, and is named, has a size. */
function fitSize() {
  const chosen = byId("policy").selectedOptions[0];
  const size = chosen?.dataset.size ?? "0";
  byId("size").disabled = size === "0";
  byId("size").placeholder = size;
  byId("size-field").hidden = size === "0";
}

function speculation() {
  const name = byId("policy").value;
  if (!name) return { trace: true };
  const size = byId("size");
  return { trace: true, policy: size.disabled || !size.value ? name : `${name}:${size.value}` };
}

/** A request for `messages`; without a seed in the form, a new one. */
export function bodyFor(messages) {
  const system = byId("system").value.trim();
  const number = (id, fallback) => (byId(id).value === "" ? fallback : Number(byId(id).value));
  return {
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    temperature: number("temperature", 0.3),
    max_tokens: number("most", 256),
    seed: number("seed", crypto.getRandomValues(new Uint32Array(1))[0]),
    speculation: speculation(),
  };
}
