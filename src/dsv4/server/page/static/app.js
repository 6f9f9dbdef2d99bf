// Puts the parts of the page together: the chat tells what changed, the views show it.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { title } from "./conversation.js";
import { $, dressIcons, notice, say, toPrompt } from "./dom.js";
import { startKeys } from "./keys.js";
import { Log } from "./messages.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { idOf, reload } from "./store.js";
import { startTheme } from "./theme.js";

const SPOKEN = 2000; // characters of a reply that a screen reader is given at its end

const chat = new Chat({
  list: () => sidebar.show(),
  messages: show,
  progress: (message) => {
    log.progress(message);
    composer.status();
  },
  problem: (text) => notice(text),
  locked: () => settings.locked(),
  finished: (message, conversation) => {
    if (conversation === chat.current) show();
    sidebar.show();
    say(spoken(message));
  },
});
const log = new Log(chat);
const sidebar = new Sidebar(chat);
const settings = new Settings(chat);
const composer = new Composer(chat, settings);

let shown = null; // the conversation whose settings stand in the fields

function show() {
  const { current } = chat;
  if (shown !== current) {
    shown = current;
    settings.show();
    log.follows = true;
  }
  log.show();
  composer.show();
  $("title").textContent = title(current);
  document.title = current.messages.length ? `${title(current)} · dsv4` : "dsv4";
  for (const way of ["undo", "redo"]) {
    $(way).hidden = current[way].length === 0;
    $(way).disabled = chat.running;
  }
  if (chat.running) say("The reply is being written.");
}

function spoken(message) {
  if (message.error) return `The reply failed. ${message.error}`;
  const calls = message.tool_calls.map((call) => `Calls ${call.function.name}.`).join(" ");
  return `Reply: ${message.content.slice(0, SPOKEN)} ${calls}`;
}

for (const way of ["undo", "redo"]) {
  $(way).addEventListener("click", () => {
    chat.swap(way);
    if ($(way).hidden) toPrompt();
  });
}

// Another tab of this page changed what is kept.
window.addEventListener("storage", (event) => {
  const id = idOf(event.key);
  if (!id || chat.runs.has(id)) return;
  const kept = reload(id);
  chat.conversations = chat.conversations.filter((other) => other.id !== id);
  if (kept) chat.conversations = [kept, ...chat.conversations].sort((a, b) => b.updated - a.updated);
  if (kept && chat.current.id === id) chat.open(kept);
  else sidebar.show();
});
window.addEventListener("pagehide", () => {
  for (const conversation of chat.conversations) if (chat.runs.has(conversation.id)) chat.write(conversation);
});

dressIcons();
startTheme();
startKeys({ chat, log, sidebar });
if (chat.conversations.length) chat.open(chat.conversations[0]);
else chat.open(chat.current);
settings.loadModels();
toPrompt();
