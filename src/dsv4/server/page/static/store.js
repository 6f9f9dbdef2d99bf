// What the browser keeps: one entry a conversation, the last settings, the colours. Nothing leaves it.

import { checked, settings as checkSettings } from "./exchange.js";

const PREFIX = "dsv4.conversation.";
export const MOST = 300; // conversations

// Null where the browser keeps nothing for this page.
const storage = (() => {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
})();

const names = () => Object.keys(storage ?? {}).filter((name) => name.startsWith(PREFIX));

// A small setting under its name; null if there is none that can be read.
export function recall(name) {
  try {
    return JSON.parse(storage.getItem(`dsv4.${name}`));
  } catch {
    return null;
  }
}

// Returns why it could not be kept, or "".
export function remember(name, value) {
  return keep(`dsv4.${name}`, value);
}

export function recallSettings() {
  try {
    return checkSettings(recall("settings"));
  } catch {
    return undefined; // none, or of an older page
  }
}

// All kept conversations, the latest first, and how many entries could not be read.
export function loadAll() {
  const conversations = [];
  let broken = 0;
  for (const name of names()) {
    const conversation = load(name);
    if (conversation) conversations.push(conversation);
    else broken += 1;
  }
  conversations.sort((a, b) => b.updated - a.updated);
  return { conversations, broken };
}

function load(name) {
  try {
    return { ...checked(JSON.parse(storage.getItem(name))), id: name.slice(PREFIX.length) };
  } catch {
    return null;
  }
}

export const idOf = (key) => (key?.startsWith(PREFIX) ? key.slice(PREFIX.length) : null);
export const reload = (id) => load(PREFIX + id);

// Returns why the conversation could not be kept, or "".
export function save(conversation) {
  const name = PREFIX + conversation.id;
  if (storage && storage.getItem(name) === null && names().length >= MOST) {
    return `${MOST} conversations are kept at most: export and delete some, this one is not kept.`;
  }
  return keep(name, conversation);
}

export function remove(id) {
  storage?.removeItem(PREFIX + id);
}

function keep(name, value) {
  if (!storage) return "The browser keeps nothing for this page: export what you need before you leave it.";
  try {
    storage.setItem(name, JSON.stringify(value));
    return "";
  } catch (error) {
    if (error.name !== "QuotaExceededError") return `The browser keeps nothing: ${error.message}`;
    return "The browser's storage for this page is full, the last change is not kept: export and delete conversations.";
  }
}
