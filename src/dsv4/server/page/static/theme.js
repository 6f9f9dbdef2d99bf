// Light, dark, or as the system has it: one attribute of the root, kept in the browser.

import { $, setIcon } from "./dom.js";
import { recall, remember } from "./store.js";

const NAMES = { auto: "as the system", light: "light", dark: "dark" };

function apply(theme) {
  document.documentElement.dataset.theme = theme;
  const button = $("theme");
  setIcon(button, theme);
  button.title = `Colours: ${NAMES[theme]}`;
  button.setAttribute("aria-label", button.title);
}

export function startTheme() {
  const kept = recall("theme");
  let theme = Object.hasOwn(NAMES, kept) ? kept : "auto";
  apply(theme);
  $("theme").addEventListener("click", () => {
    const names = Object.keys(NAMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    apply(theme);
    remember("theme", theme);
  });
}
