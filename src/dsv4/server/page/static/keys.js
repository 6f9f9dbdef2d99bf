// Keys that work anywhere on the page, and the list that explains them.

import { $, el } from "./dom.js";

const LIST = [
  ["Enter", "Send the message"],
  ["Shift + Enter", "Begin a new line"],
  ["Esc", "Stop the reply; close what is open"],
  ["↑", "Edit your last message, from an empty field"],
  ["Alt + N", "New conversation"],
  ["Alt + R", "Retry the last reply"],
  ["Alt + S", "Settings"],
  ["/", "Go to the message field"],
  ["?", "This list"],
];

export function startKeys({ chat, log, sidebar }) {
  $("shortcut-list").replaceChildren(
    ...LIST.flatMap(([keys, what]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, what)]),
  );
  $("help").addEventListener("click", () => $("shortcuts").showModal());
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" || event.target.value || chat.running) return;
    const at = chat.current.messages.findLastIndex((message) => message.role === "user");
    if (at < 0) return;
    event.preventDefault();
    log.edit(at);
  });
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input, textarea, select");
    const run = event.altKey ? withAlt[event.code] : plain[event.key];
    if (!run || event.ctrlKey || event.metaKey || (typing && !event.altKey && event.key !== "Escape")) return;
    event.preventDefault();
    run();
  });

  const plain = {
    Escape: () => sidebar.close() || chat.stop(),
    "/": () => $("prompt").focus(),
    "?": () => $("shortcuts").showModal(),
  };
  const withAlt = {
    KeyN: () => $("new").click(),
    KeyS: () => $("settings").showModal(),
    KeyR: () => {
      const at = chat.current.messages.findLastIndex((message) => message.role === "assistant");
      if (at >= 0 && !chat.running) chat.retry(at);
    },
  };
}
