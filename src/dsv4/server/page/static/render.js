// The only place where text becomes markup: what POST /render made of Markdown with its allow-list.

import { renderMarkdown } from "./api.js";
import { copy, el, iconButton } from "./dom.js";

const same = { createHTML: (html) => html };
const policy = globalThis.trustedTypes?.createPolicy("dsv4", same) ?? same;
const LONGEST = 100000; // bytes in one request; the server refuses more
let queue = Promise.resolve();

export const renderable = (text) => new Blob([text]).size <= LONGEST;

// The nodes of `text`, or null where the server cannot render it. One request at a time, in order.
export function render(text) {
  const nodes = queue.then(async () => {
    try {
      const html = await renderMarkdown(text);
      const parsed = new DOMParser().parseFromString(policy.createHTML(html), "text/html");
      return dressed(document.adoptNode(parsed.body));
    } catch {
      return null; // shown as plain text
    }
  });
  queue = nodes;
  return nodes;
}

function dressed(body) {
  for (const table of body.querySelectorAll("table")) {
    const frame = el("div", { className: "frame", tabIndex: 0, role: "region", ariaLabel: "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of body.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = code?.className.replace("language-", "") ?? "";
    const button = iconButton("copy", "Copy the code", () => copy(pre.textContent, button));
    const head = el("div", { className: "codehead" }, el("span", {}, language || "text"), button);
    const frame = el("div", { className: "codeblock" }, head);
    pre.tabIndex = 0; // so that the arrow keys can scroll it
    pre.replaceWith(frame);
    frame.append(pre);
  }
  return [...body.childNodes];
}
