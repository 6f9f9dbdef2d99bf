// el(tag, properties, ...children): elements are made of text and nodes, never of markup.

import { ICONS } from "./icons.js";

export const $ = (id) => document.getElementById(id);

export const touch = matchMedia("(hover: none) and (pointer: coarse)");

// Not on a touch screen, where a keyboard would cover what is read.
export function toPrompt() {
  if (!touch.matches) $("prompt").focus();
}

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && name !== "form") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// A button with a picture: its label is what a screen reader says and what a pointer is shown.
export function iconButton(name, label, onclick, extra = {}) {
  const button = el("button", { type: "button", className: "icon", title: label, onclick, ...extra });
  button.setAttribute("aria-label", label);
  button.append(icon(name));
  return button;
}

export function setIcon(node, name) {
  node.querySelector("svg")?.remove();
  node.prepend(icon(name));
}

// Pictures of the elements that index.html marks with data-icon.
export function dressIcons() {
  for (const node of document.querySelectorAll("[data-icon]")) {
    setIcon(node, node.dataset.icon);
    const label = node.getAttribute("aria-label");
    if (label) node.title = label;
  }
}

// Copies text, also where the page is not a secure context and has no clipboard.
export async function copy(text, button) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyBySelection(text);
  } catch {
    say("The browser did not allow copying.");
    return;
  }
  say("Copied.");
  setIcon(button, "check");
  setTimeout(() => setIcon(button, "copy"), 1500);
}

function copyBySelection(text) {
  const area = el("textarea", { value: text, className: "unseen" });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!done) throw new Error("not copied");
}

// Said once by a screen reader, when it has finished what it is saying.
export function say(text) {
  $("say").textContent = text;
}

// A line that stays until it is closed, or for `seconds`; action = {label, run}.
export function notice(text, { action, seconds } = {}) {
  const box = el("div", { className: "notice" }, el("span", {}, text));
  const close = () => box.remove();
  if (action) {
    const run = () => (close(), action.run());
    box.append(el("button", { type: "button", onclick: run }, action.label));
  }
  box.append(iconButton("close", "Dismiss", close));
  for (const other of [...$("notices").children]) {
    if (other.firstChild.textContent === text) other.remove();
  }
  while ($("notices").children.length > 3) $("notices").firstChild.remove();
  $("notices").append(box);
  if (seconds) setTimeout(close, seconds * 1000);
}
